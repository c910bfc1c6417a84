"""Problems of many endpoints as a few lines."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from lbctl.cli import app
from lbctl.engine.inspect.annotate import host_notes
from lbctl.engine.inspect.checks import endpoint_marks, service_marks
from lbctl.engine.inspect.grouping import folded, grouped
from lbctl.host.fake import FakeHost
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service, Severity, State
from lbctl.spi import Problem
from support.backends import Paper, install

if TYPE_CHECKING:
    from pathlib import Path

NET = "/proc/thread-self/net"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
FILES = {f"{NET}/tcp": HEAD, f"{NET}/tcp6": HEAD}


def silent(service: str | None, about: str, **changes: Any) -> Problem:
    problem = Problem(
        code="not-listening",
        severity=Severity.ERROR,
        service=service,
        message=f"no process listens on {about}: connections will be refused",
        evidence=f"{about}: nothing",
        fix=f"start {about}",
        about=about,
    )
    return replace(problem, **changes)


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        ((), ""),
        (("8001/tcp",), "8001/tcp"),
        (("8001/tcp", "8002/tcp", "8003/tcp", "8003/udp", "9/tcp"), "8001-8003/tcp, 8003/udp, 9/tcp"),
        (("10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:82"), "10.0.0.1:80-81, 10.0.0.2:82"),
        (("[2001:db8::1]:80", "[2001:db8::1]:81"), "[2001:db8::1]:80-81"),
        (("10.0.0.0/8", "11.0.0.0/8"), "10.0.0.0/8, 11.0.0.0/8"),
        (tuple(f"{n}/tcp" for n in range(2, 100, 2)), ("2/tcp, 4/tcp, 6/tcp, 8/tcp, 10/tcp, 12/tcp, 14/tcp, "
         "16/tcp and 41 more")),
    ],
)  # fmt: skip
def test_folded(texts: tuple[str, ...], text: str) -> None:
    assert folded(texts) == text


def test_one_service() -> None:
    [group] = grouped([silent("web", f"{port}/tcp") for port in range(8001, 8005)])
    whole = group.whole
    assert whole is not None
    assert (whole.service, whole.message) == (
        "web",
        "no process listens on 8001-8004/tcp: connections will be refused",
    )
    assert whole.fix == "start 8001-8004/tcp"
    assert whole.evidence == "8001/tcp: nothing; 8002/tcp: nothing; and 2 more"


def test_many_services() -> None:
    [group] = grouped([silent(f"s{n}", f"{port}/tcp") for n in range(3) for port in (1, 2)])
    assert group.whole is None
    assert group.general.message == "no process listens on these endpoints: connections will be refused"
    assert dict(group.services) == {f"s{n}": ("1/tcp", "2/tcp") for n in range(3)}


def test_what_is_not_the_same() -> None:
    problems = [
        silent("web", "1/tcp"),
        silent("web", "2/tcp", severity=Severity.WARNING),
        silent("web", "3/tcp", code="other"),
        silent("web", "4/tcp", message="4/tcp is slow"),
        silent("web", "", message="no process listens on 1/tcp: connections will be refused"),
        silent(None, ""),
    ]
    assert len(grouped(problems)) == len(problems)
    assert [group.whole for group in grouped(problems)] == problems


def test_a_host_without_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tuple(
        Service(
            name=f"s{n}",
            listeners=(Listener(protocol=Protocol.TCP, port=n),),
            endpoints=tuple(Endpoint(port=10_000 + 4 * n + k) for k in range(4)),
        )
        for n in range(1, 126)
    )
    intent = Intent(services=services)
    marks = endpoint_marks(FakeHost(files=FILES), intent)
    assert (len(marks), set(marks.values())) == (500, {"nothing listens"})
    backend = Paper()
    install(monkeypatch, tmp_path, backend)
    from lbctl import engine

    session = engine.open_session(FakeHost(files=FILES), installed=[backend])
    [note] = host_notes(session, intent)
    assert note == (
        "no process listens on these endpoints (ipv4 and ipv6): connections will be refused: "
        "s1 10004-10007/tcp; s2 10008-10011/tcp; s3 10012-10015/tcp; s4 10016-10019/tcp; "
        "and 121 more services (see lbctl doctor)"
    )


def test_doctor_groups_its_text_and_not_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, Paper())
    path = tmp_path / "many.toml"
    services = "".join(
        f'[[service]]\nname = "s{n}"\nlisten = "{n}/tcp"\nendpoints = ["{60_000 + 4 * n}-{60_003 + 4 * n}"]\n'
        for n in range(1, 101)
    )
    path.write_text(f"schema = 1\n{services}")
    monkeypatch.setattr("lbctl.host.LocalHost.read", lambda _, path: FILES.get(path))
    text = CliRunner().invoke(app, ["doctor", "--config", str(path)]).stdout
    assert text.count("not-listening") == 1
    # What is counted is what stands below.
    assert ": 400 problems of 1 kind, " in text.splitlines()[0]
    assert len(text.splitlines()) < 40
    document = json.loads(
        CliRunner().invoke(app, ["doctor", "--config", str(path), "--output", "json"]).stdout
    )
    silent = [each for each in document["problems"] if each["code"] == "not-listening"]
    assert len(silent) == 400
    assert silent[1]["message"] == (
        "no process listens on 60005/tcp (ipv4 and ipv6): connections will be refused"
    )


def test_services_without_an_endpoint_left() -> None:
    listeners = (Listener(protocol=Protocol.TCP, port=80),)
    drained = Service(name="web", listeners=listeners, endpoints=(Endpoint(port=1, state=State.DRAIN),))
    served = replace(drained, name="api", endpoints=(*drained.endpoints, Endpoint(port=2)))
    backup = replace(drained, name="db", endpoints=(*drained.endpoints, Endpoint(port=2, state=State.BACKUP)))
    assert service_marks(Intent(services=(drained, served, backup))) == {"web": "all endpoints are drained"}
