"""Ranges of ports in nftables: one element each, maps of their own, and no cost where there are none."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings

from lbctl.model import (
    Change,
    Endpoint,
    Intent,
    Listener,
    Program,
    Protocol,
    Service,
    SourceNat,
    diff,
    hidden,
)
from lbctl_nftables import backend as nftables, layout, script
from lbctl_nftables.dialect import CAPABILITIES
from support.intents import intents


def span(first: int, last: int, address: str | None = None) -> Listener:
    where = ip_address(address) if address else None
    return Listener(protocol=Protocol.UDP, port=first, last_port=last, address=where)


def one(port: int, address: str | None = None) -> Listener:
    return span(port, port, address)


def hosts(*last: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(address=ip_address(f"10.0.0.{n}")) for n in last)


def service(name: str, *listeners: Listener, **options: object) -> Service:
    return replace(
        Service(name=name, listeners=listeners, endpoints=hosts(1, 2)),
        **options,  # type: ignore[arg-type]
    )


MEDIA = service("media", span(20000, 50000), affinity=60)


def compiled(*services: Service) -> Program:
    return nftables.compile(Intent(services=services), CAPABILITIES)


def changes(before: tuple[Service, ...], after: tuple[Service, ...]) -> tuple[Change, ...]:
    return diff(compiled(*before), compiled(*after))


def test_thirty_thousand_ports_are_one_element() -> None:
    wide, narrow = compiled(MEDIA), compiled(replace(MEDIA, listeners=(span(20000, 20001),)))
    assert len(wide.items) == len(narrow.items)
    assert ("ip", "element", "port-ranges", "udp . 20000-50000") in wide.by_key


def test_a_table_without_ranges_has_nothing_for_them() -> None:
    program = compiled(service("web", one(80), affinity=60, deny=(ip_network("192.0.2.1"),)))
    assert not [item for item in program.items if "ranges" in " ".join((*item.key, item.text))]


def test_forms_of_ranges_come_one_by_one() -> None:
    program = compiled(replace(MEDIA, listeners=(span(20000, 50000, "192.0.2.1"),)))
    maps = {item.key[2] for item in program.of_kind("map")}
    assert {"service-ranges", "source-ranges", "learned-ranges"} <= maps
    assert not {name for name in maps if name.endswith("port-ranges")}


def test_another_endpoint_of_a_range_is_its_elements() -> None:
    before = replace(MEDIA, affinity=None)
    after = replace(before, endpoints=hosts(1, 3))
    assert [change.key[1] for change in changes((before,), (after,))] == ["element"]


def test_other_ends_of_a_range_are_elements() -> None:
    found = changes((MEDIA,), (replace(MEDIA, listeners=(span(20000, 60000),)),))
    assert {change.key[1] for change in found} == {"element"}


def test_a_range_that_comes_or_goes_leaves_the_chains_of_others_alone() -> None:
    web = service("web", one(80), affinity=60)
    for before, after in (((web,), (web, MEDIA)), ((web, MEDIA), (web,))):
        assert "web" not in {change.service for change in changes(before, after)}
        assert script.is_delta(changes(before, after))


def test_a_port_that_becomes_one_of_the_first_range_is_not_taken_out_at_once() -> None:
    """A packet under way goes by rules that ask the map of ranges alone, or no map of ranges."""
    single, ranged = service("web", one(80)), service("web", span(80, 90))
    preparing, doing, clearing = script.transactions("lbctl", changes((single,), (ranged,)), compiled(ranged))
    gone = "delete element ip lbctl ports { udp . 80 }"
    assert "udp . 80-90" in doing
    assert gone not in preparing + doing
    assert gone in clearing
    _, doing, clearing = script.transactions("lbctl", changes((ranged,), (single,)), compiled(single))
    assert "udp . 80 : goto" in doing
    assert "port-ranges" not in doing
    assert "delete map ip lbctl port-ranges" in clearing


def test_a_map_that_no_listener_is_left_in_goes_after_the_rules_that_ask_it() -> None:
    anywhere, addressed = service("web", one(80)), service("web", one(80, "192.0.2.1"))
    _, doing, clearing = script.transactions("lbctl", changes((anywhere,), (addressed,)), compiled(addressed))
    assert "vmap @services" in doing
    assert "@ports" not in doing
    assert "delete" not in doing.replace("flush", "")
    assert "delete element ip lbctl ports { udp . 80 }" in clearing
    assert "delete map ip lbctl ports" in clearing


WIDER = {
    "source": (replace(MEDIA, affinity=None), {"source_nat": SourceNat.NEVER}, "source-ports"),
    "learn": (replace(MEDIA, source_nat=SourceNat.NEVER), {"source_nat": SourceNat.NEVER}, "learned-ports"),
    "refuse": (
        replace(MEDIA, affinity=None, source_nat=SourceNat.NEVER, deny=(ip_network("192.0.2.1"),)),
        {"source_nat": SourceNat.NEVER},
        "refused-ports",
    ),
}


@pytest.mark.parametrize("purpose", WIDER)
def test_a_single_port_hides_the_range_in_each_map(purpose: str) -> None:
    wide, options, name = WIDER[purpose]
    inside = service("inside", one(25000), **options)
    program = compiled(wide, inside)
    found = {item.key[2]: item.text for item in program.of_kind("element") if item.key[3] == "udp . 25000"}
    assert found == {"ports": ": goto service-inside", name: ": return"}
    outside = replace(inside, listeners=(one(19999),))
    assert ": return" not in {item.text for item in compiled(wide, outside).items}


def test_a_listener_hides_ranges_in_its_own_family_only() -> None:
    wide = replace(
        MEDIA, endpoints=(*MEDIA.endpoints, Endpoint(address=ip_address("2001:db8::1"))), affinity=None
    )
    inside = Service(name="inside", listeners=(one(25000, "2001:db8::9"),), endpoints=(Endpoint(port=8001),))
    returning = [item.key for item in compiled(wide, inside).items if item.text == ": return"]
    assert returning == [("ip6", "element", "sources", "2001:db8::9 . udp . 25000")]


def test_which_listeners_hide_others() -> None:
    media = service("media", span(20000, 50000), exclude=(ip_network("192.0.2.1"),))
    spared = service("spared", span(30000, 40000, "192.0.2.1"), one(53, "192.0.2.9"))
    inside = service("inside", one(25000), one(35000, "192.0.2.1"), one(80))
    names = {
        name: {str(listener): [other.name for other in others] for listener, others in found.items()}
        for name, found in hidden([media, spared, inside]).items()
    }
    assert names == {
        "spared": {"192.0.2.1:30000-40000/udp": ["media"]},
        "inside": {"25000/udp": ["media"], "192.0.2.1:35000/udp": ["spared", "media"]},
    }
    assert not hidden([replace(media, listeners=(one(53),), exclude=()), inside])


@settings(deadline=None, max_examples=60)
@given(before=intents(owner="lbctl", selective=True), after=intents(owner="lbctl", selective=True))
def test_what_was_compiled_before_changes_nothing(before: Intent, after: Intent) -> None:
    previous = nftables.compile(before, CAPABILITIES)
    assert nftables.compile(after, CAPABILITIES, previous=previous) == nftables.compile(after, CAPABILITIES)


@settings(deadline=None, max_examples=60)
@given(intent=intents(owner="lbctl", selective=True, min_services=2))
def test_a_change_of_one_service_is_compiled_as_all_are(intent: Intent) -> None:
    previous = nftables.compile(intent, CAPABILITIES)
    for number, changed in enumerate(intent.services):
        for other in (
            replace(changed, deny=(ip_network("192.0.2.1"),)),
            replace(changed, source_nat=SourceNat.NEVER),
            replace(changed, listeners=changed.listeners[:1], exclude=()),
        ):
            services = (*intent.services[:number], other, *intent.services[number + 1 :])
            after = replace(intent, services=services)
            made = nftables.compile(after, CAPABILITIES, previous=previous)
            assert made == nftables.compile(after, CAPABILITIES)


def test_the_maps_of_listeners_are_told_apart_by_name() -> None:
    names = [name for maps in layout.LISTENERS.values() for name in maps.values()]
    assert len(names) == len(set(names)) == 20
    assert not [name for name in names if layout.is_page(name) or layout.service_of_set(name)]
