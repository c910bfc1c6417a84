"""Docker, as far as the source asks it. Answers have the form of its own, shortened."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from lbctl.agent.sources import Access
from lbctl.model import DockerAccess, Endpoint, State
from support.sources.rig import Changes, WebRig
from support.web import Request, Response, WebServer


def container(endpoint: Endpoint, number: int = 0, **keys: Any) -> dict[str, Any]:
    """A container as /containers/json of Docker 28 shows it."""
    drained = endpoint.state is State.DRAIN
    return {
        "Id": f"{number:064x}",
        "Names": [f"/{endpoint.name if endpoint.name != endpoint.to else 'api'}-{number}"],
        "Image": "api:1",
        "Created": 1764480000,
        "Ports": [{"PrivatePort": endpoint.port, "Type": "tcp"}],
        "Labels": {"lbctl.service": "api", "lbctl.weight": str(endpoint.weight)},
        "State": "paused" if drained else "running",
        "Status": "Up 2 minutes (Paused)" if drained else "Up 2 minutes (healthy)",
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {
            "Networks": {
                "bridge": {
                    "Gateway": "172.17.0.1",
                    "IPAddress": str(endpoint.address),
                    "IPPrefixLen": 16,
                    "GlobalIPv6Address": "",
                }
            }
        },
    } | keys


class DockerServer(WebServer):
    def __init__(self, path: Path) -> None:
        super().__init__(path=path)
        self.containers: list[dict[str, Any]] = []
        self.changes = Changes()

    async def answer(self, request: Request) -> Response:
        filters = json.loads(request.parameters["filters"])
        if request.path == "/events":
            assert "container" in filters["type"]
            return Response(lines=self._events())
        assert (request.path, filters["label"]) == ("/containers/json", ["lbctl.service=api"])
        return Response(document=self.containers)

    async def _events(self) -> AsyncIterator[object]:
        while True:
            if await self.changes.wait(3600):
                yield {"Type": "container", "Action": "start", "Actor": {"ID": "1", "Attributes": {}}}


class DockerRig(WebRig):
    source, name = "docker", "lbctl.service=api"

    def __init__(self, folder: Path) -> None:
        self.docker = DockerServer(folder / "docker.sock")
        super().__init__(self.docker)

    @property
    def access(self) -> Access:
        return Access(docker=DockerAccess(socket=str(self.docker.path)))

    async def give(self, *endpoints: Endpoint) -> None:
        self.docker.containers = [container(each, n) for n, each in enumerate(endpoints, 1)]
        await self.docker.changes.tell()
