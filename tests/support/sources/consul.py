"""Consul, as far as the source asks it. Answers have the form of its own, shortened."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from lbctl.agent.sources import Access
from lbctl.model import ConsulAccess, Endpoint, State
from support.sources.rig import Changes, WebRig
from support.web import Request, Response, WebServer


def instance(endpoint: Endpoint, number: int = 0, **keys: Any) -> dict[str, Any]:
    """An instance as /v1/health/service of Consul 1.20 shows it."""
    status = "critical" if endpoint.state is State.DRAIN else "passing"
    return {
        "Node": {"ID": f"{number}", "Node": f"n{number}", "Address": "10.9.9.9", "Datacenter": "dc1"},
        "Service": {
            "ID": f"api-{number}",
            "Service": "api",
            "Tags": ["v1"],
            "Address": str(endpoint.address),
            "Port": endpoint.port,
            "Weights": {"Passing": endpoint.weight, "Warning": 1},
        },
        "Checks": [
            {"Node": f"n{number}", "CheckID": "serfHealth", "Status": "passing"},
            {"Node": f"n{number}", "CheckID": f"service:api-{number}", "Status": status},
        ],
    } | keys


class ConsulServer(WebServer):
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.rows: list[dict[str, Any]] = []
        self.index = 10
        self.token: str | None = None
        self.changes = Changes()

    async def answer(self, request: Request) -> Response:
        assert request.path == "/v1/health/service/api"
        if self.token is not None and request.headers.get("x-consul-token") != self.token:
            if "x-consul-token" in request.headers:
                return Response(status=403, document="ACL not found")
            hidden = {"X-Consul-Index": "1", "X-Consul-Results-Filtered-By-ACLs": "true"}
            return Response(document=[], headers=hidden)
        if int(request.parameters["index"]) == self.index:
            await self.changes.wait(float(request.parameters["wait"].removesuffix("s")))
        return Response(document=self.rows, headers={"X-Consul-Index": str(self.index)})


class ConsulRig(WebRig):
    source, name = "consul", "api"

    def __init__(self, folder: Path) -> None:
        self.consul = ConsulServer()
        super().__init__(self.consul)

    @property
    def access(self) -> Access:
        return Access(consul=ConsulAccess(server=self.consul.url))

    async def give(self, *endpoints: Endpoint) -> None:
        self.consul.rows = [instance(each, n) for n, each in enumerate(endpoints, 1)]
        self.consul.index += 1
        await self.consul.changes.tell()
