"""Endpoints from units of a systemd template: `app@8001.service` is the process on port 8001 of this host.

A unit that is active or being reloaded takes connections; one that is being stopped is drained; any other one
is no endpoint. `systemctl show` is asked once a second. The signals of systemd on D-Bus would come sooner,
but cost a library and a connection that must be kept and restored; a health check sees a process that died
before either, and a unit that stops in less than a second has no connections to drain.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from lbctl.agent.sources.source import SourceFailed
from lbctl.model import MAX_PORT, Endpoint, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from lbctl.agent.sources.source import Access, Answer

local = True
_PERIOD, _PATIENCE = 1.0, 5.0
_PROGRAM = "/usr/bin/systemctl"
#: Bytes of an answer.
_LIMIT = 1 << 20
_STATES = {
    "active": State.ACTIVE,
    "reloading": State.ACTIVE,
    "refreshing": State.ACTIVE,
    "deactivating": State.DRAIN,
}
_LONGEST_PORT = 5


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:  # noqa: ARG001
    """Yield the endpoints of a template, like `app@*.service`."""
    while True:
        yield parse(name, await _show(name))
        await asyncio.sleep(_PERIOD)


def parse(name: str, text: str) -> Answer:
    """Return the endpoints in what `systemctl show --property=Id,ActiveState` prints."""
    head, _, tail = name.partition("*")
    return tuple(_endpoints(head, tail, text))


def _endpoints(head: str, tail: str, text: str) -> Iterator[Endpoint]:
    for block in text.split("\n\n"):
        keys = dict(line.partition("=")[::2] for line in block.splitlines())
        unit, state = keys.get("Id", ""), _STATES.get(keys.get("ActiveState", ""))
        if state is None or not (unit.startswith(head) and unit.endswith(tail)):
            continue
        port = unit[len(head) : -len(tail)]
        if not (port.isascii() and port.isdecimal() and len(port) <= _LONGEST_PORT):
            raise SourceFailed(f"the instance of {unit} is not a port")
        if str(int(port)) != port or not 1 <= int(port) <= MAX_PORT:
            raise SourceFailed(f"the instance of {unit} is not a port from 1 to {MAX_PORT}")
        yield Endpoint(port=int(port), state=state)


async def _show(name: str) -> str:
    argv = (_PROGRAM, "show", "--property=Id,ActiveState", "--", name)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            output, errors = await process.communicate()
    except TimeoutError:
        raise SourceFailed("systemctl does not answer") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").splitlines()
        raise SourceFailed(f"systemctl: {lines[0] if lines else process.returncode}")
    if len(output) > _LIMIT:
        raise SourceFailed("systemctl prints too much")
    return output.decode(errors="replace")
