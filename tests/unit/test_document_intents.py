"""Each intent file that a document shows whole can be used."""

import re
from pathlib import Path

import pytest

from lbctl.config import loads

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(?ms)^```toml\n(schema = 1\n.*?)^```$")
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
INTENTS = {
    f"{path.relative_to(ROOT)}-{number}": text
    for path in DOCUMENTS
    for number, text in enumerate(_BLOCK.findall(path.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("name", INTENTS)
def test_an_intent_of_a_document_is_valid(name: str) -> None:
    intent = loads(INTENTS[name], name)
    assert intent.services or intent.follow


def test_the_documents_show_intents() -> None:
    assert {"README.md-0", "docs/index.md-0", "docs/how-to/from-ipvs.md-0"} <= INTENTS.keys()
