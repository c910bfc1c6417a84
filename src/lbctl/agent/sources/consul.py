"""Endpoints from Consul: the instances of a service, by blocking queries of its HTTP API.

An instance takes connections if its checks pass or only warn; one that is critical or in maintenance is
drained. Its weight is that of its definition for the result of the checks. A query returns when something
changes, and at least once a minute; the index of its answer is where the next one goes on. An index that is
smaller than the one before means that the servers started anew: the next query goes on from none.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from lbctl.agent.sources import credentials
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import member, optional, rows, table
from lbctl.agent.sources.text import endpoint_at
from lbctl.agent.sources.wire import PACE, PATIENCE, Ask, HttpPeer, exchange
from lbctl.model import ConsulAccess, Endpoint, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from lbctl.agent.sources.source import Access, Answer
    from lbctl.agent.sources.wire import Reply

local = False
#: Seconds that a query may wait for a change. Consul adds up to a sixteenth, to spread them.
_WAIT = 60
_PASSING, _WARNING = "passing", "warning"
#: In HTTP/1.1 names of headers are given in small letters.
_INDEX, _HIDDEN = "x-consul-index", "x-consul-results-filtered-by-acls"
_LONGEST_INDEX = 19


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:
    """Yield the endpoints of a service."""
    consul = access.consul or ConsulAccess()
    peer = await asyncio.to_thread(
        HttpPeer.of, consul.server, partial(credentials.context, consul, "[consul]")
    )
    index = 0
    while True:
        headers = {}
        if consul.token_file is not None:
            headers["X-Consul-Token"] = await asyncio.to_thread(credentials.token, consul.token_file)
        ask = Ask(
            target=f"/v1/health/service/{name}?index={index}&wait={_WAIT}s",
            headers=headers,
            patience=PATIENCE + _WAIT * 17 / 16 if index else PATIENCE,
        )
        async with exchange(peer, ask) as reply:
            found = parse(await reply.document())
            if not found and reply.headers.get(_HIDDEN) == "true":
                raise SourceFailed(f"{peer}: the token may not read service {name}")
            last, index = index, _index(peer, reply)
        if index < last:
            index = 0
        yield found
        # A query may return at once, and often.
        await asyncio.sleep(PACE)


def parse(found: object) -> Answer:
    """Return the endpoints in an answer to `/v1/health/service/NAME`; raises `SourceFailed` for any other."""
    if not isinstance(found, list):
        raise SourceFailed("the answer is not a list of instances")
    return tuple(map(_endpoint, found))


def _endpoint(row: object) -> Endpoint:
    service = member(row, "Service", dict)
    address = optional(service, "Address", "") or member(member(row, "Node", dict), "Address", str)
    results = {member(check, "Status", str) for check in rows(row, "Checks")}
    warned = _WARNING in results
    return endpoint_at(
        address,
        member(service, "Port", int),
        name=optional(service, "ID", ""),
        weight=optional(table(service, "Weights"), "Warning" if warned else "Passing", 1),
        state=State.ACTIVE if results <= {_PASSING, _WARNING} else State.DRAIN,
    )


def _index(peer: HttpPeer, reply: Reply) -> int:
    """Return where the next query goes on. One from 0 would never wait."""
    text = reply.headers.get(_INDEX, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_INDEX):
        raise SourceFailed(f"{peer}: not an answer from Consul: it has no X-Consul-Index")
    return max(int(text), 1)
