"""Endpoints from etcd v3: one key for each below a prefix.

    /services/api/a    10.0.0.11:8443
    /services/api/b    {"address": "10.0.0.12:8443", "weight": 2, "state": "drain"}

All keys are read at one revision, and watched from the next one on. Where the watch ends, because of a
compaction, a lost leader, a lost connection or after a minute of silence, all are read again: a watch that
jumps ahead would miss what was deleted in between. A key under a lease is a registration that ends by itself.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from lbctl.agent.etcd import Client
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import document
from lbctl.agent.sources.text import endpoint, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from lbctl.agent.sources.source import Access, Answer
    from lbctl.model import Endpoint

local = False
#: An intent takes at most as many endpoints of one source.
_MOST_KEYS = 4096


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:
    """Yield the endpoints below a prefix; each member is asked in turn until one answers."""
    if access.etcd is None:
        raise SourceFailed("the intent file has no [etcd] table: it says where etcd is")
    prefix = name if name.endswith("/") else f"{name}/"
    client = await Client.of(access.etcd)
    async with aclosing(client.states(prefix)) as states:
        async for keys in states:
            yield _answer(prefix, keys)


def _answer(prefix: str, keys: Mapping[str, str]) -> Answer:
    if len(keys) > _MOST_KEYS:
        raise SourceFailed(f"there are more than {_MOST_KEYS} keys below {prefix}")
    return tuple(_endpoint(key.removeprefix(prefix), value) for key, value in keys.items())


def _endpoint(name: str, value: str) -> Endpoint:
    if not value.lstrip().startswith("{"):
        return endpoint(value.strip(), name=name)
    found = document(value.encode(), f"key {shown(name)}")
    weight, state = found.get("weight", 1), found.get("state", "active")
    return endpoint(found.get("address"), name=name, weight=weight, state=state)
