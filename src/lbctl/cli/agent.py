"""`lbctl agent`."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from lbctl.cli.options import BackendName, Config, DriverName, Format, Output, Owner, seconds
from lbctl.cli.usage import Command, Group
from lbctl.errors import IntentError, NoBackend

agent = typer.Typer(
    cls=Group,
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    rich_markup_mode=None,
    help=(
        "Check endpoints, repair the rules, serve metrics.\n\n"
        "Runs in the foreground until SIGTERM, e.g. as lbctl-agent.service. It follows the intent that was "
        "applied last; if nothing was applied yet, it applies the intent file. An endpoint that fails its "
        "check gets no new connections until it passes again. When the agent ends, the rules stay."
    ),
)
_DEFAULT_LISTEN = "127.0.0.1"
#: Seconds.
_LONGEST_PAUSE = 24 * 3600


@agent.callback()
def run(
    context: typer.Context,
    config: Config = None,
    owner: Owner = None,
    follow_file: Annotated[
        bool, typer.Option("--follow-file", help="Apply valid changes of the intent file automatically.")
    ] = False,
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", metavar="ADDR:PORT", help="Serve /metrics, /status and a page, read-only."),
    ] = None,
    listen_name: Annotated[
        list[str] | None,
        typer.Option(
            "--listen-name", metavar="NAME", help="A host name by which browsers may open the page."
        ),
    ] = None,
    admin_group: Annotated[
        str | None,
        typer.Option(
            "--admin-group",
            metavar="GROUP",
            help="Members of this group may use the agent's socket, besides root.",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="LOG", help="Print the shares that result from a log of events, and exit."
        ),
    ] = None,
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
) -> None:
    """Follow the intent that was applied last, until SIGTERM; the rules stay.

    Runs in the foreground, for systemd. With nothing applied yet, it applies the intent file first.
    """
    if context.invoked_subcommand is not None:
        return
    if replay is not None:
        from lbctl.cli.replay import print_log

        print_log(replay, output)
        return
    from lbctl.cli.context import open_host
    from lbctl.cli.fleet import published_name
    from lbctl.cli.intents import context_of, intent_finder
    from lbctl.host import need_privilege

    if listen_name and not listen:
        raise IntentError("--listen-name without --listen", hint="e.g. --listen 127.0.0.1:9099")

    try:
        from lbctl.agent.run import Options, run as run_agent
    except ModuleNotFoundError as error:
        raise NoBackend(
            f"the agent needs the package {error.name}", hint="pip install 'lbctl[agent]'"
        ) from error
    work = context_of(open_host(), owner, config)
    need_privilege(work.host)
    options = Options(
        owner=work.owner,
        files=intent_finder(config),
        follow=published_name(config),
        backend=backend,
        driver=driver,
        follow_file=follow_file,
        listen=tuple(map(_address, listen or ())),
        names=tuple(listen_name or ()),
        admin_group=admin_group,
    )
    run_agent(work.host, options)


@agent.command(cls=Command)
def pause(
    duration: Annotated[
        float,
        typer.Option(
            "--for",
            parser=seconds,
            metavar="TIME",
            help="Resume after TIME (default: 10m).",
            show_default=False,
        ),
    ] = 600.0,
    owner: Owner = None,
    config: Config = None,
) -> None:
    """Stop the running agent from changing the kernel for some time."""
    from lbctl.cli.output import say

    if not 1 <= duration <= _LONGEST_PAUSE:
        raise IntentError(f"--for {duration:g}s: not between one second and a day", hint="e.g. --for 10m")
    _ask(owner, config, "/pause", {"seconds": duration})
    say(f"The agent is paused for {duration:g} s; lbctl agent resume ends that.")


@agent.command(cls=Command)
def resume(
    owner: Owner = None,
    config: Config = None,
) -> None:
    """End a pause of the running agent."""
    from lbctl.cli.output import say

    _ask(owner, config, "/resume", {})
    say("The agent is resumed.")


def _ask(owner: str | None, config: Config, action: str, words: dict[str, object]) -> None:
    from lbctl.agent import client
    from lbctl.cli.context import open_host
    from lbctl.cli.intents import context_of

    found = context_of(open_host(), owner, config)
    client.post(found.host.socket_path(found.owner), action, words)


def _address(text: str) -> tuple[str, int]:
    """Return the address and port of `127.0.0.1:9099`, `[::1]:9099`, or `:9099`, which is loopback."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]") or _DEFAULT_LISTEN
    try:
        number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else -1
        if not colon or not 0 <= number <= 65535:
            raise ValueError
        return str(ip_address(address)), number
    except ValueError:
        raise IntentError(f"--listen {text}: not an address and a port", hint="e.g. 127.0.0.1:9099") from None
