"""Endpoints from Kubernetes: the EndpointSlices of a service, listed and then watched.

An endpoint that is ready and does not terminate takes connections, any other is drained. All slices of the
service count together; where two name the same endpoint, as they do for a moment while it moves from one to
the other, the one that takes connections counts. Of several addresses in one entry only the first has a
meaning. The watch goes on from the version that was listed; once the API no longer knows that version (410),
all slices are listed again.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from lbctl.agent.sources import cluster
from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import member, optional, rows, table
from lbctl.agent.sources.text import endpoint_at, shown
from lbctl.agent.sources.wire import exchange
from lbctl.model import Endpoint, State
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from lbctl.agent.sources.source import Access, Answer

local = False
#: Seconds after which the API ends a watch, and without a word of it, after which it is given up.
_WATCH, _SILENCE = 60, 75.0
#: Seconds between two watches: an API may end one at once.
_AGAIN = 1.0
_API = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?{}"
_FAMILIES = ("IPv4", "IPv6")
#: A slice has at least one endpoint, and an intent at most as many.
_MOST_SLICES = 4096


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:
    """Yield the endpoints of a service, such as `api`, `default/api` or `default/api:http`."""
    api = await asyncio.to_thread(cluster.find, access.kubernetes)
    query = SliceQuery.of(name, api.namespace)
    while True:
        slices, version = await _list(api, query)
        while version is not None:
            yield query.endpoints(slices)
            async with aclosing(_watch(api, query, version)) as changes:
                async for events in changes:
                    if (version := _follow(slices, events)) is None:
                        break
                    yield query.endpoints(slices)
            await asyncio.sleep(_AGAIN)


async def _list(api: cluster.Api, query: SliceQuery) -> tuple[dict[str, object], str | None]:
    """Return the slices of a service by name, and the version from which on they can be watched."""
    async with exchange(api.peer, await api.ask(query.target())) as reply:
        found = await reply.document()
    items = rows(found, "items")
    return {_name(each): each for each in items}, _version(found)


async def _watch(api: cluster.Api, query: SliceQuery, version: str) -> AsyncGenerator[list[Any], None]:
    """Yield events, in lists; ends when the API ends the watch, or keeps silent."""
    target = query.target(
        watch="true", resourceVersion=version, allowWatchBookmarks="true", timeoutSeconds=str(_WATCH)
    )
    async with exchange(api.peer, await api.ask(target)) as reply:
        if reply.status == HTTPStatus.GONE:
            yield [{"type": "ERROR", "object": {"code": reply.status}}]
            return
        async with aclosing(reply.lines(_SILENCE)) as lists:
            async for events in lists:
                yield events


def _follow(slices: dict[str, object], events: list[Any]) -> str | None:
    """Change the slices by events; return the version behind the last one, None if it has been forgotten."""
    version = None
    for event in events:
        kind, what = member(event, "type", str), member(event, "object", dict)
        match kind:
            case "ADDED" | "MODIFIED":
                slices[_name(what)] = what
                if len(slices) > _MOST_SLICES:
                    raise SourceFailed(f"the service has more than {_MOST_SLICES} EndpointSlices")
            case "DELETED":
                slices.pop(_name(what), None)
            case "BOOKMARK":
                pass
            case "ERROR" if optional(what, "code", 0) == HTTPStatus.GONE:
                return None
            case _:
                raise SourceFailed(f"the watch: {shown(optional(what, 'message', kind))}")
        version = _version(what)
    return version


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceQuery:
    """A service whose slices are asked for; `port` is the name or number of a port, None for its only one."""

    namespace: str
    name: str
    port: str | None = None

    @classmethod
    def of(cls, text: str, namespace: str) -> SliceQuery:
        """Return the query of a text such as `default/api:http`; `namespace` is for one without."""
        place, _, port = text.partition(":")
        first, slash, second = place.partition("/")
        return cls(
            namespace=first if slash else namespace, name=second if slash else first, port=port or None
        )

    def target(self, **parameters: str) -> str:
        """Return where its slices are found."""
        labels = f"kubernetes.io/service-name={self.name}"
        return _API.format(self.namespace, urlencode({"labelSelector": labels, **parameters}))

    def endpoints(self, slices: dict[str, object]) -> Answer:
        """Return the endpoints of all slices; raises `SourceFailed` for what is no slice."""
        found: dict[str, Endpoint] = {}
        for each in slices.values():
            for endpoint in self._of_slice(each):
                if endpoint.state is State.ACTIVE or endpoint.to not in found:
                    found[endpoint.to] = endpoint
        return tuple(found.values())

    def _of_slice(self, found: object) -> Iterator[Endpoint]:
        entries = rows(found, "endpoints")
        if not entries:
            return
        if (family := member(found, "addressType", str)) not in _FAMILIES:
            raise SourceFailed(f"addresses of type {shown(family)} are not followed")
        port = self._port(found)
        for row in entries:
            conditions = table(row, "conditions")
            serves = optional(conditions, "ready", True) and not optional(conditions, "terminating", False)
            yield endpoint_at(
                next(iter(member(row, "addresses", list)), None),
                port,
                name=optional(table(row, "targetRef"), "name", ""),
                state=State.ACTIVE if serves else State.DRAIN,
            )

    def _port(self, found: object) -> int:
        ports = {optional(each, "name", ""): member(each, "port", int) for each in rows(found, "ports")}
        wanted = [n for name, n in ports.items() if self.port is None or self.port in (name, str(n))]
        if len(wanted) == 1:
            return wanted[0]
        if self.port is not None:
            raise SourceFailed(f"service {self.name} has no port {self.port}")
        raise SourceFailed(f"service {self.name} has {len(wanted)} ports: name one, as {self.name}:PORT")


def _name(found: object) -> str:
    return member(member(found, "metadata", dict), "name", str)


def _version(found: object) -> str:
    return member(member(found, "metadata", dict), "resourceVersion", str)
