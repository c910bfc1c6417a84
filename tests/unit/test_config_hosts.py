"""The table [hosts], and what --host makes of it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lbctl.cli import many
from lbctl.cli.intents import read_intent, reading_once
from lbctl.cli.many import destinations
from lbctl.config import dump, loads
from lbctl.errors import IntentError, WrongUsage
from lbctl.host.remote import Destination

INTENT = """schema = 1

[hosts]
lb1 = "admin@lb1.example.net"
lb2 = "[2001:db8::1]:2222"

[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001"]
"""


def test_names_are_kept_and_are_no_part_of_what_is_applied() -> None:
    read = loads(INTENT.encode(), "lbctl.toml")
    assert read.hosts == {"lb1": "admin@lb1.example.net", "lb2": "[2001:db8::1]:2222"}
    assert read == loads(INTENT.replace("lb1.example.net", "elsewhere").encode(), "lbctl.toml")
    assert loads(dump(read).encode(), "lbctl.toml").hosts == read.hosts


@pytest.mark.parametrize(
    "line",
    ['LB = "x"', 'all = "x"', '"a b" = "x"', "lb1 = 1", 'lb1 = ""', 'lb1 = ["x"]', '"-o" = "x"'],
)
def test_what_is_no_name_or_destination_is_refused(line: str) -> None:
    with pytest.raises(IntentError) as caught:
        loads(INTENT.replace('lb1 = "admin@lb1.example.net"', line).encode(), "lbctl.toml")
    assert "hosts" in caught.value.problems[0].message


def test_a_name_stands_for_its_destination_and_all_for_each(tmp_path: Path) -> None:
    path = tmp_path / "lbctl.toml"
    path.write_text(INTENT, encoding="utf-8")
    named = {name: str(each) for name, each in destinations(["lb2", "other"], path).items()}
    assert named == {"lb2": "[2001:db8::1]:2222", "other": "other"}
    assert list(destinations(["all"], path)) == ["lb1", "lb2"]


def test_all_needs_a_table(tmp_path: Path) -> None:
    path = tmp_path / "lbctl.toml"
    path.write_text("schema = 1\n", encoding="utf-8")
    with pytest.raises(WrongUsage, match="hosts"):
        destinations(["all"], path)


def test_a_destination_in_the_table_is_one_of_ssh(tmp_path: Path) -> None:
    path = tmp_path / "lbctl.toml"
    path.write_text(INTENT.replace("admin@lb1.example.net", "-oProxyCommand=reboot"), encoding="utf-8")
    with pytest.raises(WrongUsage, match="destination"):
        destinations(["all"], path)


def test_a_command_uses_what_was_read_for_its_hosts_once(tmp_path: Path) -> None:
    path = tmp_path / "lbctl.toml"
    path.write_text(INTENT, encoding="utf-8")
    with reading_once():
        destinations(["lb2"], path)
        path.write_text(INTENT.replace("web", "changed"), encoding="utf-8")
        assert [[s.name for s in read_intent(path).services] for _ in range(2)] == [["web"], ["changed"]]
    destinations(["lb2"], path)
    path.write_text(INTENT, encoding="utf-8")
    assert [s.name for s in read_intent(path).services] == ["web"]


@pytest.mark.parametrize(
    ("ended", "code", "begun"), [(-signal.SIGKILL, 6, 2), (-signal.SIGINT, 130, 1), (130, 130, 1), (5, 5, 2)]
)
def test_a_command_that_was_killed_left_an_unknown_state(
    monkeypatch: pytest.MonkeyPatch, ended: int, code: int, begun: int
) -> None:
    ran: list[str] = []

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(argv[-1])
        return subprocess.CompletedProcess(argv, ended)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["lbctl", "plan", "--keep-going", "--host=one", "--host=two"])
    hosts = {name: Destination.of(name) for name in ("one", "two")}
    with pytest.raises(typer.Exit) as caught:
        many.on_each(hosts, parallel=1, keep_going=True)
    assert (caught.value.exit_code, ran) == (code, ["--host=one", "--host=two"][:begun])
