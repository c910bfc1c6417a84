"""A DNS server that answers from a table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from lbctl.agent.sources import Access
from lbctl.model import Endpoint, State
from support.web import Mood

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
