"""What endpoints took since their service changed, with counters that a change may lose."""

from dataclasses import replace

import pytest

from lbctl import engine
from lbctl.engine.change.counters import Taken, counted
from lbctl.errors import ApplyFailed
from lbctl.host.fake import FakeHost
from lbctl.model import Family
from lbctl.spi import Count
from support.backends import Paper
from support.desk import read_intent
from support.network import service

THREE = read_intent(service("web", "80/tcp", "8001", "8002", "8003"))
TWO = read_intent(service("web", "80/tcp", "8001", "8003"))


class Counting(Paper):
    """Its counters are those in `after` once a change was made."""

    after: dict[str, int] | None = None

    def count(self, **connections: int) -> None:
        self.counts["lbctl"] = [
            Count(
                service="web",
                family=Family.IPV4,
                to=to.removeprefix("p"),
                connections=number,
                packets=number,
                bytes=60 * number,
            )
            for to, number in connections.items()
        ]

    def apply(self, host, plan):  # type: ignore[no-untyped-def]
        held = super().apply(host, plan)
        if self.after is not None:
            self.count(**self.after)
        return held


class Case:
    def __init__(self) -> None:
        self.paper, self.host = Counting(), FakeHost()

    def session(self) -> engine.Session:
        return engine.open_session(self.host, installed=[self.paper])

    def apply(self, intent, **after: int) -> None:  # type: ignore[no-untyped-def]
        self.host.time += 60
        self.paper.after = after
        session = self.session()
        engine.apply(session, (engine.plan(session, intent),))

    @property
    def since(self) -> str | None:
        return counted(self.session(), "lbctl", ["web"])["web"].since

    @property
    def taken(self) -> dict[str, tuple[int, int, int]]:
        found = counted(self.session(), "lbctl", ["web"])["web"].taken
        return {to: tuple(each) for (_, to), each in found.items() if each != Taken()}


@pytest.fixture
def case() -> Case:
    case = Case()
    case.apply(THREE)
    case.paper.count(p8001=10, p8002=10, p8003=10)
    return case


def test_a_service_that_never_changed_counts_since_its_rules_were_loaded(case: Case) -> None:
    assert case.since is None
    assert case.taken == dict.fromkeys(("8001", "8002", "8003"), (10, 600, 10))


def test_lost_counters_are_kept_and_nothing_falls_back(case: Case) -> None:
    case.apply(TWO, p8001=10, p8003=0)
    assert case.since == "1970-01-01T00:02:00+00:00"
    assert case.taken == dict.fromkeys(("8001", "8002", "8003"), (10, 600, 0))
    case.paper.count(p8001=14, p8003=4)
    assert case.taken == {"8001": (14, 840, 4), "8002": (10, 600, 0), "8003": (14, 840, 4)}
    case.apply(THREE, p8001=0, p8002=0, p8003=4)
    case.paper.count(p8001=1, p8002=1, p8003=5)
    assert case.taken == {"8001": (15, 900, 1), "8002": (11, 660, 1), "8003": (15, 900, 1)}


def test_connections_during_the_change_are_none_since_it(case: Case) -> None:
    case.apply(TWO, p8001=12, p8003=0)
    assert case.taken["8001"] == (12, 720, 0)


def test_counters_below_the_record_belong_to_other_rules(case: Case) -> None:
    case.apply(TWO, p8001=10, p8003=0)
    case.paper.count(p8001=1, p8003=1)
    assert (case.since, case.taken) == (None, {"8001": (1, 60, 1), "8003": (1, 60, 1)})


def test_a_record_of_another_network_namespace_is_ignored(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.apply(TWO, p8001=10, p8003=0)
    monkeypatch.setattr(FakeHost, "namespace", lambda _: "another")
    assert (case.since, case.taken) == (None, {"8001": (10, 600, 10)})


def test_counters_that_cannot_be_read_keep_no_change_from_being_made(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.apply(TWO, p8001=10, p8003=0)

    def fail(*_: object, **__: object) -> None:
        raise ApplyFailed("unreadable")

    with monkeypatch.context() as patch:
        patch.setattr(Paper, "stats", fail)
        case.apply(THREE)
    case.paper.count(p8001=3)
    assert (case.since, case.taken) == (None, {"8001": (3, 180, 3)})


def test_another_service_keeps_its_record(case: Case) -> None:
    case.apply(TWO, p8001=10, p8003=0)
    since = case.since
    both = replace(TWO, services=(*TWO.services, *read_intent(service("more", "81/tcp", "8001")).services))
    case.apply(both, p8001=10, p8003=0)
    assert case.since == since
    case.apply(read_intent(service("more", "81/tcp", "8001")))
    assert (case.since, case.host.memory) == (None, {})
