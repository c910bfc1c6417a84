"""The dns source against a real server: dnsmasq, with records by UDP and TCP."""

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import dns.asyncresolver
import pytest

from lbctl.agent.sources import Answer, SourceFailed, dns as source
from lbctl.model import Endpoint, State

MANY = 200
RECORDS = (
    "--srv-host=_http._tcp.api.test,h1.test,8080,10,3",
    "--srv-host=_http._tcp.api.test,h2.test,8081,10,0",
    "--srv-host=_http._tcp.api.test,h3.test,8082,20,5",
    "--host-record=h1.test,10.0.0.1,2001:db8::1",
    "--host-record=h2.test,10.0.0.2,2001:db8::2",
    "--host-record=h3.test,10.0.0.3,2001:db8::3",
    "--cname=alias.test,h1.test",
    *(f"--host-record=many.test,10.1.0.{number},2001:db8:1::{number}" for number in range(1, MANY + 1)),
)


def at(address: str, port: int, **keys: object) -> Endpoint:
    return Endpoint(address=ip_address(address), port=port, **keys)  # type: ignore[arg-type]


class Dnsmasq:
    """One server on loopback, by UDP and TCP."""

    def __init__(self, servers: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = int(free.getsockname()[1])
        options = (
            "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/",
            "--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--pid-file=", "--local-ttl=7",
        )  # fmt: skip
        self.process = subprocess.Popen(
            [servers / "usr/sbin/dnsmasq", f"--port={self.port}", *options, *RECORDS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def look_up(self, name: str) -> tuple[Answer, float]:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], self.port
        return await source.look_up(name, resolver)

    async def ready(self) -> None:
        while True:
            try:
                await self.look_up("h1.test:80")
            except SourceFailed:
                assert self.process.poll() is None
            else:
                return

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def dnsmasq(servers: Path) -> Iterator[Dnsmasq]:
    made = Dnsmasq(servers)
    yield made
    made.close()


def run(dnsmasq: Dnsmasq, story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await dnsmasq.ready()
            await story()

    asyncio.run(bounded())


def test_records_are_endpoints_until_they_expire(dnsmasq: Dnsmasq) -> None:
    async def story() -> None:
        found, seconds = await dnsmasq.look_up("_http._tcp.api.test")
        assert set(found) == {
            at("10.0.0.1", 8080, weight=3),
            at("2001:db8::1", 8080, weight=3),
            at("10.0.0.2", 8081, weight=1),
            at("2001:db8::2", 8081, weight=1),
            at("10.0.0.3", 8082, weight=5, state=State.BACKUP),
            at("2001:db8::3", 8082, weight=5, state=State.BACKUP),
        }
        assert seconds == 7.0
        assert set((await dnsmasq.look_up("alias.test:80"))[0]) == {at("10.0.0.1", 80), at("2001:db8::1", 80)}

    run(dnsmasq, story)


def test_a_large_answer_is_whole(dnsmasq: Dnsmasq) -> None:
    async def story() -> None:
        found, _ = await dnsmasq.look_up("many.test:80")
        assert len(found) == 2 * MANY

    run(dnsmasq, story)


def test_a_name_that_does_not_exist_is_empty_and_a_lost_server_is_an_error(
    dnsmasq: Dnsmasq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_PATIENCE", 1.0)

    async def story() -> None:
        assert await dnsmasq.look_up("_no._tcp.such.test") == ((), 1.0)
        dnsmasq.close()
        with pytest.raises(SourceFailed, match=r"h1\.test A"):
            await dnsmasq.look_up("h1.test:80")

    run(dnsmasq, story)
