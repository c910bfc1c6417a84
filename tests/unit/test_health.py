"""The state machine of checks, by a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, strategies as st

from lbctl.agent.health import Ending, Moment, Outcome, Subject, Target
from lbctl.agent.monitor import EARLY, JITTER, Monitor
from lbctl.agent.states import STEPS
from lbctl.model import (
    Check,
    Endpoint,
    ExecProbe,
    Family,
    Health,
    HealthPolicy,
    Initial,
    Intent,
    Listener,
    Protocol,
    Service,
    TcpProbe,
    Verdict,
    Verdicts,
)

V4, V6 = Family.IPV4, Family.IPV6
WALL = 1_700_000_000.0
CHECK = Check(probe=TcpProbe(), interval=2000, fast_interval=500, rise=2, fall=3)


def service(count: int = 2, name: str = "web", check: Check | None = CHECK, **health: int) -> Service:
    return Service(
        name=name,
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(
            Endpoint(name=f"e{i}", port=80, address=IPv4Address("10.0.0.0") + i) for i in range(1, count + 1)
        ),
        check=check,
        health=HealthPolicy(slow_start=health.get("slow_start", 0)),
    )


def subject(number: int = 1, name: str = "web") -> Subject:
    return name, f"e{number}", V4


class World:
    """A monitor, a clock, and endpoints that answer as they are told."""

    def __init__(
        self,
        *services: Service,
        known: Mapping[str, Verdicts] | None = None,
        serving: bool = True,
        at: float = 100.0,
    ) -> None:
        self.monitor = Monitor(Random(1))
        self.intent = Intent(services=services)
        self.at = at
        self.answers: dict[Target, Outcome] = {}
        self.checks: list[tuple[float, Target]] = []
        subjects = {
            (s.name, e.name, f) for s in services for f in s.families for e in s.endpoints if e.serves(f)
        }
        self.monitor.start(
            self.intent, self.now, restored=known or {}, serving=subjects if serving else set()
        )

    @property
    def now(self) -> Moment:
        return Moment(self.at, WALL + self.at)

    def answer(self, which: Subject, ending: Ending, text: str = "", *, final: bool = False) -> None:
        target = self.monitor.target(which)
        assert target is not None
        self.answers[target] = Outcome(ending=ending, text=text or str(ending), final=final)

    def run(self, seconds: float) -> list[tuple[float, Subject]]:
        """Go on for so long; return when what changed."""
        changes: list[tuple[float, Subject]] = []
        end = self.at + seconds
        while (following := self.monitor.next(self.now)) is not None and following <= end:
            self.at = max(self.at, following)
            changes += [(self.at, each) for each in self.monitor.steps(self.now)]
            for target in self.monitor.due(self.now):
                self.checks.append((self.at, target))
                good = Outcome(ending=Ending.PASSED, text="fine")
                changes += [
                    (self.at, each)
                    for each in self.monitor.record(target, self.answers.get(target, good), self.now)
                ]
        self.at = end
        return changes

    def until(self, which: Subject, seconds: float) -> float:
        """Go on until an endpoint changes, at most for so long; return when."""
        for _ in range(int(seconds * 4)):
            if found := [when for when, each in self.run(0.25) if each == which]:
                return found[0]
        raise AssertionError(f"{which} did not change in {seconds} s")

    def verdict(self, which: Subject) -> Verdict:
        return self.monitor.verdicts()[which[0]][which[1:]]


def test_an_endpoint_falls_after_so_many_failures_and_rises_after_so_many_passes() -> None:
    world = World(service())
    world.run(10)
    assert world.verdict(subject()).health is Health.UP
    world.answer(subject(), Ending.FAILED, "connection refused")
    began = world.at
    [(when, which)] = world.run(10)
    assert which == subject()
    # The first failure within an interval, the others by the fast one.
    assert when - began <= 2.0 + 2 * 0.5
    found = world.verdict(subject())
    assert (found.health, found.result, found.count) == (Health.DOWN, "connection refused", 3)
    assert found.since == WALL + when
    assert world.verdict(subject(2)).health is Health.UP
    world.answer(subject(), Ending.PASSED)
    [(when, _)] = world.run(10)
    assert world.verdict(subject()).health is Health.UP


def test_fewer_failures_than_fall_change_nothing() -> None:
    world = World(service())
    world.run(10)
    target = world.monitor.target(subject())
    assert target is not None
    for _ in range(10):
        for ending in (Ending.FAILED, Ending.FAILED, Ending.PASSED):
            assert world.monitor.record(target, Outcome(ending=ending, text="x"), world.now) == ()


def test_a_final_failure_needs_no_repetition() -> None:
    world = World(service())
    world.run(10)
    target = world.monitor.target(subject())
    assert target is not None
    gone = Outcome(ending=Ending.FAILED, text="closed", final=True)
    assert world.monitor.record(target, gone, world.now) == (subject(),)
    assert world.verdict(subject()).health is Health.DOWN


def test_what_could_not_be_checked_changes_nothing() -> None:
    world = World(service())
    world.run(10)
    world.answer(subject(), Ending.UNDECIDED, "too many open files")
    assert world.run(100) == []
    found = world.monitor.latest(world.now)["web"][subject()[1:]]
    assert (found.health, found.result) == (Health.UP, "too many open files")


def test_a_restart_keeps_what_was_known() -> None:
    world = World(service(3))
    world.run(10)
    world.answer(subject(), Ending.FAILED)
    world.run(10)
    before = world.monitor.verdicts()
    again = World(service(3), known=before)
    assert {place: v.health for place, v in again.monitor.verdicts()["web"].items()} == {
        ("e1", V4): Health.DOWN,
        ("e2", V4): Health.UP,
        ("e3", V4): Health.UP,
    }
    assert again.verdict(subject()).since == before["web"]["e1", V4].since
    assert again.run(60) == [(again.run(0) or [(pytest.approx(again.at - 60, abs=5), subject())])[0]]


def restarted(world: World, *services: Service) -> World:
    """Another monitor, that knows what the first one had on record."""
    known = world.monitor.latest(world.now)
    return World(*services or world.intent.services, known=known, serving=False, at=world.at)


def test_a_restart_goes_on_with_a_slow_start() -> None:
    world = World(service(slow_start=40_000))
    world.run(10)
    world.answer(subject(), Ending.FAILED)
    world.until(subject(), 20)
    world.answer(subject(), Ending.PASSED)
    world.until(subject(), 20)
    world.run(12)
    part = world.verdict(subject()).part
    assert Fraction(1, STEPS) < part < 1
    after = restarted(world)
    assert after.verdict(subject()).part == part
    after.run(20)
    assert part < after.verdict(subject()).part < 1
    after.run(40)
    assert after.verdict(subject()).part == 1


@pytest.mark.parametrize(("jump", "least", "most"), [(-86_400, 50, 72), (0, 30, 55), (86_400, 0, 10)])
def test_a_restart_goes_on_with_a_hold_and_never_for_longer(jump: float, least: float, most: float) -> None:
    world = World(service(check=replace(CHECK, hold=60_000)))
    world.run(10)
    world.answer(subject(), Ending.FAILED)
    world.until(subject(), 20)
    world.answer(subject(), Ending.PASSED)
    world.run(20)
    assert world.verdict(subject()).held
    known = {
        name: {place: replace(each, since=each.since - jump) for place, each in own.items()}
        for name, own in world.monitor.latest(world.now).items()
    }
    after = World(*world.intent.services, known=known, at=world.at)
    assert least <= after.until(subject(), 80) - world.at <= most


TRUE = ExecProbe(argv=("/bin/true",), user="nobody")


@pytest.mark.parametrize("check", [CHECK, replace(CHECK, probe=TRUE)], ids=["tcp", "exec"])
def test_a_renamed_service_keeps_what_is_known_of_its_endpoints(check: Check) -> None:
    world = World(service(3, check=check))
    world.answer(subject(2), Ending.FAILED)
    world.run(20)
    known = [Health.UP, Health.DOWN, Health.UP]
    for other, expected in (
        (check, known),
        (replace(check, interval=9000), known),
        (replace(check, port=81), [Health.UNKNOWN] * 3),
    ):
        renamed = Intent(services=(service(3, "shop", other),))
        monitors = world.monitor, restarted(world, *renamed.services).monitor
        for monitor in monitors[:: 1 if other is check else -1]:
            monitor.replace(renamed, world.now)
            assert [monitor.verdicts()["shop"][f"e{n}", V4].health for n in (1, 2, 3)] == expected
            monitor.replace(world.intent, world.now)


def test_an_endpoint_at_another_place_waits_for_its_first_pass() -> None:
    world = World(service(3))
    world.answer(subject(2), Ending.FAILED)
    world.run(20)
    a, b, c = service(3).endpoints
    moved = replace(service(3), endpoints=(a, replace(b, port=81), replace(c, port=81)))
    for monitor in (world.monitor, restarted(world, moved).monitor):
        monitor.replace(Intent(services=(moved,)), world.now)
        found = monitor.verdicts()["web"]
        assert found["e1", V4].health is Health.UP
        assert found["e2", V4].waits
        assert found["e3", V4].waits


def test_without_a_record_endpoints_that_serve_go_on_serving() -> None:
    world = World(service(2), serving=True)
    assert all(v.health is Health.UNKNOWN and v.serving for v in world.monitor.verdicts()["web"].values())
    world.answer(subject(), Ending.FAILED)
    world.run(0.6)
    assert world.verdict(subject()).health is Health.UNKNOWN
    world.run(10)
    assert world.verdict(subject()).health is Health.DOWN


def test_new_endpoints_wait_for_their_first_pass() -> None:
    world = World(service(2))
    world.run(10)
    world.monitor.replace(Intent(services=(service(3),)), world.now)
    new = world.verdict(subject(3))
    assert (new.health, new.serving, new.waits) == (Health.UNKNOWN, False, True)
    changes = world.run(3)
    assert [which for _, which in changes] == [subject(3)]
    assert world.verdict(subject(3)).health is Health.UP


def test_new_endpoints_serve_at_once_where_the_file_says_so_or_nothing_else_does() -> None:
    eager = replace(CHECK, initial=Initial.UP)
    world = World(service(2, check=eager))
    world.monitor.replace(Intent(services=(service(3, check=eager),)), world.now)
    assert world.verdict(subject(3)).serving
    empty = World(service(2), serving=False)
    assert all(v.serving for v in empty.monitor.verdicts()["web"].values())


def test_flapping_is_damped_more_each_time_and_forgotten_when_it_ends() -> None:
    world = World(service(2))
    world.run(10)
    outages = []
    for _ in range(9):
        world.answer(subject(), Ending.FAILED)
        fell = world.until(subject(), 4)
        world.answer(subject(), Ending.PASSED)
        outages.append(world.until(subject(), 400) - fell)
        world.run(5)
    assert outages[0] < 4
    assert outages == sorted(outages)
    assert outages[4] > 30
    assert 300 <= outages[-1] < 310
    held = world.verdict(subject())
    assert held.health is Health.UP
    world.run(1000)
    world.answer(subject(), Ending.FAILED)
    fell = world.until(subject(), 4)
    world.answer(subject(), Ending.PASSED)
    assert world.until(subject(), 10) - fell < 4


def test_hold_is_the_least_time_out() -> None:
    world = World(service(2, check=replace(CHECK, hold=30_000)))
    world.run(10)
    world.answer(subject(), Ending.FAILED)
    [(fell, _)] = world.run(4)
    world.answer(subject(), Ending.PASSED)
    assert world.run(20) == []
    assert world.verdict(subject()).held
    [(rose, _)] = world.run(20)
    assert 30 <= rose - fell < 33


def test_slow_start_gives_slots_back_step_by_step() -> None:
    world = World(service(2, slow_start=40_000))
    world.run(10)
    assert world.verdict(subject()).part == 1
    world.answer(subject(), Ending.FAILED)
    world.run(10)
    world.answer(subject(), Ending.PASSED)
    parts: list[Fraction] = []
    for _ in range(50):
        world.run(1)
        found = world.verdict(subject())
        if found.health is Health.UP and (not parts or parts[-1] != found.part):
            parts.append(found.part)
    assert parts == [Fraction(step, STEPS) for step in range(1, STEPS + 1)]


def test_a_slow_start_never_happens_at_the_first_check_of_one_that_serves() -> None:
    world = World(service(2, slow_start=40_000))
    world.run(3)
    assert world.verdict(subject()).part == 1


def test_services_share_checks_of_the_same_endpoint_but_not_programs() -> None:
    world = World(service(2), service(2, name="api"))
    assert len(world.monitor.targets()) == 2
    world.run(10)
    world.answer(subject(), Ending.FAILED)
    changes = world.run(10)
    assert {which for _, which in changes} == {subject(), subject(name="api")}
    program = replace(CHECK, probe=ExecProbe(argv=("/bin/true",), user="nobody"))
    assert len(World(service(2, check=program), service(2, name="api", check=program)).monitor.targets()) == 4
    slower = replace(CHECK, interval=3000)
    assert len(World(service(2), service(2, name="api", check=slower)).monitor.targets()) == 4


def test_families_are_checked_apart() -> None:
    local = replace(service(), endpoints=(Endpoint(port=8001), Endpoint(port=8002)))
    world = World(local)
    assert len(world.monitor.targets()) == 4
    world.run(10)
    world.answer(("web", "8001", V6), Ending.FAILED)
    assert {which for _, which in world.run(10)} == {("web", "8001", V6)}
    [target] = world.monitor.listening(V6, 8001)
    assert world.monitor.target(("web", "8001", V6)) is target


def test_another_check_of_the_same_endpoint_keeps_its_health() -> None:
    world = World(service(2))
    world.run(10)
    world.answer(subject(), Ending.FAILED)
    world.run(10)
    world.monitor.replace(Intent(services=(service(2, check=replace(CHECK, fall=5)),)), world.now)
    assert world.verdict(subject()).health is Health.DOWN
    world.monitor.replace(Intent(services=(service(2, check=None),)), world.now)
    assert world.monitor.verdicts() == {}
    assert world.monitor.next(world.now) is None


def test_verdicts_stay_the_same_objects_while_nothing_but_counts_change() -> None:
    world = World(service(2), service(2, name="api", check=replace(CHECK, interval=3000)))
    world.run(10)
    before = world.monitor.verdicts()
    world.run(60)
    assert all(world.monitor.verdicts()[name] is found for name, found in before.items())
    world.answer(subject(), Ending.FAILED)
    world.run(10)
    assert world.monitor.verdicts()["web"] is not before["web"]
    assert world.monitor.verdicts()["api"] is before["api"]
    world.monitor.replace(world.intent, world.now)
    assert world.monitor.verdicts()["api"] is before["api"]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 4)), min_size=1, max_size=5))
def test_after_each_replaced_intent_exactly_its_endpoints_are_checked(steps: list[dict[str, int]]) -> None:
    world = World()
    for step in steps:
        intent = Intent(
            services=tuple(
                replace(service(count, name), listeners=(Listener(protocol=Protocol.TCP, port=ord(name)),))
                for name, count in step.items()
            )
        )
        known = world.monitor.verdicts()
        world.monitor.replace(intent, world.now)
        fresh = Monitor(Random(1))
        fresh.start(intent, world.now, restored={}, serving=())
        assert set(world.monitor.targets()) == set(fresh.targets())
        for target in fresh.targets():
            assert world.monitor.subjects(target) == fresh.subjects(target)
        found = world.monitor.verdicts()
        assert {name: own.keys() for name, own in found.items()} == {
            name: own.keys() for name, own in fresh.verdicts().items()
        }
        same = [name for name, own in known.items() if name in found and own.keys() == found[name].keys()]
        assert all(found[name] is known[name] for name in same)
        # Each is due once, and goes on being checked when others come and go.
        world.run(5)
        assert all(world.monitor.health(target) is Health.UP for target in fresh.targets())


def test_first_checks_are_spread_and_later_ones_do_not_fall_into_step() -> None:
    world = World(service(200, check=replace(CHECK, fast_interval=2000)))
    world.run(2)
    first: dict[Target, float] = {}
    for when, target in world.checks:
        first.setdefault(target, when)
    starts = sorted(first.values())
    assert len(starts) == 200
    for quarter in range(4):
        low = 100 + quarter * 0.5
        assert 20 <= sum(low <= when < low + 0.5 for when in starts) <= 80
    world.checks.clear()
    world.run(20)
    by_target: dict[Target, list[float]] = {}
    for when, target in world.checks:
        by_target.setdefault(target, []).append(when)
    pauses = [b - a for times in by_target.values() for a, b in pairwise(times)]
    assert all(2.0 * (1 - JITTER - EARLY) <= pause <= 2.0 + 1e-6 for pause in pauses)
    assert max(pauses) - min(pauses) > 0.05


@pytest.mark.parametrize(("endpoints", "most"), [(6, 14), (400, 40 * 20)])
def test_few_checks_share_their_moments(endpoints: int, most: int) -> None:
    """And many do not become one burst."""
    world = World(service(endpoints))
    world.run(60)
    world.checks.clear()
    world.run(20)
    together = Counter(when for when, _ in world.checks)
    assert len(together) <= most
    assert max(together.values()) <= 32
    assert 10 * endpoints <= len(world.checks) <= 10 * endpoints / (1 - JITTER - EARLY) + endpoints


def test_a_check_that_takes_long_is_followed_at_once_but_never_run_twice() -> None:
    world = World(service(1))
    world.at = 103.0
    [target] = world.monitor.due(world.now)
    assert world.monitor.due(world.now) == ()
    assert world.monitor.next(world.now) is None
    world.at += 60
    world.monitor.record(target, Outcome(ending=Ending.FAILED, text="timeout"), world.now)
    assert world.monitor.due(world.now) == (target,)


def test_wall_clock_jumps_move_no_check() -> None:
    world = World(service(1))
    world.run(5)
    following = world.monitor.next(world.now)
    assert world.monitor.next(Moment(world.at, WALL - 10**8)) == following


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(Ending), st.floats(0.1, 5)), max_size=60))
def test_memory_stays_flat_and_health_follows_runs(events: list[tuple[int, Ending, float]]) -> None:
    world = World(service(2))
    for index, ending, seconds in events:
        world.answer(subject(index + 1), ending)
        world.run(seconds)
    assert len(world.monitor._queue) <= 4
    for ending, health in ((Ending.FAILED, Health.DOWN), (Ending.PASSED, Health.UP)):
        for number in (1, 2):
            world.answer(subject(number), ending)
        world.run(700)
        assert all(v.health is health for v in world.monitor.verdicts()["web"].values())


def test_what_a_program_prints_each_time_anew_is_no_news() -> None:
    world = World(service(check=replace(CHECK, probe=TRUE)))
    target = world.monitor.target(subject())
    assert target is not None

    def is_news(ending: Ending, text: str) -> bool:
        outcome = Outcome(ending=ending, text=text)
        found = world.monitor.is_news(target, outcome)
        world.monitor.record(target, outcome, world.now)
        return found

    assert is_news(Ending.PASSED, "exit 0: load 0.1")
    assert not is_news(Ending.PASSED, "exit 0: load 0.2")
    assert [is_news(Ending.FAILED, f"exit 1: at {n}") for n in range(5)] == [True] * 3 + [False] * 2
    assert is_news(Ending.FAILED, "timeout")
    assert not is_news(Ending.UNDECIDED, "timeout")
    assert is_news(Ending.UNDECIDED, "not run: no file")


def test_results_are_one_printable_line() -> None:
    text = Outcome(ending=Ending.FAILED, text="a\x1b[31m\n" + "x" * 400).text
    assert text.isprintable()
    assert len(text) == 200
