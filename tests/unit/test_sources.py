"""The built-in sources: what they read, against servers that the tests start on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lbctl.agent.journal import Journal
from lbctl.agent.sources import (
    Access,
    Answer,
    AnswerKeeper,
    Finder,
    Source,
    SourceFailed,
    dns as dns_source,
    file as file_source,
    find,
    systemd as systemd_source,
)
from lbctl.host.fake import FakeHost
from lbctl.model import Discovery, Endpoint, Intent, Listener, Protocol, Service, State
from support.sources import RIGS, DnsServer
from support.web import Mood

T = TypeVar("T")


def at(address: str, port: int | None = 80, **keys: object) -> Endpoint:
    return Endpoint(address=ip_address(address), port=port, **keys)  # type: ignore[arg-type]


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await work

    return asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", RIGS)
def test_built_in_sources_come_from_the_entry_points(name: str) -> None:
    assert isinstance(find(name), Source)


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(SourceFailed, match='no source "nosuch" is installed'):
        find("nosuch")


# file


def test_a_file_names_targets_with_labels() -> None:
    groups = [
        {"targets": ["10.0.0.1:80", "[2001:db8::1]:80"], "labels": {"job": "api"}},
        {"targets": ["10.0.0.2:80"], "labels": {"name": "b", "weight": "3", "state": "drain"}},
        {"targets": ["10.0.0.3"]},
        {"targets": ["10.0.0.4:80"], "labels": {"weight": "0"}},
    ]
    assert file_source.parse(json.dumps(groups).encode()) == (
        at("10.0.0.1"),
        at("2001:db8::1"),
        at("10.0.0.2", name="b", weight=3, state=State.DRAIN),
        at("10.0.0.3", None),
        at("10.0.0.4", state=State.DRAIN),
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "not a list"),
        (b"[1]", "a group is not like"),
        (b'[{"targets": ["web.example.org:80"]}]', "cannot be an endpoint"),
        (b'[{"targets": ["10.0.0.1:80 accept"]}]', "cannot be an endpoint"),
        (b'[{"targets": ["10.0.0.1:080"]}]', "cannot be an endpoint"),
        (b'[{"targets": [80]}]', "is not an address"),
        (b'[{"targets": ["10.0.0.1:80"], "labels": {"weight": "-1"}}]', "not a whole number"),
        (b'[{"targets": ["10.0.0.1:80"], "labels": {"weight": "99999999"}}]', "not a whole number"),
        (b'[{"targets": ["10.0.0.1:80"], "labels": {"weight": "9999"}}]', "not between 1 and 4096"),
        (b'[{"targets": ["10.0.0.1:80"], "labels": {"state": "off"}}]', "cannot be an endpoint"),
        ('[{"targets": ["\u0661\u0660.0.0.1:80"]}]'.encode(), "is not an address"),
    ],
)
def test_a_file_that_is_wrong_is_no_answer(text: bytes, wrong: str) -> None:
    with pytest.raises(SourceFailed, match=wrong):
        file_source.parse(text)


def test_a_name_that_is_no_name_of_lbctl_is_left_out() -> None:
    text = json.dumps([{"targets": ["10.0.0.1:80"], "labels": {"name": '"; flush ruleset'}}]).encode()
    assert file_source.parse(text) == (at("10.0.0.1"),)


def test_a_changed_file_is_read_again_and_a_lost_one_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"

    def write(*targets: str) -> None:
        new = tmp_path / "new"
        new.write_text(json.dumps([{"targets": targets}]))
        new.replace(path)

    async def story() -> None:
        write("10.0.0.1:80")
        async with aclosing(file_source.answers(str(path), Access())) as answers:
            assert await anext(answers) == (at("10.0.0.1"),)
            write("10.0.0.1:80", "10.0.0.2:80")
            assert await anext(answers) == (at("10.0.0.1"), at("10.0.0.2"))
            path.unlink()
            with pytest.raises(SourceFailed, match="No such file"):
                await anext(answers)

    run(story())


def _targets(*targets: str) -> str:
    return json.dumps([{"targets": targets}])


def _written(path: Path) -> None:
    """In place: only the end of that is an event, so that no half of it is read."""
    path.write_text(_targets("10.0.0.2:80"))


def _renamed(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text(_targets("10.0.0.2:80"))
    new.replace(path)


def _linked(path: Path) -> None:
    """As the kubelet changes a ConfigMap: by a link to another folder, in the folder of the file."""
    other = path.parent / "later"
    other.mkdir()
    (other / path.name).write_text(_targets("10.0.0.2:80"))
    (path.parent / "new").symlink_to("later")
    (path.parent / "new").replace(path.parent / "data")


@pytest.mark.parametrize("change", [_written, _renamed, _linked])
def test_a_change_of_a_file_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    for name in ("_LOOK", "_POLL", "_REFRESH"):
        monkeypatch.setattr(file_source, name, 3600.0)
    path = tmp_path / "targets.json"
    (tmp_path / "first").mkdir()
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "first" / path.name).write_text(_targets("10.0.0.1:80"))
    if change is _linked:
        path.symlink_to(f"data/{path.name}")
    else:
        path.write_text(_targets("10.0.0.1:80"))

    async def story() -> None:
        async with aclosing(file_source.answers(str(path), Access())) as answers:
            assert await anext(answers) == (at("10.0.0.1"),)
            change(path)
            assert await anext(answers) == (at("10.0.0.2"),)

    run(story())


@pytest.mark.parametrize("lost", [ImportError("no such module"), OSError(24, "Too many open files")])
def test_a_file_is_polled_without_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: Exception
) -> None:
    def inotify() -> None:
        raise lost

    monkeypatch.setattr("asyncinotify.Inotify", inotify)
    path = tmp_path / "targets.json"
    path.write_text(_targets("10.0.0.1:80"))

    async def story() -> None:
        async with aclosing(file_source.answers(str(path), Access())) as answers:
            assert await anext(answers) == (at("10.0.0.1"),)
            _renamed(path)
            assert await anext(answers) == (at("10.0.0.2"),)

    run(story())


def test_a_file_that_is_written_all_the_time_is_read_at_most_20_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, new = tmp_path / "targets.json", tmp_path / "new"
    path.write_text(_targets("10.0.0.1:80"))
    looks: list[float] = []
    version = file_source._version

    def looked(path: Path) -> object:
        looks.append(time.monotonic())
        return version(path)

    monkeypatch.setattr(file_source, "_version", looked)

    async def write() -> None:
        for number in range(100):
            new.write_text(_targets(f"10.0.1.{number}:80"))
            new.replace(path)
            await asyncio.sleep(0.005)

    async def story() -> None:
        async with aclosing(file_source.answers(str(path), Access())) as answers:
            writing = asyncio.create_task(write())
            while await anext(answers) != (at("10.0.1.99"),):
                pass
            await writing

    run(story())
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    assert min(pauses) >= file_source._SETTLE


def test_a_device_is_not_read_as_a_file() -> None:
    async def story() -> None:
        async with aclosing(file_source.answers("/dev/zero", Access())) as answers:
            with pytest.raises(SourceFailed):
                await anext(answers)

    run(story())


# dns


def ask(server: DnsServer, name: str) -> tuple[Answer, float]:
    async def story() -> tuple[Answer, float]:
        await server.start()
        try:
            return await dns_source.look_up(name, server.resolver())
        finally:
            server.stop()

    return run(story())


def test_srv_records_give_priority_weight_and_port() -> None:
    server = DnsServer(
        {
            ("_http._tcp.api.test.", "SRV"): ["10 3 8080 a.test.", "10 0 8081 b.test.", "20 5 8082 c.test."],
            ("a.test.", "A"): ["10.0.0.1"],
            ("a.test.", "AAAA"): ["2001:db8::1"],
            ("b.test.", "A"): ["10.0.0.2"],
            ("c.test.", "A"): ["10.0.0.3"],
        }
    )
    found, seconds = ask(server, "_http._tcp.api.test")
    assert set(found) == {
        at("10.0.0.1", 8080, weight=3),
        at("2001:db8::1", 8080, weight=3),
        at("10.0.0.2", 8081, weight=1),
        at("10.0.0.3", 8082, weight=5, state=State.BACKUP),
    }
    # b has no AAAA record: that it has none may change soon.
    assert seconds == 1.0


def test_addresses_take_the_port_of_the_intent() -> None:
    server = DnsServer({("api.test.", "A"): ["10.0.0.1", "10.0.0.2"], ("api.test.", "AAAA"): ["2001:db8::1"]})
    found, seconds = ask(server, "api.test:8080")
    assert set(found) == {at("10.0.0.1", 8080), at("10.0.0.2", 8080), at("2001:db8::1", 8080)}
    assert seconds == 30.0
    assert at("10.0.0.1", None) in ask(server, "api.test")[0]


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 1.0), (7, 7.0), (86400, 60.0)])
def test_the_time_to_live_has_a_floor_and_a_ceiling(ttl: int, seconds: float) -> None:
    records = {("api.test.", "A"): ["10.0.0.1"], ("api.test.", "AAAA"): ["2001:db8::1"]}
    assert ask(DnsServer(records, ttl), "api.test:80")[1] == seconds


def test_a_large_answer_comes_by_tcp() -> None:
    many = [f"10.1.{i // 200}.{i % 200 + 1}" for i in range(300)]
    server = DnsServer({("api.test.", "A"): many})
    assert len(ask(server, "api.test:80")[0]) == 300
    assert server.by_tcp == 1


def test_a_name_without_records_is_an_empty_answer_and_a_silent_server_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = DnsServer({("other.test.", "A"): ["10.0.0.1"]})
    assert ask(server, "api.test:80") == ((), 1.0)
    assert ask(server, "_x._tcp.other.test") == ((), 1.0)
    assert ask(DnsServer({("_x._tcp.t.", "SRV"): ["0 0 0 ."]}), "_x._tcp.t")[0] == ()
    server.mood = Mood.SILENT
    monkeypatch.setattr(dns_source, "_PATIENCE", 0.5)
    with pytest.raises(SourceFailed, match=r"no DNS server answers for api\.test A"):
        ask(server, "api.test:80")


# systemd


def test_units_of_a_template_are_ports_of_this_host() -> None:
    text = """Id=app@8001.service\nActiveState=active\n
Id=app@8002.service\nActiveState=deactivating\n
Id=app@8003.service\nActiveState=failed\n
Id=other@9.service\nActiveState=active\n"""
    assert systemd_source.parse("app@*.service", text) == (
        Endpoint(port=8001),
        Endpoint(port=8002, state=State.DRAIN),
    )
    assert systemd_source.parse("app@*.service", "") == ()


@pytest.mark.parametrize("instance", ["blue", "08001", "70000", "0", "-1", "80 80", "\u0661"])
def test_an_instance_that_is_no_port_is_wrong(instance: str) -> None:
    with pytest.raises(SourceFailed, match="is not a port"):
        systemd_source.parse("app@*.service", f"Id=app@{instance}.service\nActiveState=active\n")


SYSTEMCTL = """#!/bin/sh
test "$1 $2 $3 $4" = "show --property=Id,ActiveState -- app@*.service" || exit 9
"""


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("printf 'Id=app@8001.service\\nActiveState=active\\n'", None),
        ("echo 'Failed to connect to bus: \\033[2J' >&2; exit 1", "systemctl: Failed to connect to bus"),
        ("exec sleep 60", "systemctl does not answer"),
        ("head -c 3000000 /dev/zero", "systemctl prints too much"),
    ],
)
def test_systemctl_is_asked_with_a_limit_in_time(
    script: str, wrong: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"{SYSTEMCTL}{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(systemd_source, "_PROGRAM", str(program))
    if "sleep" in script:
        monkeypatch.setattr(systemd_source, "_PATIENCE", 0.5)

    async def story() -> None:
        async with aclosing(systemd_source.answers("app@*.service", Access())) as answers:
            if wrong is None:
                assert await anext(answers) == (Endpoint(port=8001),)
                return
            with pytest.raises(SourceFailed, match=wrong):
                await anext(answers)

    run(story())


# the finder


class RunningHost(FakeHost):
    """A host whose clock is that of the loop."""

    def clock(self) -> float:
        return asyncio.get_running_loop().time()


class Told:
    """A source that answers as it is told."""

    local = False

    def __init__(self) -> None:
        self.says: asyncio.Queue[Answer | Exception] = asyncio.Queue()
        self.opened = 0

    async def answers(self, name: str, access: Access) -> AsyncGenerator[Answer, None]:
        self.opened += 1
        while True:
            said = await self.says.get()
            if isinstance(said, Exception):
                raise said
            yield said


def story(work: Callable[[Told, Finder, AnswerKeeper, list[int]], Awaitable[None]], **keys: Any) -> None:
    discovery = Discovery(source="told", name="api", **keys)
    service = Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=(),
        discover=discovery,
    )

    async def inside() -> None:
        told, changes, host = Told(), [], RunningHost()
        keeper = AnswerKeeper(lambda _: False)
        finder = Finder(host, keeper, Journal(), lambda: changes.append(1), lambda _: told)
        finder.replace(Intent(services=(service,)))
        running = asyncio.create_task(finder.run())
        await work(told, finder, keeper, changes)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1

    run(inside())


def test_an_answer_of_a_source_is_a_change() -> None:
    async def work(told: Told, finder: Finder, keeper: AnswerKeeper, changes: list[int]) -> None:
        told.says.put_nowait((at("10.0.0.1"),))
        await until(lambda: bool(changes))
        assert keeper.known()["web"].answer == (at("10.0.0.1"),)
        (document,) = finder.documents()
        assert (document["endpoints"], document["error"]) == (1, None)

    story(work)


@pytest.mark.parametrize("error", [SourceFailed("refused"), OSError("refused"), KeyError("bug")])
def test_a_source_that_fails_is_asked_again_and_ends_nothing(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbctl.agent.sources.finder._AGAIN", 0.01)

    async def work(told: Told, finder: Finder, keeper: AnswerKeeper, changes: list[int]) -> None:
        told.says.put_nowait((at("10.0.0.1"),))
        await until(lambda: bool(changes))
        told.says.put_nowait(error)
        await until(lambda: told.opened > 1)
        assert finder.documents()[0]["error"]
        assert keeper.known()["web"].answer == (at("10.0.0.1"),)
        told.says.put_nowait((at("10.0.0.2"),))
        await until(lambda: keeper.known()["web"].answer == (at("10.0.0.2"),))
        assert finder.documents()[0]["error"] is None

    story(work)


def test_an_empty_answer_is_asked_for_again_until_it_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.agent.sources.finder._AGAIN", 0.2)

    async def work(told: Told, finder: Finder, keeper: AnswerKeeper, changes: list[int]) -> None:
        told.says.put_nowait((at("10.0.0.1"),))
        await until(lambda: bool(changes))
        for opened in (2, 3):
            told.says.put_nowait(())
            await until(lambda opened=opened: told.opened == opened)  # type: ignore[misc]
            assert keeper.answers()["web"]
        told.says.put_nowait(())
        await until(lambda: keeper.known()["web"].answer == ())

    story(work, allow_empty=True)


def test_a_silent_source_is_no_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.agent.sources.finder._PATIENCE", 0.05)

    async def work(told: Told, finder: Finder, keeper: AnswerKeeper, changes: list[int]) -> None:
        await until(lambda: finder.documents()[0]["error"] == "no answer in time")

    story(work)


def test_an_intent_without_the_source_ends_its_task() -> None:
    async def work(told: Told, finder: Finder, keeper: AnswerKeeper, changes: list[int]) -> None:
        finder.replace(Intent())
        await asyncio.sleep(0)
        told.says.put_nowait((at("10.0.0.1"),))
        assert finder.documents() == []
        assert keeper.answers() == {}

    story(work)
