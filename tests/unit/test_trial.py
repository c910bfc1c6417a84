"""Trials on a clock that tests set: who reverts, when, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lbctl import engine
from lbctl.config import dump
from lbctl.engine import Session, Trial
from lbctl.engine.record import trial
from lbctl.errors import ApplyFailed, Reverted, Stale, StateUnknown
from lbctl.host import Completed, LocalHost
from lbctl.host.fake import FakeHost
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service
from support.backends import Paper, install
from support.network import Result, run_lbctl

TCP80 = Listener(protocol=Protocol.TCP, port=80)


def over(*ports: int) -> Intent:
    """An intent with one service over these ports."""
    ends = tuple(Endpoint(port=port) for port in ports)
    return Intent(services=(Service(name="web", listeners=(TCP80,), endpoints=ends),))


OLD, NEW = over(1), over(1, 2)


class Desk:
    """A host with a history, where a reverter comes up at once."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.paper = Paper()
        self.apply(OLD)
        self.host.on_detach = lambda: trial.announce(self.host, *self.host.detached[-1][-2:])

    @property
    def session(self) -> Session:
        return engine.open_session(self.host, installed=[self.paper])

    def apply(self, intent: Intent) -> None:
        session = self.session
        engine.apply(session, (engine.plan(session, intent),), record=True)

    def try_out(self, seconds: float = 60) -> Trial:
        session = self.session
        return engine.try_out(session, engine.plan(session, NEW), seconds)[0]

    def watch(self, tried: Trial) -> Trial:
        engine.watch(self.session, "lbctl", tried.ident)
        found = engine.read_trial(self.host, "lbctl")
        assert found is not None
        return found

    @property
    def holds(self) -> Intent | None:
        held = self.paper.held["lbctl"]
        return next((i for i in (OLD, NEW) if self.session.compile(i) == held), None)


def test_who_is_not_confirmed_is_reverted_in_time_and_says_so() -> None:
    desk = Desk()
    tried = desk.try_out()
    assert desk.holds == NEW
    desk.host.events.append((59.8, lambda: desk.holds == NEW or pytest.fail("reverted early")))
    ended = desk.watch(tried)
    assert (desk.holds, ended.state) == (OLD, "reverted")
    assert 60 <= desk.host.uptime < 60.5
    assert "reverted to state 1, of 1970-01-01T00:00:00+00:00" in ended.report
    assert engine.await_end(desk.session, tried) == ended
    assert [e.action for e in engine.entries(desk.host, "lbctl")] == ["apply", "apply", "rollback"]


def test_who_is_confirmed_stays() -> None:
    desk = Desk()
    tried = desk.try_out()
    desk.host.events.append((30, lambda: engine.confirm(desk.host, "lbctl")))
    assert (desk.watch(tried).state, desk.holds) == ("confirmed", NEW)
    assert desk.host.uptime < 31
    assert engine.await_end(desk.session, tried).state == "confirmed"
    with pytest.raises(ApplyFailed, match="no trial"):
        engine.confirm(desk.host, "lbctl")


def test_setting_the_hosts_time_changes_nothing() -> None:
    desk = Desk()
    tried = desk.try_out()
    desk.host.time -= 1_000_000
    desk.host.events.append((1, lambda: setattr(desk.host, "time", 1e9)))
    assert desk.watch(tried).state == "reverted"
    assert 60 <= desk.host.uptime < 60.5


def test_a_trial_of_long_ago_is_no_answer_to_confirm() -> None:
    desk = Desk()
    desk.watch(desk.try_out(7))
    with pytest.raises(Reverted, match="too late"):
        engine.confirm(desk.host, "lbctl")
    for ports in ((8,), (9,)):
        desk.apply(over(*ports))
    with pytest.raises(ApplyFailed, match='no trial of owner "lbctl" is running'):
        engine.confirm(desk.host, "lbctl")


def test_too_late_is_said() -> None:
    desk = Desk()
    tried = desk.try_out()
    desk.host.uptime = 60
    with pytest.raises(Reverted, match="the time of the trial is over"):
        engine.confirm(desk.host, "lbctl")
    desk.watch(tried)
    with pytest.raises(Reverted, match="was not confirmed") as caught:
        engine.confirm(desk.host, "lbctl")
    assert caught.value.exit_code == 8


def test_nothing_is_changed_where_no_reverter_comes_up() -> None:
    desk = Desk()
    desk.host.on_detach = lambda: None
    with pytest.raises(ApplyFailed, match="did not start"):
        desk.try_out()
    assert desk.holds == OLD
    assert engine.read_trial(desk.host, "lbctl") is None


def test_nothing_is_changed_where_a_trial_cannot_be_written_down() -> None:
    desk = Desk()
    desk.host.no_room = "No space left on device"
    with pytest.raises(ApplyFailed, match="No space left"):
        desk.try_out()
    assert (desk.holds, desk.host.detached) == (OLD, [])


def test_a_disk_that_fills_up_during_a_trial_keeps_nothing_from_being_reverted() -> None:
    desk = Desk()
    tried = desk.try_out()

    def confirm_in_vain() -> None:
        with pytest.raises(ApplyFailed, match="No space left"):
            engine.confirm(desk.host, "lbctl")

    desk.host.events.append((1, lambda: setattr(desk.host, "no_room", "No space left on device")))
    desk.host.events.append((2, confirm_in_vain))
    engine.watch(desk.session, "lbctl", tried.ident)
    assert desk.holds == OLD
    assert engine.await_end(desk.session, tried).state == "reverted"


def test_a_refused_change_leaves_no_trial() -> None:
    desk = Desk()
    desk.paper.refusals = 1
    with pytest.raises(ApplyFailed, match="torn"):
        desk.try_out()
    assert desk.holds == OLD
    assert engine.read_trial(desk.host, "lbctl") is None
    desk.apply(NEW)


def test_lbctl_that_dies_before_the_change_leaves_nothing_to_revert() -> None:
    desk = Desk()

    class Killed(BaseException):
        pass

    def die() -> None:
        trial.announce(desk.host, *desk.host.detached[-1][-2:])
        raise Killed

    desk.host.on_detach = die
    with pytest.raises(Killed):
        desk.try_out()
    tried = engine.read_trial(desk.host, "lbctl")
    assert tried is not None
    assert (desk.watch(tried).state, desk.holds) == ("reverted", OLD)


def test_a_reverter_that_is_refused_tries_again() -> None:
    desk = Desk()
    tried = desk.try_out()
    desk.paper.refusals = 3
    assert (desk.watch(tried).state, desk.holds) == ("reverted", OLD)
    desk = Desk()
    tried = desk.try_out()
    desk.paper.refusals = 1000
    ended = desk.watch(tried)
    assert (ended.state, ended.report) == ("failed", "the trial could not be reverted: torn")


def test_who_waits_reverts_where_the_reverter_is_gone() -> None:
    desk = Desk()
    tried = desk.try_out()
    assert engine.await_end(desk.session, tried).state == "reverted"
    assert desk.holds == OLD
    assert desk.host.uptime < 66


def test_during_a_trial_nothing_else_is_applied_but_rollback_ends_it() -> None:
    desk = Desk()
    tried = desk.try_out()
    with pytest.raises(Stale, match="a trial of owner"):
        desk.apply(over(9))
    with pytest.raises(Stale, match="a trial of owner"):
        desk.try_out()
    session = desk.session
    plan, target = engine.roll_back(session, "lbctl")
    engine.apply(session, (plan,), record=True, back_to=target)
    assert (desk.watch(tried).state, desk.holds, desk.host.uptime) == ("reverted", OLD, 0)
    desk.apply(NEW)


def test_a_trial_that_the_host_did_not_survive_is_over() -> None:
    desk = Desk()
    tried = desk.try_out()
    trial.save(desk.host, replace(tried, namespace="before the host started"))
    desk.apply(over(9))
    with pytest.raises(ApplyFailed, match="no trial"):
        engine.confirm(desk.host, "lbctl")


def test_no_trial_without_a_state_to_return_to() -> None:
    desk = Desk()
    desk.host.shelf.clear()
    with pytest.raises(ApplyFailed, match="no state that a trial could return to"):
        desk.try_out()
    desk = Desk()
    desk.paper.held.clear()
    with pytest.raises(Stale, match="differ from the last recorded state"):
        desk.try_out()
    assert desk.host.detached == []


def test_a_damaged_trial_is_none() -> None:
    desk = Desk()
    desk.try_out()
    whole = desk.host.shelf["lbctl.trial"]
    for damaged in ("", "[]", whole[:50], whole.replace("running", "lost"), whole.replace("apply", "remove")):
        desk.host.shelf["lbctl.trial"] = damaged
        found = engine.read_trial(desk.host, "lbctl")
        assert found is None or found.before.intent == OLD


def test_systemd_runs_the_reverter_where_it_runs_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithSystemd(LocalHost):
        ran: list[list[str]]
        code = 0

        def exists(self, path: str) -> bool:
            return path == "/run/systemd/system" or super().exists(path)

        def which(self, program: str) -> str | None:
            return "/usr/bin/systemd-run" if program == "systemd-run" else super().which(program)

        def run(self, argv: Any, *, stdin: str = "") -> Completed:
            self.ran.append(list(argv))
            return Completed(code=self.code, out="", err="")

    host = WithSystemd(tmp_path)
    host.ran = []
    mark = tmp_path / "mark"
    monkeypatch.setenv("PYTHONPATH", "/where/lbctl/is")
    host.detach(["/bin/touch", str(mark)])
    [words] = host.ran
    assert words[-3:] == ["--", "/bin/touch", str(mark)]
    assert words[0] == "/usr/bin/systemd-run"
    assert f"--setenv=LBCTL_STATE_DIR={tmp_path}" in words
    assert "--setenv=PYTHONPATH=/where/lbctl/is" in words
    assert not any("NetworkNamespacePath" in word for word in words)
    monkeypatch.setattr("lbctl.host.local._is_first_network", lambda: False)
    host.detach(["/bin/touch", str(mark)])
    [where] = (word for word in host.ran[1] if "NetworkNamespacePath" in word)
    assert Path(where.rpartition("=")[2]).exists()
    assert not mark.exists()


@pytest.mark.parametrize("time", ["0s", "0.5s", "25h", "60", "soon", "-1s"])
def test_a_trial_has_a_sensible_time(time: str, tmp_path: Path) -> None:
    from support.network import run_lbctl

    assert run_lbctl("apply", "--yes", "--trial", time, "--config", str(tmp_path / "no")).code == 2


class Gone(Desk):
    """A reverter that comes up, and is killed with lbctl before its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.tried = self.try_out(60)
        self.host.uptime += seconds

    @property
    def standing(self) -> str | None:
        found = engine.unsettled(self.host, "lbctl").trial
        return found and str(found.standing)


def test_a_trial_is_seen_to_be_guarded_or_not() -> None:
    desk = Gone(10)
    assert desk.standing == "unguarded"
    with trial.guarding(desk.host, "lbctl"):
        assert desk.standing == "running"
        desk.host.uptime += 60
        assert desk.standing == "reverting"
    assert desk.standing == "abandoned"


def test_the_reverter_guards_as_long_as_the_trial_runs() -> None:
    desk = Desk()
    tried = desk.try_out()
    seen = []
    desk.host.events.append((30, lambda: seen.append(trial.is_guarded(desk.host, "lbctl"))))
    desk.watch(tried)
    assert (seen, trial.is_guarded(desk.host, "lbctl")) == ([True], False)
    assert engine.unsettled(desk.host, "lbctl").trial is None


@pytest.mark.parametrize("seconds", [61, 80, 100_000])
def test_a_trial_whose_reverter_died_is_reverted_by_the_next_change(seconds: float) -> None:
    desk = Gone(seconds)
    assert desk.holds == NEW
    [note] = engine.recover(desk.session, "lbctl")
    assert "not confirmed in time, and is reverted now to state 1" in note
    assert (desk.holds, desk.standing) == (OLD, None)
    assert [e.action for e in engine.entries(desk.host, "lbctl")] == ["apply", "apply", "rollback"]
    assert engine.recover(desk.session, "lbctl") == ()
    with pytest.raises(Reverted, match="was not confirmed"):
        engine.confirm(desk.host, "lbctl")


def test_rollback_goes_back_from_an_abandoned_trial_and_no_further() -> None:
    desk = Gone(61)
    assert engine.recover(desk.session, "lbctl", trials=False) == ()
    way, target = engine.roll_back(desk.session, "lbctl")
    engine.go_back(desk.session, way, target)
    assert (desk.holds, desk.standing) == (OLD, None)


def test_nothing_is_applied_over_an_abandoned_trial_and_the_hint_is_what_works() -> None:
    desk = Gone(61)
    with pytest.raises(Stale, match="has not ended") as caught:
        desk.apply(OLD)
    assert caught.value.hint == "lbctl rollback reverts it"
    assert desk.holds == NEW


def test_a_trial_that_cannot_be_reverted_is_named_until_something_is_changed() -> None:
    desk = Gone(61)
    desk.paper.refusals = 100
    with pytest.raises(StateUnknown, match="not reverted: the trial could not be reverted: torn"):
        engine.recover(desk.session, "lbctl")
    assert (desk.holds, desk.standing) == (NEW, "failed")
    desk.paper.refusals = 0
    engine.recover(desk.session, "lbctl")
    assert (desk.holds, desk.standing) == (NEW, "failed")
    way, target = engine.roll_back(desk.session, "lbctl")
    engine.go_back(desk.session, way, target)
    assert (desk.holds, desk.standing) == (OLD, None)


def test_every_command_names_or_reverts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper = Paper()
    install(monkeypatch, tmp_path, paper)
    config = tmp_path / "lbctl.toml"
    env = {"LBCTL_STATE_DIR": str(tmp_path)}

    def lbctl(*words: str) -> Result:
        return run_lbctl(*words, "--config", str(config), env=env)

    def abandon() -> None:
        host = LocalHost(tmp_path)
        monkeypatch.setattr(LocalHost, "detach", lambda self, argv: trial.announce(self, *argv[-2:]))
        session = engine.open_session(host, installed=[paper])
        tried, _ = engine.try_out(session, engine.plan(session, NEW), 60)
        trial.save(host, replace(tried, deadline=host.clock() - 1))

    config.write_text(dump(OLD))
    assert lbctl("apply", "--yes").code == 0
    abandon()
    for words in (["status"], ["status", "--brief"], ["plan"], ["history"]):
        seen = lbctl(*words, "--output", "json")
        assert (seen.code, seen.json["trial"]["state"]) == (0, "abandoned")
        assert "the process that had to revert it is gone" in seen.err
    problems = lbctl("doctor", "--output", "json").json["problems"]
    assert "trial-unattended" in [problem["code"] for problem in problems]
    assert "reverted now to state 1" in lbctl("apply", "--yes").err
    for words, code in ((["remove", "--yes"], 0), (["confirm"], 8), (["apply", "--yes"], 0)):
        paper.held.clear()
        assert lbctl("apply", "--yes").code == 0
        abandon()
        done = lbctl(*words)
        assert (done.code, "is reverted now to state" in done.err) == (code, True), done.err
    abandon()
    done = lbctl("rollback", "--yes")
    assert (done.code, "Back at state" in done.err) == (0, True), done.err
