"""The effective intent: the file and the operator, joined in one place."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from lbctl.model import (
    Discovered,
    Discovery,
    Endpoint,
    Facts,
    Family,
    Intent,
    Listener,
    Override,
    Protocol,
    Service,
    State,
    effective,
    emptied,
)

WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=(Endpoint(port=8001), Endpoint(port=8002, weight=2), Endpoint(port=8003, state=State.BACKUP)),
)
API = replace(WEB, name="api", listeners=(Listener(protocol=Protocol.TCP, port=81),))
FILE = Intent(services=(WEB, API))
DRAIN = Override(
    service="web", endpoint="8001", drained=True, who="root", since=1_700_000_000.0, why="deploy"
)


def facts(*overrides: Override) -> Facts:
    return Facts(overrides={each.place: each for each in overrides})


def test_an_intent_without_facts_is_the_very_same_intent() -> None:
    found = effective(FILE, Facts())
    assert found.intent is FILE
    assert found.file is FILE
    assert str(found.reason("web", WEB.endpoints[0])) == "active in the file"


def test_only_the_services_that_facts_concern_are_new_values() -> None:
    found = effective(FILE, facts(DRAIN))
    assert found.file is FILE
    assert found.intent.services[1] is API
    assert [e.state for e in found.intent.services[0].endpoints] == [State.DRAIN, State.ACTIVE, State.BACKUP]
    assert found.unused == ()


def test_a_reason_names_who_when_and_why() -> None:
    reason = effective(FILE, facts(DRAIN)).reason("web", WEB.endpoints[0])
    assert reason.state is State.ACTIVE
    assert str(reason) == "operator: drained by root since 2023-11-14T22:13:20+00:00 (deploy)"


def test_an_override_that_says_what_the_file_says_leaves_the_same_intent() -> None:
    file = Intent(services=(replace(WEB, endpoints=(Endpoint(port=8001, state=State.DRAIN),)),))
    found = effective(file, facts(DRAIN))
    assert found.intent is file
    assert found.reason("web", file.services[0].endpoints[0]).operator == DRAIN


def test_a_weight_of_the_operator_goes_before_that_of_the_file() -> None:
    found = effective(FILE, facts(replace(DRAIN, drained=False, weight=6)))
    assert [e.weight for e in found.intent.services[0].endpoints] == [6, 2, 1]
    assert found.intent.services[0].endpoints[0].state is State.ACTIVE


def test_a_drained_backup_is_no_backup() -> None:
    overrides = [replace(DRAIN, endpoint=name) for name in ("8001", "8002", "8003")]
    none_left = effective(FILE, facts(*overrides)).intent
    assert emptied(FILE, none_left) == {"web": (Family.IPV4, Family.IPV6)}
    backup = effective(FILE, facts(*overrides[:2])).intent
    assert [e.name for e in backup.services[0].ready(Family.IPV4)] == ["8003"]
    assert emptied(FILE, backup) == {}
    assert emptied(none_left, none_left) == {}


def test_overrides_of_what_the_file_does_not_have_are_unused() -> None:
    gone = (replace(DRAIN, endpoint="8009"), replace(DRAIN, service="gone"))
    found = effective(FILE, facts(*gone))
    assert found.intent is FILE
    assert found.unused == gone


def test_weights_that_need_too_many_slots_are_refused() -> None:
    with pytest.raises(ValueError, match='service "web": exact shares of the weights need 4097 slots'):
        effective(FILE, facts(replace(DRAIN, drained=False, weight=4095)))


@pytest.mark.parametrize(
    "fields",
    [
        {"drained": False},
        {"weight": 0},
        {"weight": 4097},
        {"who": "a\nb"},
        {"who": "x" * 65},
        {"why": "\x1b[2J"},
        {"why": "x" * 201},
    ],
)
def test_an_override_holds_nothing_that_no_command_sets(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"overrides nothing|between 1 and 4096|not a line"):
        replace(DRAIN, **fields)  # type: ignore[arg-type]


DNS = Discovery(source="dns", name="_http._tcp.web.example.internal")
FAR = tuple(Endpoint(address=IPv4Address("10.0.0.1") + i, port=80) for i in range(3))
FOUND = replace(WEB, endpoints=FAR[:1], discover=DNS)


def discovered(*endpoints: Endpoint, name: str = DNS.name) -> Facts:
    return Facts(found={"web": Discovered(source="dns", name=name, endpoints=endpoints, good=1.0)})


def test_a_source_adds_endpoints_to_those_of_the_file() -> None:
    intent = Intent(services=(FOUND, API))
    found = effective(intent, discovered(FAR[2], FAR[1]))
    assert [e.to for e in found.intent.services[0].endpoints] == [e.to for e in FAR]
    assert found.intent.services[1] is API
    assert found.file is intent
    assert found.known == found.intent
    reason = found.reason("web", FAR[1])
    assert (reason.source, reason.discovered, str(reason)) == (State.ACTIVE, True, "active by its source")


def test_a_service_that_waits_for_its_source_is_left_out() -> None:
    intent = Intent(services=(replace(FOUND, endpoints=()), API))
    assert effective(intent, Facts()).intent.services == (API,)
    assert effective(intent, discovered(*FAR)).intent.services[0].endpoints == FAR


def test_an_answer_to_another_question_or_beyond_closer_bounds_does_not_count() -> None:
    intent = Intent(services=(FOUND,))
    assert effective(intent, discovered(*FAR, name="other.example")).intent is intent
    assert [
        each.name for each in effective(Intent(services=(replace(FOUND, endpoints=()),)), Facts()).waiting
    ] == [FOUND.name]
    closer = Intent(services=(replace(FOUND, discover=replace(DNS, max=2)),))
    assert effective(closer, discovered(*FAR)).intent is closer


def test_all_owners_have_to_agree() -> None:
    intent = Intent(services=(FOUND,))
    both = discovered(replace(FAR[0], state=State.DRAIN), FAR[1])
    drain = replace(DRAIN, endpoint=FAR[1].to)
    found = effective(intent, replace(both, overrides={drain.place: drain}))
    assert [e.state for e in found.intent.services[0].endpoints] == [State.DRAIN, State.DRAIN]
    assert [e.state for e in found.known.services[0].endpoints] == [State.DRAIN, State.ACTIVE]
    assert str(found.reason("web", FAR[0])) == "drain by its source"
    assert found.unused == ()


def test_a_confirmed_answer_is_the_same_outcome() -> None:
    intent = Intent(services=(FOUND,))
    first = effective(intent, discovered(*FAR))
    answer = Discovered(source="dns", name=DNS.name, endpoints=FAR, good=2.0)
    again = effective(intent, Facts(found={"web": answer}), first)
    assert again.intent.services[0] is first.intent.services[0]
