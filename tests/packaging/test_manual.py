"""The manual pages say what the program says; UPDATE_GOLDEN=1 writes their lists."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support import manual

ROOT = Path(__file__).parents[2]


def text(name: str) -> str:
    return (manual.FOLDER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", manual.PAGES)
def test_the_lists_of_a_page_are_those_of_the_program(name: str) -> None:
    made = manual.page(name)
    if os.environ.get("UPDATE_GOLDEN"):
        (manual.FOLDER / name).write_text(made, encoding="utf-8")
    assert text(name) == made


def section(title: str, page: str) -> str:
    """What the page has about one command."""
    found = re.search(
        rf"(?ms)^\.It Nm (?:lbctl )?Cm {title}(?: .*?)?\n(.*?)(?=^\.It Nm |^\.Ss |^\.Sh )", page
    )
    assert found, title
    return found[1]


def test_each_command_has_each_of_its_options() -> None:
    page = text("lbctl.8")
    for name, command in manual.program().commands.items():
        if command.hidden or name == "agent":
            continue
        for option in manual.options(command):
            spelled = max(option.opts, key=len).removeprefix("-")
            assert re.search(rf"Fl {spelled}\b", section(name, page)), f"{name} -{spelled}"
            assert re.search(rf"(?m)^\.It .*Fl {spelled}\b", page), f"-{spelled} is not described"


def test_the_agent_has_each_of_its_options() -> None:
    page = text("lbctl-agent.8")
    agent = manual.program().commands["agent"]
    for option in manual.options(agent):
        assert re.search(rf"(?m)^\.It .*Fl {max(option.opts, key=len).removeprefix('-')}\b", page)
    for name, command in agent.commands.items():
        assert command.hidden or section(f"agent {name}", page)


def test_each_key_of_each_table_is_described() -> None:
    page = text("lbctl.toml.5")
    for header, table in manual.tables():
        place = page.partition(f".Ss {header}\\&\n" if header else ".Ss Outside of tables\n")[2].partition(
            "\n.S"
        )[0]
        keys = re.findall(r"(?m)^\.It Ic (\S+)\n\S", place)
        assert keys == list(table["properties"]), header


def test_each_exit_code_is_named() -> None:
    codes = re.findall(r"(?:^Exit codes: |· )(\d+) ", manual.program().epilog)
    listed = text("lbctl.8").partition(".Sh EXIT STATUS")[2].partition(".Sh ")[0]
    assert re.findall(r"(?m)^\.It (\d+)$", listed) == codes


@pytest.mark.parametrize("name", manual.PAGES)
def test_no_line_is_a_macro_by_accident(name: str) -> None:
    """`make test-packages` runs mandoc, which checks more."""
    for line in text(name).splitlines():
        assert not line.startswith("'")
        assert line.isascii(), line
