"""The JSON Schema says what the models say."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lbctl import documents
from lbctl.config import SCHEMA_ID, json_schema
from lbctl.model import DEFAULT_MARK, MAX_WEIGHT, Scheduler, SourceNat, State


def parts(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [node, *(found for value in node.values() for found in parts(value))]
    return [found for value in node for found in parts(value)] if isinstance(node, list) else []


def test_every_table_is_closed_and_every_key_described() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "lbctl intent file"
    assert schema["$id"] == SCHEMA_ID
    # The names of hosts are the user's.
    hosts = schema["properties"]["hosts"]
    tables = [part for part in parts(schema) if part.get("type") == "object" and part is not hosts]
    assert len(tables) == 12
    for table in tables:
        assert table["additionalProperties"] is False
        assert all(entry.get("description") for entry in table["properties"].values())
    assert not any("null" in (part.get("type"), *part.get("enum", ())) for part in parts(schema))


def test_words_and_ranges() -> None:
    schema = json_schema()
    service, endpoint = (schema["$defs"][name]["properties"] for name in ("ServiceTable", "EndpointTable"))
    assert schema["properties"]["schema"]["const"] == 1
    assert service["scheduler"]["enum"] == list(Scheduler)
    assert service["source-nat"]["enum"] == list(SourceNat)
    assert endpoint["state"]["enum"] == list(State)
    assert (endpoint["weight"]["minimum"], endpoint["weight"]["maximum"]) == (1, MAX_WEIGHT)
    assert (service["seed"]["minimum"], service["seed"]["maximum"]) == (0, 2**32 - 1)
    mark = schema["properties"]["mark"]
    assert (mark["minimum"], mark["maximum"], mark["default"]) == (0b11, 0b11 << 30, DEFAULT_MARK)
    assert schema["required"] == ["schema"]
    assert schema["$defs"]["ServiceTable"]["required"] == ["name", "listen"]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("name", ["web", "a", "8001", "a-b"], ["Web", "-a", "a-", "", "a b", 'a"']),
        (
            "listen",
            ["80/tcp", "192.0.2.1:443/udp", "[2001:db8::1]:1/sctp", "1-65535/udp", "[::1]:5-6/udp"],
            ["80", "0/tcp", "h:80/tcp", "::1:80/tcp", "1-/udp", "-1/udp", "1-2-3/udp", "::1-2/udp"],
        ),
        (
            "endpoints",
            ["8001", "8001-8008", "10.0.0.1:80", "[::1]:80", "10.0.0.1", "2001:db8::1", "::1"],
            ["0", "08", "+1", "٨", "10.0.0", "a:1", "[::1]"],
        ),
        ("affinity", ["90s", "15m", "3h", "1d"], ["0s", "90", "1w", "1.5h"]),
        (
            "interfaces",
            ["eth0", "ppp*", "a23456789012345", "br-1.2@x"],
            ["a b", "a/b", "a234567890123456", "*"],
        ),
        ("allow", ["10.0.0.0/8", "::/0", "192.0.2.1"], ["example.org", "10.0.0.0/08", "10.0.0.0/255.0.0.0"]),
    ],
)
def test_patterns(key: str, good: list[str], bad: list[str]) -> None:
    entry = json_schema()["$defs"]["ServiceTable"]["properties"][key]
    pattern = next(part["pattern"] for part in parts(entry) if "pattern" in part)
    assert [text for text in good if not re.search(pattern, text)] == []
    assert [text for text in bad if re.search(pattern, text)] == []


def test_the_schema_that_editors_find_is_this_one() -> None:
    schema = json_schema()
    file = Path(__file__).parents[2] / "docs" / "schema" / str(schema["$id"]).rpartition("/")[2]
    text = json.dumps(schema, indent=2) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text, "UPDATE_GOLDEN=1 writes it anew"


def test_each_schema_has_a_name_of_its_own() -> None:
    names = [documents.schema(name)["$id"] for name in documents.NAMES]
    assert names == [f"urn:lbctl:{name}:{documents.FORMAT_VERSION}" for name in documents.NAMES]
