"""An effective intent made from the one before is the one made from nothing, whatever changed in between."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, strategies as st

from lbctl.model import (
    Check,
    Discovered,
    Discovery,
    Effective,
    Endpoint,
    Facts,
    Family,
    Health,
    Intent,
    Item,
    Listener,
    Override,
    Program,
    Protocol,
    Service,
    TcpProbe,
    Verdict,
    Verdicts,
    effective,
)

NAMES = ("a", "b", "c", "d")
DNS = Discovery(source="dns", name="_http._tcp.web.example.internal")
FAR = tuple(Endpoint(address=IPv4Address("10.0.0.1") + i, port=80) for i in range(3))


def service(number: int, *, discovers: bool) -> Service:
    return Service(
        name=NAMES[number],
        listeners=(Listener(protocol=Protocol.TCP, port=80 + number),),
        # One of them waits for its source.
        endpoints=() if discovers and number == 3 else FAR[:2],
        check=Check(probe=TcpProbe()),
        discover=DNS if discovers else None,
    )


FILE = Intent(services=tuple(service(number, discovers=number >= 2) for number in range(4)))
#: The same services but one, as after an edited file.
EDITED = replace(FILE, services=(*FILE.services[:2], replace(FILE.services[2], endpoints=FAR)))


def verdicts(healths: list[Health]) -> Verdicts:
    return {
        (endpoint.name, Family.IPV4): Verdict(health=health, since=1.0)
        for endpoint, health in zip(FAR, healths, strict=False)
    }


def by_service(values: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    # "gone" is a service that the file does not have.
    return st.dictionaries(st.sampled_from((*NAMES, "gone")), values)


CHECKED = st.lists(st.sampled_from(Health), min_size=1, max_size=3).map(verdicts)
FOUND = st.integers(0, 3).map(
    lambda count: Discovered(source="dns", name=DNS.name, endpoints=FAR[:count], good=1.0)
)
DECIDED = st.builds(
    Override,
    service=st.sampled_from((*NAMES, "gone")),
    endpoint=st.sampled_from([each.name for each in FAR]),
    drained=st.just(value=True),
    who=st.just("root"),
    since=st.just(1.0),
)
FACTS = st.builds(
    Facts,
    overrides=st.lists(DECIDED, max_size=3).map(lambda found: {each.place: each for each in found}),
    verdicts=by_service(CHECKED),
    old=by_service(CHECKED),
    found=by_service(FOUND),
)


def changed(facts: Facts, other: Facts, kept: frozenset[str]) -> Facts:
    """Return other facts, with what the first ones say of some services as the same objects."""
    return replace(
        other,
        verdicts={**other.verdicts, **{name: own for name, own in facts.verdicts.items() if name in kept}},
    )


@given(steps=st.lists(st.tuples(FACTS, st.frozensets(st.sampled_from(NAMES)), st.booleans()), max_size=6))
def test_what_is_made_from_the_one_before_is_what_is_made_from_nothing(
    steps: list[tuple[Facts, frozenset[str], bool]],
) -> None:
    last: Effective | None = None
    facts = Facts()
    for other, kept, edited in steps:
        facts = changed(facts, other, kept)
        intent = EDITED if edited else FILE
        found, fresh = effective(intent, facts, last), effective(intent, facts)
        assert found == fresh
        assert found.reasons == fresh.reasons
        assert found.overrides == fresh.overrides
        assert (found.intent is intent) is (fresh.intent is intent)
        for names in (frozenset(NAMES), frozenset("b"), frozenset({"c", "gone"})):
            assert found.only(names) == fresh.only(names)
        if last is not None and last.file is intent and last.known == found.known:
            assert found.known is last.known or not last.basis
        last = found


@given(
    owners=st.lists(st.sampled_from((None, *NAMES)), max_size=8),
    others=st.lists(st.sampled_from((None, *NAMES)), max_size=8),
    asked=st.frozensets(st.sampled_from(NAMES)),
)
def test_a_program_takes_over_no_index_that_is_not_its_own(
    owners: list[str | None], others: list[str | None], asked: frozenset[str]
) -> None:
    def parts(names: list[str | None], text: str) -> list[tuple[Item, ...]]:
        return [(Item(("ip", "part", str(n)), text, name),) for n, name in enumerate(names)]

    first = Program("lbctl", parts=parts(owners, "1"))
    _ = first.places
    second = Program("lbctl", parts=parts(others, "2"), previous=first)
    for program, names in ((first, owners), (second, others), (second.at("9"), others)):
        assert program.places == Program("lbctl", parts=program.parts).places
        kept = [item for item in program.items if item.service in {None, *asked}]
        assert list(program.only(asked).items) == kept
        assert [item.service for item in program.items] == names
