"""Drains and weights by command: kept apart from the intent, part of everything that is carried out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.engine import Operation, Session
from lbctl.engine.change.facts import YOUNG
from lbctl.engine.inspect.doctor import examine
from lbctl.engine.record import history, overrides, trial, verdicts
from lbctl.errors import ApplyFailed, Damaged, IntentError, Stale, StateUnknown
from lbctl.model import (
    Endpoint,
    Facts,
    Family,
    Health,
    Intent,
    Listener,
    Override,
    Plan,
    Protocol,
    Scheduler,
    Service,
    Verdict,
)
from support.backends import Paper
from support.faults import Effects, MortalHost

TCP80 = Listener(protocol=Protocol.TCP, port=80)
DAY = 24 * 3600


def over(*ports: int, scheduler: Scheduler = Scheduler.ROUND_ROBIN) -> Intent:
    """An intent with one service over these ports."""
    ends = tuple(Endpoint(port=port) for port in ports)
    return Intent(services=(Service(name="web", listeners=(TCP80,), endpoints=ends, scheduler=scheduler),))


class Desk:
    """A host with a history, where a reverter comes up at once."""

    def __init__(self, *ports: int) -> None:
        self.effects = Effects()
        self.host = MortalHost(self.effects)
        self.paper = Paper(self.effects)
        self.host.on_detach = lambda: trial.announce(self.host, *self.host.detached[-1][-2:])
        self.apply(over(*(ports or (1, 2, 3))))

    @property
    def session(self) -> Session:
        return engine.open_session(self.host, installed=[self.paper])

    def plan(self, intent: Intent) -> Plan:
        return engine.plan(self.session, intent)

    def apply(self, intent: Intent) -> None:
        session = self.session
        engine.apply(session, (engine.plan(session, intent),), record=True)

    def drain(self, *names: str, why: str = "") -> Operation:
        return self.do(engine.drain(self.session, "lbctl", names, why=why))

    def activate(self, *names: str) -> Operation:
        return self.do(engine.activate(self.session, "lbctl", names))

    def weigh(self, name: str, weight: int | None) -> Operation:
        return self.do(engine.weigh(self.session, "lbctl", [name], weight))

    def do(self, operation: Operation) -> Operation:
        engine.operate(operation)
        return operation

    def roll_back(self) -> None:
        session = self.session
        way, target = engine.roll_back(session, "lbctl")
        engine.go_back(session, way, target)

    @property
    def overrides(self) -> tuple[str, ...]:
        return tuple(f"{each.endpoint} {each}" for each in overrides.read(self.host, "lbctl"))

    @property
    def slots(self) -> list[str]:
        """The slots of the kernel, of IPv4."""
        held = self.paper.held["lbctl"].items
        return held[0].text.partition(" to ")[2].split() if held else []


def test_draining_and_back_is_one_change_each() -> None:
    desk = Desk()
    operation = desk.drain("web/2", why="deploy")
    assert (desk.slots, operation.doubtful) == (["1", "3"], False)
    assert desk.overrides == ("2 drained by tester since 1970-01-01T00:00:00+00:00 (deploy)",)
    assert [len(engine.entries(desk.host, "lbctl")), history.pending(desk.host, "lbctl")] == [1, None]
    desk.activate("web/2")
    assert (desk.slots, desk.overrides) == (["1", "2", "3"], ())
    assert "lbctl.overrides" not in desk.host.shelf


def test_what_is_drained_already_keeps_its_date_unless_there_is_a_new_reason() -> None:
    desk = Desk()
    desk.drain("web/2", why="deploy")
    desk.host.time = 60
    assert not desk.drain("web/2").changed
    assert not desk.drain("web/2", why="deploy").changed
    desk.drain("web/2", why="disk")
    assert desk.overrides == ("2 drained by tester since 1970-01-01T00:01:00+00:00 (disk)",)


def test_a_weight_and_a_drain_are_ended_apart() -> None:
    desk = Desk()
    desk.weigh("web/1", 2)
    assert sorted(desk.slots) == ["1", "1", "2", "3"]
    desk.drain("web/1")
    assert (desk.slots, desk.overrides) == (
        ["2", "3"],
        ("1 drained, weight 2 by tester since 1970-01-01T00:00:00+00:00",),
    )
    desk.activate("web/1")
    assert sorted(desk.slots) == ["1", "1", "2", "3"]
    desk.drain("web/1")
    desk.weigh("web/1", None)
    assert desk.overrides == ("1 drained by tester since 1970-01-01T00:00:00+00:00",)
    desk.activate("web/1")
    assert (desk.slots, desk.overrides) == (["1", "2", "3"], ())


def test_an_apply_neither_loses_an_override_nor_hides_it() -> None:
    desk = Desk()
    desk.drain("web/2")
    plan = desk.plan(over(1, 2, 3, 4))
    assert plan.effective is not None
    assert [each.endpoint for each in plan.effective.overrides] == ["2"]
    desk.apply(over(1, 2, 3, 4))
    assert (desk.slots, len(desk.overrides)) == (["1", "3", "4"], 1)
    last = engine.entries(desk.host, "lbctl")[-1]
    assert last.intent == over(1, 2, 3, 4)
    assert not desk.plan(over(1, 2, 3, 4)).changed
    assert engine.drift(desk.session, over(1, 2, 3, 4)).in_sync


def test_a_rollback_restores_an_intent_and_never_overrides() -> None:
    desk = Desk()
    desk.apply(over(1, 2, 3, 4))
    desk.drain("web/2")
    desk.roll_back()
    assert (desk.slots, len(desk.overrides)) == (["1", "3"], 1)


def test_an_override_stays_through_a_trial_and_none_is_set_during_one() -> None:
    desk = Desk()
    desk.drain("web/2")
    session = desk.session
    tried = engine.try_out(session, engine.plan(session, over(1, 2, 3, 4)), 60)[0]
    assert desk.slots == ["1", "3", "4"]
    with pytest.raises(Stale, match="a trial of owner"):
        desk.drain("web/1")
    engine.watch(desk.session, "lbctl", tried.ident)
    assert (desk.slots, len(desk.overrides)) == (["1", "3"], 1)


def test_removing_everything_ends_overrides_be_their_record_readable_or_not() -> None:
    desk = Desk()
    desk.drain("web/2")
    engine.remove(desk.session, "lbctl", record=True)
    assert (desk.slots, desk.overrides) == ([], ())
    desk.apply(over(1, 2, 3))
    assert desk.slots == ["1", "2", "3"]
    desk.host.shelf["lbctl.overrides"] = "garbage"
    engine.remove(desk.session, "lbctl", record=True)
    assert "lbctl.overrides" not in desk.host.shelf


def test_an_override_without_its_endpoint_is_kept_for_a_day() -> None:
    desk = Desk()
    desk.drain("web/2")
    desk.host.time = 1000
    desk.apply(over(1, 3))
    assert set(desk.slots) == {"1", "3"}
    plan = desk.plan(over(1, 3))
    assert plan.effective is not None
    assert [each.unused_since for each in plan.effective.unused] == [1000]
    # A rollback within that day finds it in force.
    desk.host.time = 1000 + DAY - 1
    desk.roll_back()
    assert (desk.slots, len(desk.overrides)) == (["1", "3"], 1)
    desk.apply(over(1, 3))
    desk.host.time += DAY
    assert desk.overrides == ()
    desk.apply(over(1, 2, 3))
    assert desk.slots == ["1", "2", "3"]
    assert "lbctl.overrides" not in desk.host.shelf


def test_an_unused_override_can_be_ended() -> None:
    desk = Desk()
    desk.drain("web/2")
    desk.apply(over(1, 3))
    [target] = desk.activate("web/2").targets
    assert (target.endpoint, target.after, desk.overrides) == (None, None, ())


def test_a_service_that_only_failed_endpoints_serve_is_announced() -> None:
    desk = Desk(1, 2, 3)
    down = Verdict(health=Health.DOWN, since=desk.host.time, result="connection refused")
    found = {"web": {("2", family): down for family in Family}}
    session = replace(desk.session, assumed=Facts(verdicts=found, live=True))
    operation = engine.drain(session, "lbctl", ["web/1"])
    assert (dict(operation.failed), operation.plan.changed) == ({}, True)
    operation = engine.drain(session, "lbctl", ["web/1", "web/3"])
    assert dict(operation.failed) == {"web": ("ipv4", "ipv6")}
    assert (dict(operation.emptied), operation.doubtful) == ({}, True)


def test_a_service_without_endpoints_is_announced() -> None:
    desk = Desk(1, 2)
    assert not desk.drain("web/1").doubtful
    operation = engine.drain(desk.session, "lbctl", ["web/2"])
    assert operation.doubtful
    assert dict(operation.emptied) == {"web": ("ipv4", "ipv6")}
    desk.do(operation)
    assert desk.slots == ["-"]
    # Whoever applies another intent then is warned too.
    session = desk.session
    notes = engine.annotate(session, desk.plan(over(1, 2, scheduler=Scheduler.RANDOM))).notes
    assert "web: all endpoints are drained: new connections are refused" in notes
    assert not engine.drain(desk.session, "lbctl", ["web/2"]).doubtful


def test_what_the_kernel_lost_is_restored_and_announced() -> None:
    desk = Desk()
    desk.paper.held.clear()
    operation = engine.drain(desk.session, "lbctl", ["web/2"])
    assert operation.drifted
    desk.do(operation)
    assert set(desk.slots) == {"1", "3"}


def test_what_is_not_applied_cannot_be_drained() -> None:
    desk = Desk()
    with pytest.raises(IntentError, match='service "web" has no applied endpoint "22"') as caught:
        desk.drain("web/22")
    assert caught.value.hint == "one of web/1, web/2, web/3"
    with pytest.raises(IntentError, match='no service "wb" is applied') as caught:
        desk.drain("wb/1")
    assert caught.value.hint == 'did you mean "web"?'
    with pytest.raises(IntentError, match='"web" does not name an endpoint') as caught:
        desk.drain("web")
    assert caught.value.hint == "one of web/1, web/2, web/3"
    with pytest.raises(IntentError, match='no service "2" is applied') as caught:
        desk.drain("2")
    assert caught.value.hint == 'did you mean "web/2"?'
    with pytest.raises(IntentError, match=r'"9".*\n.*"\*"'):
        desk.drain("web/9", "web/1", "web/*")
    assert desk.overrides == ()
    desk.host.shelf.clear()
    with pytest.raises(ApplyFailed, match="has no service applied"):
        desk.drain("web/1")


def test_an_endpoint_goes_by_its_name_or_its_address() -> None:
    desk = Desk()
    ends = (Endpoint(port=9, name="a"), Endpoint(port=8, name="9"), Endpoint(port=7))
    desk.apply(Intent(services=(replace(over(1).services[0], endpoints=ends),)))
    names = ["web/a", "web/9", "web/8", "web/7"]
    assert [each.name for each in engine.drain(desk.session, "lbctl", names).targets] == ["a", "9", "7"]


def test_weights_that_cannot_hold_together_are_refused() -> None:
    desk = Desk()
    with pytest.raises(IntentError, match="need 4098 slots, more than 4096"):
        desk.weigh("web/1", 4096)
    assert (desk.slots, desk.overrides) == (["1", "2", "3"], ())


def test_a_refused_change_leaves_the_overrides_as_they_were() -> None:
    desk = Desk()
    desk.drain("web/1")
    before = dict(desk.host.shelf)
    desk.paper.refusals = 1
    with pytest.raises(ApplyFailed, match="torn"):
        desk.drain("web/2")
    assert (desk.slots, desk.host.shelf) == (["2", "3"], before)


def test_a_full_disk_changes_nothing() -> None:
    desk = Desk()
    desk.host.no_room = "No space left on device"
    with pytest.raises(ApplyFailed, match="No space left"):
        desk.drain("web/2")
    assert (desk.slots, desk.overrides) == (["1", "2", "3"], ())


def test_what_cannot_be_taken_back_is_said() -> None:
    desk = Desk()
    desk.drain("web/1")

    def refuse() -> None:
        desk.host.no_room = "No space left on device"
        raise ApplyFailed("torn")

    desk.effects.before_next("paper", refuse)
    with pytest.raises(StateUnknown, match=r"the override stays in the state: .*No space left"):
        desk.drain("web/2")


def test_who_is_overtaken_is_stale() -> None:
    desk = Desk()
    late = engine.drain(desk.session, "lbctl", ["web/1"])
    desk.drain("web/2")
    with pytest.raises(Stale, match="since the plan"):
        engine.operate(late)
    assert (desk.slots, len(desk.overrides)) == (["1", "3"], 1)


@pytest.mark.parametrize("work", [lambda desk: desk.drain("web/2"), lambda desk: desk.activate("web/1")])
def test_after_a_crash_at_any_step_the_kernel_holds_what_is_on_record(work: Callable[[Desk], object]) -> None:
    whole = 0
    for effects in range(20):
        desk = Desk()
        desk.drain("web/1")
        whole = desk.effects.survives(effects, lambda desk=desk: work(desk))
        engine.recover(desk.session, "lbctl")
        drained = {each.endpoint for each in overrides.read(desk.host, "lbctl")}
        assert desk.slots == [port for port in ("1", "2", "3") if port not in drained]
        assert history.pending(desk.host, "lbctl") is None
        assert not desk.plan(over(1, 2, 3)).changed
        if whole:
            break
    assert whole


def test_a_damaged_record_is_an_error_and_not_an_empty_one() -> None:
    desk = Desk()
    desk.drain("web/2")
    good = desk.host.shelf["lbctl.overrides"]
    record = json.loads(good)
    [one] = record["overrides"]
    bad = [
        "",
        "[]",
        good[:-9],
        good.replace('"drained"', '"drainded"'),
        json.dumps(record | {"format_version": 2}),
        json.dumps(record | {"overrides": [one, one]}),
        *(
            json.dumps(record | {"overrides": [one | change]})
            for change in (
                {"weight": 0},
                {"weight": True},
                {"drained": False},
                {"service": "We\nb"},
                {"who": "\x1b[2J"},
                {"why": "x" * 201},
                {"since": 1e300},
                {"endpoint": "x" * 65},
            )
        ),
    ]
    for text in bad:
        desk.host.shelf["lbctl.overrides"] = text
        with pytest.raises(Damaged, match=r"lbctl\.overrides, is damaged"):
            desk.plan(over(1, 2, 3))
    assert set(desk.slots) == {"1", "3"}


def test_a_record_that_others_can_write_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    desk.drain("web/2")
    monkeypatch.setattr(desk.host, "saved", lambda _name: None)
    with pytest.raises(Damaged, match="other users can write it"):
        overrides.read(desk.host, "lbctl")


def test_no_more_overrides_are_kept_than_are_read() -> None:
    desk = Desk()
    one = Override(service="web", endpoint="1", drained=True, who="root", since=0.0)
    many = [replace(one, endpoint=str(number)) for number in range(overrides.MAX_OVERRIDES + 1)]
    overrides.write(desk.host, "lbctl", many[1:])
    assert len(overrides.read(desk.host, "lbctl")) == overrides.MAX_OVERRIDES
    with pytest.raises(ApplyFailed, match="more than 4096 endpoints"):
        overrides.write(desk.host, "lbctl", many)


def test_a_plan_file_is_stale_once_an_endpoint_is_drained(tmp_path: Path) -> None:
    desk = Desk()
    wanted, path = over(1, 2, 3, 4), tmp_path / "web.plan"
    engine.write_plan(desk.session, desk.plan(wanted), wanted, (), path)
    desk.drain("web/2")
    with pytest.raises(Stale, match='the kernel changed since the plan was made: service "web"'):
        engine.resume(desk.session, engine.read_plan(path))
    desk.activate("web/2")
    session = desk.session
    engine.apply(session, (engine.resume(session, engine.read_plan(path)),), record=True)
    assert desk.slots == ["1", "2", "3", "4"]


def test_an_apply_does_not_overrule_what_was_decided_since_its_plan() -> None:
    desk = Desk()
    session = desk.session
    heavy = replace(over(1, 2, 3).services[0], endpoints=(Endpoint(port=1, weight=2), Endpoint(port=2)))
    plan = engine.plan(session, Intent(services=(heavy,)))
    # No rule changes: the weight is that of the intent that is applied.
    assert not desk.weigh("web/1", 1).plan.changed
    with pytest.raises(Stale, match="drained or activated since the plan"):
        engine.apply(session, (plan,), record=True)
    assert (desk.slots, len(desk.overrides)) == (["1", "2", "3"], 1)


def test_waiting_ends_when_no_connection_is_left_or_the_time_is_over() -> None:
    desk = Desk()
    answers = {"ipv4": "", "ipv6": ""}
    host, session = desk.host, desk.session
    line = (
        "tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=192.0.2.9 sport=5 dport=80 "
        "src=192.0.2.9 dst=192.0.2.1 sport=2 dport=5 [ASSURED] mark=0 use=1\n"
    )
    with pytest.raises(ApplyFailed, match="conntrack"):
        engine.connections_left(session, over(1, 2, 3), {("web", "2")})
    for family in answers:
        host.answer("conntrack", "-L", "-f", family)

    def after(seconds: float, lines: str) -> None:
        host.events.append((host.uptime + seconds, lambda: host.answer("conntrack", "-L", "ipv4", out=lines)))

    seen: list[tuple[int, float]] = []
    host.answer("conntrack", "-L", "ipv4", out=2 * line + line.replace("sport=2", "sport=3"))
    after(2.5, line)
    left = engine.await_drained(
        session, over(1, 2, 3), {("web", "2")}, 5, lambda *now: seen.append((now[0], now[1]))
    )
    assert (left, host.uptime) == (1, 5)
    assert seen == [(2, 5), (2, 4), (2, 3), (1, 2), (1, 1), (1, 0)]
    after(1.5, "")
    assert engine.await_drained(session, over(1, 2, 3), {("web", "2")}, 60) == 0
    assert host.uptime == 7


def test_what_a_cautious_apply_leaves_out_is_no_drift() -> None:
    """The status compares with what --yes applies without a terminal, however old the verdicts are."""
    desk = Desk()
    down = Verdict(health=Health.DOWN, since=desk.host.time, result="connection refused")
    verdicts.write(desk.host, "lbctl", {"web": {("2", family): down for family in Family}})
    desk.host.time += 60
    session = replace(desk.session, cautious=True)
    engine.apply(session, (engine.plan(session, over(1, 2, 3)),), record=True)
    assert set(desk.slots) == {"1", "3"}
    for later in (0, YOUNG, DAY):
        desk.host.time += later
        found = engine.status(desk.session, over(1, 2, 3))
        assert found.drift.in_sync
        assert found.drift.left_out == ("web/2",)
        assert [e.wanted for s in found.services for e in s.endpoints] == [Fraction(1, 2), 0, Fraction(1, 2)]
        assert engine.drift(desk.session, over(1, 2, 3)) == found.drift
        assert desk.plan(over(1, 2, 3)).changed
    # Any other difference is one.
    other = engine.drift(desk.session, over(1, 2, 3, 4))
    assert (other.in_sync, other.left_out) == (False, None)
    desk.apply(over(1, 2, 3))
    found = engine.status(desk.session, over(1, 2, 3))
    assert (found.drift.in_sync, found.drift.left_out, desk.slots) == (True, None, ["1", "2", "3"])


def test_a_decision_about_one_endpoint_brings_back_no_other() -> None:
    desk = Desk()
    down = Verdict(health=Health.DOWN, since=desk.host.time, result="connection refused")
    verdicts.write(desk.host, "lbctl", {"web": {("2", family): down for family in Family}})
    session = replace(desk.session, cautious=True)
    engine.apply(session, (engine.plan(session, over(1, 2, 3)),), record=True)
    for later in (0, YOUNG):
        desk.host.time += later
        session = replace(desk.session, cautious=True)
        operation = engine.weigh(session, "lbctl", ["web/1"], 3)
        assert not operation.drifted
        engine.operate(operation)
        assert set(desk.slots) == {"1", "3"}
        assert engine.status(desk.session, over(1, 2, 3)).drift.left_out == ("web/2",)
        engine.operate(engine.weigh(session, "lbctl", ["web/1"], None))
        assert set(desk.slots) == {"1", "3"}
    # --ignore-health.
    engine.operate(engine.weigh(desk.session, "lbctl", ["web/1"], 3))
    assert set(desk.slots) == {"1", "2", "3"}
    # That is no change by another program, for who asks nobody either.
    desk.host.time -= YOUNG
    cautious = replace(desk.session, cautious=True)
    _, target = engine.roll_back(cautious, "lbctl")
    assert target.number < 3


def test_the_doctor_looks_at_what_is_carried_out() -> None:
    desk = Desk(1, 2)

    def codes() -> list[str]:
        return [each.code for each in examine(desk.host, over(1, 2), installed=[desk.paper]).problems]

    assert "all-drained" not in codes()
    desk.drain("web/1", "web/2")
    assert "all-drained" in codes()
    desk.host.shelf["lbctl.overrides"] = "garbage"
    unseen = examine(desk.host, over(1, 2), installed=[desk.paper]).unseen
    assert "what operators decided about endpoints" in [each.what for each in unseen]
