"""The command line: one file a command, each importing what it needs only when it runs."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from lbctl.cli import complete, options
from lbctl.cli.commands import COMMANDS, HIDDEN, Grouped, Listing
from lbctl.cli.exit_codes import summary
from lbctl.cli.usage import Command
from lbctl.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    app: typer.Typer

#: As `lbctl.cli.ending` has it, which cannot be imported then.
_OUT_OF_MEMORY = 70


def program(only: str = "") -> typer.Typer:
    """Return the program with all commands, or with the one that is called."""
    app = typer.Typer(
        name="lbctl",
        cls=Grouped,
        help="Kernel load balancing with nftables or iptables, configured in one file.",
        epilog=f"Exit codes: {summary()}",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Plain help and plain errors, as other tools print them: for grep, man pages and narrow terminals.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for commands in (*COMMANDS.values(), HIDDEN):
        for name, entry in commands.items():
            if only in {"", name}:
                _add(app, name, entry, hidden=commands is HIDDEN)
    return app


def _add(app: typer.Typer, name: str, entry: Listing, *, hidden: bool) -> None:
    command, epilog = entry.load(name), f"Example: {entry.example}" if entry.example else None
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name, epilog=epilog)
    else:
        app.command(name, cls=TyperCommand if hidden else Command, epilog=epilog, hidden=hidden)(command)


def _print_version(value: bool) -> None:
    if value:
        print(f"lbctl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def _called(words: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the command that a command line calls; "" if all are needed, for help or completion."""
    name = words[0] if words and "_LBCTL_COMPLETE" not in environ else ""
    return name if any(name in commands for commands in (*COMMANDS.values(), HIDDEN)) else ""


def __getattr__(name: str) -> object:
    """Return `app`, the program with all commands, for who does more than calling it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = found = program()
    return found


def main() -> None:
    """The `lbctl` program: ends with `SystemExit`, whatever happens."""
    options.document_printed = False
    # Python collects garbage when it ends, even if that is disabled, but skips what is frozen.
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no arrows gets question marks, not an error.
            stream.reconfigure(errors="replace")
    try:
        complete.name_shell(sys.argv[1:], os.environ)
        with complete.whole_words(os.environ):
            program(_called(sys.argv[1:], os.environ))(prog_name="lbctl")
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 (the last place to report it)
        sys.exit(_ended_by(error))


def _ended_by(error: BaseException) -> int:
    """Report why a command ended, unless that was done, and return the exit code."""
    try:
        from lbctl.cli import ending

        try:
            return ending.report_end(error)
        except BrokenPipeError as broken:
            return ending.report_end(broken)
    except MemoryError:
        os.write(2, b"lbctl: out of memory\n")
        return _OUT_OF_MEMORY
