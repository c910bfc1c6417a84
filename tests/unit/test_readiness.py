"""What keepalived and exabgp are told about this host: late, seldom, and only what is known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lbctl.agent.loop import Figures
from lbctl.agent.readiness import FALL, REPEAT, RISE, Gate, Readiness
from lbctl.config import loads
from lbctl.errors import ApplyFailed
from lbctl.model import Intent


class Told:
    """A host whose agent is ready or not, and the programs beside it."""

    def __init__(self, folder: Path) -> None:
        self.ready: bool | None = True
        self.track, self.pipe = folder / "ready", folder / "exabgp.in"
        os.mkfifo(self.pipe)
        self._reader = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.readiness = Readiness(lambda: self.ready)
        self.readiness.follow(self.intent())

    def intent(self, *addresses: str, track: bool = True, pipe: bool = True) -> Intent:
        listeners = ", ".join(f'"{each}"' for each in addresses or ("192.0.2.1:80/tcp", "192.0.2.1:443/tcp"))
        keys = [f'track-file = "{self.track}"'] * track + [f'exabgp = "{self.pipe}"'] * pipe
        table = "\n".join(["[agent]", *keys])
        return loads(
            f'schema = 1\n{table}\n[[service]]\nname = "web"\nlisten = [{listeners}]\nendpoints = ["8001"]\n'
        )

    def looks(self, count: int) -> None:
        for _ in range(count):
            if (work := self.readiness.look()) is not None:
                work()

    @property
    def file(self) -> str | None:
        return self.track.read_text() if self.track.exists() else None

    @property
    def commands(self) -> list[str]:
        try:
            return os.read(self._reader, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._reader)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(tmp_path)
    yield made
    made.close()


ANNOUNCED = ["announce route 192.0.2.1/32 next-hop self"]
WITHDRAWN = ["withdraw route 192.0.2.1/32 next-hop self"]


def test_what_holds_for_some_time_is_told_once(told: Told) -> None:
    told.looks(RISE - 1)
    assert (told.file, told.commands) == (None, [])
    told.looks(1)
    assert (told.file, told.commands) == ("0\n", ANNOUNCED)
    told.looks(REPEAT - 3)
    assert told.commands == []
    told.ready = False
    told.looks(FALL - 1)
    assert told.file == "0\n"
    told.looks(1)
    assert (told.file, told.commands[-1:]) == ("1\n", WITHDRAWN)
    told.ready = True
    told.looks(RISE)
    assert (told.file, told.commands[-1:]) == ("0\n", ANNOUNCED)


def test_what_is_not_known_changes_nothing(told: Told) -> None:
    told.ready = None
    told.looks(50)
    assert (told.file, told.commands) == (None, [])
    told.ready = True
    told.looks(RISE)
    told.ready = None
    told.looks(REPEAT * 2)
    assert (told.file, {*told.commands}) == ("0\n", {*ANNOUNCED})


def test_routes_are_announced_again_and_the_file_is_left_alone(told: Told) -> None:
    told.looks(RISE)
    written = told.track.stat().st_ino
    assert told.commands == ANNOUNCED
    told.looks(REPEAT)
    assert told.commands == ANNOUNCED
    assert told.track.stat().st_ino == written


def test_addresses_that_come_and_go(told: Told) -> None:
    told.readiness.follow(told.intent("192.0.2.1:80/tcp", "[2001:db8::1]:80/tcp"))
    told.looks(RISE)
    assert told.commands == [*ANNOUNCED, "announce route 2001:db8::1/128 next-hop self"]
    told.readiness.follow(told.intent("[2001:db8::1]:80/tcp"))
    told.looks(1)
    assert told.commands == [*WITHDRAWN, "announce route 2001:db8::1/128 next-hop self"]
    told.readiness.follow(Intent())
    told.looks(1)
    assert told.commands == ["withdraw route 2001:db8::1/128 next-hop self"]
    assert told.file == "1\n"


def test_listeners_without_an_address_have_no_route(told: Told) -> None:
    told.readiness.follow(told.intent("80/tcp"))
    told.looks(RISE)
    assert (told.file, told.commands) == ("0\n", [])


def test_without_a_reader_it_is_reported_and_tried_again(told: Told) -> None:
    told.close()
    with pytest.raises(ApplyFailed, match="no program reads it"):
        told.looks(RISE)
    assert told.file == "0\n"  # each hears of it apart from the other
    told._reader = os.open(told.pipe, os.O_RDONLY | os.O_NONBLOCK)
    told.looks(REPEAT)
    assert told.commands == ANNOUNCED


def test_what_is_no_pipe_is_not_written(told: Told) -> None:
    told.pipe.unlink()
    told.pipe.write_text("mine")
    with pytest.raises(ApplyFailed, match="not a named pipe"):
        told.looks(RISE)
    assert told.pipe.read_text() == "mine"


def test_a_full_pipe_blocks_nothing(told: Told) -> None:
    writer = os.open(told.pipe, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.close(writer)
    with pytest.raises(ApplyFailed, match="cannot write"):
        told.looks(RISE)


@given(st.lists(st.sampled_from([True, False, None]), max_size=40))
def test_a_gate_needs_so_many_in_a_row(seen: list[bool | None]) -> None:
    gate = Gate()
    for number, each in enumerate(seen, 1):
        before = gate.state
        gate.note(each)
        if gate.state is not before:
            needed = RISE if each else FALL
            assert each is gate.state
            assert seen[number - needed : number] == [each] * needed


def test_only_what_puts_the_rules_in_doubt_makes_a_host_not_ready() -> None:
    figures = Figures()
    for place in ("file", "busy", "log", "announce"):
        figures.problems[place] = "something"
    assert not figures.rules_in_doubt
    figures.problems["apply"] = "failed"
    assert figures.rules_in_doubt


def test_more_routes_are_announced_with_those_of_the_listeners(told: Told) -> None:
    intent = told.intent()
    networks = (ip_network("198.51.100.0/24"), ip_network("2001:db8:3::/48"))
    told.readiness.follow(replace(intent, announce=replace(intent.announce, exabgp_routes=networks)))
    told.looks(RISE)
    more = [f"announce route {network} next-hop self" for network in networks]
    assert told.commands == [*ANNOUNCED, *more]
    told.readiness.follow(intent)
    told.looks(1)
    assert told.commands == [*(line.replace("announce", "withdraw") for line in more), *ANNOUNCED]
