"""Every source, against what can go wrong: nothing that it says or fails to say empties a service.

Real servers on real sockets; only the time is virtual.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbctl.agent.journal import Journal
from lbctl.agent.sources import AnswerKeeper, Finder
from lbctl.documents.status import SourceDocument
from lbctl.host.fake import FakeHost
from lbctl.model import Discovery, Endpoint, Intent, Listener, Protocol, Service, State, WeightOwner
from support.sources import RIGS, Rig, rig_of
from support.virtual import VirtualLoop
from support.web import Mood

MINUTES = 60.0
#: Seconds in which a source that is there again is asked: its longest pause, and that of a silent watch.
SOON = 120.0


class World:
    """An agent's finder and keeper with one source, and the clock."""

    def __init__(self, rig: Rig, host: FakeHost, *, allow_empty: bool) -> None:
        self.rig, self._host = rig, host
        discovery = Discovery(
            source=rig.source, name=rig.name, allow_empty=allow_empty, weight=WeightOwner.SOURCE
        )
        service = Service(
            name="web",
            listeners=(Listener(protocol=Protocol.TCP, port=80),),
            endpoints=(),
            discover=discovery,
        )
        access = rig.access
        self.intent = Intent(
            services=(service,),
            etcd=access.etcd,
            docker=access.docker,
            consul=access.consul,
            kubernetes=access.kubernetes,
        )
        #: When something changed: each of them is at most one transaction.
        self.changes: list[float] = []
        self.keeper = AnswerKeeper(lambda _: rig.local)
        self.finder = Finder(host, self.keeper, Journal(), lambda: self.changes.append(host.uptime))

    def at(self, number: int, **keys: object) -> Endpoint:
        """Return one of many endpoints: a port of this host, or an address."""
        if self.rig.local:
            return Endpoint(port=8000 + number, **keys)  # type: ignore[arg-type]
        address = ip_address("10.0.0.0") + number
        return Endpoint(address=address, port=8080, **keys)  # type: ignore[arg-type]

    @property
    def kept(self) -> list[str] | None:
        answer = self.keeper.known()["web"].answer
        return None if answer is None else [each.to for each in answer]

    @property
    def document(self) -> SourceDocument:
        [found] = self.finder.documents()
        return found

    async def until(self, condition: Callable[[], bool], seconds: float = SOON) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.05)

    async def keeps(self, seconds: float) -> None:
        """Let time pass, in which the endpoints stay as they are and an error is shown."""
        kept = self.kept
        await self.until(lambda: self.document["error"] is not None, 90)
        before = len(self.changes)
        for _ in range(int(seconds / 10)):
            await asyncio.sleep(10)
            assert self.kept == kept
            assert self.document["error"]
        assert len(self.changes) - before <= 2, "an error that stays is no news"


Play = Callable[..., None]


@pytest.fixture(params=RIGS)
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def play(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return what plays a story in virtual time, with the source started and two endpoints known."""

    def play(story: Callable[[World], Awaitable[None]], *, allow_empty: bool = False) -> None:
        host = FakeHost()
        rig = rig_of(source, tmp_path, monkeypatch)

        async def run() -> None:
            await rig.start()
            world = World(rig, host, allow_empty=allow_empty)
            await rig.give(world.at(1), world.at(2))
            world.finder.replace(world.intent)
            running = asyncio.create_task(world.finder.run())
            await world.until(lambda: world.kept is not None, 10)
            try:
                await story(world)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                await rig.stop()

        with asyncio.Runner(loop_factory=lambda: VirtualLoop(host, wire=True)) as runner:
            runner.run(run())

    return play


async def _returns(world: World) -> None:
    """Have the source be right again, and say more than before."""
    await world.rig.give(world.at(1), world.at(2), world.at(3))
    await world.until(lambda: world.kept == [world.at(n).to for n in (1, 2, 3)])
    await world.until(lambda: world.document["error"] is None)


def test_changes_are_followed(play: Play) -> None:
    async def story(world: World) -> None:
        assert world.kept == [world.at(1).to, world.at(2).to]
        await world.rig.give(world.at(1), world.at(3))
        await world.until(lambda: world.kept == [world.at(1).to, world.at(3).to], 5)
        await world.rig.give(world.at(1), replace(world.at(3), state=State.DRAIN))
        known = world.keeper.known
        await world.until(lambda: [e.state for e in known()["web"].answer or ()][1:] != [State.ACTIVE], 5)
        assert world.document["error"] is None

    play(story)


def test_a_quiet_source_is_confirmed_again_and_again(play: Play) -> None:
    async def story(world: World) -> None:
        before = len(world.changes)
        for _ in range(20):
            await asyncio.sleep(10)
            assert (world.document["age"] or 0.0) <= 80
            assert world.document["error"] is None
        assert len(world.changes) == before

    play(story)


def test_ten_minutes_of_outage_change_nothing(play: Play) -> None:
    async def story(world: World) -> None:
        await world.rig.stop()
        await world.keeps(10 * MINUTES)
        assert 10 * MINUTES <= (world.document["age"] or 0.0) <= 12 * MINUTES
        await world.rig.start()
        await _returns(world)

    play(story)


def test_a_wrong_answer_changes_nothing(play: Play) -> None:
    async def story(world: World) -> None:
        await world.rig.be(Mood.GARBAGE)
        await world.keeps(3 * MINUTES)
        await world.rig.be(Mood.GOOD)
        await _returns(world)

    play(story)


def test_no_answer_in_time_changes_nothing(play: Play) -> None:
    async def story(world: World) -> None:
        await world.rig.be(Mood.SILENT)
        await world.keeps(3 * MINUTES)
        await world.rig.be(Mood.GOOD)
        await _returns(world)

    play(story)


@pytest.mark.parametrize("source", ["etcd", "docker", "consul", "kubernetes"], indirect=True)
def test_an_answer_byte_by_byte_changes_nothing(play: Play) -> None:
    async def story(world: World) -> None:
        await world.rig.be(Mood.TRICKLE)
        await world.keeps(3 * MINUTES)
        await world.rig.be(Mood.GOOD)
        await _returns(world)

    play(story)


def test_an_empty_answer_is_wrong(play: Play) -> None:
    async def story(world: World) -> None:
        await world.rig.give()
        await world.keeps(3 * MINUTES)
        assert world.document["error"] == "the answer is empty"
        await _returns(world)

    play(story)


def test_an_empty_answer_counts_once_it_is_confirmed(play: Play) -> None:
    async def story(world: World) -> None:
        kept, began = world.kept, len(world.changes)
        await world.rig.give()
        await world.until(lambda: world.kept == [])
        assert kept
        assert len(world.changes) - began == 3, "doubted twice, then taken"
        await _returns(world)

    play(story, allow_empty=True)


@pytest.mark.parametrize("source", sorted({*RIGS} - {"systemd"}), indirect=True)
def test_an_endpoint_beyond_the_bounds_makes_the_answer_wrong(play: Play) -> None:
    async def story(world: World) -> None:
        beyond = Endpoint(address=ip_address("127.0.0.1"), port=8080)
        await world.rig.give(world.at(1), beyond)
        await world.keeps(1 * MINUTES)
        assert ":8080 is a loopback" in str(world.document["error"])
        await _returns(world)

    play(story)


def test_a_flood_of_changes_is_at_most_ten_transactions_a_second(play: Play) -> None:
    async def story(world: World) -> None:
        clock = asyncio.get_running_loop().time
        began, before = clock(), len(world.changes)
        for number in range(1000):
            await world.rig.give(world.at(1), world.at(2 + number % 500))
            await asyncio.sleep(max(began + number / 1000 - clock(), 0.0))
        assert len(world.changes) - before <= 10 * (clock() - began) + 1
        await world.until(lambda: world.kept == [world.at(1).to, world.at(501).to])

    play(story)
