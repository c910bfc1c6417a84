"""The agent's loop on a fake host, in virtual time: checks, steps, repairs, and what goes wrong beside it."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from lbctl import engine
from lbctl.agent.checker import Checker
from lbctl.agent.cycles import Cycles
from lbctl.agent.health import Ending, Outcome, Target
from lbctl.agent.journal import Journal, Priority
from lbctl.agent.loop import Figures, Follower, Truce
from lbctl.agent.monitor import Monitor
from lbctl.engine.change.keep import Keeper, Kept
from lbctl.engine.record import history
from lbctl.host import Host, Reports
from lbctl.host.fake import FakeHost
from lbctl.model import Facts, Family, Intent, Program
from support.backends import Paper
from support.desk import read_intent
from support.network import service
from support.virtual import ScriptedProber, VirtualLoop

CHECK = '[service.check]\nkind = "tcp"\ninterval = "2s"\nfast-interval = "500ms"\nrise = 2\nfall = 3\n'
NAMES = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
WEB = read_intent(service("web", "192.0.2.1:80/tcp", *NAMES) + CHECK)
REFUSED = Outcome(ending=Ending.FAILED, text="connection refused")


class Log(Journal):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str, priority: Priority = Priority.INFO, **fields: str) -> None:
        self.lines.append(message)


@dataclass
class Agent:
    """The parts of an agent that act, on a host in memory, without its sockets."""

    intent: Intent = WEB
    host: FakeHost = field(default_factory=FakeHost)
    paper: Paper = field(default_factory=Paper)
    log: Log = field(default_factory=Log)
    figures: Figures = field(default_factory=Figures)
    prober: ScriptedProber = field(default_factory=ScriptedProber)
    down: set[str] = field(default_factory=set)
    cycles: Cycles | None = None

    def __post_init__(self) -> None:
        self.host.time = 1_700_000_000.0
        engine.apply(self.session(), (engine.plan(self.session(), self.intent),), record=True)
        self.prober.answer = self._answer
        self.loop = VirtualLoop(self.host)

    def session(self) -> engine.Session:
        return engine.open_session(self.host, installed=[self.paper])

    def _answer(self, target: Target) -> Outcome:
        failed = f"{target.address}:{target.port}" in self.down
        return REFUSED if failed else Outcome(ending=Ending.PASSED, text="connected")

    @property
    def slots(self) -> set[str]:
        """The endpoints that get connections."""
        lifted = self.paper.lift(self.paper.held["lbctl"])
        return {to for each in lifted.services for to in each.shares}

    def followed(self, kept: Kept) -> None:
        if kept.followed is not None:
            self.checker.replace(kept.followed.intent)

    @contextmanager
    def running(self) -> Iterator[Callable[[float], None]]:
        """Run it; what is yielded lets so many seconds pass."""
        keeper = Keeper(self.host, "lbctl", self.session)
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop()
            self.follower = Follower(self.host, keeper, self.log, self.figures)
            self.checker = Checker(self.host, Monitor(Random(1)), self.prober, self.log, self.follower.wake)

            async def before() -> Callable[[], None]:
                found = self.checker.verdicts()

                def write() -> None:
                    followed = keeper.followed()
                    if followed is not None:
                        followed.session.memory.verdicts["lbctl"] = found

                return write

            async def start() -> list[asyncio.Task[None]]:
                subjects = [(s.name, e.name, Family.IPV4) for s in self.intent.services for e in s.endpoints]
                await self.checker.begin(self.intent, {}, subjects, self.follower.in_thread)
                self.follower.before = before
                self.follower.wake()
                works: list[Awaitable[None]] = [
                    self.checker.run(),
                    self.follower.follow(),
                    self.follower.look(),
                ]
                if self.cycles is not None:
                    self.follower.after = self.cycles.follow
                    works.append(self.cycles.run())
                return [asyncio.ensure_future(work) for work in works]  # type: ignore[arg-type]

            tasks = runner.run(start())

            def go(seconds: float) -> None:
                runner.run(asyncio.sleep(seconds))
                for task in tasks:
                    if task.done():
                        task.result()

            yield go
            self.follower.close()


def test_what_fails_is_out_after_its_failures_and_back_after_its_passes() -> None:
    agent = Agent()
    with agent.running() as go:
        go(10)
        assert agent.slots == set(NAMES)
        agent.down = {NAMES[1]}
        go(2 + 3 * 0.5 + 0.2)  # the rest of an interval, and the fast ones
        assert agent.slots == {NAMES[0], NAMES[2]}
        agent.down = set()
        go(2 + 2 * 0.5 + 0.2)
        assert agent.slots == set(NAMES)
    assert [line for line in agent.log.lines if line.startswith("web: ")] == [
        "web: 10.0.0.1:80 1/3 -> 1/2, 10.0.0.2:80 1/3 -> 0, 10.0.0.3:80 1/3 -> 1/2",
        "web: 10.0.0.1:80 1/2 -> 1/3, 10.0.0.2:80 0 -> 1/3, 10.0.0.3:80 1/2 -> 1/3",
    ]


@pytest.mark.parametrize("kept", [True, False], ids=["beside", "instead"])
def test_a_service_that_is_added_loses_endpoints_that_are_known_to_fail(kept: bool) -> None:
    agent = Agent()
    with agent.running() as go:
        agent.follower.after = agent.followed
        agent.down.add("10.0.0.2:80")
        go(20)
        [web] = agent.intent.services
        shop = replace(web, name="shop", listeners=(replace(web.listeners[0], port=81, last_port=81),))
        intent = replace(agent.intent, services=(web, shop) if kept else (shop,))
        # By a command that does not know what the agent knows.
        session = replace(agent.session(), assumed=Facts())
        engine.apply(session, (engine.plan(session, intent),), record=True)
        assert "10.0.0.2:80" in agent.slots
        go(5)
        assert "10.0.0.2:80" not in agent.slots


def test_first_passes_of_endpoints_that_serve_are_few_steps() -> None:
    services = [
        service(f"s{n}", f"192.0.2.1:{n + 1}/tcp", *[f"10.0.{n}.{each}:80" for each in range(1, 11)]) + CHECK
        for n in range(200)
    ]
    agent = Agent(intent=read_intent("".join(services)), paper=Marked())
    steps = 0
    with agent.running() as go:
        before = agent.follower.before

        async def counted() -> Callable[[], object]:
            nonlocal steps
            steps += 1
            return await before()

        agent.follower.before = counted
        go(10)  # the first checks are spread over two seconds
        assert agent.checker.counts() == (2000, 0)
    assert steps <= 5
    assert len(agent.slots) == 2000


def test_failures_that_come_together_are_one_step() -> None:
    names = [f"10.0.1.{number}:80" for number in range(1, 201)]
    agent = Agent(intent=read_intent(service("web", "192.0.2.1:80/tcp", *names) + CHECK))
    with agent.running() as go:
        go(10)
        before = agent.figures.applies
        agent.down = set(names)
        for target in agent.prober.watched[:100]:
            agent.prober.closed(target)
        go(0.2)
        assert len(agent.slots) == 100
        assert agent.figures.applies - before == 1
        go(5)
        assert agent.slots == set(names)  # kept by all-down


def test_the_first_failure_is_carried_out_at_once_and_those_behind_it_together() -> None:
    agent = Agent()
    with agent.running() as go:
        go(11)
        before = agent.figures.applies
        agent.down = set(NAMES[:2])
        first, second, _ = agent.prober.watched
        agent.prober.closed(first)
        go(0.001)
        assert agent.figures.applies - before == 1
        agent.prober.closed(second)
        go(0.05)
        assert agent.figures.applies - before == 1
        go(0.1)
        assert agent.figures.applies - before == 2
        assert len(agent.slots) == 1


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0 * 365])
def test_a_jump_of_the_wall_clock_changes_nothing(jump: float) -> None:
    agent = Agent()
    with agent.running() as go:
        go(30)
        held, applies, started = agent.paper.held["lbctl"], agent.figures.applies, agent.prober.started
        agent.host.time += jump
        go(10)
        assert agent.paper.held["lbctl"] == held
        assert agent.figures.applies == applies
        # Three endpoints, one check in 1.8 to 2 seconds each.
        assert 12 <= agent.prober.started - started <= 18
        agent.down = {NAMES[0]}
        go(4)
        assert agent.slots == set(NAMES[1:])


def test_rules_that_are_gone_are_restored_and_another_writer_is_not_fought() -> None:
    agent = Agent()
    with agent.running() as go:
        go(3)
        held = agent.paper.held["lbctl"]
        for number in range(1, 5):
            agent.paper.held.clear()
            go(10)
            assert agent.paper.held["lbctl"] == held
            assert agent.figures.repairs == number
        pauses = []
        for _ in range(9):
            agent.paper.held.clear()
            began = agent.host.uptime
            while not agent.paper.held:
                go(0.5)
            assert "another program keeps changing" in agent.figures.problems["fight"]
            pauses.append(agent.host.uptime - began)
        assert pauses == sorted(pauses)
        assert pauses[-1] > 200
        go(3600)
        assert "fight" not in agent.figures.problems
        agent.paper.held.clear()
        go(10)
        assert agent.paper.held["lbctl"] == held


def test_a_truce_grows_to_its_most_and_ends_when_all_is_calm() -> None:
    truce, now, pauses = Truce(), 0.0, []
    for _ in range(16):
        if truce.repaired(now):
            pauses.append(truce.until - now)
            now = truce.until
        now += 1
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]
    assert not truce.repaired(now + 600)


def test_repairs_once_in_a_while_are_no_fight() -> None:
    truce = Truce()
    assert not any(truce.repaired(40.0 * number) for number in range(100))


def test_a_reload_that_takes_several_transactions_is_one_repair_of_a_fight() -> None:
    truce = Truce()
    assert not any(truce.repaired(10.0 * number + part) for number in range(4) for part in (0.0, 0.3, 0.6))
    assert truce.repaired(50.0)


def test_while_a_command_holds_the_lock_the_agent_waits_and_then_follows() -> None:
    agent = Agent()
    with agent.running() as go:
        go(5)
        agent.host.busy.add("lbctl")
        agent.down = {NAMES[0]}
        go(10)
        assert agent.slots == set(NAMES)
        assert "waiting" in agent.figures.problems["busy"]
        agent.host.busy.clear()
        go(60)
        assert agent.slots == set(NAMES[1:])
        assert not agent.figures.problems


def test_what_the_kernel_refuses_is_tried_again_ever_more_rarely() -> None:
    agent = Agent()
    with agent.running() as go:
        go(5)
        agent.paper.refusals = 1_000_000
        agent.down = {NAMES[0]}
        go(10)
        assert agent.figures.problems["apply"] == "torn"
        failures = agent.figures.failures
        go(600)
        assert agent.figures.failures - failures <= 12
        assert agent.log.lines.count("torn") == 1
        agent.paper.refusals = 0
        go(60)
        assert agent.slots == set(NAMES[1:])
        assert not agent.figures.problems


def test_a_full_disk_keeps_no_endpoint_in() -> None:
    agent = Agent()
    with agent.running() as go:
        go(5)
        agent.host.no_room = "No space left on device"
        agent.down = {NAMES[0]}
        go(5)
        assert agent.slots == set(NAMES[1:])
        agent.down = set()
        go(5)
        assert agent.slots == set(NAMES)


def test_a_damaged_record_has_the_agent_do_nothing_and_say_so() -> None:
    agent = Agent()
    with agent.running() as go:
        go(5)
        [name] = [name for name in agent.host.shelf if history.latest(agent.host, "lbctl") and "0000" in name]
        text = agent.host.shelf[name]
        agent.host.shelf[name.replace("000001", "000002")] = text[: len(text) // 2]
        held = agent.paper.held["lbctl"]
        agent.down = {NAMES[0]}
        go(10)
        assert agent.paper.held["lbctl"] == held
        assert any("cannot be read" in text for text in agent.figures.problems.values())
        assert sum("cannot be read" in line for line in agent.log.lines) <= 2
        del agent.host.shelf[name.replace("000001", "000002")]
        go(70)
        assert agent.slots == set(NAMES[1:])


@pytest.mark.parametrize(("ipv6", "counts"), [(True, (4, 2)), (False, (2, 0))])
def test_failures_of_a_family_that_no_client_can_use_are_not_counted(
    ipv6: bool, counts: tuple[int, int]
) -> None:
    address = "20010db8000100000000000000000001 02 40 00 80     eth0\n"
    agent = Agent(
        intent=read_intent(service("web", "80/tcp", "8001", "8002") + CHECK),
        host=FakeHost(files={"/proc/thread-self/net/if_inet6": address} if ipv6 else {}),
    )
    passed = Outcome(ending=Ending.PASSED, text="connected")
    agent.prober.answer = lambda target: REFUSED if target.family is Family.IPV6 else passed
    with agent.running() as go:
        go(10)
        assert agent.checker.counts() == counts
        expected = {each["family"]: each["expected"] for each in agent.checker.documents(None)}
        assert expected == {"ipv4": True, "ipv6": ipv6}


def test_endpoints_that_never_passed_are_one_line_of_a_family() -> None:
    agent = Agent()
    agent.down = set(NAMES)
    with agent.running() as go:
        go(10)
        agent.down = {NAMES[0]}
        go(10)
    lines = [line for line in agent.log.lines if "down" in line]
    assert lines == ["web (ipv4): all 3 endpoints are down: connection refused"]
    agent = Agent()
    agent.down = {NAMES[0]}
    with agent.running() as go:
        go(10)
    lines = [line for line in agent.log.lines if "down" in line]
    assert lines == ["web/10.0.0.1:80 (ipv4) is down: connection refused \N{MULTIPLICATION SIGN}3"]


def test_a_flapping_endpoint_changes_the_rules_ever_more_rarely() -> None:
    agent = Agent()
    with agent.running() as go:
        go(10)
        applies = []
        for _ in range(4):
            before = agent.figures.applies
            for _ in range(30):
                agent.down = set() if agent.down else {NAMES[0]}
                go(10)
            applies.append(agent.figures.applies - before)
    assert applies[0] > 2 * applies[-1]
    assert applies[-1] <= 4


class Marked(Paper):
    """Has a mark of its rules, as nftables has."""

    def generation(self, host: Host, driver: str) -> str | None:
        program = self.held.get("lbctl")
        return "empty" if program is None else f"{id(program)}"


def test_a_transaction_that_the_kernel_reports_is_looked_at_at_once() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    agent = Agent(paper=Marked())
    agent.host.reports = Reports(ours)
    with kernel, agent.running() as go:
        go(11)
        agent.paper.held.clear()
        go(0.5)
        assert not agent.figures.repairs
        kernel.send(b"report")
        kernel.send(b"another")
        go(0.2)
        assert agent.figures.repairs == 1
        assert agent.slots == set(NAMES)


class Slow(Paper):
    """Takes a long time to read its rules, as other work of the host makes it."""

    def observe(self, host: Host, driver: str, owner: str) -> Program:
        assert isinstance(host, FakeHost)
        host.uptime += 0.3
        return super().observe(host, driver, owner)


def test_rules_that_change_again_after_a_repair_are_soon_repaired_again() -> None:
    agent = Agent(paper=Slow())
    with agent.running() as go:
        go(200)
        agent.paper.held.clear()
        go(90)  # rules are read for half a percent of the time
        assert agent.figures.repairs == 1
        for number in (2, 3):
            agent.paper.held.clear()
            go(30)
            assert agent.figures.repairs == number


def test_it_sleeps_while_nothing_is_due() -> None:
    rare = CHECK.replace('"2s"', '"1h"')
    agent = Agent(intent=read_intent(service("web", "192.0.2.1:80/tcp", *NAMES) + rare), paper=Marked())
    with agent.running() as go:
        go(60)
        before = agent.loop.waits
        go(600)
        assert agent.loop.waits - before < 600


def test_what_the_kernel_does_not_report_is_found_a_moment_later() -> None:
    agent = Agent(paper=Marked())
    with agent.running() as go:
        go(11)
        agent.paper.held.clear()
        go(2.5)
        assert agent.figures.repairs == 1


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """As in the program: nothing but the agent itself frees cycles."""
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("_no_collector")
def test_a_day_of_random_events_keeps_memory_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.agent.loop._LOOK", 5.0)
    rare = CHECK.replace('"2s"', '"20s"')
    agent = Agent(intent=read_intent(service("web", "192.0.2.1:80/tcp", *NAMES) + rare), paper=Marked())
    agent.cycles = Cycles()
    dice = Random(7)
    with agent.running() as go:

        def hours(count: int) -> int:
            """Return the blocks of memory that are in use after so many hours."""
            for _ in range(count * 60):
                for name in NAMES:
                    if dice.random() < 0.05:
                        agent.down ^= {name}
                if dice.random() < 0.02:
                    agent.paper.held.clear()
                if dice.random() < 0.02:
                    agent.paper.refusals = dice.randrange(3)
                if dice.random() < 0.01:
                    agent.host.time += dice.uniform(-3600, 3600)
                go(60)
            agent.log.lines.clear()
            agent.down = set()
            agent.paper.refusals = 0
            go(900)
            return sys.getallocatedblocks()

        first = hours(3)
        last = hours(21)
        assert agent.slots == set(NAMES)
    assert agent.figures.applies > 100
    assert last - first < 1000, f"{first} blocks after three hours, {last} after a day"


@pytest.mark.usefixtures("_no_collector")
def test_what_the_first_checks_leave_is_frozen_and_later_cycles_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 100,000 endpoints, a collection would else take a second of each minute."""
    monkeypatch.setattr("lbctl.agent.cycles._PAUSE", 0.01)
    agent = Agent()
    agent.cycles = Cycles()
    with agent.running() as go:
        go(1)
        # Each collection visits what is not frozen: a second's values of three endpoints.
        assert len(gc.get_objects()) < 10_000 < gc.get_freeze_count()

        class Node:
            pass

        node = Node()
        node.itself = node  # type: ignore[attr-defined]
        freed = weakref.ref(node)
        del node
        go(1)
        assert freed() is None
