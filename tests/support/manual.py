"""The manual pages: what a person wrote of them, and lists of commands, options and keys from the program.

A page is mdoc(7). Its lists stand between comments, `.\\" NAME` and `.\\" /NAME`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from textwrap import wrap
from typing import Any

import typer
from prometheus_client.parser import text_string_to_metric_families

from lbctl.agent import metrics
from lbctl.cli import app
from lbctl.cli.commands import COMMANDS
from lbctl.config import json_schema
from support.agent import status_document

FOLDER = Path(__file__).parents[2] / "packages" / "man"
PAGES = ("lbctl.8", "lbctl-agent.8", "lbctl.toml.5")
#: Of this many commands an option is described once for all.
_COMMON = 4
#: The tables of an intent file, as their headers are written, outer ones first.
_TABLES = {
    "service": "[[service]]",
    "endpoint": "[[service.endpoint]]",
    "check": "[service.check]",
    "health": "[service.health]",
    "discover": "[service.discover]",
    "agent": "[agent]",
    "follow": "[follow]",
    "etcd": "[etcd]",
    "docker": "[docker]",
    "consul": "[consul]",
    "kubernetes": "[kubernetes]",
}
_PART = re.compile(r'(?ms)^(\.\\" ([a-z-]+)\n)(?:.*?)(^\.\\" /\2\n)')


def page(name: str) -> str:
    """Return a page with its lists as the program has them now."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    return _PART.sub(
        lambda found: found[1] + "".join(f"{line}\n" for line in _LISTS[found[2]]()) + found[3], text
    )


def program() -> Any:
    """The program as Typer sees it: commands by name."""
    return typer.main.get_command(app)


def options(command: Any) -> list[Any]:
    """The options of a command that its help shows."""
    return [each for each in command.params if each.param_type_name == "option" and not each.hidden]


def tables() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The header of each table of an intent file, and the part of the JSON Schema that describes it."""
    schema = json_schema()
    yield "", schema
    outer = {**schema["properties"], **_referred(schema, schema["properties"]["service"])["properties"]}
    found = {header: _referred(schema, outer[key]) for key, header in _TABLES.items()}
    missing = [key for key in outer if _referred(schema, outer[key]) not in ({}, *found.values())]
    assert not missing, f"tables without a place in the manual: {missing}"
    yield from found.items()


def _referred(schema: Mapping[str, Any], key: Any) -> Any:
    """The table that a key stands for, or an empty one."""
    found = re.search(
        r'"\$ref": "#/\$defs/(\w+)"', json.dumps({each: key[each] for each in key if each != "description"})
    )
    return schema["$defs"][found[1]] if found else {}


def _commands() -> Iterator[str]:
    commands = program().commands
    shared = Counter(_described(each) for name in _names() for each in options(commands[name]))
    common = {each for each, count in shared.items() if count >= _COMMON}
    for title, names in COMMANDS.items():
        yield f".Ss {_text(title)}"
        yield ".Bl -tag -width Ds"
        for name in names:
            if name == "agent":
                yield from (
                    ".It Nm Cm agent",
                    _sentence(commands[name].help.partition("\n\n")[0]),
                    "See",
                    ".Xr lbctl-agent 8 .",
                )
            else:
                yield from _command(commands[name], f".It Nm Cm {name}", common)
        yield ".El"
    yield ".Ss Options of several commands"
    yield ".Bl -tag -width Ds"
    for each in sorted(common):
        yield from each
    yield ".El"


def _names() -> Iterable[str]:
    return (name for names in COMMANDS.values() for name in names)


def _command(command: Any, head: str, common: Iterable[tuple[str, str]]) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    yield head + "".join(f" {_argument(each)}" for each in arguments)
    yield from _paragraphs(command.help)
    described = [_described(each) for each in options(command)]
    own = [each for each in described if each not in common]
    if rest := [each for each in described if each in common]:
        yield ".Pp"
        yield "Also:"
        names = [_first(head) for head, _ in rest]
        yield from (f".{name} ," for name in names[:-1])
        yield f".{names[-1]} ."
    helped = [each for each in arguments if each.help]
    if own or helped:
        yield ".Bl -tag -width Ds"
        for each in helped:
            yield from (f".It Ar {_name(each)}", _text(each.help))
        for each in own:
            yield from each
        yield ".El"
    if command.epilog:
        yield ".Pp"
        yield "Example:"
        yield f".Dl {_text(command.epilog.removeprefix('Example: '))}"


def _first(head: str) -> str:
    """The long name in the item of an option, with its macro."""
    return max(re.findall(r"Fl [\w-]+", head), key=len)


def _argument(argument: Any) -> str:
    name = f"Ar {_name(argument)}"
    many = " ..." if argument.nargs != 1 else ""
    return f"{name}{many}" if argument.required else f"Oo {name}{many} Oc"


def _name(parameter: Any) -> str:
    return (parameter.metavar or parameter.human_readable_name).strip("[].") or parameter.name.upper()


def _described(option: Any) -> tuple[str, str]:
    """The item of an option, and its meaning."""
    spelled = [
        f"Fl {each.removeprefix('-')}" for each in sorted((*option.opts, *option.secondary_opts), key=len)
    ]
    value = "" if option.is_flag else f" Ar {_value(option)}"
    return f".It {' , '.join(spelled)}{value}", _text(option.help)


def _value(option: Any) -> str:
    if isinstance(option.default, Enum):
        return " | ".join(each.value for each in type(option.default))
    return option.metavar or option.name.upper()


def _agent() -> Iterator[str]:
    command = program().commands["agent"]
    yield ".Bl -tag -width Ds"
    for option in options(command):
        yield from _described(option)
    yield ".El"


def _agent_commands() -> Iterator[str]:
    yield ".Bl -tag -width Ds"
    for name, command in program().commands["agent"].commands.items():
        if not command.hidden:
            yield from _command(command, f".It Nm lbctl Cm agent {name}", ())
    yield ".El"


def _metrics() -> Iterator[str]:
    document = status_document()
    document["agent"]["sources"] = [
        {"service": "web", "kind": "dns", "name": "x", "endpoints": 2, "age": 1.0, "error": None}
    ]
    yield ".Bl -tag -width Ds"
    for family in text_string_to_metric_families(metrics.exposition(document).decode()):
        samples = [each for each in family.samples if not each.name.endswith("_created")]
        yield f".It Li {samples[0].name if samples else family.name}"
        yield _sentence(family.documentation)
    yield ".El"


def _exit_codes() -> Iterator[str]:
    for each in program().epilog.removeprefix("Exit codes: ").split(" · "):
        code, _, meaning = each.partition(" ")
        yield from (f".It {code}", _sentence(meaning[0].upper() + meaning[1:]))


def _keys() -> Iterator[str]:
    for header, table in tables():
        # mandoc takes a bracket at the end of a title for punctuation.
        yield f".Ss {header}\\&" if header else ".Ss Outside of tables"
        yield _text(table["description"]) if header else "Before the first table."
        yield ".Bl -tag -width Ds"
        for key, described in table["properties"].items():
            yield f".It Ic {key}"
            yield _text(described["description"])
            if "enum" in described:
                yield f"One of {', '.join(map(_text, described['enum']))}."
            if "default" in described and described["default"] not in ([], 12288):
                default = json.dumps(described["default"]).strip('"')
                yield f"Default: {_text(default)}."
        yield ".El"


_LISTS: Mapping[str, Callable[[], Iterator[str]]] = {
    "commands": _commands,
    "agent-options": _agent,
    "agent-commands": _agent_commands,
    "exit-codes": _exit_codes,
    "metrics": _metrics,
    "keys": _keys,
}


def _paragraphs(text: str) -> Iterator[str]:
    for place, paragraph in enumerate(text.split("\n\n")):
        if place:
            yield ".Pp"
        yield _sentence(" ".join(paragraph.split()))


def _sentence(text: str) -> str:
    return _text(text if text.endswith((".", "?", ":")) else f"{text}.")


def _text(text: str) -> str:
    """Text as mdoc has it: a line for each sentence, nothing that is read as a macro, plain characters."""
    plain = text.replace("\\", "\\e").replace("`", "\\(ga").replace("…", "...").replace("·", "-")
    plain = plain.replace("'", "\\(aq").replace("→", "->")
    plain = re.sub(r"(?<![\w\\])-(?=-?\w)", r"\\-", plain).replace(" \\--", " \\-\\-")
    sentences = re.split(r"(?<=\S\.)(?<!e\.g\.) (?=[A-Z])", plain)
    lines = [line for sentence in sentences for line in wrap(sentence, 78, break_on_hyphens=False)]
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)
