"""The JSON section of docs/reference.md is what `lbctl.documents` has; UPDATE_GOLDEN=1 writes it anew."""

import os
import re
from pathlib import Path

from lbctl.documents import NAMES
from support.json_reference import tables

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
_BLOCK = re.compile(r"(?s)(?<=<!-- json -->\n).*?(?=<!-- /json -->)")


def test_the_tables_are_those_of_the_documents() -> None:
    made = tables()
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_GOLDEN"):
        text = _BLOCK.sub(lambda _: made, text)
        PAGE.write_text(text, encoding="utf-8")
    assert _BLOCK.findall(text) == [made]


def test_each_document_has_a_table() -> None:
    titles = re.findall(r"(?m)^### (.*)$", tables())
    assert {name for title in titles for name in re.findall(r"`([a-z]+)`", title)} >= set(NAMES)


def test_headings_of_the_reference_are_unique() -> None:
    headings = re.findall(r"(?m)^#+ (.*)$", PAGE.read_text(encoding="utf-8"))
    assert sorted(set(headings)) == sorted(headings)
