"""A client of etcd v3, by the JSON gateway of etcd 3.4 and later: read, watch, compare and swap, leases.

A client uses one member, the first that answers. Who loses it makes another client: nothing here is tried
again, so that callers decide what a failure means.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lbctl.agent.sources import credentials
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.wire import Ask, HttpPeer, exchange
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator, Mapping

    from lbctl.model import EtcdAccess

#: Seconds without a word of a watch, after which all keys are read again.
_SILENCE = 60.0
#: A member that has lost its leader ends the watch, instead of keeping silent.
_HAS_LEADER = {"Grpc-Metadata-hasleader": "true"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdEntry:
    """A key's value, the revision that wrote it, and its lease: 0 for none."""

    value: str
    revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The members of one etcd, of which one is used; with the token of a user."""

    peer: HttpPeer
    headers: Mapping[str, str]

    @classmethod
    async def of(cls, access: EtcdAccess, *, stale: bool = False) -> Client:
        """Return a client of the first member that answers; raises `SourceFailed` if none does.

        `stale` takes one too that is cut off from the others, as far as it lets users in then.
        """
        context = partial(credentials.context, access, "[etcd]")
        secret = access.password_file
        password = await asyncio.to_thread(credentials.secret, secret) if secret is not None else None
        troubles = []
        for url in access.endpoints:
            client = cls(peer=await asyncio.to_thread(HttpPeer.of, url, context), headers={})
            try:
                return await client._ready(access.user, password, stale=stale)
            except TimeoutError:
                troubles.append(f"{url}: no answer in time")
            except OSError as error:
                troubles.append(f"{url}: {error.strerror or error}")
            except SourceFailed as error:
                troubles.append(str(error))
        raise SourceFailed("; ".join(dict.fromkeys(troubles)))

    async def _ready(self, user: str | None, password: str | None, *, stale: bool) -> Client:
        """Return this client with the token of a user; raises if the member cannot be used."""
        if user is None:
            # A member without quorum would answer nothing else either.
            await self.call(
                "/v3/kv/range",
                {"key": _encode("\0"), "count_only": True, "limit": 1, "serializable": stale},
            )
            return self
        found = await self.call("/v3/auth/authenticate", {"name": user, "password": password})
        token = found.get("token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise SourceFailed(f"{self.peer}: etcd gave no token")
        return replace(self, headers={"Authorization": token})

    async def entries(self, prefix: str, *, stale: bool = False) -> tuple[int, dict[str, EtcdEntry]]:
        """Return the revision of now, and the keys below a prefix.

        `stale` reads what this member knows, be it cut off from the others or not.
        """
        found = await self.call("/v3/kv/range", {**_below(prefix), "serializable": stale})
        with self._understood():
            pairs = [_pair(each) for each in found.get("kvs", ())]
            return int(found["header"]["revision"]), dict(pairs)

    async def range(self, prefix: str) -> tuple[int, dict[str, str]]:
        """As `entries`, of values alone."""
        revision, entries = await self.entries(prefix)
        return revision, {key: entry.value for key, entry in entries.items()}

    async def get(self, key: str) -> EtcdEntry | None:
        """Return what a key holds; None for nothing."""
        found = await self.call("/v3/kv/range", {"key": _encode(key)})
        with self._understood():
            return next((_pair(each)[1] for each in found.get("kvs", ())), None)

    async def put(self, key: str, value: str, *, lease: int = 0) -> None:
        """Have a key hold a value, until its lease ends if it has one."""
        await self.call("/v3/kv/put", _put(key, value, lease))

    async def delete(self, key: str) -> None:
        """Have there be no such key."""
        await self.call("/v3/kv/deleterange", {"key": _encode(key)})

    async def swap(
        self,
        seen: Mapping[str, int],
        put: Mapping[str, str],
        *,
        delete: Collection[str] = (),
        lease: int = 0,
    ) -> bool:
        """Write and delete keys together, if those in `seen` were last written by these revisions.

        Revision 0 is for a key that does not exist. False, and nothing is written, if one was.
        """
        compare = [
            {"key": _encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
            for key, revision in seen.items()
        ]
        writes = [{"request_put": _put(key, value, lease)} for key, value in put.items()]
        drops = [{"request_delete_range": {"key": _encode(key)}} for key in delete]
        found = await self.call("/v3/kv/txn", {"compare": compare, "success": [*writes, *drops]})
        return found.get("succeeded") is True

    async def grant(self, seconds: int) -> int:
        """Return a lease that ends that long after it was kept alive last."""
        found = await self.call("/v3/lease/grant", {"TTL": str(seconds)})
        with self._understood():
            return int(found["ID"])

    async def keep_alive(self, lease: int) -> bool:
        """Return False if a lease has ended; else its time begins anew."""
        found = await self.call("/v3/lease/keepalive", {"ID": str(lease)})
        with self._understood():
            return int(found["result"].get("TTL", 0)) > 0

    async def revoke(self, lease: int) -> None:
        """End a lease, and all keys under it."""
        await self.call("/v3/lease/revoke", {"ID": str(lease)})

    async def states(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield the keys below a prefix with their values: at once, and whenever they change.

        They are yielded again where the watch has to begin anew, and after a time without changes.
        """
        while True:
            revision, keys = await self.range(prefix)
            yield dict(keys)
            async with aclosing(self.watch(prefix, revision + 1)) as changes:
                async for changed in changes:
                    for key, value in changed.items():
                        if value is None:
                            keys.pop(key, None)
                        else:
                            keys[key] = value
                    yield dict(keys)

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
                        changed: dict[str, str | None] = {}
                        for line in lines:
                            found = line.get("result") if isinstance(line, dict) else None
                            if not isinstance(found, dict) or found.get("canceled"):
                                return  # e.g. compacted, or no leader: reading again tells what is wrong
                            with self._understood():
                                changed.update(map(_event, found.get("events") or ()))
                        if changed:
                            yield changed
            except TimeoutError:
                return

    async def call(self, target: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Return what a member answers to a call; raises `SourceFailed` for an error."""
        async with exchange(self.peer, Ask(target=target, body=body, headers=self.headers)) as reply:
            found = await reply.document()
        if not isinstance(found, dict):
            raise SourceFailed(f"{self.peer}: not an answer from etcd")
        return found

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Raise `SourceFailed` where an answer is read inside that is not one of etcd."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SourceFailed(f"{self.peer}: not an answer from etcd: {error!r}") from error


def _below(prefix: str) -> dict[str, object]:
    """Return the range of the keys that begin with a prefix."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    return {"key": _encode(prefix), "range_end": _encode(end)}


def _put(key: str, value: str, lease: int) -> dict[str, object]:
    return {"key": _encode(key), "value": _encode(value), "lease": str(lease)}


def _event(event: Mapping[str, Any]) -> tuple[str, str | None]:
    key, entry = _pair(event["kv"])
    return key, None if event.get("type") == "DELETE" else entry.value


def _pair(pair: Mapping[str, Any]) -> tuple[str, EtcdEntry]:
    entry = EtcdEntry(
        value=_decode(pair.get("value", "")),
        revision=int(pair.get("mod_revision", 0)),
        lease=int(pair.get("lease", 0)),
    )
    return _decode(pair["key"]), entry


def _encode(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return b64decode(text, validate=True).decode()
