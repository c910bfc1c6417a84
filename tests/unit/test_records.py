"""Files of the state that are JSON, but not what was written: a clear line, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbctl import engine
from lbctl.config import dump
from lbctl.engine.record import history, trial
from lbctl.errors import Damaged
from lbctl.host import LocalHost
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service, check_record, read_record
from lbctl_iptables import retire as iptables
from lbctl_nftables import retire as nftables
from support.backends import Paper, install
from support.network import Result, run_lbctl

TCP80 = Listener(protocol=Protocol.TCP, port=80)
#: Values of each type of JSON, and those that only Python has.
ODD: tuple[Any, ...] = (None, True, -1, float("inf"), "x", [1], {"a": 1})


def over(*ports: int) -> Intent:
    """An intent with one service over these ports."""
    ends = tuple(Endpoint(port=port) for port in ports)
    return Intent(services=(Service(name="web", listeners=(TCP80,), endpoints=ends),))


@pytest.mark.parametrize(
    ("shape", "good", "bad", "place"),
    [
        (int, 1, True, "not of type int"),
        (float, 1, "1", "not of type float"),
        (float, 1.5, float("inf"), "not a finite number"),
        (float | None, None, 10**400, "not a finite number"),
        (int | None, None, "x", "not of type int or null"),
        ([str], [], ["a", 1], "[1]: not of type str"),
        ((str, bool), ["a", True], ["a"], "not a list of 2"),
        ({"a": [(str, int)]}, {"a": [["x", 1]]}, {"a": [["x", "y"]]}, "a[0][1]: not of type int"),
        ({"a": int}, {"a": 1}, {}, "missing key 'a'"),
        ({"a": int}, {"a": 1}, {"a": 1, "\x1b": 2}, "unknown key '\\x1b'"),
        ({"a": {"b": int}}, {"a": {"b": 1}}, {"a": []}, "a: not an object"),
    ],
)
def test_a_record_is_checked_by_type(shape: Any, good: Any, bad: Any, place: str) -> None:
    assert check_record(good, shape) == good
    with pytest.raises(Damaged) as caught:
        check_record(bad, shape)
    assert caught.value.message == place


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "\x00", "1e", "9" * 5000])
def test_what_is_no_json_is_damaged(text: str) -> None:
    with pytest.raises(Damaged, match=r"^it is damaged: not JSON$"):
        read_record(text, [str], "it")


def test_the_records_of_rules_that_were_taken_out_are_checked(tmp_path: Path) -> None:
    for removed_rules, good in (
        (nftables.removed_rules, {"tables": [], "objects": []}),
        (iptables.removed_rules, []),
    ):
        assert removed_rules(json.dumps(good)) == ()
        for odd in (*ODD, [[1]], [[["ip", "a", "b"], True, "x"]], {"tables": 1, "objects": []}):
            if odd != good:
                with pytest.raises(Damaged, match="removed rules is damaged"):
                    removed_rules(json.dumps(odd))


def damages(text: str) -> list[str]:
    """The text of a record with each field of its first line replaced by values of other types."""
    head, newline, body = text.partition("\n")
    fields = json.loads(head)
    found = [head[:-2] + newline + body, "[]\n" + body, "null"]
    for name, value in fields.items():
        others = [odd for odd in ODD if odd != value or type(odd) is not type(value)]
        found += [json.dumps({**fields, name: odd}) + newline + body for odd in others]
        found.append(json.dumps({key: each for key, each in fields.items() if key != name}) + newline + body)
    return [*found, json.dumps({**fields, "more": 1}) + newline + body]


def _pending(host: LocalHost) -> tuple[str, str]:
    host.rename("lbctl.000003", "lbctl.pending")
    return "lbctl.pending", host.saved("lbctl.pending") or ""


def _trial(host: LocalHost) -> tuple[str, str]:
    before = engine.entries(host, "lbctl")[0]
    tried = trial.Trial(
        ident="1.1",
        state=history.TrialState.RUNNING,
        deadline=host.clock() - 1,
        namespace=host.namespace(),
        owner="lbctl",
        before=before,
    )
    trial.save(host, tried)
    return "lbctl.trial", host.saved("lbctl.trial") or ""


def _last(host: LocalHost) -> tuple[str, str]:
    return "lbctl.000003", host.saved("lbctl.000003") or ""


@pytest.mark.parametrize("which", [_pending, _trial, _last])
def test_no_damage_of_the_state_ends_a_command_in_a_traceback(
    which: Callable[[LocalHost], tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = Paper()
    install(monkeypatch, tmp_path, paper)
    monkeypatch.setattr("lbctl.host.files.os.fsync", lambda _: None)
    config = tmp_path / "lbctl.toml"
    env = {"LBCTL_STATE_DIR": str(tmp_path)}

    def lbctl(*words: str) -> Result:
        return run_lbctl(*words, "--config", str(config), env=env)

    for number in (1, 2, 3):
        config.write_text(dump(over(*range(1, number + 1))))
        assert lbctl("apply", "--yes").code == 0
    host = LocalHost(tmp_path)
    held = paper.held["lbctl"]
    name, text = which(host)
    config.write_text(dump(over(1)))
    files = {each: host.saved(each) for each in host.saved_names()}
    commands = [["status", "--brief"], ["history"], ["confirm"], ["rollback", "--yes"], ["apply", "--yes"]]
    for number, damage in enumerate(damages(text)):
        for each in {*host.saved_names(), *files}:
            host.save(each, files.get(each))
        host.save(name, damage)
        paper.held["lbctl"] = held
        if which is not _last and number < 3:
            assert f"{name} is damaged and is ignored: " in lbctl("plan").err
        # Every command has its turn, and a change comes last.
        for words in (commands[number % 4], commands[4]):
            done = lbctl(*words)
            assert done.code in {0, 3, 5, 6, 7, 8}, (words, done.err)
        assert not engine.unsettled(host, "lbctl").damaged
