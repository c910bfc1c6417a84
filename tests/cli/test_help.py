"""Help is plain text, as that of other tools is."""

import re
import shlex

import pytest
from typer.main import get_command

from lbctl.cli import app
from support.network import run_lbctl

#: Boxes are drawn with these.
DRAWN = frozenset("─│╭╮╰╯")
#: A terminal of 80 columns, with and without a wish for colours.
PLAIN = {"COLUMNS": "80", "TERM": "xterm-256color", "FORCE_COLOR": "1"}
COMMANDS = sorted(name for name, each in get_command(app).commands.items() if not each.hidden)  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_is_plain(words: tuple[str, ...]) -> None:
    shown = run_lbctl(*words, "--help", env=PLAIN)
    assert (shown.code, shown.err) == (0, "")
    assert not DRAWN & set(shown.out)
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80


def test_each_command_has_a_summary_that_fits() -> None:
    lines = run_lbctl("--help", env=PLAIN).out.splitlines()
    listed = [line.split() for line in lines[lines.index("Begin:") + 1 : -1] if line.startswith("  ")]
    summaries = {words[0]: " ".join(words[1:]) for words in listed if words[0] in COMMANDS}
    assert sorted(summaries) == COMMANDS
    assert list(summaries)[:3] == ["demo", "init", "import"]
    # What does not fit ends with three dots.
    assert [text for text in summaries.values() if text.endswith("...") or not text.endswith(".")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_an_example_that_can_be_typed(command: str) -> None:
    shown = run_lbctl(command, "--help", env=PLAIN).out
    [example] = re.findall(r"(?m)^  Example: (.*)$", shown)
    [typed] = re.findall(r"(?:^|\| )lbctl (.*?)(?: > \S+)?$", example)
    name, *words = shlex.split(typed)
    assert name == command
    # It parses; nothing is run.
    get_command(app).commands[command].make_context(command, words)  # type: ignore[attr-defined]
    # Types are named by what is typed, as `--wait TIME`.
    assert not re.search(r"<(bool|boolean|str|int|list)|\[\[|[{}]", shown)
