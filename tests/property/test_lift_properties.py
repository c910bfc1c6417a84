"""The proof engine: what a program does is what its intent says, for any intent and both backends."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_network
from types import ModuleType

import pytest
from hypothesis import given, settings, strategies as st

from lbctl.host.fake import FakeHost
from lbctl.model import Family, Intent, Item, Key, Program, Scheduler, period, shares
from lbctl.spi import Capabilities
from lbctl_iptables import backend as iptables
from lbctl_iptables.pick import has_same_hash
from lbctl_nftables import backend as nftables, dialect, layout
from support.intents import NETWORKS, checked, forgetful, intents

BOTH = pytest.mark.parametrize("backend", [nftables, iptables], ids=lambda b: b.name)


def capabilities(backend: ModuleType) -> Capabilities:
    found = backend.probe(FakeHost()).capabilities
    networks = tuple(map(ip_network, NETWORKS)) if backend is iptables else ()
    return replace(found, families=frozenset(Family), networks=networks)


CAPABILITIES = {b.name: capabilities(b) for b in (nftables, iptables)}


def compiled(backend: ModuleType, intent: Intent) -> Program:
    program = backend.compile(intent, CAPABILITIES[backend.name])
    assert isinstance(program, Program)
    return program


@BOTH
@given(intent=intents())
def test_what_is_compiled_balances_as_the_intent_says(backend: ModuleType, intent: Intent) -> None:
    lifted = backend.lift(compiled(backend, intent))
    assert lifted.unsupported == ()
    wanted = {
        (service.name, family, listener): tuple(e.to for e in service.slots(family))
        for service in intent.services
        for family in service.families
        for listener in service.listeners_of(family)
    }
    assert {(s.name, s.family, s.listener): s.slots for s in lifted.services} == wanted
    # No listener is found twice.
    assert len(lifted.services) == len(wanted)
    by_name = {service.name: service for service in intent.services}
    for found in lifted.services:
        service = by_name[found.name]
        assert found.shares == service.shares(found.family)
        assert found.leak == 0
        assert sum(found.shares.values()) == Fraction(1)
        assert found.mode == ("nth" if len(found.slots) > 1 else "single")
        assert found.action == ("redirect" if service.endpoints[0].address is None else "dnat")


MODES = {
    Scheduler.ROUND_ROBIN: "nth",
    Scheduler.RANDOM: "random",
    Scheduler.SOURCE_HASH: "hash",
    Scheduler.MAGLEV: "hash",
}


CLASSIC = dialect.speaking(CAPABILITIES[nftables.name], dialect.Dialect.CLASSIC)
MODERN = dialect.speaking(CAPABILITIES[nftables.name], dialect.Dialect.MODERN)


#: A Maglev table is large, and a busy machine slow.
PATIENT = settings(deadline=None)


#: Intents as files have them, and as the agent carries them out.
ALL = intents(everything=True) | intents(everything=True).flatmap(checked)
SELECTIVE = intents(everything=True, selective=True).flatmap(checked) | ALL


@pytest.mark.parametrize("can", [MODERN, CLASSIC], ids=lambda can: can.dialect)
@PATIENT
@given(intent=SELECTIVE)
def test_all_that_nftables_can_express_balances_as_the_intent_says(can: Capabilities, intent: Intent) -> None:
    intent = intent if can.affinity else forgetful(intent)
    lifted = nftables.lift(nftables.compile(intent, can))
    assert lifted.unsupported == ()
    wanted = {
        (service.name, family, listener): (service, tuple(e.to for e in service.slots(family)))
        for service in intent.services
        for family in service.families
        for listener in service.listeners_of(family)
    }
    assert len(lifted.services) == len(wanted)
    for found in lifted.services:
        service, slots = wanted[found.name, found.family, found.listener]
        # Where nobody is left, nobody gets a connection: that is a leak of all, and never of some.
        assert found.slots == (slots or (None,))
        assert found.leak == (0 if slots else 1)
        if len(slots) > 1:
            assert found.mode == MODES[service.scheduler]
        else:
            assert found.mode == ("single" if slots else "none")


@PATIENT
@given(intent=ALL)
def test_all_that_iptables_can_express_balances_as_the_intent_says(intent: Intent) -> None:
    lifted = iptables.lift(iptables.compile(intent, replace(CAPABILITIES[iptables.name], remap=True)))
    assert lifted.unsupported == ()
    wanted = {
        (service.name, family, listener): service
        for service in intent.services
        for family in service.families
        for listener in service.listeners_of(family)
    }
    assert len(lifted.services) == len(wanted)
    for found in lifted.services:
        service = wanted[found.name, found.family, found.listener]
        slots = tuple(e.to for e in service.slots(found.family))
        assert found.leak == (0 if slots else 1)
        if not slots or len(set(slots)) == 1:
            assert set(found.shares) == set(slots)
            continue
        assert found.mode == MODES[service.scheduler]
        if service.scheduler is Scheduler.ROUND_ROBIN:
            assert found.slots == slots[: period(slots)]
        elif has_same_hash(service, found.family):
            assert found.slots == slots
        elif service.scheduler is Scheduler.RANDOM:
            assert found.shares == shares(slots)
        elif not service.limits:
            assert found.shares == {to: service.by_weight(found.family)[to] for to in set(slots)}
        else:
            assert set(found.shares) <= set(slots)


@PATIENT
@given(intent=intents(everything=True))
def test_both_dialects_of_nftables_do_the_same(intent: Intent) -> None:
    intent = forgetful(intent)
    modern, classic = (nftables.compile(intent, can) for can in (MODERN, CLASSIC))
    assert nftables.lift(modern) == nftables.lift(classic)
    # Every item of a service says so by its key alone, since that is all that the kernel gives back.
    for item in classic.of_kind("chain"):
        assert item.service == layout.service_of_chain(item.key[2])


@BOTH
@given(intent=intents(), data=st.data())
def test_the_order_of_services_moves_nothing(
    backend: ModuleType, intent: Intent, data: st.DataObject
) -> None:
    program = compiled(backend, intent)
    assert compiled(backend, intent) == program
    assert backend.render(compiled(backend, intent)) == backend.render(program)
    services = tuple(data.draw(st.permutations(intent.services)))
    other = compiled(backend, replace(intent, services=services))
    assert unordered(other) == unordered(program)


def unordered(program: Program) -> Mapping[Key, tuple[str | None, object]]:
    """Each item, where what all services share is a bag of lines: its order is that of the services."""
    return {
        item.key: (item.service, item.text if item.service else sorted(item.text.split("\n")))
        for item in program.items
    }


@BOTH
@given(intent=intents(min_services=1), data=st.data())
def test_a_service_that_comes_or_goes_changes_no_other(
    backend: ModuleType, intent: Intent, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(intent.services))
    rest = tuple(service for service in intent.services if service is not gone)
    full = compiled(backend, intent)
    less = compiled(backend, replace(intent, services=rest))
    assert owned(less) == {key: item for key, item in owned(full).items() if item.service != gone.name}
    if backend is nftables:
        # Lines of what all share may come and go with a service, and the others keep their order.
        shared = {item.key: item.text.split("\n") for item in full.items if item.service is None}
        for item in less.items:
            if item.service is None:
                before, after = item.text.split("\n"), shared[item.key]
                assert [x for x in before if x in after] == [x for x in after if x in before]


def owned(program: Program) -> dict[Key, Item]:
    return {item.key: item for item in program.items if item.service is not None}


@BOTH
@given(intent=intents())
def test_items_of_the_two_families_and_of_owners_never_meet(backend: ModuleType, intent: Intent) -> None:
    program = compiled(backend, intent)
    words = {item.key[0] for item in program.items}
    families = {family for service in intent.services for family in service.families}
    assert len(words) == len(families)
    # Every line of every item is one line of the rule language.
    for item in program.items:
        for line in item.text.split("\n"):
            assert line == line.strip()
            assert line.isprintable()
