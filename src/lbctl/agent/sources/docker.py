"""Endpoints from Docker, or Podman: running containers with a label, read from the unix socket of the API.

    docker run --label lbctl.service=api --label lbctl.port=8080 ...    # name = "lbctl.service=api"

Only containers with the label that the intent names are endpoints. Their other labels:

    lbctl.port      the port of the container; needed if it exposes several
    lbctl.network   the network whose address is used; needed if the container is in several
    lbctl.publish   "true": the published port of this host in place of the container's address
    lbctl.weight    a whole number

A container that is paused, or whose health check does not pass, is drained. The events are read first, then
all containers, and again after an event and once a minute: an event itself is not trusted. There are only
GET requests, but whoever may open the socket is root: Docker has no smaller right.
"""

from __future__ import annotations

import json
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import member, optional, rows, table
from lbctl.agent.sources.text import endpoint, endpoint_at, shown
from lbctl.agent.sources.wire import Ask, HttpPeer, exchange
from lbctl.model import DockerAccess, Endpoint, State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

    from lbctl.agent.sources.source import Access, Answer

local = True
#: Seconds without an event, after which all containers are read again.
_SILENCE = 60.0
_STATES = ("running", "paused")
_EVENTS = {
    "container": ("start", "die", "pause", "unpause", "health_status", "rename", "update"),
    "network": ("connect", "disconnect"),
}
_PORT, _NETWORK, _PUBLISH, _WEIGHT = "lbctl.port", "lbctl.network", "lbctl.publish", "lbctl.weight"
_LONGEST_PORT = 5


async def answers(name: str, access: Access) -> AsyncGenerator[Answer, None]:
    """Yield the endpoints among the containers with a label, such as `lbctl.service=api`."""
    peer = HttpPeer(path=(access.docker or DockerAccess()).socket)
    containers = _target("/containers/json", label=[name], status=_STATES)
    kinds = [word for words in _EVENTS.values() for word in words]
    events = Ask(target=_target("/events", type=tuple(_EVENTS), event=kinds))
    while True:
        async with exchange(peer, events) as changes, aclosing(changes.lines(_SILENCE)) as lists:
            with suppress(TimeoutError):
                yield await _read(peer, containers)
                async for _ in lists:
                    yield await _read(peer, containers)
                raise SourceFailed(f"{peer}: the events have ended")


async def _read(peer: HttpPeer, containers: str) -> Answer:
    try:
        async with exchange(peer, Ask(target=containers)) as reply:
            return parse(await reply.document())
    except TimeoutError:
        raise SourceFailed(f"{peer}: no answer in time") from None


def parse(containers: object) -> Answer:
    """Return the endpoints in the answer to `/containers/json`; raises `SourceFailed` for any other."""
    if not isinstance(containers, list):
        raise SourceFailed("the answer is not a list of containers")
    return tuple(endpoint for each in containers for endpoint in _Container(each).endpoints())


class _Container:
    """One container, as the API describes it in a list."""

    def __init__(self, row: object) -> None:
        self._row = row
        self._labels: Mapping[str, object] = table(row, "Labels")
        self._name = str(next(iter(rows(row, "Names")), "")).removeprefix("/")

    def endpoints(self) -> Iterator[Endpoint]:
        """Yield its address of each family with its port, or a port of this host."""
        if optional(self._row, "State", "") not in _STATES:
            return
        state, port = self._state(), self._port()
        weight = self._labels.get(_WEIGHT, 1)
        publish = self._labels.get(_PUBLISH) == "true"
        if publish or optional(table(self._row, "HostConfig"), "NetworkMode", "") == "host":
            number = self._published(port) if publish else port
            yield endpoint(str(number), name=self._name, weight=weight, state=state)
            return
        network = self._network()
        for key in ("IPAddress", "GlobalIPv6Address"):
            if address := optional(network, key, ""):
                yield endpoint_at(address, port, name=self._name, weight=weight, state=state)

    def _state(self) -> State:
        status = optional(self._row, "Status", "")
        waits = "(unhealthy)" in status or "(health: starting)" in status
        paused = optional(self._row, "State", "") == "paused"
        return State.DRAIN if waits or paused else State.ACTIVE

    def _port(self) -> int:
        if (text := self._labels.get(_PORT)) is not None:
            if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) <= _LONGEST_PORT:
                return int(text)
            raise self._wrong(f"label {_PORT} is {shown(text)}")
        ports = {member(each, "PrivatePort", int) for each in rows(self._row, "Ports")}
        if len(ports) != 1:
            raise self._wrong(f"it exposes {len(ports)} ports: label it with {_PORT}")
        return ports.pop()

    def _published(self, port: int) -> int:
        found = {
            member(each, "PublicPort", int)
            for each in rows(self._row, "Ports")
            if member(each, "PrivatePort", int) == port and optional(each, "PublicPort", 0)
        }
        if len(found) != 1:
            raise self._wrong(f"port {port} is published as {len(found)} ports of this host, not one")
        return found.pop()

    def _network(self) -> object:
        networks = table(table(self._row, "NetworkSettings"), "Networks")
        wanted = self._labels.get(_NETWORK)
        if wanted is None and len(networks) == 1:
            return next(iter(networks.values()))
        if wanted in networks:
            return networks[wanted]
        hint = f"label it with {_NETWORK}" if wanted is None else f"not in {shown(wanted)}"
        raise self._wrong(f"it is in {len(networks)} networks: {hint}")

    def _wrong(self, why: str) -> SourceFailed:
        return SourceFailed(f"container {shown(self._name)}: {why}")


def _target(path: str, **filters: Sequence[str]) -> str:
    return f"{path}?{urlencode({'filters': json.dumps(filters)})}"
