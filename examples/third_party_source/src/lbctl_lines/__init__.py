"""Endpoints from a text file: on each line an address and, if it is not 1, a weight.

10.0.0.11:8080
10.0.0.12:8080 2
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from lbctl.agent.sources import Access, Answer, SourceFailed, endpoint

#: It may not name ports of this host.
local = False
#: Seconds between two looks at the file.
_LOOK = 1.0
#: Bytes of a file.
_LIMIT = 1 << 20


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:  # noqa: ARG001
    """Yield all endpoints in the file of a path, again and again: the same answer confirms the last one."""
    while True:
        yield parse(await asyncio.to_thread(_read, Path(name)))
        await asyncio.sleep(_LOOK)


def parse(text: str) -> Answer:
    """Return the endpoints in a text; raises `SourceFailed` for a line that is none."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match line.partition("#")[0].split():
            case []:
                continue
            case [address]:
                found.append(endpoint(address))
            case [address, weight]:
                found.append(endpoint(address, weight=weight))
            case _:
                raise SourceFailed(f"line {number} has more than an address and a weight")
    return tuple(found)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise SourceFailed(f"{path} has more than {_LIMIT} bytes")
    return data.decode(errors="replace")
