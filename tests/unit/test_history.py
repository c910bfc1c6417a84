"""The history of applied intents, and rollback through it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lbctl import engine
from lbctl.cli.differences import service_lines
from lbctl.config import dump
from lbctl.engine import Session
from lbctl.engine.record import history
from lbctl.errors import ApplyFailed, IntentError, Stale
from lbctl.host import LocalHost
from lbctl.host.fake import FakeHost
from lbctl.model import Endpoint, Family, Intent, Listener, Protocol, Service, intent_changes
from support.backends import Paper, install
from support.network import run_lbctl

TCP80 = Listener(protocol=Protocol.TCP, port=80)


def over(*ports: int) -> Intent:
    """An intent with one service over these ports."""
    ends = tuple(Endpoint(port=port) for port in ports)
    return Intent(services=(Service(name="web", listeners=(TCP80,), endpoints=ends),))


class Desk:
    def __init__(self, **options: Any) -> None:
        self.host = FakeHost(**options)
        self.paper = Paper()

    @property
    def session(self) -> Session:
        return engine.open_session(self.host, installed=[self.paper])

    def apply(self, intent: Intent) -> tuple[str, ...]:
        session = self.session
        return engine.apply(session, (engine.plan(session, intent),), record=True)

    def remove(self) -> None:
        session = self.session
        engine.remove(session, "lbctl", everywhere=True, record=True)

    def rollback(self, to: int | None = None) -> int:
        session = self.session
        plan, target = engine.roll_back(session, "lbctl", to)
        engine.apply(session, (plan,), record=True, back_to=target)
        return target.number

    @property
    def held(self) -> list[str]:
        lifted = self.paper.lift(self.paper.held.get("lbctl") or self.session.compile(Intent()))
        return [to for each in lifted.services if each.family is Family.IPV4 for to in each.slots]

    @property
    def actions(self) -> list[tuple[int, str, int | None]]:
        return [(e.number, e.action, e.parent) for e in engine.entries(self.host, "lbctl")]


def test_each_state_is_noted_once_with_who_and_when() -> None:
    desk = Desk()
    desk.host.time = 1_000_000_000
    desk.apply(over(1))
    desk.apply(over(1))
    desk.apply(over(1, 2))
    desk.remove()
    desk.remove()
    assert desk.actions == [(1, "apply", 0), (2, "apply", 1), (3, "remove", 2)]
    first = engine.entries(desk.host, "lbctl")[0]
    assert (first.time, first.user) == ("2001-09-09T01:46:40+00:00", "tester")
    assert (first.backend, first.driver, first.services, first.intent) == ("paper", "pencil", 1, over(1))


def test_rollback_goes_back_one_apply_each_time_and_then_refuses() -> None:
    desk = Desk()
    for ports in ((1,), (1, 2), (1, 2, 3)):
        desk.apply(over(*ports))
    found = [(desk.rollback(), desk.held) for _ in range(3)]
    assert found == [(2, ["1", "2"]), (1, ["1"]), (0, [])]
    with pytest.raises(ApplyFailed, match="nothing to roll back to") as caught:
        desk.rollback()
    assert caught.value.exit_code == 5
    desk.apply(over(7))
    assert (desk.rollback(), desk.held) == (6, [])


def test_behind_the_first_state_there_is_none_and_the_others_are_named() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    assert [desk.rollback(), desk.rollback()] == [1, 0]
    with pytest.raises(ApplyFailed, match="number 4 is the host before the first apply") as caught:
        desk.rollback()
    assert "--to 3 returns to another state" in str(caught.value.hint)
    assert (desk.rollback(to=3), desk.held) == (3, ["1"])


def test_rollback_to_any_state_and_on_from_there() -> None:
    desk = Desk()
    for ports in ((1,), (1, 2), (1, 2, 3)):
        desk.apply(over(*ports))
    assert (desk.rollback(to=1), desk.held) == (1, ["1"])
    # Back to where the host was before that, and on to what a step back from there is.
    assert (desk.rollback(to=3), desk.held) == (3, ["1", "2", "3"])
    assert (desk.rollback(), desk.held) == (2, ["1", "2"])
    assert (desk.rollback(to=0), desk.held) == (0, [])
    assert desk.actions[3:] == [
        (4, "rollback", 0),
        (5, "rollback", 2),
        (6, "rollback", 1),
        (7, "rollback", None),
    ]
    with pytest.raises(IntentError, match="number 8 is not in the history") as caught:
        desk.rollback(to=8)
    assert caught.value.hint == "lbctl history lists numbers 1 to 7"


def test_what_a_state_changed_is_held_against_what_held_before_it() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    desk.rollback()
    states = engine.entries(desk.host, "lbctl")
    found = [engine.difference(desk.host, "lbctl", state) for state in states]
    assert [each.before.number for each in found] == [0, 1, 2]
    assert found[0].before.intent == Intent()
    [added] = found[0].services["web"]
    assert (added.key, added.before, added.after) == ("service", None, "web")
    for each, was, will in ((found[1], ("1",), ("1", "2")), (found[2], ("1", "2"), ("1",))):
        [change] = each.services["web"]
        assert (change.key, change.before, change.after) == ("endpoints", was, will)
    del desk.host.shelf["lbctl.000001"]
    with pytest.raises(ApplyFailed, match="the state before number 2 is not on record"):
        engine.difference(desk.host, "lbctl", states[1])


def test_of_many_services_a_few_are_named() -> None:
    one = over(1).services[0]
    many = Intent(services=tuple(replace(one, name=f"s{number}") for number in range(20)))
    [line] = service_lines(intent_changes(Intent(), many))
    assert line == "+ s0, s1, s2, s3, s4, s5, s6, s7 and 12 more"
    changed = Intent(services=tuple(replace(each, affinity=60) for each in many.services))
    lines = list(service_lines(intent_changes(many, changed), most=2))
    assert lines[:2] == ["~ s0", "    affinity  none  →  1m"]
    assert lines[-1] == "and 18 more services"


def test_a_file_that_contradicts_a_rollback_is_noticed() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    assert engine.rolled_back(desk.host, over(1)) is None
    desk.rollback()
    assert engine.rolled_back(desk.host, over(1)) is None
    found = engine.rolled_back(desk.host, over(1, 2))
    assert found is not None
    assert found.number == 3
    desk.apply(over(1, 2))
    assert engine.rolled_back(desk.host, over(1)) is None


def test_the_line_of_damaged_parents_ends() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    text = desk.host.shelf["lbctl.000002"]
    desk.host.shelf["lbctl.000002"] = text.replace('"parent": 1', '"parent": 2')
    last = engine.entries(desk.host, "lbctl")[-1]
    assert [each.number for each in history.line_of(desk.host, "lbctl", last)] == [2]


def test_a_removal_is_taken_back() -> None:
    desk = Desk()
    desk.apply(over(1, 2))
    desk.remove()
    assert (desk.rollback(), desk.held) == (1, ["1", "2"])


def test_nothing_on_record_is_refused() -> None:
    with pytest.raises(ApplyFailed, match="is empty"):
        Desk().rollback()


def test_rules_that_were_there_before_the_history_cannot_be_rolled_back_to() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.host.shelf.clear()
    desk.apply(over(1, 2))
    assert desk.actions == [(1, "apply", None)]
    with pytest.raises(ApplyFailed, match="not on record"):
        desk.rollback()


def test_nothing_is_changed_that_a_full_disk_cannot_note() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.host.no_room = "No space left on device"
    with pytest.raises(ApplyFailed, match=r"nothing was changed, .* No space left on device") as caught:
        desk.apply(over(1, 2))
    assert caught.value.exit_code == 5
    assert (desk.held, desk.actions) == (["1"], [(1, "apply", 0)])
    with pytest.raises(ApplyFailed):
        desk.rollback()
    # There is nothing to do, so that there is nothing to note.
    assert desk.apply(over(1)) == ()
    desk.host.no_room = None
    desk.apply(over(1, 2))
    assert (desk.rollback(), desk.held) == (1, ["1"])


def test_what_holds_but_is_not_on_record_is_noted_as_soon_as_it_can_be() -> None:
    desk = Desk()
    session = desk.session
    engine.apply(session, (engine.plan(session, over(1)),))
    desk.host.no_room = "No space left on device"
    assert (desk.apply(over(1)), desk.actions) == ((), [])
    desk.host.no_room = None
    desk.apply(over(1))
    assert desk.actions == [(1, "apply", None)]


def test_what_the_history_did_not_see_is_not_taken_back() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    session = desk.session
    engine.apply(session, (engine.plan(session, over(3)),))
    with pytest.raises(Stale, match="differ from the last recorded state"):
        desk.rollback()


def test_a_read_only_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").write_text("no folder")
    (tmp_path / "run").mkdir()
    host = LocalHost(tmp_path)
    monkeypatch.setattr(LocalHost, "may_change_network", lambda _: True)
    session = engine.open_session(host, installed=[Paper()])
    monkeypatch.setattr("lbctl.host.local._is_first_network", lambda: True)
    with pytest.raises(ApplyFailed, match=f"cannot write {tmp_path}"):
        engine.apply(session, (engine.plan(session, over(1)),), record=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"8001"', '"8002"').replace('"1"', '"9"'),
        lambda text: text[:40],
        lambda text: "[]\n" + text,
        lambda text: text.replace('"number": 1', '"number": 2'),
        lambda text: text.replace('"user"', '"usr"'),
        lambda _: "",
    ],
)
def test_a_damaged_state_is_not_believed(damage: Any) -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    [first, _] = desk.host.shelf
    desk.host.shelf[first] = damage(desk.host.shelf[first])
    assert [number for number, _, _ in desk.actions] == [2]
    with pytest.raises(ApplyFailed, match="not on record"):
        desk.rollback()


def test_a_state_that_cannot_be_read_is_not_recommended() -> None:
    desk = Desk()
    desk.apply(over(1))
    desk.apply(over(1, 2))
    desk.host.shelf["lbctl.000003"] = desk.host.shelf["lbctl.000002"].replace('version": 1', 'version": 9')
    with pytest.raises(ApplyFailed, match="the record of number 3 is damaged, or of another lbctl") as caught:
        desk.rollback()
    assert "--to 2 returns" in str(caught.value.hint)
    desk.apply(over(1, 2, 3))
    with pytest.raises(ApplyFailed, match="the state before number 4 is not on record") as caught:
        desk.rollback()
    assert "--to 2 returns" in str(caught.value.hint)


def test_old_states_go() -> None:
    desk = Desk()
    for port in range(1, history.KEPT + 3):
        desk.apply(over(port))
    numbers = [number for number, _, _ in desk.actions]
    assert (numbers[0], len(numbers)) == (3, history.KEPT)


def test_the_files_are_for_root_alone_and_others_are_not_believed(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    host.save("lbctl.000001", "text\n")
    [file] = (path for path in tmp_path.rglob("lbctl.*") if path.is_file())
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert (host.saved_names(), host.saved("lbctl.000001")) == (("lbctl.000001",), "text\n")
    file.chmod(0o622)
    assert host.saved("lbctl.000001") is None
    host.save("lbctl.000001", None)
    assert (host.saved_names(), host.saved("lbctl.000001")) == ((), None)


def test_what_a_killed_process_was_writing_goes_with_the_next_write(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    host.save("lbctl.pending", "whole\n")
    [file] = tmp_path.rglob("lbctl.pending")
    # The second one is of a process that lives.
    left = [f".{owner}.pending.{pid}.new" for owner in ("lbctl", "blue") for pid in (4_200_000, 1)]
    for name in left:
        file.with_name(name).write_text("ha")
    host.save("lbctl.pending", "whole again\n")
    host.rename("lbctl.pending", "lbctl.000001")
    assert host.saved_names() == (*sorted(left[1:]), "lbctl.000001")
    assert host.saved("lbctl.000001") == "whole again\n"
    with pytest.raises(ApplyFailed, match="cannot rename"):
        host.rename("lbctl.pending", "lbctl.000002")
    with host.lock("lbctl"):
        host.remember("known", "text")
    [known] = tmp_path.rglob("known.*.known")
    known.with_name(f".{known.name}.4200000.new").write_text("ha")
    host.remember("known", "text")
    assert [path.name for path in known.parent.glob("*known.*")] == [known.name]


def test_who_used_sudo_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "ann")
    assert LocalHost(tmp_path).user() == "ann"
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    assert LocalHost(tmp_path).user() == "4000000"


def test_history_prints_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"LBCTL_STATE_DIR": str(tmp_path)}
    assert "Nothing was applied" in run_lbctl("history", "--owner", "lbctl", env=env).out
    host, session = LocalHost(tmp_path), Desk().session
    monkeypatch.setattr(LocalHost, "user", lambda _: "ann")
    plan = engine.plan(session, over(1))
    entry = history.upcoming(session.host, plan)
    assert entry is not None
    host.save("lbctl.000001", history.to_text(entry))
    [_, row] = run_lbctl("history", "--owner", "lbctl", env=env).out.splitlines()
    assert row.split()[:5] == ["1", "1970-01-01T00:00:00Z", "tester", "apply", "paper"]
    document = json.loads(run_lbctl("history", "--owner", "lbctl", "--output", "json", env=env).out)
    assert document["history"][0]["digest"] == entry.digest
    assert document["owner"] == "lbctl"


def test_a_program_leaves_no_history_unless_it_asks_for_it() -> None:
    desk = Desk()
    session = desk.session
    engine.apply(session, (engine.plan(session, over(1)),))
    assert desk.actions == []
    with pytest.raises(ApplyFailed, match="history of owner"):
        desk.rollback()


def test_the_name_of_a_user_is_shown_inert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.host.local.os.getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "\x1b[31mx\nFAKE  line\u202e")
    install(monkeypatch, tmp_path, Paper())
    config = tmp_path / "lbctl.toml"
    env = {"LBCTL_STATE_DIR": str(tmp_path)}
    config.write_text(dump(over(1)))
    assert run_lbctl("apply", "--yes", "--config", str(config), env=env).code == 0
    listed = run_lbctl("history", "--config", str(config), env=env)
    assert "\\x1b[31mx\\nFAKE  line\\u202e" in listed.out
    assert len(listed.out.splitlines()) == 2
    assert not {"\x1b", "\u202e"} & set(listed.out)
    # What was interrupted is named with the user too.
    host = LocalHost(tmp_path)
    host.rename("lbctl.000001", "lbctl.pending")
    for words in (["history"], ["apply", "--yes"]):
        said = run_lbctl(*words, "--config", str(config), env=env).err
        assert "Interrupted" in said
        assert "\\x1b[31mx\\nFAKE" in said
        assert "\x1b" not in said


def test_the_intent_file_is_named_by_what_changes_or_would_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, Paper())
    monkeypatch.chdir(tmp_path)
    env = {"LBCTL_STATE_DIR": str(tmp_path)}
    Path("lbctl.toml").write_text(dump(over(1)))
    for words in (
        ["plan", "-o", "kept"],
        ["apply", "--yes"],
        ["confirm"],
        ["rollback", "--yes"],
        ["remove", "--yes"],
    ):
        assert run_lbctl(*words, env=env).err.startswith("Intent: ./lbctl.toml\n"), words
    assert run_lbctl("plan", "--config", str(tmp_path / "lbctl.toml"), env=env).err.startswith(
        f"Intent: {tmp_path}/lbctl.toml\n"
    )
    assert f"Intent: {tmp_path}/lbctl.toml" in run_lbctl("apply", "kept", "--yes", env=env).err
    assert "Intent" not in run_lbctl("remove", "--yes", "--owner", "lbctl", env=env).err
    parts = tuple(Path(f"/etc/lbctl/conf.d/{name}.toml") for name in "abcdef")
    monkeypatch.setattr("lbctl.config.find", lambda *_: parts)
    said = run_lbctl("plan", env=env).err.splitlines()[0]
    assert said == f"Intent: {parts[0]}, {parts[1]}, {parts[2]}, 3 more"


def test_an_intent_on_record_is_printed_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, Paper())
    monkeypatch.chdir(tmp_path)
    env = {"LBCTL_STATE_DIR": str(tmp_path)}
    for ports in ((1,), (1, 2)):
        Path("lbctl.toml").write_text(dump(over(*ports)))
        assert run_lbctl("apply", "--yes", env=env).code == 0
    one = run_lbctl("history", "1", env=env)
    assert (one.out, one.err.startswith("Apply number 1, of ")) == (dump(over(1)), True)
    assert run_lbctl("history", "1", "--output", "json", env=env).json["history"][0]["intent"] == dump(
        over(1)
    )
    exported = run_lbctl("history", "--export", env=env).json["history"]
    assert [each["intent"] for each in exported] == [dump(over(1)), dump(over(1, 2))]
    assert "intent" not in run_lbctl("history", "--output", "json", env=env).json["history"][0]
    shown = run_lbctl("history", "--diff", env=env).out.splitlines()
    assert shown[0].startswith("Apply number 2, of ")
    assert shown[0].endswith(", compared with number 1:")
    assert shown[1:] == ["~ web", "    endpoints  1  →  1-2"]
    assert run_lbctl("history", "--diff", "1", env=env).out.splitlines()[1:] == ["+ web"]
    document = run_lbctl("history", "2", "--diff", "--output", "json", env=env).json["diff"]
    [change] = document["services"][0]["changes"]
    assert (document["before"], change["before"], change["after"]) == (1, ["1"], ["1", "2"])
    for words in (["history", "9"], ["history", "1", "--export"], ["rollback", "--to", "9"]):
        assert run_lbctl(*words, env=env).code == 2
    # The file then contradicts what holds: the rollback says so, and what would undo it too.
    back = run_lbctl("rollback", "--to", "1", "--yes", env=env)
    said = "lbctl.toml still differs; lbctl apply would undo this rollback:\n~ web\n    endpoints  1  →"
    assert said in back.err
    plan = run_lbctl("plan", "--output", "json", env=env)
    assert plan.json["rolled_back"]["number"] == 3
    assert run_lbctl("status", "--output", "json", env=env).json["rolled_back"]["number"] == 3
    for words in (["status"], ["plan"], ["apply", "--yes"]):
        said = run_lbctl(*words, env=env).err
        assert "The last change was rollback number 3, of " in said
        assert "The intent file differs: applying it undoes that." in said
    assert run_lbctl("plan", "--output", "json", env=env).json["rolled_back"] is None
