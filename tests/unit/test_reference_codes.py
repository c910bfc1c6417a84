"""docs/reference.md has a row for each code of a finding and of a doctor check, and for no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from lbctl_netfilter.log import SEVERITIES

ROOT = Path(__file__).parents[2]


def listed(section: str) -> list[str]:
    """The codes of a section's table whose first column is named so."""
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    [body] = re.findall(rf"(?ms)^## {section}$(.*?)^(?=## )", text)
    [table] = re.findall(r"(?ms)^\| code \|.*?\n\n", body)
    rows = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    return sorted(code for cell in rows for code in re.findall(r"`([a-z-]+)`", cell))


def given() -> Iterator[str]:
    """The codes with which the house makes a `Problem`."""
    for package in ("src", "backends"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem":
                    [code] = [each.value for each in node.keywords if each.arg == "code"]
                    constants = [each.value for each in ast.walk(code) if isinstance(each, ast.Constant)]
                    assert constants, f"{file.name}: line {node.lineno}: a code that is no text"
                    yield from (each for each in constants if isinstance(each, str))


def test_each_finding_has_a_row() -> None:
    codes = set(listed("Import"))
    assert set(SEVERITIES) <= codes
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "backends").rglob("*.py")]
    assert [code for code in codes if not any(f'"{code}"' in text for text in texts)] == []


def test_each_doctor_check_has_a_row() -> None:
    assert listed("Doctor") == sorted(set(given()))
