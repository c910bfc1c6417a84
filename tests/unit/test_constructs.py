"""docs/constructs.md says which constructs are understood; UPDATE_GOLDEN=1 writes it anew."""

import os
from pathlib import Path

from support.constructs import document

PAGE = Path(__file__).parents[2] / "docs" / "constructs.md"


def test_the_table_is_what_the_readers_do() -> None:
    made = document()
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made
