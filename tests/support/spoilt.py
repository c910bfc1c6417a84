"""JSON with one value of it replaced by one that no program of ours writes."""

import json
from collections.abc import Iterator
from functools import reduce

HOSTILE = (
    1e300,
    10**400,
    -1,
    1e18,
    True,
    None,
    "",
    "1e999999999",
    "1/0",
    "\x1b[2J",
    "\ud800",
    [],
    {},
    ["a"] * 3,
)


def spoilt(text: str) -> Iterator[str]:
    """Yield a document with each of its values in turn replaced by each of `HOSTILE`."""
    for place in _places(json.loads(text)):
        for value in HOSTILE if place else ():
            found = json.loads(text)
            *above, last = place
            reduce(lambda at, key: at[key], above, found)[last] = value
            yield json.dumps(found)


def _places(value: object) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield ()
    for key, each in items:
        yield from ((key, *below) for below in _places(each))
