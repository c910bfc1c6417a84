"""The text of a status: what needs attention comes first, and nothing is wider than the terminal."""

from dataclasses import replace
from fractions import Fraction
from os import terminal_size
from typing import Any

import pytest

from lbctl.cli.status_text import Line, agent_line, lines, shortened, source_lines, sources_of
from lbctl.cli.watch import new_rates, note, picture, sparkline
from lbctl.engine import Drift, EndpointStatus, FamilyStatus, ServiceStatus, Status
from lbctl.engine.inspect.sources import waiting_lines
from lbctl.model import (
    Action,
    Checked,
    Effective,
    Facts,
    Family,
    Health,
    Intent,
    Override,
    Reason,
    ServiceChange,
    State,
    Verdict,
    effective,
)
from support.agent import status_document
from support.desk import read_intent
from support.network import service

SYNC = Drift(backend="paper", driver="pencil", changes=(), services=(), elsewhere=())
LOST = Drift(
    backend="paper",
    driver="pencil",
    changes=(),
    services=tuple(ServiceChange(name=f"s{n}", action=Action.ADD) for n in range(30)),
    elsewhere=("another",),
)
DRAINED = tuple(
    Override(service="web", endpoint=f"800{n}", drained=True, who="root", since=0, why="w" * 60)
    for n in range(3)
)


def own(share: int, connections: int) -> FamilyStatus:
    """The same wanted and actual share, in thirds."""
    return FamilyStatus(
        wanted=Fraction(share, 3),
        by_weight=Fraction(1, 3),
        actual=Fraction(share, 3),
        connections=connections,
        established=0,
        packets=connections,
        bytes=60 * connections,
    )


def endpoint(to: str, connections: int = 0, *, name: str = "", mark: str = "", **more: Any) -> EndpointStatus:
    reason = more.pop("reason", Reason(state=State.ACTIVE, weight=1))
    families = more.pop("families", dict.fromkeys(Family, own(1, connections)))
    return EndpointStatus(
        name=name or to, to=to, state=State.ACTIVE, weight=1, reason=reason, mark=mark, families=families
    )


def status(*endpoints: EndpointStatus, drift: Drift = SYNC, services: int = 1, **more: Any) -> Status:
    every = tuple(
        ServiceStatus(
            name="web" if not number else f"web-{number}",
            listen=more.get("listen", ("80/tcp",)),
            scheduler="round-robin",
            slots=(3, 3),
            deviation=Fraction(0),
            since=more.get("since"),
            endpoints=endpoints,
        )
        for number in range(services)
    )
    intent = read_intent(service("web", "80/tcp", "8000", "8001", "8002"))
    return Status(
        drift=drift,
        effective=more.get("effective", Effective(intent=intent, file=intent, known=intent)),
        marks=more.get("marks", {}),
        stores=(),
        services=every,
        failing=more.get("failing", ()),
    )


def text(found: Status, columns: int = 80, *, wrap: bool = True) -> list[str]:
    return [line.text for line in lines(found.drift, found, columns, wrap=wrap)]


def test_all_that_needs_attention_stands_in_the_first_ten_lines() -> None:
    down = Verdict(health=Health.DOWN, since=0, result="http 503 " * 8, count=3)
    reason = Reason(state=State.ACTIVE, weight=1, checked=(Checked(family=Family.IPV4, verdict=down),))
    marked = [endpoint(f"9{n:03}", mark="nothing listens", reason=reason) for n in range(9)]
    failing = tuple(f"web/{each.name} {reason}" for each in marked)
    overridden = effective(
        read_intent(service("web", "80/tcp", "8000", "8001", "8002")),
        Facts(overrides={each.place: each for each in DRAINED}),
    )
    found = status(*marked, drift=LOST, effective=overridden, failing=failing)
    agent = Line("agent: running since 2026-01-01T00:00:00+00:00; 9 of 9 checks failing")
    # The line of a trial comes before these.
    first = [line.text for line in lines(found.drift, found, 80, wrap=True, agent=agent)][:9]
    assert max(map(len, first)) <= 80 + len(" (and 30 more)")
    shown = "\n".join(first)
    for wanted in (
        "NOT in sync",
        "another also holds rules of this owner, which balance the same connections (and 30 more)",
        "nothing listens: web/9000, web/9001, web/9002, web/9003 and 5 more",
        "web/9000 down: http 503",
        "Operator: web/8000 drained by root",
    ):
        assert wanted.split(" (and")[0][:60] in shown, wanted


def test_what_the_last_agent_left_is_said() -> None:
    def left(*names: str) -> list[str]:
        return text(status(endpoint("8001"), drift=replace(SYNC, left_out=names)), wrap=False)[:3]

    head = "paper (driver pencil), in sync with what was applied last, not with the whole intent"
    assert left("web/8002") == [
        head,
        "Attention:",
        "  left out since the last agent found them down: web/8002; lbctl apply --ignore-health adds them",
    ]
    assert (
        left()[2] == "  the shares are those that the last agent left: lbctl apply sets those of the intent"
    )
    assert text(status(endpoint("8001")))[0] == "paper (driver pencil), in sync with the intent"


def test_one_kind_has_more_lines_and_programs_find_whole_ones() -> None:
    found = status(endpoint("8001"), drift=LOST)
    shown = text(found, wrap=False)
    assert shown[1:4] == [
        "Attention:",
        "  another also holds rules of this owner, which balance the same connections",
        "  s0 is missing",
    ]
    assert "  s18 is missing (and 11 more)" in shown


@pytest.mark.parametrize("columns", [72, 80, 99, 100, 132])
def test_no_table_is_wider_than_the_terminal(columns: int) -> None:
    split = {family: own(n, 10**9) for n, family in enumerate(Family, 1)}
    for endpoints in (
        [endpoint("8001", 7, mark="listens on loopback only"), endpoint("8002", 7)],
        [
            endpoint(f"[2001:db8:1111:2222:3333:4444:5555:{n}]:65535", name="a-long-name" * 5)
            for n in range(9)
        ],
        [endpoint("10.0.0.1:80", families=split, mark="nothing listens")],
    ):
        listen = tuple(f"192.0.2.{n}:80/tcp" for n in range(20))
        shown = text(status(*endpoints, listen=listen, since="2026-01-01T00:00:00+00:00"), columns)
        assert max(map(len, shown)) <= columns
        heads = next(line for line in shown if line.startswith("  endpoint"))
        assert ("packets" in heads) <= (columns >= 100)
        # The port tells endpoints of one host apart.
        assert all("80" in line or "65535" in line for line in shown[shown.index(heads) + 1 :])


def test_a_mark_stands_in_the_row_where_there_is_room() -> None:
    found = status(endpoint("8001", mark="nothing listens"))
    assert text(found, 100)[-1].startswith("  8001      active, nothing listens ")
    assert text(found, 70)[-1].startswith("  8001      active ! ")
    assert "  nothing listens: web/8001" in text(found, 70)


def test_shortened() -> None:
    assert [shortened("abcdefgh", most) for most in (8, 7, 4)] == ["abcdefgh", "abc…fgh", "a…gh"]


def screen(found: Status, columns: int, height: int, **more: Any) -> list[Line]:
    return picture(
        time="12:00:00",
        drift=found.drift,
        status=found,
        rates=new_rates(),
        size=terminal_size((columns, height)),
        **more,
    )


def test_a_screen_has_the_line_about_the_agent() -> None:
    line = Line("agent: running since 2026-01-01T00:00:00+00:00; 1 of 3 checks failing")
    shown = screen(status(endpoint("8001")), 80, 24, agent=line)
    assert shown[1].text.endswith("in sync with the intent")
    assert shown[2] == line


def test_rates_and_sparklines() -> None:
    rates = new_rates()
    for clock, connections in ((10.0, 0), (11.0, 4), (13.0, 12), (14.0, 2)):
        note(rates, clock, status(endpoint("8001", connections)))
    # Both families; and rules that were written anew took nothing away.
    assert rates.of(("web", "8001", "")) == [8.0, 8.0, 0.0]
    assert rates.of(("web", "8002", "")) == [0.0, 0.0, 0.0]
    assert sparkline([0, 1, 4, 8], 8) == "▁▂▅█"
    assert sparkline([0, 0], 0) == "▁▁"


@pytest.mark.parametrize(
    ("height", "ending"),
    [
        (23, "… 37 more services"),
        (19, "… 38 more services"),
        (16, "… 1 more line, 38 more services"),
        (400, ""),
    ],
)
def test_a_screen_is_cut_to_its_height(height: int, ending: str) -> None:
    found = status(*[endpoint(f"800{n}", mark="nothing listens") for n in range(3)], services=40)
    shown = screen(found, 80, height)
    assert len(shown) <= height
    assert shown[0].text.startswith("12:00:00")
    assert shown[1].text == "paper (driver pencil), in sync with the intent"
    if ending:
        assert shown[-1].text == ending
    else:
        assert "…" not in shown[-1].text
    assert max(len(line.text) for line in shown) <= 80


def test_a_tiny_screen_shows_what_it_can() -> None:
    found = status(endpoint("8001"), drift=LOST, services=3)
    shown = screen(found, 10, 2)
    assert [line.text for line in shown] == ["12:00:00 …", "paper (dr…"]
    assert Line("a", "dim").styled(lambda text, *names: f"{names}{text}") == "('dim',)a"  # type: ignore[arg-type]


def test_a_source_that_fails_is_among_the_first_lines_with_its_age() -> None:
    agent = status_document()["agent"]
    agent["problems"], agent["notice"] = [], None
    good: Any = {"service": "web", "kind": "dns", "name": "x.test", "endpoints": 2, "age": 1.5, "error": None}
    lost = good | {"service": "api", "age": 754.2, "error": "no\x1b[2J answer", "endpoints": 1}
    never = good | {"service": "new", "kind": "consul", "age": None, "error": "refused", "endpoints": 0}
    agent["sources"] = [good, lost, never]
    found = status(endpoint("8001"))
    line = agent_line(agent, Intent())
    own = {"sources": source_lines(agent), "sources_of": sources_of(agent)}
    shown = [each.text for each in lines(SYNC, found, 80, wrap=False, agent=line, **own)]
    assert "2 of 3 sources failing" in shown[1]
    assert shown[2:5] == [
        "Attention:",
        r"  api: source dns x.test: no\x1b[2J answer; the last good answer (1 endpoint, 12m ago) is kept",
        "  new: source consul x.test: refused; there is no good answer so far",
    ]
    # And each under the name of its service.
    place = next(n for n, text in enumerate(shown) if text.startswith("web  "))
    assert shown[place + 1] == "  source dns x.test: 2 endpoints, 1s ago"
    assert sources_of(agent)["api"] == "source dns x.test: 1 endpoint, 12m ago, failing"
    assert sources_of(agent)["new"] == "source consul x.test: no answer yet, failing"
    drawn = screen(found, 200, 40, agent=line, sources=source_lines(agent))
    assert [each.text for each in drawn][4:6] == shown[3:5]


def test_a_service_that_waits_for_its_source_is_named_once() -> None:
    intent = read_intent(service("web", "80/tcp") + '[service.discover]\nsource = "consul"\nname = "api"\n')
    waits = effective(intent, Facts())
    assert [each.name for each in waits.waiting] == ["web"]
    found = replace(status(endpoint("8001")), waiting=tuple(waiting_lines(waits)))
    line = "  web is not in the rules: it waits for an answer of its source, consul api"
    assert line in [each.text for each in lines(SYNC, found, 80, wrap=False)]
    failing = ["web: source consul api: refused; there is no good answer so far"]
    shown = [each.text for each in lines(SYNC, found, 80, wrap=False, sources=failing)]
    assert line not in shown
    assert f"  {failing[0]}" in shown


def test_without_an_agent_it_is_said_that_no_source_is_asked() -> None:
    intent = read_intent(service("web", "80/tcp") + '[service.discover]\nsource = "consul"\nname = "api"\n')
    line = agent_line(None, intent)
    assert line is not None
    assert line.text == "no agent runs: no source is asked, see lbctl agent"
