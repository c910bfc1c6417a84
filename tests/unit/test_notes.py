"""What a plan says in words beside its changes: where it comes from, and where it is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from lbctl import engine
from lbctl.cli import app
from lbctl.host.fake import FakeHost
from lbctl.model import (
    Action,
    Change,
    Endpoint,
    Intent,
    Item,
    Listener,
    Plan,
    Program,
    Protocol,
    Service,
    ServiceChange,
)
from lbctl_iptables import advice
from lbctl_iptables.observe import observe
from support.backends import Paper, install

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.host import Host

WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=(Endpoint(port=8001), Endpoint(port=8002)),
)
PLAIN = replace(WEB, name="plain")
FILE = """schema = 1
[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
"""


class Wordy(Paper):
    """A backend with something to say."""

    asked = 0

    def notes(self, host: Host, plan: Plan) -> tuple[str, ...]:
        self.asked += 1
        assert plan.intent is not None
        return (f"{plan.driver} has {len(plan.intent.services)} services to write down.", "Pencils break.")


def test_notes_come_with_changes_only() -> None:
    wordy, host = Wordy(), FakeHost()
    session = engine.open_session(host, installed=[wordy])
    made = engine.plan(session, Intent(services=(WEB,)))
    assert made.notes == ("pencil has 1 services to write down.", "Pencils break.")
    engine.apply(session, (made,))
    assert engine.plan(session, Intent(services=(WEB,))).notes == ()
    assert wordy.asked == 1
    assert [p.notes[0] for _, p in engine.removal(session, "lbctl", everywhere=True)] == [
        "pencil has 0 services to write down."
    ]
    assert engine.plan(engine.open_session(host, installed=[Paper()]), Intent(services=(WEB,))).notes == ()


def test_notes_are_shown_with_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, Wordy())
    path = tmp_path / "lbctl.toml"
    path.write_text(FILE)
    for command in (["plan"], ["apply", "--yes"], ["remove", "--yes"]):
        words = [*command, "--config", str(path)]
        if command[0] == "plan":
            document = json.loads(CliRunner().invoke(app, [*words, "--output", "json"]).stdout)
            assert document["notes"][:2] == ["pencil has 1 services to write down.", "Pencils break."]
        text = CliRunner().invoke(app, words).stdout
        assert "\n\nNote: pencil has " in text
        assert "\n\nNote: Pencils break.\n" in text


def plan(
    driver: str, *words: str, services: tuple[str, ...] = ("web",), host: FakeHost | None = None
) -> Plan:
    """A plan of iptables that writes a chain in some families, of a host or of none."""
    items = tuple(Item((word, "chain", "nat", "LBCTL-web"), "", "web") for word in words)
    return Plan(
        backend="iptables",
        driver=driver,
        before=observe(host, driver, "lbctl") if host else Program("lbctl"),
        after=Program("lbctl", items),
        changes=tuple(Change(None, item) for item in items),
        services=tuple(ServiceChange(name=name, action=Action.ADD) for name in services),
    )


NTH = "-m statistic --mode nth --every"
OWN = f"[0:0] -A LBCTL-web {NTH} 2 --packet 0 -j REDIRECT --to-ports 8001\n"
OTHERS = (
    f"[9:540] -A OUTPUT -p tcp {NTH} 3 --packet 0 -j REDIRECT --to-ports 81\n"
    # Another owner is another: its turn is not carried over.
    f"[0:0] -A LBCTL.blue.web {NTH} 2 --packet 0 -j REDIRECT --to-ports 8001\n"
)
SILENT = (
    '[0:0] -A OUTPUT -m comment --comment "every --mode nth" -j ACCEPT\n'
    "[0:0] -A OUTPUT -m statistic --mode random --probability 0.5 -j ACCEPT\n"
)


def legacy(tables: str = "nat", **dumps: str) -> FakeHost:
    files = {f"/proc/thread-self/net/{each}_tables_names": f"{tables}\n" for each in ("ip", "ip6")}
    host = FakeHost(files=files)
    for word in ("iptables", "ip6tables"):
        rules = dumps.get(word, "")
        host.answer(
            f"{word}-legacy-save", out=f"*nat\n:PREROUTING ACCEPT [0:0]\n:LBCTL-web - [0:0]\n{rules}COMMIT\n"
        )
    return host


def restarts(host: FakeHost, *words: str) -> tuple[str, ...]:
    return advice.notes(host, plan("legacy", *words, host=host))


@pytest.mark.parametrize(
    ("rules", "whose"),
    [
        (OWN + OTHERS + SILENT, "those of 2 foreign rules start over."),
        (OWN + OTHERS.splitlines(keepends=True)[0], "those of 1 foreign rule start over."),
        (OWN + SILENT, None),
    ],
)
def test_counters_of_others_start_over_in_a_legacy_table(rules: str, whose: str | None) -> None:
    notes = restarts(legacy(iptables=rules), "iptables")
    resets = "any change of iptables resets all nth counters of the table"
    expected = f"{resets}: those of lbctl are carried over, {whose}"
    assert notes == ((expected,) if whose else ())


def test_only_tables_that_are_written_start_over() -> None:
    assert restarts(legacy(ip6tables=OTHERS), "iptables") == ()
    both = restarts(legacy(iptables=OTHERS, ip6tables=OTHERS), "iptables", "ip6tables")
    assert [note.split(" resets ")[0] for note in both] == [
        "any change of iptables",
        "any change of ip6tables",
    ]
    # Reading a table that is not there yet would make it.
    host = legacy(tables="", iptables=OTHERS)
    assert restarts(host, "iptables") == ()
    assert host.ran == []
    # A ladder in a table that is not written goes on.
    assert restarts(legacy(iptables=f"COMMIT\n*mangle\n{OTHERS}"), "iptables") == ()


def test_a_plan_reads_each_family_once() -> None:
    host = legacy(iptables=OTHERS, ip6tables=OTHERS)
    assert len(restarts(host, "iptables", "ip6tables")) == 2
    assert [ran.program for ran in host.ran] == ["iptables-legacy-save", "ip6tables-legacy-save"]


def test_the_other_flavour_keeps_counters() -> None:
    host = FakeHost()
    assert advice.notes(host, plan("nf_tables", "iptables")) == ()
    assert host.ran == []


STICKY = Intent(services=(replace(WEB, affinity=60), replace(WEB, name="api", affinity=9), PLAIN))


def short_lists(files: dict[str, str], *services: str) -> tuple[str, ...]:
    return advice.notes(
        FakeHost(files=files), replace(plan("nf_tables", "iptables", services=services), intent=STICKY)
    )


def test_clients_that_the_kernel_forgets() -> None:
    (note,) = short_lists({advice.LIST_SIZE: "100\n"}, "web", "api", "plain")
    assert note.startswith(
        "affinity of web, api: the kernel stores 100 clients of each endpoint, other clients are balanced"
    )
    assert "xt_recent.ip_list_tot=65536" in note
    # Not loaded yet.
    (note,) = short_lists({}, "api")
    assert note.startswith("affinity of api: the kernel stores 100 clients of each endpoint (unless")


@pytest.mark.parametrize(
    ("size", "services"), [("65536", "web"), ("100000", "web"), ("100", "plain"), ("100", "x")]
)
def test_no_word_where_the_kernel_remembers_enough(size: str, services: str) -> None:
    assert short_lists({advice.LIST_SIZE: f"{size}\n"}, services) == ()
