"""Hostile answers: each is a clear error in bounded time and memory, and none becomes a part of rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from lbctl.agent.sources import (
    SourceFailed,
    dns as dns_source,
    etcd as etcd_source,
    file as file_source,
    find,
    kubernetes,
    strict,
)
from lbctl.agent.sources.text import endpoint
from lbctl.model import Discovery, Endpoint, Intent, Listener, Protocol, Service, State
from lbctl.model.answer import problem
from support.sources import DnsServer, WebRig, container, endpoint_slice, instance, rig_of
from support.web import Request, Response

A = Endpoint(address=ip_address("10.0.0.1"), port=8080)
#: The sources that speak HTTP.
WEB = ("etcd", "docker", "consul", "kubernetes")


def run(work: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


def answer(
    source: str, folder: Path, monkeypatch: pytest.MonkeyPatch, response: Callable[[], Response]
) -> str:
    """Return the error of a source whose server gives the same answer to all that is asked."""
    rig = rig_of(source, folder, monkeypatch)
    assert isinstance(rig, WebRig)

    async def given(request: Request) -> Response:
        return response()

    monkeypatch.setattr(rig.server, "answer", given)

    async def story() -> str:
        await rig.start()
        try:
            async with aclosing(find(rig.source).answers(rig.name, rig.access)) as answers:
                with pytest.raises(SourceFailed) as raised:
                    await anext(answers)
            return str(raised.value)
        finally:
            await rig.stop()

    return str(run(story()))


def body(text: bytes) -> Callable[[], Response]:
    head = f"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: {len(text)}\r\n\r\n"
    return lambda: Response(raw=head.encode() + text)


def raw(text: bytes) -> Callable[[], Response]:
    return lambda: Response(raw=text)


HOSTILE = {
    "huge": (body(b'"' + b"x" * (9 << 20) + b'"'), "more than 8192 KiB"),
    "many values": (body(b"[" + b"{}," * 400_000 + b"{}]"), "has more than 524288 values"),
    "deep": (body(b"[" * 200_000), "is not JSON"),
    "a key twice": (body(b'{"header": {"revision": "1", "revision": "2"}}'), "key 'revision' is given twice"),
    "NaN": (body(b'[{"a": NaN}]'), "NaN is not a value of JSON"),
    "a long number": (body(b"[" + b"9" * 100_000 + b"]"), "is not JSON"),
    "not UTF-8": (body(b'["\xff"]'), "is not JSON"),
    "null": (body(b"null"), ""),
    "a number": (body(b"5"), ""),
    "rows of numbers": (body(b"[5]"), ""),
    "redirect": (
        raw(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"),
        "HTTP 302: redirects are not followed",
    ),
    "control characters in an error": (
        raw(b"HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\n\x1b[2J\x07oops"),
        r"HTTP 500: '\x1b[2J\x07oops'",
    ),
    "a long error": (
        raw(b"HTTP/1.1 500 x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000),
        "HTTP 500: no reason given",
    ),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not HTTP"),
    "a long head": (raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000), "not HTTP"),
    "nothing": (raw(b""), "the connection was closed"),
    "two lengths": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n[]x"),
        "not HTTP",
    ),
    "cut off": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]"), "the connection was closed"),
}


@pytest.mark.parametrize("source", WEB)
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_answer_that_is_hostile_is_a_clear_error(
    kind: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, wrong = HOSTILE[kind]
    if source == "docker":
        # Its first answer is the long one with events.
        found = _after_the_events(response)
        assert wrong in answer(source, tmp_path, monkeypatch, found)
    else:
        assert wrong in answer(source, tmp_path, monkeypatch, response)


def _after_the_events(response: Callable[[], Response]) -> Callable[[], Response]:
    given = iter([Response(lines=_silence())])
    return lambda: next(given, None) or response()


async def _silence() -> AsyncIterator[object]:
    await asyncio.sleep(3600)
    yield {}


def test_a_stream_without_an_end_of_its_line_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless() -> AsyncIterator[object]:
        while True:
            yield b"x" * (1 << 20)

    given = iter(
        [Response(document={"header": {"revision": "1"}}), Response(document={"header": {"revision": "1"}})]
    )
    rig = rig_of("etcd", tmp_path, monkeypatch)
    assert isinstance(rig, WebRig)

    async def answer(request: Request) -> Response:
        return next(given, None) or Response(lines=endless())

    monkeypatch.setattr(rig.server, "answer", answer)

    async def story() -> None:
        await rig.start()
        async with aclosing(find("etcd").answers(rig.name, rig.access)) as answers:
            assert await anext(answers) == ()
            with pytest.raises(SourceFailed, match="a line of more than 4 MiB"):
                await anext(answers)
        await rig.stop()

    run(story())


@pytest.mark.parametrize(
    "address",
    [
        "010.0.0.1:80", "10.0.0.1:080", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:+80", "10.0.0.1: 80",
        " 10.0.0.1:80", "10.0.0.1:80\n", "10.0.0.1:80;accept", "10.1:80", "0x0a000001:80", "167772161:80",
        "[fe80::1%eth0]:80", "fe80::1%eth0", "[2001:db8::1%} accept]:80", "[::1]", "2001:db8::1:80:",
        "\u0661\u0660.0.0.1:80", "10.0.0.1:\u0668\u0660", "", ":80", "8001-8008",
        "localhost:80", "10.0.0.1\x00:80", "@map", "$(id):80", "10.0.0.1:80/tcp", "[2001:DB8::1]:80",
    ],
)  # fmt: skip
def test_a_text_that_is_not_plainly_an_endpoint_is_refused(address: str) -> None:
    with pytest.raises(SourceFailed) as raised:
        endpoint(address)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[2J", '"; flush ruleset', "a" * 500, "\ud800", "\u202egnp", "..", "a b"]
)
def test_a_name_that_is_hostile_is_left_out(name: str) -> None:
    assert endpoint("10.0.0.1:80", name=name).name == "10.0.0.1:80"
    text = json.dumps([{"targets": ["10.0.0.1:80"], "labels": {"name": name}}]).encode()
    assert file_source.parse(text)[0].name == "10.0.0.1:80"
    found = [
        find("docker").parse([container(A) | {"Names": [f"/{name}"]}]),  # type: ignore[attr-defined]
        find("consul").parse([instance(A) | {"Service": instance(A)["Service"] | {"ID": name}}]),  # type: ignore[attr-defined]
    ]
    rows = endpoint_slice("a", A)
    rows["endpoints"][0]["targetRef"]["name"] = name
    query = find("kubernetes").SliceQuery.of("api", "shop")  # type: ignore[attr-defined]
    for answer in (*found, query.endpoints({"a": rows})):
        assert answer[0].name == answer[0].to


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '[{"a": {"b": 1, "c": 2, "b": 3}}]', "Infinity", "-Infinity", "01"]
)
def test_json_is_strict(text: str) -> None:
    with pytest.raises(SourceFailed):
        strict.document(text.encode())
    assert strict.document(b'{"a": [1, true, null, "x"]}') == {"a": [1, True, None, "x"]}


@pytest.mark.parametrize("value", [True, 1.5, "9" * 5000, -1, None, [1], "1e3", "\u0663", 1e400])
def test_a_weight_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(SourceFailed, match="is not a whole number"):
        endpoint("10.0.0.1:80", weight=value)


def test_ten_thousand_endpoints_are_more_than_the_bounds_allow() -> None:
    targets = [f"10.{i // 65536}.{i // 256 % 256}.{i % 256}:80" for i in range(1, 10_001)]
    answer = file_source.parse(json.dumps([{"targets": targets}]).encode())
    service = Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=(),
        discover=Discovery(source="file", name="/run/x.json", max=4096),
    )
    wrong = problem(Intent(services=(service,)), service, answer, local=False)
    assert wrong == "10000 endpoints are more than 4096"


def test_what_a_watch_adds_is_bounded() -> None:
    keys = {f"/services/api/{i}": "10.0.0.1:80" for i in range(4097)}
    with pytest.raises(SourceFailed, match="more than 4096 keys"):
        etcd_source._answer("/services/api/", keys)
    slices: dict[str, object] = {}
    events = [
        {"type": "ADDED", "object": {"metadata": {"name": f"s{i}", "resourceVersion": str(i)}}}
        for i in range(4097)
    ]
    with pytest.raises(SourceFailed, match="more than 4096 EndpointSlices"):
        kubernetes._follow(slices, events)


# DNS

#: The same address behind every name.
BOTH = (("A", "10.0.0.1"), ("AAAA", "2001:db8::1"))


def look_up(
    records: dict[tuple[str, str], list[str]], name: str, ttl: int = 30
) -> tuple[Any, float, DnsServer]:
    server = DnsServer(records, ttl)

    async def story() -> tuple[Any, float, DnsServer]:
        await server.start()
        try:
            return *await dns_source.look_up(name, server.resolver()), server
        finally:
            server.stop()

    found: tuple[Any, float, DnsServer] = run(story())
    return found


def test_a_loop_of_names_in_dns_is_an_error() -> None:
    records = {("a.test.", "CNAME"): ["b.test."], ("b.test.", "CNAME"): ["a.test."]}
    with pytest.raises(SourceFailed, match=r"DNS a\.test A"):
        look_up(records, "a.test:80")


def test_as_many_records_as_a_message_holds_are_an_answer_for_the_bounds() -> None:
    many = [f"10.{i // 65536}.{i // 256 % 256}.{i % 256}" for i in range(1, 3901)]
    answer, _, server = look_up({("a.test.", "A"): many}, "a.test:80")
    assert len(answer) == 3900
    assert server.by_tcp
    records = [f"0 1 80 h{i}.test." for i in range(1100)]
    with pytest.raises(SourceFailed, match="SRV records lead to more than 1024 names"):
        look_up({("_x._tcp.test.", "SRV"): records}, "_x._tcp.test")


def test_a_time_to_live_of_nothing_is_one_second() -> None:
    assert look_up({("a.test.", "A"): ["10.0.0.1"]}, "a.test:80", ttl=0)[1] == 1.0


def test_many_names_behind_one_are_asked_for_less_often() -> None:
    records = {("_x._tcp.test.", "SRV"): [f"0 1 80 h{i}.test." for i in range(100)]}
    records |= {(f"h{i}.test.", kind): [text] for i in range(100) for kind, text in BOTH}
    answer, seconds, _ = look_up(records, "_x._tcp.test", ttl=0)
    assert len(answer) == 2
    assert seconds == pytest.approx(2.01)


def test_records_of_no_use_are_an_error_or_left_out() -> None:
    records = {("_x._tcp.test.", "SRV"): ["0 1 0 a.test."], ("a.test.", "A"): ["10.0.0.1"]}
    with pytest.raises(SourceFailed, match="port 0 is not"):
        look_up(records, "_x._tcp.test")
    records = {("_x._tcp.test.", "SRV"): ["0 65535 80 a.test."], ("a.test.", "A"): ["10.0.0.1"]}
    answer = look_up(records, "_x._tcp.test")[0]
    assert [(each.weight, each.state) for each in answer] == [(4096, State.ACTIVE)]
