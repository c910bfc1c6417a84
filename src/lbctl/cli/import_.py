"""`lbctl import`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.complete import complete_file, complete_store
from lbctl.cli.options import Color, Colors, Fix, Format, Keep, MaxSize, Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.cli.output import Style
    from lbctl.model import Analysis


def import_(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Rules as text; - is standard input.",
            autocompletion=complete_file,
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STORE",
            help="Read a store of this host instead, as lbctl backends lists them.",
            autocompletion=complete_store,
            show_default=False,
        ),
    ] = None,
    fix: Fix = False,
    keep: Keep = False,
    max_size: MaxSize = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Turn existing balancing rules into an intent file.

    Prints the intent file to stdout and reports problems on stderr. Reads iptables-save, nft, and scripts of
    iptables or nft commands; also such rules in systemd units, wg-quick files, /etc/network/interfaces,
    firewalld's direct rules and OpenWrt's nftables fragments. Nothing in a text is run or looked up. Exits
    with 1 if a service that balances is not in the intent, with 2 if the text cannot be trusted as a rule
    set.
    """
    from lbctl.cli.context import open_host
    from lbctl.cli.output import Style, print_json
    from lbctl.cli.work import share_policy
    from lbctl.config import is_intent
    from lbctl.config.render import parts
    from lbctl.documents.reading import document
    from lbctl.engine.migrate.foreign import with_policy
    from lbctl.engine.migrate.intent import imported
    from lbctl.engine.migrate.read import SourceLines, read_live, read_rules
    from lbctl.errors import IntentError
    from lbctl.host.files import DEFAULT_LIMIT, read_bounded
    from lbctl.spi import backends

    policy = share_policy(fix=fix, keep=keep)
    if (file is None) == (live is None):
        raise IntentError(
            "name a file of rules, - for standard input, or a store with --from",
            hint="e.g. lbctl import --from iptables-legacy; lbctl backends lists the stores",
        )
    source: Sequence[str] = ()
    name = live or ("standard input" if file == "-" else str(file))
    if live is not None:
        reading = read_live(open_host(), live, backends())
    else:
        data = read_bounded(str(file), max_size or DEFAULT_LIMIT)
        if is_intent(data):
            raise IntentError(
                f"{name} is an intent file already, and import reads rules",
                hint="lbctl render prints the rules of an intent file",
            )
        reading = read_rules(data, backends())
        source = SourceLines(data)
    made = imported(with_policy(reading, policy) if policy else reading, source)
    if output is Format.JSON:
        print_json(document(reading))
    else:
        _report(reading, made.notes, name, Style(color, stream=sys.stderr))
        if reading.accept:
            sys.stdout.writelines(parts(made.intent, made.comments))
    if not reading.accept:
        raise typer.Exit(IntentError.exit_code)
    if not made.complete:
        raise typer.Exit(1)


def _report(reading: Analysis, notes: tuple[str, ...], name: str, style: Style) -> None:
    """The findings, and what an intent cannot hold, on stderr. Whatever the text holds, a line stays one."""
    from lbctl.cli.output import count, say, say_styled
    from lbctl.model import inert

    paint = {"error": "red", "warning": "yellow", "info": "cyan"}
    # Each finding of a ladder has the correction of all of it: shown once, below the last of them.
    last = {found.corrected: number for number, found in enumerate(reading.findings)}
    for number, found in enumerate(reading.findings):
        head = style(f"{found.severity}: {found.code}", paint[found.severity])
        say_styled(f"{inert(name)}:{found.line}: {head}: {inert(found.message)}")
        if found.rule:
            say(f"    {found.rule}")
        if found.corrected and last[found.corrected] == number:
            say("  suggested fix:")
            for rule in found.corrected:
                say(f"    {rule}")
    for note in notes:
        say_styled(f"{style('not in the intent', 'yellow')}: {inert(note)}")
    say(
        f"{count(len(reading.services), 'service')} found, "
        f"{count(reading.untouched_rules, 'unrelated rule')} ignored"
    )
    if not reading.accept:
        say_styled(style("lbctl: this text cannot be trusted as a ruleset; no intent is printed", "bold"))
