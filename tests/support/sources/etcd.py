"""etcd, as far as the source asks it: tests/servers has the real one."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from pathlib import Path

from lbctl.agent.sources import Access
from lbctl.model import Endpoint, EtcdAccess
from support.sources.rig import Changes, WebRig
from support.web import Request, Response, WebServer


class EtcdServer(WebServer):
    """The calls of the JSON gateway of etcd 3.4 that the source makes: tests/servers has the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, str] = {}
        self.changed: list[tuple[int, str, str | None]] = []
        self.revision = 5
        self.changes = Changes()

    async def answer(self, request: Request) -> Response:
        words = json.loads(request.body)
        header = {"cluster_id": "1", "revision": str(self.revision)}
        if request.path == "/v3/kv/range":
            kvs = [{"key": _b64(k), "value": _b64(v)} for k, v in self.keys.items()]
            return Response(document={"header": header, "kvs": kvs, "count": str(len(kvs))})
        assert request.path == "/v3/watch"
        create = words["create_request"]
        assert b64decode(create["key"]) == b"/services/api/"
        return Response(lines=self._watch(int(create["start_revision"])))

    async def _watch(self, revision: int) -> AsyncIterator[object]:
        yield {"result": {"header": {"revision": str(self.revision)}, "created": True}}
        while True:
            for number, key, value in self.changed:
                if number >= revision:
                    revision = number + 1
                    pair = {"key": _b64(key), "mod_revision": str(number)}
                    event = {"type": "DELETE"} if value is None else {}
                    pair |= {} if value is None else {"value": _b64(value)}
                    yield {"result": {"events": [{**event, "kv": pair}]}}
            await self.changes.wait(3600)


class EtcdRig(WebRig):
    source, name = "etcd", "/services/api/"

    def __init__(self, folder: Path) -> None:
        self.etcd = EtcdServer()
        super().__init__(self.etcd)

    @property
    def access(self) -> Access:
        return Access(etcd=EtcdAccess(endpoints=(self.etcd.url,)))

    async def give(self, *endpoints: Endpoint) -> None:
        wanted = {f"/services/api/{n}": _value(each) for n, each in enumerate(endpoints, 1)}
        for key in [*wanted, *(self.etcd.keys.keys() - wanted.keys())]:
            if self.etcd.keys.get(key) != wanted.get(key):
                self.etcd.revision += 1
                self.etcd.changed.append((self.etcd.revision, key, wanted.get(key)))
        self.etcd.keys = wanted
        await self.etcd.changes.tell()


def _value(endpoint: Endpoint) -> str:
    return json.dumps({"address": endpoint.to, "weight": endpoint.weight, "state": endpoint.state})


def _b64(text: str) -> str:
    return b64encode(text.encode()).decode()
