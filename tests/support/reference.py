"""What docs/reference.md says, for tests that hold it against the program."""

import re
from pathlib import Path

_REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
_CODE = re.compile(r"`([a-z]+(?:-[a-z]+)+)`")


def documented_codes(section: str) -> set[str]:
    """The codes in the table of a section."""
    text = _REFERENCE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = (line for line in text.splitlines() if line.startswith("| `"))
    return {code for row in rows for code in _CODE.findall(row.split("|")[1])}
