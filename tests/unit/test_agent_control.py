"""The agent's unix socket: who may use it, and what it makes of what it does not understand."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from lbctl.agent import client, control, http, web
from lbctl.agent.http import Handler, Peer, Request, RequestRefused, Server
from lbctl.errors import IntentError, Stale
from support.agent import Shown, status_document

#: No user and no group of any host.
STRANGER = 4_000_000_000


class Desk:
    """The handler of a socket, and what it was asked to do."""

    def __init__(self, group: int | None = None) -> None:
        self.done: list[Mapping[str, object]] = []
        pages = web.Pages(Shown(status_document()))
        actions = {"/pause": self._act}
        reports = {"/agent": lambda: {"ready": True}}
        self.handler: Handler = control.handler(pages, actions, reports=reports, group=group)

    async def _act(self, words: Mapping[str, object]) -> Mapping[str, object]:
        self.done.append(words)
        return {"done": True}

    def ask(self, method: str, path: str, body: bytes = b"", peer: Peer | None = None) -> int:
        request = Request(method=method, path=path, headers={}, body=body, peer=peer or Peer(user=0, group=0))
        try:
            return int(asyncio.run(self.handler(request)).status)  # type: ignore[arg-type]
        except RequestRefused as refused:
            return int(refused.response.status)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "peer", [Peer(), Peer(user=STRANGER, group=0), Peer(user=STRANGER, group=STRANGER), Peer(group=0)]
)
def test_strangers_get_nothing_whatever_they_ask(method: str, peer: Peer) -> None:
    desk = Desk()
    for path in ("/", "/agent", "/status", "/pause", "/healthz"):
        assert desk.ask(method, path, b"{}", peer) == 403
    assert desk.done == []


def test_a_member_of_the_admin_group_may_do_what_root_may() -> None:
    desk = Desk(group=STRANGER)
    assert desk.ask("POST", "/pause", b"{}", Peer(user=STRANGER, group=STRANGER)) == 200
    assert desk.ask("POST", "/pause", b"{}", Peer(user=STRANGER, group=0)) == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/pause", b'{"seconds": 5}', 200),
        ("POST", "/pause", b"", 200),
        ("POST", "/pause", b"[]", 400),
        ("POST", "/pause", b"\xff\xfe", 400),
        ("POST", "/pause", b"[" * 60_000, 400),
        ("POST", "/pause", b"9" * 60_000, 400),
        ("POST", "/", b"{}", 405),
        ("POST", "/pause/../pause", b"{}", 405),
        ("PUT", "/pause", b"{}", 405),
        ("DELETE", "/agent", b"", 405),
        ("GET", "/pause", b"", 404),
        ("GET", "/agent", b"", 200),
    ],
)
def test_what_is_not_understood_is_refused_and_does_nothing(
    method: str, path: str, body: bytes, code: int
) -> None:
    desk = Desk()
    assert desk.ask(method, path, body) == code
    assert len(desk.done) == (code == 200 and method == "POST")


def test_the_socket_is_its_owners_alone_and_replaces_what_a_dead_agent_left(tmp_path: Path) -> None:
    place, victim = tmp_path / "lbctl.sock", tmp_path / "victim"
    victim.write_text("kept")
    place.symlink_to(victim)
    with control.bind(place, None):
        assert place.lstat().st_mode & 0o7777 == 0o600
    assert victim.read_text() == "kept"


def test_garbage_and_many_clients_leave_it_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_CONNECTIONS", 8)
    place, desk = tmp_path / "lbctl.sock", Desk()

    async def garbage(data: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(place))
        try:
            writer.write(data)
            writer.write_eof()
            return await reader.read()
        except OSError:
            return b""
        finally:
            writer.close()

    async def run() -> dict[str, object]:
        server = Server(desk.handler)
        await server.listen(control.bind(place, None))
        silent = [await asyncio.open_unix_connection(str(place)) for _ in range(30)]
        for data in (
            b"",
            b"\0" * 100_000,
            b"POST /pause HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n{",
        ):
            assert b" 200 " not in await garbage(data)
        found = await asyncio.to_thread(client.post, place, "/pause", {"seconds": 5})
        for _, writer in silent:
            writer.close()
        await server.close()
        await asyncio.sleep(0.05)
        return found

    assert asyncio.run(run()) == {"done": True}
    assert desk.done == [{"seconds": 5}]


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{x"]
)
def test_a_command_is_not_confused_by_what_is_no_agent(tmp_path: Path, answer: bytes) -> None:
    place = tmp_path / "lbctl.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(place))
        listening.listen()
        if (child := os.fork()) == 0:
            taken, _ = listening.accept()
            taken.recv(4096)
            taken.sendall(answer)
            taken.close()
            os._exit(0)
        with pytest.raises(Stale):
            client.post(place, "/pause", {})
        os.waitpid(child, 0)
    assert client.about(place) is None
    assert json.dumps(client.about(tmp_path / "none")) == "null"


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntentError, match=r"cannot listen on .*: AF_UNIX path too long"):
        control.bind(tmp_path / ("a" * 108), None)
