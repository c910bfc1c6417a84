"""The API of Kubernetes, as far as the source asks it. Answers have the form of its own, shortened."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from lbctl.agent.sources import Access
from lbctl.model import Endpoint, KubernetesAccess, State
from support.sources.rig import Changes, WebRig
from support.web import Request, Response, WebServer


def endpoint_slice(name: str, *endpoints: Endpoint, **keys: Any) -> dict[str, Any]:
    """An EndpointSlice as the API of Kubernetes 1.31 shows it."""
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "api"},
        },
        "addressType": "IPv6" if endpoints and ":" in str(endpoints[0].address) else "IPv4",
        "endpoints": [
            {
                "addresses": [str(each.address)],
                "conditions": {
                    "ready": each.state is State.ACTIVE,
                    "serving": True,
                    "terminating": each.state is State.DRAIN,
                },
                "nodeName": "node-1",
                "targetRef": {"kind": "Pod", "name": f"api-{n}", "namespace": "shop"},
            }
            for n, each in enumerate(endpoints, 1)
        ]
        or None,
        "ports": [
            {"name": "http", "port": endpoints[0].port if endpoints else 80, "protocol": "TCP"},
        ],
    } | keys


class KubernetesServer(WebServer):
    """Lists, and watches from a version that it still knows."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.slices: dict[str, dict[str, Any]] = {}
        self.version = 100
        self.events: list[dict[str, Any]] = []
        #: The oldest version from which on it can be watched.
        self.oldest = 100
        self.token: str | None = None
        self.gone_by_status = False
        #: Seconds after which a watch ends, and whether it says so with the version of then.
        self.longest_watch, self.bookmarks = 3600.0, True
        self.changes = Changes()

    async def put(self, found: dict[str, Any]) -> None:
        name = found["metadata"]["name"]
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self._note(kind, found)
        self.slices[name] = found
        await self.changes.tell()

    async def delete(self, name: str) -> None:
        self._note("DELETED", self.slices.pop(name))
        await self.changes.tell()

    def _note(self, kind: str, found: dict[str, Any]) -> None:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.events.append({"type": kind, "object": json.loads(json.dumps(found))})

    def forget(self) -> None:
        """Forget all versions but that of now."""
        self.version += 1
        self.oldest, self.events = self.version, []

    async def answer(self, request: Request) -> Response:
        assert request.path == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
        assert request.parameters["labelSelector"] == "kubernetes.io/service-name=api"
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            status = {"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401}
            return Response(status=401, document=status)
        if request.parameters.get("watch") != "true":
            found = {"kind": "EndpointSliceList", "metadata": {"resourceVersion": str(self.version)}}
            return Response(document={**found, "items": list(self.slices.values())})
        version = int(request.parameters["resourceVersion"])
        if version < self.oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old version"}
            if self.gone_by_status:
                return Response(status=410, document=status)
            return Response(lines=_once({"type": "ERROR", "object": status}))
        return Response(lines=self._watch(version, float(request.parameters["timeoutSeconds"])))

    async def _watch(self, version: int, seconds: float) -> AsyncIterator[object]:
        clock = asyncio.get_running_loop().time
        until = clock() + min(seconds, self.longest_watch)
        while clock() < until:
            for event in self.events:
                found = int(event["object"]["metadata"]["resourceVersion"])
                if found > version:
                    version = found
                    yield event
            await self.changes.wait(max(until - clock(), 0.0))
        if self.bookmarks:
            yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}


async def _once(line: object) -> AsyncIterator[object]:
    yield line


class KubernetesRig(WebRig):
    source, name = "kubernetes", "shop/api"

    def __init__(self, folder: Path) -> None:
        self.kubernetes = KubernetesServer()
        super().__init__(self.kubernetes)

    @property
    def access(self) -> Access:
        return Access(kubernetes=KubernetesAccess(server=self.kubernetes.url))

    async def give(self, *endpoints: Endpoint) -> None:
        await self.kubernetes.put(endpoint_slice("api-1", *endpoints))
