"""Checks of each kind, against real servers on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from lbctl.agent.checks import Prober
from lbctl.agent.health import Ending, Outcome, Target
from lbctl.host.fake import FakeHost
from lbctl.model import (
    Check,
    DnsProbe,
    ExecProbe,
    Family,
    HttpProbe,
    Probe,
    StatusRange,
    TcpProbe,
    TlsOptions,
    UdpProbe,
)

PASSED, FAILED, UNDECIDED = Ending.PASSED, Ending.FAILED, Ending.UNDECIDED


def target(probe: Probe, port: int, *, timeout: int = 1000, family: Family = Family.IPV4) -> Target:
    return Target(
        family=family, address=None, port=port, check=Check(probe=probe, timeout=timeout, interval=10_000)
    )


async def settled() -> None:
    """Let asyncio close the sockets of transports that were aborted."""
    await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def probing() -> AsyncIterator[Prober]:
    prober = Prober(FakeHost())
    try:
        yield prober
    finally:
        prober.close()
        await settled()


async def outcomes(targets: Iterable[Target]) -> dict[Target, Outcome]:
    """Run checks and return how they ended; each is reported exactly once."""
    wanted = list(targets)
    found: dict[Target, Outcome] = {}
    finished = asyncio.Event()

    def done(each: Target, outcome: Outcome) -> None:
        assert each not in found
        found[each] = outcome
        if len(found) == len(wanted):
            finished.set()

    async with probing() as prober:
        prober.start(wanted, done)
        await finished.wait()
    return found


async def outcome(each: Target) -> Outcome:
    return (await outcomes([each]))[each]


def check_of(found: Outcome) -> tuple[Ending, str]:
    return found.ending, found.text


@contextlib.asynccontextmanager
async def server(
    answer: bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that reads a head and sends bytes; its port, and the heads that it read."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if not isinstance(answer, bytes):
                await answer(reader, writer)
            else:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(serve, host, 0, ssl=tls) as started:
        yield started.sockets[0].getsockname()[1], heads
        await settled()


def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def http(status: str, body: str = "hello", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n{body}".encode()


def test_tcp() -> None:
    async def run() -> None:
        async with server(b"") as (port, _):
            assert check_of(await outcome(target(TcpProbe(), port))) == (PASSED, "connected")
        assert check_of(await outcome(target(TcpProbe(), closed_port()))) == (FAILED, "connection refused")

    asyncio.run(run())


def test_tcp_of_both_families_apart() -> None:
    async def run() -> None:
        async with server(b"", host="::1") as (port, _):
            six = target(TcpProbe(), port, family=Family.IPV6)
            four = target(TcpProbe(), port)
            found = await outcomes([six, four])
            assert (found[six].ending, found[four].ending) == (PASSED, FAILED)

    asyncio.run(run())


def test_tcp_that_never_answers_ends_at_its_timeout() -> None:
    with socket.socket() as full:
        # A queue of no place for connections is filled by the first ones; the kernel drops the others.
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        found = asyncio.run(outcome(target(TcpProbe(), port, timeout=200)))
        for each in fillers:
            each.close()
    assert check_of(found) == (FAILED, "timeout")
    assert found.seconds >= 0.2


def test_many_at_once() -> None:
    async def run() -> None:
        async with server(b"") as (port, _):
            good = [target(TcpProbe(), port, timeout=5000 + i) for i in range(500)]
            bad = [target(TcpProbe(), closed_port(), timeout=5000 + i) for i in range(100)]
            found = await outcomes(good + bad)
            assert {found[each].ending for each in good} == {PASSED}
            assert {found[each].ending for each in bad} == {FAILED}

    asyncio.run(run())


def test_no_descriptor_left_says_nothing_about_an_endpoint() -> None:
    async def run() -> None:
        async with server(b"") as (port, _), probing() as prober:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            found: list[Outcome] = []
            # No new number is free where the limit is that of the lowest free one.
            with socket.socket() as lowest:
                free = lowest.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                prober.start([target(TcpProbe(), port)], lambda _, each: found.append(each))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert [check_of(each) for each in found] == [(UNDECIDED, "not checked: too many open files")]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "probe", "expected"),
    [
        (http("200 OK"), HttpProbe(), (PASSED, "HTTP 200")),
        (http("302 Found"), HttpProbe(), (PASSED, "HTTP 302")),
        (http("503 Oh"), HttpProbe(), (FAILED, "HTTP 503")),
        (
            http("503 Oh"),
            HttpProbe(status=(StatusRange(200, 200), StatusRange(500, 599))),
            (PASSED, "HTTP 503"),
        ),
        (http("200 OK"), HttpProbe(body="ell"), (PASSED, "HTTP 200, body matches")),
        (http("200 OK"), HttpProbe(body="ELL"), (FAILED, "HTTP 200, body does not match")),
        (
            http("200 OK", "x" * 70_000 + "end"),
            HttpProbe(body="end"),
            (FAILED, "HTTP 200, body does not match"),
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", HttpProbe(body="hello"), (PASSED, "HTTP 200, body matches")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + http("200 OK"), HttpProbe(), (PASSED, "HTTP 200")),
        (b"", HttpProbe(), (FAILED, "not HTTP: peer closed connection without sending complete message")),
    ],
)
def test_http(answer: bytes, probe: HttpProbe, expected: tuple[Ending, str]) -> None:
    async def run() -> None:
        async with server(answer) as (port, heads):
            found = check_of(await outcome(target(probe, port)))
            if answer:
                assert found == expected
            else:
                assert found[0] is FAILED
            assert heads[0].lower().startswith(b"get / http/1.1\r\nhost: 127.0.0.1\r\n")

    asyncio.run(run())


def test_http_sends_what_it_is_told() -> None:
    async def run() -> None:
        async with server(http("200 OK")) as (port, heads):
            await outcome(target(HttpProbe(path="/a?b=c", host="www.example.org"), port))
            assert heads[0].lower().startswith(b"get /a?b=c http/1.1\r\nhost: www.example.org\r\n")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"\0\1\2 nonsense\r\n\r\n", "not HTTP: illegal status line"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 9000, "not HTTP: Receive buffer too long"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
            "not HTTP: peer closed connection without sending complete message body",
        ),
    ],
)
def test_http_of_something_else_is_named_in_the_same_words_each_time(answer: bytes, text: str) -> None:
    async def run() -> None:
        async with server(answer) as (port, _):
            assert check_of(await outcome(target(HttpProbe(body="never"), port))) == (FAILED, text)

    asyncio.run(run())


@pytest.mark.parametrize(
    "again", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]
)
def test_http_that_never_comes_to_its_answer_is_bounded(again: bytes) -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(again * 100)
            await writer.drain()

    async def run() -> None:
        async with server(endless) as (port, _):
            found = await outcome(target(HttpProbe(), port, timeout=10_000))
            assert check_of(found) == (FAILED, "the answer is too long")

    asyncio.run(run())


def test_a_body_in_the_smallest_parts_is_bounded() -> None:
    parts = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 64_000

    async def run() -> None:
        async with server(parts) as (port, _):
            found = await outcome(target(HttpProbe(body="never"), port, timeout=10_000))
            assert check_of(found) == (FAILED, "the answer is too long")

    asyncio.run(run())


def test_slow_programs_delay_no_other_check(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def slow(*_: object) -> Outcome:
        over.wait(30)
        return Outcome(ending=PASSED, text="at last")

    monkeypatch.setattr("lbctl.agent.checks.prober.program.check", slow)
    programs = [target(ExecProbe(argv=("/bin/true",), user="nobody"), port) for port in range(1, 2000)]

    async def run() -> None:
        first: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        async with server(http("200 OK")) as (port, _), probing() as prober:
            prober.start(programs, lambda *_: None)
            prober.start([target(HttpProbe(), port)], lambda _, found: first.set_result(found))
            try:
                async with asyncio.timeout(10):
                    assert (await first).text == "HTTP 200"
            finally:
                over.set()

    asyncio.run(run())


def test_a_check_that_breaks_in_an_unforeseen_way_is_reported_and_says_nothing_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: object) -> Outcome:
        raise KeyError("surprise\x1b[2J")

    monkeypatch.setattr("lbctl.agent.checks.prober.http.check", broken)
    found = asyncio.run(outcome(target(HttpProbe(), 80)))
    assert check_of(found) == (UNDECIDED, "not checked: KeyError: 'surprise\\x1b[2J'")


def test_http_that_never_ends_is_bounded() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> None:
        async with server(endless) as (port, _):
            found = await outcome(target(HttpProbe(body="never"), port, timeout=5000))
            assert check_of(found) == (FAILED, "HTTP 200, body does not match")
        async with server(silent) as (port, _):
            assert check_of(await outcome(target(HttpProbe(), port, timeout=200))) == (FAILED, "timeout")

    asyncio.run(run())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and server and client certificates that it signed."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    for name, subject in (("server", "www.example.org"), ("client", "lbctl")):
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{subject}")
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", *signing, "-extfile", f"{name}.ext", "-out", f"{name}.pem"
        )
    return folder


def test_https(certificates: Path) -> None:
    names: list[str | None] = []
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    offered.set_servername_callback(lambda _, name, __: names.append(name))
    ca = str(certificates / "ca.pem")

    async def run() -> None:
        async with server(http("200 OK"), offered) as (port, _):

            async def of(options: TlsOptions, host: str | None = None) -> tuple[Ending, str]:
                return check_of(await outcome(target(HttpProbe(tls=options, host=host), port)))

            assert await of(TlsOptions()) == (PASSED, "HTTP 200")
            assert await of(TlsOptions(ca=ca), "www.example.org") == (PASSED, "HTTP 200")
            assert await of(TlsOptions(ca=ca, sni="www.example.org"), "other") == (PASSED, "HTTP 200")
            assert names == [None, "www.example.org", "www.example.org"]
            ending, text = await of(TlsOptions(ca=ca, sni="other.example.org"))
            assert ending is FAILED
            assert text.startswith("TLS: Hostname mismatch")
            assert (await of(TlsOptions(ca=ca)))[1].startswith("TLS: IP address mismatch")
            ending, text = await of(TlsOptions(ca=str(certificates / "client.pem")), "www.example.org")
            assert (ending, text) == (FAILED, "TLS: unable to get local issuer certificate")
            missing = await of(TlsOptions(ca="/nonexistent.pem"))
            assert missing == (UNDECIDED, "not checked: certificates: No such file or directory")

    asyncio.run(run())


def test_https_with_a_client_certificate(certificates: Path) -> None:
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    offered.load_verify_locations(certificates / "ca.pem")
    offered.verify_mode = ssl.CERT_REQUIRED
    cert, key = str(certificates / "client.pem"), str(certificates / "client.key")

    async def run() -> None:
        async with server(http("200 OK"), offered) as (port, _):
            with_it = await outcome(target(HttpProbe(tls=TlsOptions(cert=cert, key=key)), port))
            assert with_it.ending is PASSED
            assert (await outcome(target(HttpProbe(tls=TlsOptions()), port))).ending is FAILED

    asyncio.run(run())


class Answers(asyncio.DatagramProtocol):
    """A server of datagrams."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if (answer := self._answer(data)) is not None:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def datagrams(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Answers(answer), local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def test_udp() -> None:
    async def run() -> None:
        async with datagrams(lambda data: b"pong:" + data if data == b"ping" else None) as port:
            good = UdpProbe(send=b"ping", expect=b"pong")
            assert check_of(await outcome(target(good, port))) == (PASSED, "answered")
            other = UdpProbe(send=b"ping", expect=b"nothing")
            assert check_of(await outcome(target(other, port))) == (FAILED, "answered, but not as expected")
            silent = target(UdpProbe(send=b"?"), port, timeout=200)
            assert check_of(await outcome(silent)) == (FAILED, "timeout")

    asyncio.run(run())


def test_dns() -> None:
    def answer(data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        made = dns.message.make_response(query)
        name = query.question[0].name.to_text()
        if name == "www.example.org.":
            made.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "192.0.2.1"))
        elif name == "bad.example.org.":
            made.set_rcode(dns.rcode.SERVFAIL)
        return made.to_wire()

    async def run() -> None:
        async with datagrams(answer) as port:

            async def of(name: str) -> tuple[Ending, str]:
                return check_of(await outcome(target(DnsProbe(name=name), port)))

            assert await of("www.example.org") == (PASSED, "DNS A answered")
            assert await of("none.example.org") == (FAILED, "DNS: no A record")
            assert await of("bad.example.org") == (FAILED, "DNS SERVFAIL")
        async with datagrams(lambda _: b"nonsense") as port:
            found = await outcome(target(DnsProbe(name="a"), port, timeout=300))
            assert found.ending is FAILED

    asyncio.run(run())


def test_closing_reports_nothing_more() -> None:
    async def run() -> None:
        found: list[Outcome] = []
        async with datagrams(lambda _: None) as port, probing() as prober:
            prober.start([target(UdpProbe(), port)], lambda _, each: found.append(each))
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert found == []

    asyncio.run(run())


def test_remote_addresses_are_used_as_they_are() -> None:
    async def run() -> None:
        async with server(b"", host="127.0.0.2") as (port, _):
            check = Check(probe=TcpProbe())
            there = Target(family=Family.IPV4, address=IPv4Address("127.0.0.2"), port=port, check=check)
            here = target(TcpProbe(), port)
            found = await outcomes([there, here])
            assert (found[there].ending, found[here].ending) == (PASSED, FAILED)

    asyncio.run(run())
