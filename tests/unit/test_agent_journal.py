"""What the agent writes to the journal and to systemd: whole lines, inert, and never waited for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.agent import journal
from lbctl.agent.journal import Journal, Priority
from lbctl.agent.systemd import Notifier


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that journald, or systemd, reads."""
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(place))
        found.settimeout(10)
        monkeypatch.setattr(journal, "_SOCKET", str(place))
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        yield found


@pytest.fixture
def log(received: socket.socket) -> Iterator[Journal]:
    made = Journal()
    yield made
    made.close()


def test_an_event_has_its_fields(log: Journal, received: socket.socket) -> None:
    log.say("web: 8001 1/3 -> 1/2", Priority.NOTICE, service="web")
    assert received.recv(4096).decode().splitlines() == [
        "MESSAGE=web: 8001 1/3 -> 1/2",
        "PRIORITY=5",
        "SYSLOG_IDENTIFIER=lbctl-agent",
        "LBCTL_SERVICE=web",
    ]


def test_what_an_endpoint_answered_adds_no_field_and_no_line(log: Journal, received: socket.socket) -> None:
    log.say("exit 1: x\nPRIORITY=0\x1b[2J", endpoint="a\nMESSAGE=b")
    lines = received.recv(4096).decode().split("\n")
    assert lines == [
        "MESSAGE=exit 1: x\\nPRIORITY=0\\x1b[2J",
        "PRIORITY=6",
        "SYSLOG_IDENTIFIER=lbctl-agent",
        "LBCTL_ENDPOINT=a\\nMESSAGE=b",
        "",
    ]


def test_a_journal_that_hangs_or_is_gone_stops_nothing(
    log: Journal, received: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(1000):  # more than any queue of datagrams has room for
        log.say("x" * 1000)
    assert capsys.readouterr().err == ""
    received.close()
    log.say("still here")
    assert capsys.readouterr().err == "still here\n"


def test_a_line_that_is_too_long_for_a_datagram_goes_to_stderr(
    log: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    log.say("x" * (8 << 20))
    assert len(capsys.readouterr().err) == (8 << 20) + 1


def test_outside_of_systemd_events_are_lines_of_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    Journal().say("one\ntwo")
    assert capsys.readouterr().err == "one\\ntwo\n"


def test_a_systemd_that_hangs_stops_nothing(received: socket.socket) -> None:
    notifier = Notifier()
    for _ in range(1000):
        notifier.alive()
    assert received.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("seconds", "process", "pulse"),
    [("4000000", None, 2.0), ("4000000", "1", None), ("0", None, None), ("nonsense", None, None)],
)
def test_the_watchdog_is_served_if_it_is_ours(
    monkeypatch: pytest.MonkeyPatch, seconds: str, process: str | None, pulse: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", seconds)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", process)
    assert Notifier().pulse == pulse
