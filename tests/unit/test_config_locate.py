"""Lines of places, in documents that are written in unusual ways."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from lbctl.config.locate import Map, scan_json, scan_toml
from support.effort import cpu_seconds

TRICKY = '''\
# [[service]] in a comment "
"schema" = 1
title = """
[[service]]
name = "no" \\""" ""
"""""
path = '[x]' # ]
literal = \'\'\'
]] ''
\'\'\'
[[service]]   # [ {
'name' = "a]"
listen = [
  "80/tcp", # one ]
  # between
  "81/tcp"
  ,
]
inline = { a = 1, b = [ {c = 2}, {c = """
"""} ], "d.e" . f = 3 }
empty = []
none = {}
a.b . "c\\u0064" = 1979-05-27 07:32:00
[[service.endpoint]]
address = "8001"
[[ service . endpoint ]]
address = "8002"
weight = 1.5
[service.extra."x.y"]
z = true
[[service]]
endpoints = [["x",
"y"], []]
last = 1'''


def test_tricky_toml() -> None:
    tomllib.loads(TRICKY)
    found = scan_toml(TRICKY)
    lines = {
        ("schema",): 2,
        ("title",): 3,
        ("path",): 7,
        ("literal",): 8,
        ("service",): 11,
        ("service", 0): 11,
        ("service", 0, "name"): 12,
        ("service", 0, "listen"): 13,
        ("service", 0, "listen", 0): 14,
        ("service", 0, "listen", 1): 16,
        ("service", 0, "listen", 2): 13,
        ("service", 0, "inline", "b", 1, "c"): 19,
        ("service", 0, "inline", "d.e", "f"): 20,
        ("service", 0, "a", "b", "cd"): 23,
        ("service", 0, "endpoint", 0): 24,
        ("service", 0, "endpoint", 1): 26,
        ("service", 0, "endpoint", 1, "weight"): 28,
        ("service", 0, "endpoint", 1, "name"): 26,
        ("service", 0, "extra", "x.y", "z"): 30,
        ("service", 1): 31,
        ("service", 1, "endpoints", 0, 1): 33,
        ("service", 1, "endpoints", 1): 33,
        ("service", 1, "last"): 34,
        ("service", 1, "missing", 4): 31,
        ("missing",): 1,
    }
    assert {place: found.line(place) for place in lines} == lines


def places(data: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(data, dict):
        return [place, *(p for key, value in data.items() for p in places(value, (*place, key)))]
    if isinstance(data, list):
        return [place, *(p for i, value in enumerate(data) for p in places(value, (*place, i)))]
    return [place]


def known(found: Map) -> set[tuple[str | int, ...]]:
    stack = [((), found.root)]
    result: set[tuple[str | int, ...]] = set()
    while stack:
        place, node = stack.pop()
        result.add(place)
        stack += [((*place, key), kid) for key, kid in node.kids.items()]
    return result


def test_every_place_of_tricky_toml_is_known() -> None:
    assert known(scan_toml(TRICKY)) == set(places(tomllib.loads(TRICKY)))


BLANK = st.sampled_from(["", " ", "\t", "\n", "\r\n", " # ] } \" '\n", "\n\n"])
SPACE = st.sampled_from(["", " ", "\t"])
KEYS = st.sampled_from(["a", "b-c", "1", '"q"', '"\\t]"', "'l}'", '""', "a.b", "x . 'y'"])
SCALARS = st.sampled_from(
    ["1", "true", "-1.5e3", "inf", "0x5eed", '"s"', '"]\\"}"', "'['", '"""\n"" ]"""', "'''\n'} '''", '""',
     '""""""', '"""a"""""', "''", "''''a''''", "1979-05-27 07:32:00", "07:32:00", '"""\\\n  ,"""']
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda value: st.one_of(
        st.lists(st.tuples(BLANK, value, BLANK)).map(lambda xs: "[" + ",".join("".join(x) for x in xs) + "]"),
        st.tuples(BLANK, value).map(lambda x: f"[{x[0]}{x[1]},\n]"),
        st.lists(st.tuples(SPACE, KEYS, SPACE, value, SPACE), max_size=3).map(
            lambda xs: "{" + ",".join(f"{a}{k}{b}={b}{v}{a}" for a, k, b, v, _ in xs) + "}"
        ),
    ),
    max_leaves=8,
)
STATEMENTS = st.one_of(
    st.tuples(SPACE, KEYS, SPACE, VALUES, SPACE).map(lambda x: f"{x[0]}{x[1]}{x[2]}={x[4]}{x[3]}{x[4]}"),
    st.tuples(SPACE, KEYS).map(lambda x: f"{x[0]}[{x[0]}{x[1]}]"),
    st.tuples(SPACE, KEYS).map(lambda x: f"[[{x[0]}{x[1]}{x[0]}]] # ["),
    st.sampled_from(["", "# [[a]] \"'"]),
)


@given(st.lists(STATEMENTS, max_size=8).map("\n".join))
def test_every_place_of_valid_toml_is_known(text: str) -> None:
    found = scan_toml(text)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # it was enough that nothing broke
    assert known(found) == set(places(data))
    last = text.count("\n") + 1
    assert all(1 <= found.line(place) <= last for place in places(data))


@given(st.text(alphabet="[]{}=.,\"'\\#\n ab1"))
def test_scans_never_fail(text: str) -> None:
    scan_toml(text)
    scan_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda value: st.lists(value) | st.dictionaries(st.text(), value),
)


@given(JSON, st.sampled_from([None, 0, 2]))
def test_every_place_of_json_is_known(data: Any, indent: int | None) -> None:
    found = scan_json(json.dumps(data, indent=indent))
    assert known(found) == set(places(data))
    assert found.mistakes == []


def test_lines_of_json() -> None:
    found = scan_json('\n{"schema": 1,\n "service": [\n  {"name":\n "a"},\n  {"listen": ["1",\n"2"]}]}')
    lines = {
        (): 2,
        ("schema",): 2,
        ("service", 0): 4,
        ("service", 0, "name"): 4,
        ("service", 1, "listen", 1): 7,
        ("service", 1, "name"): 6,
    }
    assert {place: found.line(place) for place in lines} == lines


@pytest.mark.parametrize(
    "text",
    [
        "a = [" + '"x",\n' * 100_000 + "]",
        "[[s]]\nk = 1\n" * 50_000,
        'a = "' + "\\n" * 200_000 + '"',
        'a = """' + '""a' * 200_000 + '"""',
        " " * 400_000,
        "a = " + "[" * 200_000,
        "a = {" + "b = 1, " * 200_000,
        "a." * 100_000 + "b = 1",
    ],
)
def test_scanning_takes_linear_time(text: str) -> None:
    with cpu_seconds(10):
        scan_toml(text)
