"""What becomes of a change that was interrupted: every effect of every command is once the last one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lbctl import engine
from lbctl.engine import Session
from lbctl.engine.inspect.doctor import examine
from lbctl.engine.record import history, trial
from lbctl.errors import Stale, StateUnknown
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service
from support.backends import Paper
from support.faults import Effects, MortalHost


def over(*ports: int) -> Intent:
    """An intent with two services over these ports."""
    listeners = (Listener(protocol=Protocol.TCP, port=port) for port in (80, 81))
    ends = tuple(Endpoint(port=port) for port in ports)
    return Intent(
        services=tuple(Service(name=f"s{at.port}", listeners=(at,), endpoints=ends) for at in listeners)
    )


FIRST, OLD, NEW = over(1), over(1, 2), over(1, 2, 3)


class Desk:
    """A host with two states on record, of which it holds the second."""

    def __init__(self) -> None:
        self.effects = Effects()
        self.host = MortalHost(self.effects)
        self.paper = Paper(self.effects)
        for intent in (FIRST, OLD):
            self.apply(intent)
        self.host.on_detach = lambda: trial.announce(self.host, *self.host.detached[-1][-2:])

    @property
    def session(self) -> Session:
        return engine.open_session(self.host, installed=[self.paper])

    def recover(self) -> tuple[str, ...]:
        return engine.recover(self.session, "lbctl")

    def apply(self, intent: Intent) -> None:
        session = self.session
        engine.apply(session, (engine.plan(session, intent),), record=True)

    def rollback(self) -> None:
        session = self.session
        plan, target = engine.roll_back(session, "lbctl")
        engine.apply(session, (plan,), record=True, back_to=target)

    def remove(self) -> None:
        session = self.session
        engine.remove(session, "lbctl", everywhere=True, record=True)

    def try_out(self) -> None:
        session = self.session
        engine.try_out(session, engine.plan(session, NEW), 60)

    @property
    def holds(self) -> Intent | None:
        held = self.session.observe("lbctl")
        known = (Intent(), FIRST, OLD, NEW)
        return next((i for i in known if set(self.session.compile(i).items) == set(held.items)), None)

    @property
    def on_record(self) -> Intent:
        last = history.last_of(self.host, "lbctl")
        assert last is not None
        return last.intent


def cut_in_half() -> Desk:
    desk = Desk()
    assert not desk.effects.survives(2, lambda: desk.apply(NEW))
    assert desk.holds is None
    return desk


COMMANDS: dict[str, tuple[Callable[[Desk], object], Intent]] = {
    "apply": (lambda desk: desk.apply(NEW), NEW),
    "rollback": (Desk.rollback, FIRST),
    "remove": (Desk.remove, Intent()),
    "trial": (Desk.try_out, NEW),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_at_each_step_is_finished_or_undone(command: str) -> None:
    work, after = COMMANDS[command]
    ends = []
    for effects in range(100):
        desk = Desk()
        if desk.effects.survives(effects, lambda desk=desk: work(desk)):
            break
        between = desk.holds not in {OLD, after}
        was_pending = history.pending(desk.host, "lbctl") is not None
        notes = desk.recover()
        assert (len(notes), history.pending(desk.host, "lbctl")) == (was_pending, None)
        assert desk.on_record == desk.holds
        assert desk.holds == after if between else desk.holds in {OLD, after}
        ends.append(between)
        if command != "trial":
            desk.apply(NEW)
            desk.apply(FIRST)
            desk.rollback()
            assert desk.holds == NEW
    assert {True, False} == set(ends)


def test_a_trial_that_was_cut_at_any_step_is_reverted_to_what_was_before() -> None:
    for effects in range(100):
        desk = Desk()
        if desk.effects.survives(effects, desk.try_out):
            break
        tried = engine.read_trial(desk.host, "lbctl")
        if tried is not None:
            desk.host.uptime = tried.deadline
            engine.watch(desk.session, "lbctl", tried.ident)
        assert (desk.holds, desk.on_record, desk.recover()) == (OLD, OLD, ())
        desk.apply(NEW)
    assert effects > 5


def test_a_trial_that_was_cut_in_half_is_finished_by_who_confirms_it() -> None:
    desk = Desk()
    # The trial twice, who watches it, what is pending, and the rules of the first family.
    assert not desk.effects.survives(5, desk.try_out)
    tried = engine.read_trial(desk.host, "lbctl")
    assert tried is not None
    assert desk.holds is None
    assert "completed now" in desk.recover()[0]
    engine.confirm(desk.host, "lbctl")
    engine.watch(desk.session, "lbctl", tried.ident)
    assert (desk.holds, desk.on_record) == (NEW, NEW)


def test_a_revert_that_is_cut_at_any_step_is_finished() -> None:
    for effects in range(100):
        desk = Desk()
        desk.try_out()
        tried = engine.read_trial(desk.host, "lbctl")
        assert tried is not None
        desk.host.uptime = tried.deadline
        if desk.effects.survives(effects, lambda d=desk, t=tried: engine.watch(d.session, "lbctl", t.ident)):
            break
        engine.await_end(desk.session, tried)
        desk.recover()
        assert (desk.holds, desk.on_record) == (OLD, OLD)
    assert effects > 3


def test_a_repair_that_was_cut_is_finished() -> None:
    desk = Desk()
    desk.paper.held.clear()
    assert not desk.effects.survives(2, lambda: desk.apply(OLD))
    [note] = desk.recover()
    assert "completed now: apply number 2" in note
    assert (desk.holds, [e.number for e in engine.entries(desk.host, "lbctl")]) == (OLD, [1, 2])


def test_what_cannot_be_finished_is_taken_back() -> None:
    desk = cut_in_half()
    desk.paper.refused.add("3")
    [note] = desk.recover()
    assert "reverted now, since it cannot be completed: refused" in note
    assert (desk.holds, desk.on_record) == (OLD, OLD)


def test_what_can_neither_be_finished_nor_taken_back_is_said() -> None:
    desk = cut_in_half()
    desk.paper.refused |= {"2", "3"}
    with pytest.raises(StateUnknown, match="cannot be completed: refused; nor reverted: refused"):
        desk.recover()
    # Nothing is forgotten: it is tried again.
    desk.paper.refused.clear()
    assert "completed now" in desk.recover()[0]


def test_nothing_else_is_done_before_it_is_finished() -> None:
    desk = cut_in_half()
    for work in (lambda: desk.apply(FIRST), desk.try_out):
        with pytest.raises(Stale, match="apply number 3 of owner lbctl was interrupted"):
            work()
    assert desk.host.detached == []
    session = desk.session
    with pytest.raises(Stale):
        engine.apply(session, (engine.plan(session, FIRST),))


def test_a_restart_of_the_host_took_all_of_it() -> None:
    desk = cut_in_half()
    pending = desk.host.shelf["lbctl.pending"]
    desk.host.shelf["lbctl.pending"] = pending.replace('"fake"', '"before"')
    desk.paper.held.clear()
    [note] = desk.recover()
    assert "before this host, or its network namespace, restarted" in note
    assert (desk.holds, desk.on_record) == (Intent(), OLD)


def test_a_backend_that_is_gone_says_nothing_of_it() -> None:
    desk = cut_in_half()
    desk.paper.inexpressible.add("3")
    [note] = desk.recover()
    assert "state unknown" in note
    desk = cut_in_half()
    desk.host.shelf["lbctl.pending"] = desk.host.shelf["lbctl.pending"].replace('"pencil"', '"pen"')
    [note] = desk.recover()
    assert "paper (driver pen) can no longer be used here" in note
    desk.apply(FIRST)


def test_who_looks_is_told_unless_somebody_is_at_work() -> None:
    desk = cut_in_half()
    found = engine.interrupted(desk.host, "lbctl")
    assert found is not None
    assert (found.number, found.action, found.intent) == (3, "apply", NEW)
    problems = examine(desk.host, NEW, installed=[desk.paper]).problems
    [evidence] = [problem.evidence for problem in problems if problem.code == "interrupted-change"]
    assert evidence == "apply number 3, of 1970-01-01T00:00:00+00:00 by tester"
    desk.host.busy.add("lbctl")
    assert engine.interrupted(desk.host, "lbctl") is None
    with pytest.raises(Stale):
        desk.recover()
    desk.host.busy.clear()
    desk.recover()
    assert engine.interrupted(desk.host, "lbctl") is None


def test_a_state_that_was_kept_while_it_was_unknown_is_looked_at_again() -> None:
    desk = Desk()
    desk.paper.blind = True
    with pytest.raises(StateUnknown, match="cannot be read back"):
        desk.apply(NEW)
    [note] = desk.recover()
    assert "already complete" in note
    assert (desk.holds, desk.on_record) == (NEW, NEW)
