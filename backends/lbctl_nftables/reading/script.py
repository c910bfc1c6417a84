"""A shell's script → the text of nft that its commands hand to nft, each in its line. Nothing is run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl_rules.shell import HARMLESS, Script, Trouble, program_at, without_redirections

if TYPE_CHECKING:
    from lbctl_netfilter.log import Log
    from lbctl_rules.shell import Here, ShellCommand

NO_RULE = "not a rule: what a shell would do with this is unknown"
_PROGRAM = re.compile("nft")
#: Options of nft with a value of their own.
_VALUED = {"-f", "--file", "-D", "--define", "-I", "--includepath"}


def nft_text(source: str, log: Log) -> str:
    """Return what the commands of a script hand to nft, each in its line; the log gets all else."""
    script = Script(source)
    read: list[str] = []
    here: Here | None = None
    is_rules = True
    while (line := script.take()) is not None:
        if here is not None:
            ends = here.ends(line)
            read.append(script.replaced(line, here) if is_rules and not ends else "")
            here = None if ends else here
            continue
        parts = []
        for each in script.commands(line) if line.strip() else ():
            if isinstance(each, Trouble):
                _trouble(each, log)
                continue
            parts.append(_handed(each, log))
            if each.here is not None:
                here, is_rules = each.here, each.inside is None
        read += "; ".join(filter(None, parts)).split("\n")
        # What goes on over several lines stands in the first one.
        read += [""] * (script.number - len(read))
    for each in script.unclosed():
        _trouble(each, log)
    return "\n".join(read)


def _handed(command: ShellCommand, log: Log) -> str:
    """Return what nft gets of a command's words; nothing if another program gets them."""
    words, text = command.words, command.text
    at = program_at(words, _PROGRAM.fullmatch)
    lost = ""
    if command.missing is not None and (at is not None or "nft" in text):
        message = f"`{command.missing}` is not set anywhere"
        log.find("unexpanded-variable", command, message)
        log.cannot(command, command.missing, "what a variable stands for is not in the text")
        return ""
    if at is None:
        name = words[0].rpartition("/")[2]
        if name in HARMLESS:
            lost = f"`{name}` is not a rule"
        elif command.here is None:
            lost = NO_RULE
    elif command.inside is not None:
        word, opened = command.inside
        lost = f"a rule inside `{word}` of line {opened}, which only a shell can follow"
        log.cannot(command, word, "which rules a shell would make of it is unknown")
    else:
        arguments = without_redirections(words[at + 1 :])
        first = _first(arguments)
        if arguments[first:] or command.here is not None:
            return " ".join(arguments[first:])
        if first:
            whose = "that another command writes" if command.piped else "of another file"
            lost = f"rules {whose} are not read"
    if lost:
        log.find("shell-construct", command, lost)
    return ""


def _first(arguments: list[str]) -> int:
    """Return the place behind nft's options and their values."""
    at = 0
    while at < len(arguments) and arguments[at][:1] == "-":
        at += 2 if arguments[at] in _VALUED else 1
    return at


def _trouble(found: Trouble, log: Log) -> None:
    if found.code == "unparsable-line":
        log.refuse(found.code, found, found.message)
    else:
        log.find(found.code, found, found.message)
