"""Where endpoints come from, as servers and files of a test: each can be lost, wrong or silent, and return.

What Docker, Consul and Kubernetes answer has the form of their own answers, shortened.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from lbctl.agent.sources import Access, SourceFailed
from lbctl.agent.sources import systemd as systemd_source
from lbctl.model import (
    ConsulAccess,
    DockerAccess,
    Endpoint,
    EtcdAccess,
    KubernetesAccess,
    State,
)
from support.web import Mood, Request, Response, WebServer


class Rig(Protocol):
    """One source, and what is behind it."""

    source: str
    name: str
    #: What the intent says about reaching it.
    access: Access
    #: True if its endpoints are ports of this host.
    local: bool

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Lose what is behind the source, as in an outage; `start` ends that."""

    async def give(self, *endpoints: Endpoint) -> None:
        """Have these endpoints be the right answer, and say so to who waits for it."""

    async def be(self, mood: Mood) -> None:
        """Answer so from now on."""


class WebRig:
    """A source behind a server of HTTP."""

    local = False

    def __init__(self, server: WebServer) -> None:
        self.server = server

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    async def be(self, mood: Mood) -> None:
        self.server.mood = mood
        await self.server.cut()


class _Changes:
    """Who waits for a change hears of it."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def tell(self) -> None:
        async with self._condition:
            self._condition.notify_all()

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._condition:
                await self._condition.wait()
        except TimeoutError:
            return False
        return True


# Docker


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
        self.changes = _Changes()

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


# Consul


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
        self.changes = _Changes()

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


# Kubernetes


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
        self.changes = _Changes()

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


# etcd


class EtcdServer(WebServer):
    """The calls of the JSON gateway of etcd 3.4 that the source makes: tests/servers has the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, str] = {}
        self.changed: list[tuple[int, str, str | None]] = []
        self.revision = 5
        self.changes = _Changes()

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


# DNS

#: A test may put another one into its place.
_Resolver = dns.asyncresolver.Resolver


class DnsServer(asyncio.DatagramProtocol):
    """Answers from a table: by UDP cut off if there is no room, by TCP whole."""

    def __init__(self, records: dict[tuple[str, str], list[str]], ttl: int = 30) -> None:
        self.records, self.ttl = records, ttl
        self.asked: list[tuple[str, str]] = []
        self.by_tcp = 0
        self.mood = Mood.GOOD
        self.port = 0
        self._ends: list[asyncio.BaseTransport | asyncio.AbstractServer] = []

    async def start(self) -> None:
        tcp = await asyncio.start_server(self.serve_tcp, "127.0.0.1", self.port)
        self.port = tcp.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self.port))
        self._ends = [tcp, udp]

    def stop(self) -> None:
        for each in self._ends:
            each.close()

    def resolver(self) -> dns.asyncresolver.Resolver:
        resolver = _Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        resolver.timeout = 2.0
        return resolver

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        match self.mood:
            case Mood.GOOD:
                self._transport.sendto(self.answer(data, tcp=False), addr)
            case Mood.GARBAGE:
                self._transport.sendto(data[:2] + b"\x81\x82" + data[4:12], addr)
            case Mood.SILENT | Mood.TRICKLE:
                pass

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.by_tcp += 1
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = self.answer(await reader.readexactly(size), tcp=True)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        writer.close()

    def answer(self, data: bytes, *, tcp: bool) -> bytes:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        reply = dns.message.make_response(query)
        if not any(known == name for known, _ in self.records):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        for _ in range(4):
            for found in (kind, "CNAME"):
                if texts := self.records.get((name, found)):
                    reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", found, *texts))
            [name] = self.records.get((name, "CNAME"), [""])
        room = 65535 if tcp else query.payload if query.edns >= 0 else 512
        whole = reply.to_wire(max_size=65535)
        if len(whole) <= room:
            return bytes(whole)
        reply.answer.clear()
        reply.flags |= dns.flags.TC
        return bytes(reply.to_wire())


class DnsRig:
    source, name, access, local = "dns", "_http._tcp.api.test", Access(), False

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = DnsServer({}, ttl=1)
        monkeypatch.setattr(dns.asyncresolver, "Resolver", self.server.resolver)

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        self.server.stop()

    async def be(self, mood: Mood) -> None:
        self.server.mood = mood

    async def give(self, *endpoints: Endpoint) -> None:
        records: dict[tuple[str, str], list[str]] = {("_http._tcp.api.test.", "TXT"): ["x"]}
        for number, each in enumerate(endpoints):
            host = f"h{number}.test."
            priority = 10 if each.state is State.ACTIVE else 20
            record = f"{priority} {each.weight} {each.port} {host}"
            records.setdefault(("_http._tcp.api.test.", "SRV"), []).append(record)
            records[host, "A"] = [str(each.address)]
        self.server.records = records


# files and units of this host


class FileRig:
    source, access, local = "file", Access(), False

    def __init__(self, folder: Path) -> None:
        self._path = folder / "targets.json"
        self.name = str(self._path)
        self._text = "[]"
        self._mood = Mood.GOOD

    async def start(self) -> None:
        self._write()

    async def stop(self) -> None:
        self._path.unlink()

    async def be(self, mood: Mood) -> None:
        self._mood = mood
        self._write()

    async def give(self, *endpoints: Endpoint) -> None:
        self._text = json.dumps(
            [
                {"targets": [each.to], "labels": {"weight": str(each.weight), "state": each.state}}
                for each in endpoints
            ]
        )
        self._write()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        if self._mood is Mood.SILENT:
            os.mkfifo(new)
        else:
            new.write_text(self._text if self._mood is Mood.GOOD else "[{")
        new.replace(self._path)


class SystemdRig:
    """What `systemctl show` prints; the program itself has a test of its own."""

    source, name, access, local = "systemd", "app@*.service", Access(), True

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._text = ""
        self._lost, self._mood = True, Mood.GOOD
        monkeypatch.setattr(systemd_source, "_show", self._show)

    async def start(self) -> None:
        self._lost = False

    async def stop(self) -> None:
        self._lost = True

    async def be(self, mood: Mood) -> None:
        self._mood = mood

    async def give(self, *endpoints: Endpoint) -> None:
        self._text = "\n".join(
            f"Id=app@{each.port}.service\nActiveState="
            f"{'active' if each.state is State.ACTIVE else 'deactivating'}\n"
            for each in endpoints
        )

    async def _show(self, name: str) -> str:
        assert name == self.name
        if self._lost:
            raise SourceFailed("systemctl: Failed to connect to bus")
        if self._mood is Mood.SILENT:
            await asyncio.sleep(5)
            raise SourceFailed("systemctl does not answer")
        return self._text if self._mood is Mood.GOOD else "Id=app@blue.service\nActiveState=active\n"


RIGS = ("dns", "etcd", "file", "systemd", "docker", "consul", "kubernetes")


def rig_of(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return what is behind a source, not yet started."""
    match source:
        case "dns":
            return DnsRig(folder, monkeypatch)
        case "systemd":
            return SystemdRig(folder, monkeypatch)
        case _:
            kinds = {
                "etcd": EtcdRig,
                "file": FileRig,
                "docker": DockerRig,
                "consul": ConsulRig,
                "kubernetes": KubernetesRig,
            }
            return kinds[source](folder)


__all__ = ["RIGS", "DnsServer", "Rig", "rig_of"]
