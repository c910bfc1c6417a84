"""The command line: one file a command, each importing what it needs only when it runs."""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from typing import Annotated

import typer

from lbctl.cli import complete, options
from lbctl.cli.commands import COMMANDS, Grouped
from lbctl.cli.confirm import watch_trial
from lbctl.cli.exit_codes import summary
from lbctl.cli.usage import Command
from lbctl.version import __version__

#: As `lbctl.cli.ending` has it, which cannot be imported then.
_OUT_OF_MEMORY = 70

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


def _print_version(value: bool) -> None:
    if value:
        print(f"lbctl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


for _commands in COMMANDS.values():
    for _name, (_command, _example) in _commands.items():
        _epilog = f"Example: {_example}"
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, epilog=_epilog)
        else:
            app.command(_name, cls=Command, epilog=_epilog)(_command)
app.command("watch-trial", hidden=True)(watch_trial)


def main() -> None:
    """The `lbctl` program: ends with `SystemExit`, whatever happens."""
    # A short life with up to a million values and no cycles: looking for cycles costs a quarter of the time,
    # and Python looks once more at its end, whatever it was told, but not at what is frozen.
    options.document_printed = False
    gc.disable()
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no arrows gets question marks, not an error.
            stream.reconfigure(errors="replace")
    try:
        complete.name_shell(sys.argv[1:], os.environ)
        with complete.whole_words(os.environ):
            app(prog_name="lbctl")
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
