"""The agent's pages over real connections on loopback: what they show, and whom they turn away."""

import asyncio
import base64
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from html import escape
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lbctl.agent import http, metrics, web
from lbctl.agent.http import Server
from lbctl.agent.page import render
from lbctl.documents.agent import AgentStatusDocument
from lbctl.errors import ApplyFailed
from support.agent import Shown, status_document

NASTY = '<script>alert("x")</script>\n\x1b[2J'


@asynccontextmanager
async def serving(names: tuple[str, ...] = (), source: web.Documents | None = None) -> AsyncIterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    shown = source or Shown(status_document(reason=NASTY))
    server = Server(web.reader(web.Pages(shown), names))
    await server.listen(listening)
    try:
        yield listening.getsockname()[1]
    finally:
        await server.close()


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        await close(writer)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What is still read of a connection, which the server may end by a reset."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def get(path: str, *, method: str = "GET", host: str = "127.0.0.1", extra: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()


def ask(request: bytes, names: tuple[str, ...] = ()) -> tuple[int, dict[str, str], bytes]:
    async def run() -> bytes:
        async with serving(names) as port:
            return await exchange(port, request)

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def test_the_page_shows_text_and_nothing_else_of_what_it_is_given() -> None:
    code, headers, body = ask(get("/"))
    page = body.decode()
    assert code == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert 'alert("x")' not in page
    assert escape('<script>alert("x")</script>') in page
    assert "\x1b" not in page
    assert page.count("<script>") == 1


def test_the_policy_names_the_style_and_the_script_of_the_page() -> None:
    _, headers, body = ask(get("/"))
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", body.decode(), re.S)
        assert len(inline) == 1
        digest = base64.b64encode(sha256(inline[0].encode()).digest()).decode().lower()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.findall(r' style="| on\w+="', body.decode())


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/ready", "/healthz"])
def test_head_has_the_length_and_no_body(path: str) -> None:
    code, headers, body = ask(get(path, method="HEAD"))
    assert (code, body) == (200, b"")
    assert int(headers["content-length"]) > 0


def test_metrics_are_read_by_prometheus() -> None:
    code, _, body = ask(get("/metrics"))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    where = (("endpoint", "a"), ("family", "ipv4"), ("service", "web"))
    assert code == 200
    assert samples["lbctl_endpoint_connections_total", *where] == 30
    assert samples["lbctl_endpoint_wanted_share_ratio", *where] == 0.5
    assert samples["lbctl_endpoint_up", *where] == 1
    assert samples["lbctl_endpoint_up", ("endpoint", "b"), *where[1:]] == 0
    assert samples["lbctl_drift",] == 0
    assert samples["lbctl_agent_ready",] == 1


def test_no_alert_is_for_a_family_that_no_client_can_use() -> None:
    document = status_document()
    failing = next(each for each in document["agent"]["checks"] if each["health"] == "down")
    sample = f'lbctl_endpoint_up{{endpoint="{failing["endpoint"]}",family="ipv4",service="web"}} 0.0'
    assert sample in metrics.exposition(document).decode()
    failing["expected"] = False
    assert sample not in metrics.exposition(document).decode()


def test_a_source_that_fails_is_told_from_one_that_was_not_asked_yet() -> None:
    document = status_document()
    row: Any = {"service": "web", "kind": "dns", "name": "x", "endpoints": 2, "age": 1.5, "error": None}
    lost = row | {"service": "api", "age": None, "error": "refused"}
    document["agent"]["sources"] = [row, lost, row | {"service": "new", "age": None}]
    text = metrics.exposition(document).decode()
    assert 'lbctl_source_up{service="web",source="dns"} 1.0' in text
    assert 'lbctl_source_up{service="api",source="dns"} 0.0' in text
    assert 'lbctl_source_age_seconds{service="web",source="dns"} 1.5' in text
    assert 'service="new"' not in text


def test_the_page_shows_sources_and_what_is_wrong_with_them() -> None:
    document = status_document()
    row: Any = {"service": "web", "kind": "dns", "name": "x.test", "endpoints": 2, "age": 90.5, "error": None}
    lost = row | {"error": f"no {NASTY} answer"}
    document["agent"]["sources"] = [row]
    page = render(document).decode()
    assert "source dns x.test: 2 endpoints, 1m ago</p>" in page
    document["agent"]["sources"] = [lost, lost | {"service": "new", "age": None}]
    page = render(document).decode()
    assert "source dns x.test: 2 endpoints, 1m ago, failing</p>" in page
    assert "answer; the last good answer (2 endpoints, 1m ago) is kept</p>" in page
    # A service that waits for its first answer is not in the rules.
    assert "new: source dns x.test: no " in page
    assert "there is no good answer so far</p>" in page
    assert NASTY not in page


def test_status_is_the_document_with_the_agent_in_it() -> None:
    code, headers, body = ask(get("/status"))
    document = json.loads(body)
    assert (code, headers["content-type"], document["format_version"]) == (200, "application/json", 1)
    assert document["agent"]["checks"][1]["reason"] == NASTY


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed_over_tcp(method: str) -> None:
    code, headers, _ = ask(get("/", method=method))
    assert (code, headers["allow"]) == (405, "get, head")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9099", 200),
        ("[::1]:9099", 200),
        ("192.0.2.7", 200),
        ("lb1.example", 200),
        ("LB1.Example:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("127.0.0.1@evil.example", 421),
    ],
)
def test_only_addresses_and_known_names_are_answered(host: str, code: int) -> None:
    assert ask(get("/status", host=host), ("lb1.example",))[0] == code


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (get("/nowhere"), 404),
        (get("/../etc/passwd"), 404),
        (get("/?" + "a" * 20_000), 431),
        (get("/", extra="X: " + "a" * 20_000 + "\r\n"), 431),
        (b"nonsense\r\n\r\n", 400),
        (get("/", method="POST", extra="Content-Length: 100000\r\n") + b"x" * 100_000, 413),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
def test_what_is_no_good_request_gets_an_error(request_: bytes, code: int) -> None:
    assert ask(request_)[0] == code


def test_who_is_slow_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PATIENCE", 0.3)

    async def run() -> bytes:
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HT")
            found = await rest(reader)
            await close(writer)
            return found

    assert asyncio.run(run()) == b""


def test_one_client_that_holds_connections_open_keeps_no_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_CONNECTIONS", 4)

    async def run() -> tuple[bytes, list[bytes]]:
        async with serving() as port:
            calm = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            greedy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            for _, writer in greedy:
                writer.write(b"GET / HT")
            ended = [await rest(reader) for reader, _ in greedy[:-3]]
            calm[1].write(get("/healthz"))
            answer = await calm[0].read()
            await close(*(writer for _, writer in (calm, *greedy)))
            return answer, ended

    answer, ended = asyncio.run(run())
    assert answer.endswith(b"ok\n")
    assert set(ended) == {b""}


def test_who_does_not_read_an_answer_holds_little_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PATIENCE", 0.5)
    held: list[int] = []
    size = 64 << 20

    async def huge(_: http.Request) -> http.Response:
        return http.Response(body=bytes(size))

    async def run() -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        server = Server(huge)
        await server.listen(listening)
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1], limit=1024)
        writer.write(get("/"))
        while not server._open:
            await asyncio.sleep(0.01)
        [transport] = server._open
        while server._open:
            held.append(transport.get_write_buffer_size())
            await asyncio.sleep(0.01)
        found = await rest(reader)
        await close(writer)
        await server.close()
        return found

    assert len(asyncio.run(run())) < size
    assert 0 < max(held) <= 4 * http._SLICE


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (ApplyFailed("nft has ended with signal 11\x1b[2J"), 503, b"nft has ended with signal 11\\x1b[2J\n"),
        (KeyError("surprise"), 500, b"an internal error of lbctl: see its log\n"),
    ],
)
def test_what_cannot_be_shown_is_an_error_and_no_silence(fault: Exception, code: int, said: bytes) -> None:
    class Broken(Shown):
        async def document(self) -> AgentStatusDocument:
            raise fault

    async def run() -> tuple[bytes, bytes, list[BaseException]]:
        logged: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: logged.append(about["exception"]))
        async with serving(source=Broken(status_document())) as port:
            broken = await exchange(port, get("/status"))
            return broken, await exchange(port, get("/healthz")), logged

    broken, well, logged = asyncio.run(run())
    assert broken.startswith(b"HTTP/1.1 %d " % code)
    assert broken.endswith(said)
    assert well.endswith(b"ok\n")
    assert logged == ([fault] if code == 500 else [])


def test_asking_often_makes_a_page_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[AgentStatusDocument] = []
    monkeypatch.setattr(web.metrics, "exposition", lambda document: made.append(document) or b"x")
    shown = Shown(status_document())

    async def run() -> None:
        async with serving(source=shown) as port:
            await asyncio.gather(*(exchange(port, get("/metrics")) for _ in range(50)))
            shown.shown = status_document()
            await until(lambda: exchange(port, get("/metrics")), lambda _: len(made) == 2)

    asyncio.run(run())
    assert len(made) == 2


async def until(
    act: Callable[[], Awaitable[bytes]], good: Callable[[bytes], bool], tries: int = 200
) -> bytes:
    for _ in range(tries):
        with_error = b"!"
        try:
            found = await act()
        except ConnectionError:
            found = b""
        if good(found):
            return found
        await asyncio.sleep(0.02)
    return with_error


def page_of(document: AgentStatusDocument, path: str) -> http.Response:
    return asyncio.run(web.Pages(Shown(document)).at(path))


def test_a_document_of_thousands_is_cut_on_the_page_and_whole_in_json() -> None:
    large = status_document()
    large["services"] = [{**large["services"][0], "name": f"s{number}"} for number in range(3000)]
    assert b"2,800 more" in page_of(large, "/").body
    assert len(json.loads(page_of(large, "/status").body)["services"]) == 3000


def test_not_ready_says_why_in_plain_text() -> None:
    document = status_document()
    document["agent"]["ready"] = False
    document["agent"]["problems"] = ["the last change failed", NASTY]
    answer = page_of(document, "/ready")
    assert answer.status == 503
    assert answer.body.startswith(b"the last change failed; <script>")
    assert answer.body.decode().removesuffix("\n").isprintable()
