"""Endpoints from a JSON file in the form that Prometheus reads (`file_sd`), looked at again when it changes.

    [{"targets": ["10.0.0.11:8080", "10.0.0.12:8080"], "labels": {"weight": "2", "state": "drain"}}]

The labels `name`, `weight` and `state` mean what the keys of an endpoint in the intent file do; other labels
are left alone. inotify(7) shows changes of the folder, with it those of links in it. Then stat(2) decides; it
also looks by itself from time to time: changes on other hosts of a network file system, and behind a link
that leads elsewhere, are no events here.
"""

from __future__ import annotations

import asyncio
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.agent.sources import files
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import document
from lbctl.agent.sources.text import endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from asyncinotify import Inotify

    from lbctl.agent.sources.source import Access, Answer
    from lbctl.model import Endpoint

local = False
#: Seconds between two looks at the file without an event, where there are events and where there are none.
_LOOK, _POLL = 1.0, 0.2
#: Seconds from an event to the look, in which others may follow; and until an unchanged file is read again.
_SETTLE, _REFRESH = 0.05, 30.0
#: Bytes of a file.
_LIMIT = 4 << 20


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:  # noqa: ARG001
    """Yield the endpoints in the file of a path."""
    path = Path(name)
    loop = asyncio.get_running_loop()
    seen, until = None, loop.time()
    while True:
        events = await asyncio.to_thread(_events, path.parent)
        # What changes from here on is an event, or found by the next look.
        with nullcontext() if events is None else closing(events):
            version = await asyncio.to_thread(_version, path)
            if version != seen or loop.time() >= until:
                seen, until = version, loop.time() + _REFRESH
                yield await asyncio.to_thread(_read, name)
            await _wait(events)


def _events(folder: Path) -> Inotify | None:
    """Return the events of a folder; None if it is missing, or if the library or the kernel has no more."""
    try:
        from asyncinotify import Inotify, Mask  # of the extra "agent"

        events = Inotify()
    except (ImportError, OSError):
        return None
    wanted = Mask.CLOSE_WRITE | Mask.CREATE | Mask.DELETE | Mask.MOVE | Mask.ONLYDIR
    try:
        events.add_watch(folder, wanted)
    except OSError:
        events.close()
        return None
    return events


async def _wait(events: Inotify | None) -> None:
    """Wait for an event and those that follow at once, or until it is time to look again."""
    if events is None:
        await asyncio.sleep(_POLL)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK):
            await events.get()
            await asyncio.sleep(_SETTLE)


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
