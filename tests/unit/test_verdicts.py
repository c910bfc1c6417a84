"""What verdicts do to the effective intent: policies, brakes, reasons, and what stays the same object."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from ipaddress import IPv4Address

import pytest
from hypothesis import given, strategies as st

from lbctl.engine.change.facts import YOUNG, read_facts
from lbctl.engine.record import verdicts as record
from lbctl.host.fake import FakeHost
from lbctl.model import (
    AllDown,
    Check,
    Endpoint,
    Facts,
    Family,
    Health,
    HealthPolicy,
    HttpProbe,
    Initial,
    Intent,
    Listener,
    Override,
    Protocol,
    Scheduler,
    Service,
    State,
    TcpProbe,
    Verdict,
    Verdicts,
    diff,
    effective,
    fingerprint,
    stale_flows,
)
from lbctl_nftables import backend as nftables
from support.spoilt import spoilt

V4, V6 = Family.IPV4, Family.IPV6
#: 2023-11-14T22:13:20+00:00.
WALL = 1_700_000_000.0


def verdict(health: Health, *, since: float = WALL, result: str = "HTTP 503", **more: object) -> Verdict:
    return Verdict(health=health, since=since, result=result, count=3, checked=since, **more)  # type: ignore[arg-type]


UP, DOWN = verdict(Health.UP, result="HTTP 200"), verdict(Health.DOWN)
NEW = Verdict(health=Health.UNKNOWN, since=WALL, serving=False)


def service(count: int = 3, **more: object) -> Service:
    return Service(
        name="web",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=tuple(
            Endpoint(name=f"e{i}", port=80, address=IPv4Address("10.0.0.0") + i) for i in range(1, count + 1)
        ),
        **{"check": Check(probe=TcpProbe()), **more},  # type: ignore[arg-type]
    )


def carried_out(of: Service, *verdicts: Verdict | None) -> tuple[Service, list[str]]:
    """The service with these verdicts for its endpoints in IPv4, and the reasons of its endpoints."""
    known: Verdicts = {
        (e.name, V4): each for e, each in zip(of.endpoints, verdicts, strict=False) if each is not None
    }
    found = effective(Intent(services=(of,)), Facts(verdicts={"web": known}))
    return found.intent.services[0], [str(found.reason("web", e)) for e in of.endpoints]


def ready(of: Service, *verdicts: Verdict | None) -> str:
    return " ".join(e.name for e in carried_out(of, *verdicts)[0].ready(V4))


def test_what_fails_is_out_and_what_is_unknown_stays() -> None:
    assert ready(service(), UP, DOWN, None) == "e1 e3"
    assert ready(service(), Verdict(health=Health.UNKNOWN, since=WALL), DOWN, UP) == "e1 e3"
    assert ready(service(), UP, UP, NEW) == "e1 e2"


def test_new_endpoints_serve_at_once_where_the_service_would_be_empty() -> None:
    assert ready(service(), DOWN, DOWN, NEW) == "e3"
    assert ready(service(), NEW, NEW, NEW) == "e1 e2 e3"
    assert ready(service(health=HealthPolicy(all_down=AllDown.REJECT)), DOWN, DOWN, NEW) == "e3"


def test_an_endpoint_that_is_new_to_a_running_agent_waits_for_its_first_pass() -> None:
    def serving(of: Service, verdicts: Verdicts, *, live: bool = True) -> str:
        found = effective(Intent(services=(of,)), Facts(verdicts={"web": verdicts}, live=live))
        return " ".join(e.name for e in found.intent.services[0].ready(V4))

    up: Verdicts = {("e1", V4): UP, ("e2", V4): DOWN}
    assert serving(service(), up) == "e1"
    assert serving(service(), up, live=False) == "e1 e3"
    # One that takes connections and is not checked yet is as good as one that is up.
    assert serving(service(), {("e1", V4): Verdict(health=Health.UNKNOWN, since=WALL)}) == "e1"
    # Where no endpoint serves, or the check says so, it serves at once.
    assert serving(service(), {("e2", V4): DOWN}) == "e1 e3"
    assert serving(service(check=Check(probe=TcpProbe(), initial=Initial.UP)), up) == "e1 e3"
    found = effective(Intent(services=(service(),)), Facts(verdicts={"web": up}, live=True))
    assert "waits for its first pass" in str(found.reason("web", service().endpoints[2]))


def test_when_all_are_down_the_policy_decides() -> None:
    assert ready(service(), DOWN, DOWN, DOWN) == "e1 e2 e3"
    assert ready(service(health=HealthPolicy(all_down=AllDown.REJECT)), DOWN, DOWN, DOWN) == ""
    _, reasons = carried_out(service(), DOWN, DOWN, DOWN)
    times = "\N{MULTIPLICATION SIGN}3"
    assert reasons[0] == f"down: HTTP 503 {times} since 2023-11-14T22:13:20+00:00, kept by all-down"


def test_all_down_never_brings_back_what_drains_and_backups_come_first() -> None:
    plain = service(3)
    a, b, c = plain.endpoints
    drains = replace(plain, endpoints=(replace(a, state=State.DRAIN), b, replace(c, state=State.BACKUP)))
    assert ready(drains, UP, DOWN, DOWN) == "e2"
    assert ready(drains, UP, DOWN, UP) == "e3"
    assert ready(drains, UP, DOWN, None) == "e3"


def test_the_brake_keeps_those_that_failed_last() -> None:
    braked = service(4, health=HealthPolicy(max_down=Fraction(1, 2)))
    down = [verdict(Health.DOWN, since=WALL + i) for i in (3, 1, 2, 0)]
    assert ready(braked, *down) == "e1 e3"
    _, reasons = carried_out(braked, *down)
    assert reasons[0].endswith(", kept by max-down")
    assert reasons[1].endswith("+00:00")
    assert ready(braked, down[0], down[1], UP, UP) == "e3 e4"
    assert ready(service(1, health=HealthPolicy(max_down=Fraction(1, 2))), DOWN) == "e1"


def test_slow_start_is_a_part_of_the_slots() -> None:
    half = verdict(Health.UP, part=Fraction(1, 2))
    returning, reasons = carried_out(service(2, health=HealthPolicy(slow_start=30_000)), UP, half)
    assert returning.shares(V4) == {"10.0.0.1:80": Fraction(3, 4), "10.0.0.2:80": Fraction(1, 4)}
    assert "slow start at 1/2 of its weight" in reasons[1]


def test_each_owner_has_its_say() -> None:
    override = Override(service="web", endpoint="e1", drained=True, who="root", since=WALL, why="deploy")
    facts = Facts(overrides={override.place: override}, verdicts={"web": {("e1", V4): UP, ("e2", V4): DOWN}})
    found = effective(Intent(services=(service(),)), facts)
    assert [e.name for e in found.intent.services[0].ready(V4)] == ["e3"]
    first, second, third = (str(found.reason("web", e)) for e in service().endpoints)
    assert first.startswith("operator: drained by root")
    assert first.endswith("; up: HTTP 200 since 2023-11-14T22:13:20+00:00")
    assert second.startswith("down: HTTP 503")
    assert third == "active in the file"


def test_an_up_never_ends_a_drain() -> None:
    plain = service(2)
    drained = replace(plain, endpoints=(replace(plain.endpoints[0], state=State.DRAIN), plain.endpoints[1]))
    assert ready(drained, UP, UP) == "e2"


def test_old_verdicts_are_shown_and_nothing_else() -> None:
    old = {"web": {("e1", V4): DOWN}}
    intent = Intent(services=(service(),))
    found = effective(intent, Facts(old=old))
    assert found.intent is intent
    assert str(found.reason("web", service().endpoints[0])).endswith("but no agent runs")


class Rebooted(FakeHost):
    """The same host after another start."""

    def namespace(self) -> str:
        return "another"


def test_verdicts_end_with_a_start_of_the_host() -> None:
    host, after = FakeHost(), Rebooted()
    record.write(host, "lbctl", {"web": {("e1", V4): DOWN}})
    after.memory = host.memory
    found = record.read(host, "lbctl")
    assert found is not None
    assert found.verdicts == {"web": {("e1", V4): DOWN}}
    assert record.read(after, "lbctl") is None
    assert read_facts(after, "lbctl", cautious=True) == Facts()


@given(
    steps=st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from((UP, DOWN, NEW)), max_size=3)),
        max_size=6,
    )
)
def test_what_is_written_again_and_again_is_what_is_written_once(
    steps: list[dict[str, list[Verdict]]],
) -> None:
    """With a limit of four, beyond which services whose endpoints all pass are left out."""
    again, once = FakeHost(), FakeHost()
    register = record.Register(again, "lbctl")
    known: dict[str, Verdicts] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "MANY", 4)
        for step in steps:
            fresh = {name: {(f"e{n}", V4): each for n, each in enumerate(own)} for name, own in step.items()}
            # What is equal stays the same object.
            known = {name: known[name] if known.get(name) == own else own for name, own in fresh.items()}
            register.write(known)
            record.write(once, "lbctl", known)
            found, expected = record.read(again, "lbctl"), record.read(once, "lbctl")
            assert found == expected
            assert found is not None
            named = {name: dict(own) for name, own in found.verdicts.items()}
            many = sum(map(len, known.values())) > 4
            assert named == {
                name: own
                for name, own in known.items()
                if own and not (many and all(each is UP for each in own.values()))
            }


def test_of_many_services_one_with_a_slow_start_is_whole_for_other_commands() -> None:
    host, of = FakeHost(), service()
    others = {f"other-{n}": {(f"e{i}", V4): UP for i in range(100)} for n in range(record.MANY // 100)}
    slow = replace(UP, part=Fraction(1, 8))
    own = {(e.name, V4): slow if e.name == "e1" else UP for e in of.endpoints}
    record.write(host, "lbctl", {**others, "web": own})
    found = record.read(host, "lbctl")
    assert found is not None
    assert served(of, Facts(verdicts=found.verdicts, live=True)) == ["e1", "e2", "e3"]


def at(of: Service, *found: Verdict) -> dict[tuple[str, Family], Verdict]:
    """The verdicts of a service's endpoints, with what was checked."""
    assert of.check is not None
    return {
        (e.name, V4): replace(each, to=e.to, check=fingerprint(of.check))
        for e, each in zip(of.endpoints, found, strict=True)
    }


def served(of: Service, facts: Facts) -> list[str]:
    [carried] = effective(Intent(services=(of,)), facts).intent.services
    return [e.name for e in carried.ready(V4)]


LIVE = pytest.mark.parametrize("live", [True, False], ids=["with-agent", "without"])


@LIVE
def test_a_renamed_service_or_endpoint_keeps_what_is_known(live: bool) -> None:
    facts = Facts(verdicts={"web": at(service(), UP, DOWN, UP)}, live=live)
    assert served(replace(service(), name="shop"), facts) == ["e1", "e3"]
    a, b, c = service().endpoints
    renamed = replace(service(), endpoints=(a, replace(b, name="second"), c))
    assert served(renamed, facts) == ["e1", "e3"]


@LIVE
def test_another_service_with_the_same_check_knows_what_fails(live: bool) -> None:
    facts = Facts(verdicts={"web": at(service(), UP, DOWN, replace(UP, part=Fraction(1, 8)))}, live=live)
    shop = replace(service(), name="shop")
    assert served(shop, facts) == ["e1", "e3"]
    [carried] = effective(Intent(services=(shop,)), facts).intent.services
    assert {limit.to for limit in carried.limits} == {shop.endpoints[1].to}  # it has no slow start
    assert served(replace(shop, check=Check(probe=TcpProbe(), interval=9000)), facts) == ["e1", "e3"]
    for other in (Check(probe=TcpProbe(), port=81), Check(probe=HttpProbe())):
        assert served(replace(shop, check=other), facts) == ["e1", "e2", "e3"]


def test_an_endpoint_at_another_place_is_a_new_one() -> None:
    facts = Facts(verdicts={"web": at(service(), UP, DOWN, UP)}, live=True)
    a, b, c = service().endpoints
    moved = replace(service(), endpoints=(a, b, replace(c, port=81)))
    assert served(moved, facts) == ["e1"]
    reason = effective(Intent(services=(moved,)), facts).reason("web", moved.endpoints[2])
    assert "waits for its first pass" in str(reason)
    mended = replace(service(), endpoints=(a, replace(b, address=IPv4Address("10.0.0.9")), c))
    assert served(mended, replace(facts, live=False)) == ["e1", "e2", "e3"]


def test_verdicts_that_no_agent_wrote_are_none_or_whole() -> None:
    host, of = FakeHost(), service()
    record.write(host, "lbctl", {"web": {("e1", V4): DOWN}})
    [(name, text)] = host.memory.items()
    for damaged in (*spoilt(text), text[:-9], "nonsense", "\0" * 99):
        host.memory[name] = damaged
        found = record.read(host, "lbctl")
        facts = Facts(verdicts=found.verdicts if found is not None else {})
        reasons = effective(Intent(services=(of,)), facts)
        assert all(str(reasons.reason("web", each)).isprintable() for each in of.endpoints), damaged


@pytest.mark.parametrize("ahead", [1.0, 3600.0, 1e9])
def test_verdicts_of_a_time_to_come_are_not_young(ahead: float) -> None:
    host = FakeHost()
    record.write(host, "lbctl", {"web": {("e1", V4): DOWN}})
    host.time -= ahead
    assert not read_facts(host, "lbctl", cautious=True).verdicts


def test_failures_of_an_agent_that_has_ended_count_for_a_while_where_nobody_is_asked() -> None:
    host = FakeHost()
    host.time = WALL
    every = {"web": {("e1", V4): DOWN, ("e2", V4): UP}}
    record.write(host, "lbctl", every)
    assert read_facts(host, "lbctl") == Facts(old=every)
    failed = {"web": {("e1", V4): DOWN}}
    assert read_facts(host, "lbctl", cautious=True) == Facts(verdicts=failed, old=every)
    for away in (YOUNG, -1):
        host.time = WALL + away
        assert read_facts(host, "lbctl", cautious=True) == Facts(old=every)
    host.busy.add("lbctl.agent")
    assert read_facts(host, "lbctl") == Facts(verdicts=every, live=True)


def test_families_differ() -> None:
    local = replace(service(), endpoints=(Endpoint(port=8001), Endpoint(port=8002)))
    facts = Facts(verdicts={"web": {("8001", V4): UP, ("8001", V6): DOWN}})
    found = effective(Intent(services=(local,)), facts)
    [balanced] = found.intent.services
    assert [[e.name for e in balanced.ready(family)] for family in Family] == [["8001", "8002"], ["8002"]]
    text = str(found.reason("web", local.endpoints[0]))
    assert text.startswith("ipv4 up: HTTP 200 since ")
    assert "; ipv6 down: HTTP 503" in text


def test_nothing_is_made_anew_where_nothing_changed() -> None:
    others = [replace(service(), name=f"s{i}") for i in range(3)]
    intent = Intent(services=(service(), *others))
    down: Verdicts = {("e1", V4): DOWN}
    verdicts = {"web": {("e1", V4): UP}, "s0": down, "s1": down}
    first = effective(intent, Facts(verdicts=verdicts))
    second = effective(intent, Facts(verdicts={**verdicts, "web": {("e2", V4): DOWN}}), first)
    assert [a is b for a, b in zip(first.intent.services, second.intent.services, strict=True)] == [
        False,
        True,
        True,
        True,
    ]
    assert first.intent.services[3] is intent.services[3]
    assert effective(intent, Facts(verdicts={"web": {("e1", V4): UP}})).intent is intent


STATES = st.sampled_from(State)
VERDICTS = st.none() | st.builds(
    verdict,
    st.sampled_from(Health),
    since=st.floats(WALL, WALL + 9),
    serving=st.booleans(),
    part=st.sampled_from([Fraction(1), Fraction(1, 8)]),
)


@given(
    st.lists(st.tuples(STATES, VERDICTS), min_size=1, max_size=6),
    st.sampled_from(AllDown),
    st.none() | st.sampled_from([Fraction(1, 4), Fraction(1, 2)]),
    st.sampled_from(Scheduler),
)
def test_rotation_is_what_all_owners_agree_on(
    drawn: list[tuple[State, Verdict | None]], policy: AllDown, brake: Fraction | None, scheduler: Scheduler
) -> None:
    plain = service(len(drawn), health=HealthPolicy(all_down=policy, max_down=brake), scheduler=scheduler)
    endpoints = tuple(replace(e, state=s) for e, (s, _) in zip(plain.endpoints, drawn, strict=True))
    plain = replace(plain, endpoints=endpoints)
    verdicts = [each for _, each in drawn]
    found, _ = carried_out(plain, *verdicts)
    serving = found.ready(V4)
    by_name = {e.name: each for e, each in zip(endpoints, verdicts, strict=True)}
    undrained = [e for e in endpoints if e.state is not State.DRAIN]
    assert set(serving) <= set(undrained)
    good = [e for e in undrained if (v := by_name[e.name]) is None or v.health is Health.UP]
    if good:
        assert serving
    down = [e for e in undrained if (v := by_name[e.name]) is not None and v.health is Health.DOWN]
    if brake is None and good:
        assert not set(serving) & set(down)
    if brake is not None:
        kept_out = [e for e in down if found.takes_out(e, V4)]
        assert len(kept_out) <= brake * len(undrained)
    if policy is AllDown.KEEP and undrained:
        assert serving
    assert set(found.slots(V4)) == set(serving)


def test_flows_of_a_failed_endpoint_end_and_those_of_a_drained_one_stay() -> None:
    plain = replace(service(3), listeners=(Listener(protocol=Protocol.UDP, port=53),))
    failed, _ = carried_out(plain, DOWN)
    drained = replace(plain, endpoints=(replace(plain.endpoints[0], state=State.DRAIN), *plain.endpoints[1:]))
    can = nftables.probe(FakeHost()).capabilities

    def lifted(of: Service) -> object:
        return nftables.lift(nftables.compile(Intent(services=(of,)), can))

    ended = stale_flows(lifted(plain), lifted(failed), (failed,))  # type: ignore[arg-type]
    assert [flow.to for flow in ended] == ["10.0.0.1:80"]
    assert stale_flows(lifted(plain), lifted(drained), (drained,)) == ()  # type: ignore[arg-type]
    everything, _ = carried_out(plain, DOWN, DOWN, DOWN)
    assert stale_flows(lifted(plain), lifted(everything), (everything,)) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("scheduler", Scheduler)
@pytest.mark.parametrize("count", [2, 3, 5, 8, 10])
def test_a_failure_changes_elements_alone_so_that_the_kernels_counter_goes_on(
    scheduler: Scheduler, count: int
) -> None:
    plain = service(count, scheduler=scheduler)
    failed, _ = carried_out(plain, DOWN)
    can = nftables.probe(FakeHost()).capabilities
    before, after = (nftables.compile(Intent(services=(each,)), can) for each in (plain, failed))
    changes = diff(before, after)
    assert {change.key[1] for change in changes} == {"element"}
    assert all(change.before and change.after for change in changes)
    if scheduler in {Scheduler.SOURCE_HASH, Scheduler.MAGLEV}:
        assert all("10.0.0.1 . 80" in change.before.text for change in changes if change.before)
    assert not any("10.0.0.1 . 80" in change.after.text for change in changes if change.after)
