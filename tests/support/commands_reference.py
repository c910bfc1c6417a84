"""The commands with their arguments and options: docs/commands.md, from the command line itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from textwrap import fill
from typing import Any

import typer

from lbctl.cli import app, exit_codes
from lbctl.cli.commands import COMMANDS
from lbctl.cli.usage import is_argument, name_of
from support.json_reference import LINE

_HEAD = """# Commands

Every command of lbctl with its arguments and options, generated from the program: what `lbctl COMMAND --help`
prints. [The reference](reference.md) has what the commands do in full.
"""
_EXIT = """
## Exit codes in short

{}
"""


def page() -> str:
    """Return the page: a table of commands, then each of them."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("lbctl", [], resilient_parsing=True)
    parts = [_HEAD]
    for title, commands in COMMANDS.items():
        rows = [f"| [`{name}`](#lbctl-{name}) | {_first(group.commands[name].help)} |" for name in commands]
        parts.append("\n".join(["", f"**{title}**", "", "| command | purpose |", "|---|---|", *rows, ""]))
    for commands in COMMANDS.values():
        for name, entry in commands.items():
            parts += _command(group.commands[name], f"lbctl {name}", context, entry.example)
    codes = exit_codes.summary().replace(" · ", "; ")
    parts.append(_EXIT.format(fill(f"{codes}. [All of them](reference.md#exit-codes).", LINE)))
    return "".join(parts)


def _command(command: Any, path: str, parent: Any, example: str = "") -> Iterator[str]:
    context = command.make_context(path.rpartition(" ")[2], [], parent=parent, resilient_parsing=True)
    yield f"\n## {path}\n\n"
    yield f"    {' '.join([path, *command.collect_usage_pieces(context)])}\n"
    for paragraph in inspect.cleandoc(command.help or "").strip().split("\n\n"):
        yield f"\n{fill(paragraph, LINE)}\n"
    if example:
        yield f"\nExample: `{example}`\n"
    for title, wanted in (("argument", True), ("option", False)):
        rows = [
            f"| {_code(name_of(each) if wanted else record[0])} | {_cell(record[1])} |"
            for each in command.get_params(context)
            if is_argument(each) is wanted and (record := each.get_help_record(context))
        ]
        if rows:
            yield "\n".join(["", f"| {title} | meaning |", "|---|---|", *rows, ""])
    for name, inner in getattr(command, "commands", {}).items():
        yield from _command(inner, f"{path} {name}", context)


def _first(text: str) -> str:
    """Return the first paragraph of a help."""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def _code(text: str) -> str:
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
