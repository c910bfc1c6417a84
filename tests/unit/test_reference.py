"""docs/json.md is what `lbctl.documents` has; UPDATE_GOLDEN=1 writes it anew."""

import os
import re
from pathlib import Path

from lbctl.cli import exit_codes
from lbctl.documents import NAMES
from support import commands_reference, metrics_reference
from support.json_reference import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_that_of_the_documents() -> None:
    made = page()
    if os.environ.get("UPDATE_GOLDEN"):
        (DOCS / "json.md").write_text(made, encoding="utf-8")
    assert (DOCS / "json.md").read_text(encoding="utf-8") == made


def test_the_commands_are_those_of_the_program() -> None:
    made = commands_reference.page()
    if os.environ.get("UPDATE_GOLDEN"):
        (DOCS / "commands.md").write_text(made, encoding="utf-8")
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == made


def test_each_document_has_a_table() -> None:
    titles = re.findall(r"(?m)^## Document (.*)$", page())
    assert sorted(name for title in titles for name in re.findall(r"`([a-z-]+)`", title)) == sorted(NAMES)


def test_each_link_of_the_page_leads_to_a_heading() -> None:
    headings = {
        heading.lower().translate({ord(" "): "-", ord("`"): None, ord(","): None})
        for heading in re.findall(r"(?m)^## (.*)$", page())
    }
    assert set(re.findall(r"\(#([^)]+)\)", page())) <= headings


def test_headings_of_the_reference_are_unique() -> None:
    headings = re.findall(r"(?m)^#+ (.*)$", (DOCS / "reference.md").read_text(encoding="utf-8"))
    assert sorted(set(headings)) == sorted(headings)


def test_the_exit_codes_are_those_of_the_help() -> None:
    _held("exit-codes", exit_codes.table())


def test_the_metrics_are_those_that_the_agent_gives_out() -> None:
    _held("metrics", metrics_reference.table())


def _held(name: str, made: str) -> None:
    """Hold a table of the reference, between two marks, against what the program has."""
    file = DOCS / "reference.md"
    text = file.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, rest = text.split(begin)
    whole = f"{before}{begin}{made}{end}{rest.split(end)[1]}"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(whole, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == whole
