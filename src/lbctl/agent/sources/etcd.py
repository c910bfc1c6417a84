"""Endpoints from etcd v3: one key for each below a prefix, by the JSON gateway of etcd 3.4 and later.

    /services/api/a    10.0.0.11:8443
    /services/api/b    {"address": "10.0.0.12:8443", "weight": 2, "state": "drain"}

All keys are read at one revision, and watched from the next one on. Where the watch ends, because of a
compaction, a lost leader, a lost connection or after a minute of silence, all are read again: a watch that
jumps ahead would miss what was deleted in between. A key under a lease is a registration that ends by itself.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lbctl.agent.sources import credentials
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import document
from lbctl.agent.sources.text import endpoint, shown
from lbctl.agent.sources.wire import Ask, Peer, exchange

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from lbctl.agent.sources.source import Access, Answer
    from lbctl.model import Endpoint, EtcdAccess

local = False
#: Seconds without a word of a watch, after which all keys are read again.
_SILENCE = 60.0
#: A member that has lost its leader ends the watch, instead of keeping silent.
_HAS_LEADER = {"Grpc-Metadata-hasleader": "true"}


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:
    """Yield the endpoints below a prefix; each member is asked in turn until one answers."""
    if access.etcd is None:
        raise SourceFailed("the intent file has no [etcd] table: it says where etcd is")
    prefix = name if name.endswith("/") else f"{name}/"
    client = await Client.of(access.etcd)
    while True:
        revision, keys = await client.range(prefix)
        yield _answer(prefix, keys)
        async with aclosing(client.watch(prefix, revision + 1)) as changes:
            async for changed in changes:
                for key, value in changed.items():
                    if value is None:
                        keys.pop(key, None)
                    else:
                        keys[key] = value
                yield _answer(prefix, keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The members of one etcd, of which one is used; with the token of a user."""

    peer: Peer
    headers: Mapping[str, str]

    @classmethod
    async def of(cls, access: EtcdAccess) -> Client:
        """Return a client of the first member that answers; raises `SourceFailed` if none does."""
        context = partial(credentials.context, access, "[etcd]")
        secret = access.password_file
        password = await asyncio.to_thread(credentials.secret, secret) if secret is not None else None
        troubles = []
        for url in access.endpoints:
            client = cls(peer=await asyncio.to_thread(Peer.of, url, context), headers={})
            try:
                return await client._ready(access.user, password)
            except TimeoutError:
                troubles.append(f"{url}: no answer in time")
            except OSError as error:
                troubles.append(f"{url}: {error.strerror or error}")
            except SourceFailed as error:
                troubles.append(str(error))
        raise SourceFailed("; ".join(dict.fromkeys(troubles)))

    async def _ready(self, user: str | None, password: str | None) -> Client:
        """Return this client with the token of a user; raises if the member cannot be used."""
        if user is None:
            # A member without quorum would answer nothing else either.
            await self.call("/v3/kv/range", {"key": _encode("\0"), "count_only": True, "limit": 1})
            return self
        found = await self.call("/v3/auth/authenticate", {"name": user, "password": password})
        token = found.get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise SourceFailed(f"{self.peer}: etcd gave no token")
        return replace(self, headers={"Authorization": token})

    async def range(self, prefix: str) -> tuple[int, dict[str, str]]:
        """Return the revision of now, and the keys below a prefix with their values."""
        found = await self.call("/v3/kv/range", _below(prefix))
        try:
            revision = int(found["header"]["revision"])
            return revision, dict(_pair(each) for each in found.get("kvs", ()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SourceFailed(f"{self.peer}: not an answer of etcd: {error!r}") from error

    async def watch(self, prefix: str, revision: int) -> AsyncGenerator[Mapping[str, str | None], None]:
        """Yield the keys that change from a revision on, None for a deleted one.

        Ends where all keys have to be read again. Raises `SourceFailed` if it is refused.
        """
        create = {**_below(prefix), "start_revision": str(revision)}
        ask = Ask(
            target="/v3/watch",
            body={"create_request": create},
            headers={**self.headers, **_HAS_LEADER},
        )
        async with exchange(self.peer, ask) as reply:
            try:
                async with aclosing(reply.lines(_SILENCE)) as lists:
                    async for lines in lists:
                        found = [line.get("result") if isinstance(line, dict) else None for line in lines]
                        changed: dict[str, str | None] = {}
                        for each in found:
                            if not isinstance(each, dict) or each.get("canceled"):
                                return  # e.g. compacted, or no leader: reading again tells what is wrong
                            changed.update(map(_event, each.get("events") or ()))
                        if changed:
                            yield changed
            except TimeoutError:
                return
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise SourceFailed(f"{self.peer}: not an event of etcd: {error!r}") from error

    async def call(self, target: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Return what a member answers to a call; raises `SourceFailed` for an error."""
        async with exchange(self.peer, Ask(target=target, body=body, headers=self.headers)) as reply:
            found = await reply.document()
        if not isinstance(found, dict):
            raise SourceFailed(f"{self.peer}: not an answer of etcd")
        return found


def _below(prefix: str) -> dict[str, object]:
    """Return the range of the keys that begin with a prefix."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"key": _encode(prefix), "range_end": _encode(end)}


def _answer(prefix: str, keys: Mapping[str, str]) -> Answer:
    return tuple(_endpoint(key.removeprefix(prefix), value) for key, value in keys.items())


def _endpoint(name: str, value: str) -> Endpoint:
    if not value.lstrip().startswith("{"):
        return endpoint(value.strip(), name=name)
    found = document(value.encode(), f"key {shown(name)}")
    weight, state = found.get("weight", 1), found.get("state", "active")
    return endpoint(found.get("address"), name=name, weight=weight, state=state)


def _event(event: Mapping[str, Any]) -> tuple[str, str | None]:
    key, value = _pair(event["kv"])
    return key, None if event.get("type") == "DELETE" else value


def _pair(pair: Mapping[str, str]) -> tuple[str, str]:
    return _decode(pair["key"]), _decode(pair.get("value", ""))


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return b64decode(text, validate=True).decode()
