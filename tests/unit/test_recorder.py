"""The log that an agent writes, replayed, leads to what the agent did."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lbctl.agent import recorder
from lbctl.agent.health import Ending, Moment, Outcome, Subject
from lbctl.agent.monitor import Monitor
from lbctl.agent.recorder import Recorder, recorded
from lbctl.agent.replay import replay
from lbctl.config import loads
from lbctl.errors import ApplyFailed
from lbctl.host.fake import FakeHost
from lbctl.model import Facts, Family, Intent, Override, effective

if TYPE_CHECKING:
    from collections.abc import Callable

V4 = Family.IPV4
PLACES = [f"10.0.0.{number}:80" for number in (1, 2, 3)]


def intent(count: int = 3, fall: int = 3) -> Intent:
    targets = ", ".join(f'"{place}"' for place in PLACES[:count])
    return loads(
        f'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = [{targets}]\n'
        f'check = {{ kind = "tcp", fall = {fall}, hold = "3s" }}\nhealth = {{ slow-start = "8s" }}\n'
    )


class Course:
    """A monitor and its recorder on a host in memory, and the shares that the kernel had.

    Unless `slow`, the kernel follows at once.
    """

    def __init__(self, host: FakeHost | None = None, *, slow: bool = False) -> None:
        self.host = host or FakeHost()
        self._slow = slow
        self.monitor = Monitor(random.Random(1))
        self.recorder = Recorder(self.host, "lbctl", self.monitor)
        self.intent = intent()
        self.overrides: tuple[Override, ...] = ()
        serving: set[Subject] = {("web", place, V4) for place in PLACES}
        self.monitor.start(self.intent, self.now, restored={}, serving=serving)
        self.recorder.follow(self.intent, ())
        self.shares: list[dict[str, Fraction]] = []
        self.look()
        self._note()

    @property
    def now(self) -> Moment:
        return Moment(self.host.clock(), self.host.now())

    def wait(self, seconds: float) -> None:
        until = self.host.uptime + seconds
        while (step := self.monitor.next_step(self.now)) is not None and step <= until:
            self.host.time += step - self.host.uptime
            self.host.uptime = step
            self.monitor.steps(self.now)
            self._news()
        self.host.time += until - self.host.uptime
        self.host.uptime = until

    def check(self, number: int, ending: Ending, text: str = "x") -> None:
        if self._slow:
            self.wait(0.001)
        target = self.monitor.target(("web", PLACES[number], V4))
        if target is not None:
            outcome = Outcome(ending=ending, text=text, seconds=0.01)
            self.recorder.learned(target, outcome, self.now)
            self.monitor.record(target, outcome, self.now)
            self._news()

    def follow(self, new: Intent, *drained: int) -> None:
        if not self._slow:
            self.look()
        self.wait(0.001)
        if new != self.intent:
            self.intent = new
            self.monitor.replace(new, self.now)
        self.overrides = tuple(
            Override(service="web", endpoint=PLACES[each], drained=True, who="root", since=1.0)
            for each in drained
        )
        self.recorder.follow(self.intent, self.overrides)
        self.step()

    def look(self) -> None:
        """Take what is known now for the next step."""
        self._known = self.host.uptime, self.monitor.verdicts()

    def step(self) -> None:
        """Have the kernel follow what was known at the last look."""
        self.recorder.stepped(self._known[0])
        self._note()

    def write(self) -> None:
        self.recorder.pending()()

    def begin(self) -> None:
        """Begin another part of the log, in the middle of what is going on."""
        self.wait(0.01)
        self.write()
        self.recorder._gap = True
        self.write()
        self.look()
        self._note()
        self.wait(0.01)

    def replayed(self) -> list[dict[str, Fraction]]:
        return [dict(shift.after) for shift in replay(recorded(self.host, "lbctl"))]

    def _news(self) -> None:
        """Follow what was found, if that changes shares."""
        if not self._slow:
            self.look()
            if self._shares() != self.shares[-1]:
                self.step()

    def _note(self) -> None:
        if not self.shares or self.shares[-1] != self._shares():
            self.shares.append(self._shares())

    def _shares(self) -> dict[str, Fraction]:
        overrides = {each.place: each for each in self.overrides}
        facts = Facts(overrides=overrides, verdicts=self._known[1], live=True)
        return dict(effective(self.intent, facts).intent.services[0].shares(V4))


STEPS = st.one_of(
    st.tuples(st.just("check"), st.integers(0, 2), st.sampled_from(Ending), st.sampled_from("xy")),
    st.tuples(st.just("wait"), st.floats(0.1, 20)),
    st.tuples(st.just("follow"), st.integers(1, 3), st.integers(1, 4), st.sets(st.integers(0, 2))),
    st.tuples(st.just("write")),
    st.tuples(st.just("begin")),
    st.tuples(st.just("look")),
    st.tuples(st.just("step")),
)


@pytest.mark.parametrize("slow", [False, True])
@given(st.lists(STEPS, max_size=60))
def test_a_log_leads_to_the_very_shares(slow: bool, steps: list[tuple[object, ...]]) -> None:
    course = Course(slow=slow)
    course.write()
    for name, *words in steps:
        match name, words:
            case "follow", [int(count), int(fall), set(drained)]:
                course.follow(intent(count, fall), *sorted(drained))
            case _:
                getattr(course, str(name))(*words)
    course.write()
    assert course.replayed() == course.shares


def test_what_came_and_went_between_two_steps_was_never_in_the_kernel() -> None:
    course = Course(slow=True)
    course.write()
    for _ in range(3):
        course.check(0, Ending.FAILED)
    course.look()
    for _ in range(3):
        course.check(1, Ending.FAILED)
    course.step()
    course.wait(60)
    for _ in range(2):
        course.check(0, Ending.PASSED)
    course.wait(60)
    course.look()
    course.step()
    course.write()
    half = Fraction(1, 2)
    found = [[shares[place] for place in PLACES] for shares in course.replayed()]
    assert found == [[Fraction(1, 3)] * 3, [0, half, half], [half, 0, half]]


def test_what_says_nothing_new_is_not_written() -> None:
    course = Course()
    course.write()
    for _ in range(1000):
        course.check(0, Ending.PASSED)
        course.wait(2)
    for _ in range(1000):
        course.check(1, Ending.FAILED)
        course.wait(2)
    course.write()
    assert len(list(recorded(course.host, "lbctl"))) == 1 + 1 + 3 + 1


def test_the_log_is_bounded_and_each_part_stands_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "LIMIT", 8000)
    course = Course()
    for number in range(2000):
        course.check(0, Ending.FAILED if number % 40 < 20 else Ending.PASSED)
        course.wait(2)
        course.write()
    # The end of a slow start is in the log only with the event behind it.
    course.wait(30)
    course.check(0, Ending.PASSED, "the end")
    course.write()
    sizes = [len(text) for name, text in course.host.shelf.items() if name.startswith("lbctl.events")]
    assert len(sizes) == 2
    assert max(sizes) < 9000
    found = course.replayed()
    assert 5 < len(found) < len(course.shares)
    assert found[-1] == course.shares[-1]


def test_another_agent_goes_on_with_the_same_log() -> None:
    first = Course()
    first.write()
    first.wait(1)
    for _ in range(3):
        first.check(0, Ending.FAILED)
    first.write()
    first.host.uptime = 0.0
    second = Course(first.host)
    second.write()
    assert second.replayed()[:2] == first.shares


def test_without_room_it_goes_on_and_says_what_is_known_once_there_is_some() -> None:
    course = Course()
    course.write()
    course.wait(1)
    course.host.no_room = "no space left on device"
    course.check(0, Ending.FAILED)
    with pytest.raises(ApplyFailed, match="no space left"):
        course.write()
    for _ in range(2):
        course.check(0, Ending.FAILED)
    course.host.no_room = None
    course.write()
    assert course.replayed() == course.shares


def test_a_line_that_a_crash_cut_off_is_taken_off() -> None:
    course = Course()
    course.write()
    course.host.shelf["lbctl.events"] += '{"event":"resu'
    again = Course(course.host)
    again.write()
    assert again.replayed() == course.shares


def test_what_waits_for_the_thread_is_written_though_the_agent_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_GATHER", 0.0)
    course, free = Course(), threading.Event()

    async def story() -> None:
        asked = asyncio.Event()
        thread = ThreadPoolExecutor(1)

        async def in_thread(work: Callable[[], object]) -> None:
            asked.set()
            await asyncio.get_running_loop().run_in_executor(thread, work)

        writing = asyncio.create_task(course.recorder.run(in_thread, lambda _: None))
        await asked.wait()
        asked.clear()
        thread.submit(free.wait)
        for _ in range(3):
            course.check(0, Ending.FAILED)
        await asked.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        free.set()
        thread.shutdown(wait=True)

    asyncio.run(story())
    assert course.replayed() == course.shares
    assert len(course.shares) == 2


def test_lines_that_nobody_writes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "WAITING", 1000)
    course = Course()
    course.write()
    course.wait(1)
    for number in range(500):
        course.check(0, Ending.FAILED, f"text {number}")
    course.write()
    assert len(list(recorded(course.host, "lbctl"))) == 2
    assert course.replayed() == course.shares
