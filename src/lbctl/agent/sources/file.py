"""Endpoints from a JSON file in the form that Prometheus reads (`file_sd`), looked at again when it changes.

    [{"targets": ["10.0.0.11:8080", "10.0.0.12:8080"], "labels": {"weight": "2", "state": "drain"}}]

The labels `name`, `weight` and `state` mean what the keys of an endpoint in the intent file do; other labels
are left alone. The file is polled by stat(2), which works on every file system and across renames.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.agent.sources import files
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import document
from lbctl.agent.sources.text import endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from lbctl.agent.sources.source import Access, Answer
    from lbctl.model import Endpoint

local = False
#: Seconds between two looks at the file, and until an unchanged one is read again.
_LOOK, _REFRESH = 0.2, 30.0
#: Bytes of a file.
_LIMIT = 4 << 20


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:  # noqa: ARG001
    """Yield the endpoints in the file of a path."""
    path = Path(name)
    loop = asyncio.get_running_loop()
    while True:
        seen = await asyncio.to_thread(_version, path)
        yield await asyncio.to_thread(_read, name)
        until = loop.time() + _REFRESH
        while loop.time() < until:
            await asyncio.sleep(_LOOK)
            if await asyncio.to_thread(_version, path) != seen:
                break


def _read(path: str) -> Answer:
    return parse(files.read(path, _LIMIT))


def parse(text: bytes) -> Answer:
    """Return the endpoints in the bytes of a file; raises `SourceFailed` for any other document."""
    groups = document(text, "the file")
    if not isinstance(groups, list):
        raise SourceFailed("the file is not a list of groups of targets")
    return tuple(each for group in groups for each in _group(group))


def _group(group: object) -> Iterator[Endpoint]:
    targets = group.get("targets") if isinstance(group, dict) else None
    labels = group.get("labels", {}) if isinstance(group, dict) else None
    if not isinstance(targets, list) or not isinstance(labels, dict):
        raise SourceFailed('a group is not like {"targets": ["10.0.0.1:80"], "labels": {}}')
    for target in targets:
        name = labels.get("name", "") if len(targets) == 1 else ""
        yield endpoint(target, name=name, weight=labels.get("weight", 1), state=labels.get("state", "active"))


def _version(path: Path) -> object:
    """Return what changes with a file."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_mtime_ns, found.st_size
