"""Programs that hear of changes of an endpoint's health: in order, bounded, and never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lbctl.agent import notify
from lbctl.agent.health import Subject
from lbctl.agent.journal import Journal, Priority
from lbctl.agent.notify import Notices
from lbctl.config import loads
from lbctl.model import Family, Health, Intent, Verdict

PATIENCE = 60


class Said(Journal):
    """A journal that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str, priority: Priority = Priority.INFO, **fields: str) -> None:
        self.lines.append(message)


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory with only root's directories above it, and one in it that all can write."""
    with TemporaryDirectory(dir="/var/lib") as name:
        Path(name).chmod(0o755)
        Path(name, "said").mkdir()
        Path(name, "said").chmod(0o777)
        yield Path(name)


def service_with(private: Path, script: str, endpoints: int = 2) -> Intent:
    program = private / "changed"
    program.write_text(f"#!/bin/sh\n{script.replace('SAID', str(private / 'said'))}\n")
    program.chmod(0o755)
    targets = ", ".join(f'"10.0.0.{number}:80"' for number in range(1, endpoints + 1))
    return loads(
        f'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = [{targets}]\n'
        f'check = "tcp"\nhealth = {{ notify = ["{program}"] }}\n'
    )


def change(endpoint: int, text: str, health: Health = Health.DOWN) -> tuple[Subject, Verdict]:
    return ("web", f"10.0.0.{endpoint}:80", Family.IPV4), Verdict(health=health, since=0.0, result=text)


def heard(intent: Intent, act: Callable[[Notices], object], done: Callable[[Said], bool]) -> list[str]:
    """What the journal has once `done` is true of it, after `act`."""
    journal = Said()

    async def run() -> None:
        notices = Notices(journal)
        notices.follow(intent)
        act(notices)
        async with asyncio.timeout(PATIENCE):
            while not done(journal):
                await asyncio.sleep(0.01)
        notices.close()

    asyncio.run(run())
    return journal.lines


def lines(private: Path) -> list[str]:
    found = private / "said" / "lines"
    return found.read_text().splitlines() if found.exists() else []


def test_of_many_changes_a_slow_program_hears_the_first_and_the_last(private: Path) -> None:
    intent = service_with(private, 'sleep 0.3; echo "$LBCTL_STATE $LBCTL_REASON" >> SAID/lines')
    changes = [change(1, f"number {count}") for count in range(9)]

    def act(notices: Notices) -> None:
        for each in (*changes, change(1, "well", Health.UP)):
            notices.changed([each])

    assert heard(intent, act, lambda _: len(lines(private)) == 2) == []
    assert lines(private) == ["down number 0", "up well"]


def test_many_endpoints_at_once_are_all_heard_of_but_few_programs_run(private: Path) -> None:
    running = "mkdir SAID/$$; ls -d SAID/[0-9]* | wc -l >> SAID/counts; sleep 0.05; rmdir SAID/$$"
    intent = service_with(private, f'{running}; echo "$LBCTL_ADDRESS" >> SAID/lines', endpoints=60)
    heard(
        intent,
        lambda notices: notices.changed([change(number, "gone") for number in range(1, 61)]),
        lambda _: len(lines(private)) == 60,
    )
    assert {*lines(private)} == {f"10.0.0.{number}" for number in range(1, 61)}
    counts = [int(line) for line in (private / "said" / "counts").read_text().split()]
    assert 1 < max(counts) <= notify.MOST


def test_a_program_that_fails_is_logged_with_what_it_printed(private: Path) -> None:
    intent = service_with(private, "echo 'no route\033[31m'; exit 3")
    said = heard(intent, lambda notices: notices.changed([change(1, "x")]), lambda found: bool(found.lines))
    assert len(said) == 1
    assert said[0].startswith("notify of web/10.0.0.1:80 (ipv4): exit 3: no route")
    assert said[0].isprintable()


def test_a_program_that_others_can_write_is_not_run(private: Path) -> None:
    intent = service_with(private, "echo run >> SAID/lines")
    (private / "changed").chmod(0o777)
    said = heard(intent, lambda notices: notices.changed([change(1, "x")]), lambda found: bool(found.lines))
    assert "not run: " in said[0]
    assert "can be written by other users" in said[0]
    assert lines(private) == []


def test_a_program_that_takes_too_long_is_ended(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "TIMEOUT", 0.2)
    intent = service_with(private, "sleep 60; echo late >> SAID/lines")
    said = heard(intent, lambda notices: notices.changed([change(1, "x")]), lambda found: bool(found.lines))
    assert said == ["notify of web/10.0.0.1:80 (ipv4): ended after 0.2 s: it took too long"]
    assert lines(private) == []


def test_services_without_notify_and_unknown_endpoints_run_nothing(private: Path) -> None:
    intent = service_with(private, "echo run >> SAID/lines")
    elsewhere = (("other", "x", Family.IPV4), change(1, "x")[1])
    heard(intent, lambda notices: notices.changed([elsewhere, change(9, "x")]), lambda _: True)
    assert lines(private) == []
