"""What the kernel gives back is what was compiled; a delta leads where a fresh load leads; nothing drifts.

In process, in one private namespace: dozens of programs go in and out of the real kernel. Two readers
judge: `observe`, and the tools' own dumps, in which nothing of ours takes part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lbctl import engine
from lbctl.host import Completed, LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import (
    Endpoint,
    Intent,
    Item,
    Key,
    Listener,
    Plan,
    Program,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
)
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables, layout
from support.intents import LONG, LONGER, intents

pytestmark = pytest.mark.kernel

BACKEND: Mapping[str, ModuleType] = {
    "libnftables": nftables,
    "nft": nftables,
    "legacy": iptables,
    "nf_tables": iptables,
    "iptc": iptables,
}
#: What loads a rendered text where there is no lbctl.
TOOLS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "libnftables": (("nft", "-f", "-"),),
    "nft": (("nft", "-f", "-"),),
    "legacy": (
        ("iptables-legacy-restore", "--noflush"),
        ("ip6tables-legacy-restore", "--noflush"),
    ),
    "nf_tables": (("iptables-nft-restore", "--noflush"), ("ip6tables-nft-restore", "--noflush")),
}
SLOW = settings(
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
QUICK = pytest.mark.parametrize("driver", TOOLS)


class Kernel:
    """The rules of one namespace, by way of the engine or of the plain tools."""

    def __init__(self, host: LocalHost) -> None:
        self.host = host

    @cache  # noqa: B019 (lives as long as the module's tests)
    def session(self, driver: str) -> engine.Session:
        return engine.open_session(self.host, backend=BACKEND[driver].name, driver=driver)

    def compile(self, driver: str, intent: Intent) -> Program:
        return self.session(driver).compile(intent)

    def plan(self, driver: str, intent: Intent) -> Plan:
        return engine.plan(self.session(driver), intent)

    def apply(self, driver: str, intent: Intent) -> None:
        engine.apply(self.session(driver), (self.plan(driver, intent),))

    def observe(self, driver: str, owner: str) -> Program:
        return self.session(driver).observe(owner)

    def clear(self, driver: str, owner: str) -> None:
        session = self.session(driver)
        engine.remove(session, owner)

    def load(self, driver: str, text: str) -> None:
        for argv in TOOLS[driver]:
            done = self.tool(*argv, stdin=text)
            assert done.code == 0, done.err

    def tool(self, *argv: str, stdin: str = "") -> Completed:
        return self.host.run(argv, stdin=stdin)

    def dump(self, driver: str, owner: str) -> object:
        """The owner's rules as the tools tell them, without what depends on the order of making."""
        if BACKEND[driver] is nftables:
            return [self._table(word, layout.table(owner)) for word in ("ip", "ip6")]
        flavour = "nft" if driver == "nf_tables" else "legacy"
        return [
            _by_chain(self.tool(f"{word}-{flavour}-save", "--table", "nat").out)
            for word in ("iptables", "ip6tables")
        ]

    def _table(self, word: str, name: str) -> list[str]:
        done = self.tool("nft", "--json", "--stateless", "list", "table", word, name)
        return sorted(_stable(o) for o in json.loads(done.out)["nftables"]) if done.code == 0 else []


def _stable(entry: dict[str, Any]) -> str:
    """One object of nft's, without its number and with its elements in order."""
    [(kind, value)] = entry.items()
    value = {k: v for k, v in value.items() if k not in {"handle", "elem"}} | {
        "elem": sorted(json.dumps(x, sort_keys=True) for x in value.get("elem", []))
    }
    return json.dumps([kind, value], sort_keys=True)


def _by_chain(dump: str) -> dict[str, list[str]]:
    """Chain → its rules in order."""
    chains: dict[str, list[str]] = {}
    for line in dump.splitlines():
        if line.startswith(":") and "LBCTL" in line:
            chains.setdefault(line[1:].split(" ")[0], [])
        elif line.startswith("-A ") and "LBCTL" in line:
            chains.setdefault(line.split(" ")[1], []).append(line)
    return chains


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    host = LocalHost(tmp_path_factory.mktemp("state"))
    namespace = Namespace(host)
    # A network of its own makes the rules for hairpins of both backends.
    neighbour = Namespace(host)
    namespace.connect("inside", neighbour, "uplink")
    namespace.address("inside", "10.0.0.254/24", "2001:db8:2::fe/64")
    with namespace.entered():
        yield Kernel(host)
    neighbour.close()
    namespace.close()


def items(program: Program) -> dict[Key, Item]:
    """Return the items by key. An empty chain of iptables whose name is cut does not say whose it is."""
    return {
        key: item._replace(service=None) if "tables" in key[0] and not item.text else item
        for key, item in program.by_key.items()
    }


def goes_in_and_comes_out(kernel: Kernel, driver: str, intent: Intent) -> None:
    try:
        kernel.apply(driver, intent)
        assert items(kernel.observe(driver, intent.owner)) == items(kernel.compile(driver, intent))
        assert not engine.plan(kernel.session(driver), intent).changed
    finally:
        kernel.clear(driver, intent.owner)
    assert not kernel.observe(driver, intent.owner)


@QUICK
@settings(SLOW, max_examples=25)
@given(intent=intents())
def test_any_intent_comes_back_from_the_kernel(kernel: Kernel, driver: str, intent: Intent) -> None:
    goes_in_and_comes_out(kernel, driver, intent)


NFT = pytest.mark.parametrize("driver", ["libnftables", "nft"])


@NFT
@settings(SLOW, max_examples=10)
@given(intent=intents(everything=True, selective=True))
def test_all_that_nftables_can_express_comes_back_from_the_kernel(
    kernel: Kernel, driver: str, intent: Intent
) -> None:
    goes_in_and_comes_out(kernel, driver, intent)


def by_turns(intent: Intent) -> Intent:
    """The intent with no scheduler that iptables may refuse."""
    hashed = {Scheduler.SOURCE_HASH, Scheduler.MAGLEV}
    return replace(
        intent,
        services=tuple(
            replace(s, scheduler=Scheduler.ROUND_ROBIN, takeover=False) if s.scheduler in hashed else s
            for s in intent.services
        ),
    )


IPTABLES = pytest.mark.parametrize("driver", ["legacy", "nf_tables", "iptc"])
EVERYTHING = intents(everything=True, selective=True).map(by_turns)


@pytest.mark.timeout(600)
@IPTABLES
@settings(SLOW, max_examples=6)
@given(intent=EVERYTHING)
def test_all_that_iptables_can_express_comes_back_from_the_kernel(
    kernel: Kernel, driver: str, intent: Intent
) -> None:
    goes_in_and_comes_out(kernel, driver, intent)


@pytest.mark.parametrize("driver", ["libnftables", "nft", "legacy", "nf_tables", "iptc"])
@pytest.mark.parametrize("count", [2, 30])
def test_guarded_places_come_back_from_the_kernel(kernel: Kernel, driver: str, count: int) -> None:
    """Few of them, and more than a list is good for: single ports, ranges and several protocols."""
    addresses = [ip_address(f"10.{n % 3}.0.{n}") for n in range(1, count + 1)]
    listen = Listener(protocol=Protocol.UDP, port=20000, last_port=30000, address=ip_address("192.0.2.10"))
    web = Service(
        name="web",
        listeners=tuple(Listener(protocol=kind, port=80) for kind in (Protocol.TCP, Protocol.UDP)),
        endpoints=tuple(Endpoint(address=address, port=8000 + n % 2) for n, address in enumerate(addresses)),
        scheduler=Scheduler.SOURCE_HASH,
        takeover=True,
    )
    media = replace(
        web, name="media", listeners=(listen,), endpoints=tuple(Endpoint(address=each) for each in addresses)
    )
    closed = replace(
        web,
        name="closed",
        listeners=(Listener(protocol=Protocol.TCP, port=81),),
        deny=(ip_network("198.51.100.0/24"),),
    )
    goes_in_and_comes_out(kernel, driver, Intent(services=(web, media, closed)))


def passes_between_iptc_and_legacy(kernel: Kernel, intent: Intent) -> None:
    """Both speak to one table: what either writes, the other reads. The long way round would take long."""
    program = kernel.compile("iptc", intent)
    try:
        kernel.apply("legacy", intent)
        assert items(kernel.observe("iptc", intent.owner)) == items(program)
        dumped = kernel.dump("legacy", intent.owner)
        kernel.clear("legacy", intent.owner)
        iptables.apply(kernel.host, replace(kernel.plan("legacy", intent), driver="iptc"))
        assert items(kernel.observe("legacy", intent.owner)) == items(program)
        assert kernel.dump("legacy", intent.owner) == dumped
    finally:
        kernel.clear("legacy", intent.owner)


@settings(SLOW, max_examples=3)
@given(intent=intents(min_services=1))
def test_any_intent_passes_between_iptc_and_legacy(kernel: Kernel, intent: Intent) -> None:
    passes_between_iptc_and_legacy(kernel, intent)


PAIRS = st.sampled_from(["lbctl", "blue"]).flatmap(
    lambda owner: st.lists(intents(owner=owner), min_size=2, max_size=3)
)


def deltas_lead_where_a_fresh_load_leads(kernel: Kernel, driver: str, steps: list[Intent]) -> None:
    goal = steps[-1]
    try:
        for intent in steps:
            kernel.apply(driver, intent)
        by_delta = kernel.observe(driver, goal.owner)
        dump_by_delta = kernel.dump(driver, goal.owner)
        kernel.clear(driver, goal.owner)
        kernel.apply(driver, goal)
        assert items(by_delta) == items(kernel.observe(driver, goal.owner))
        assert dump_by_delta == kernel.dump(driver, goal.owner)
    finally:
        kernel.clear(driver, goal.owner)
    # Nothing of ours is left, not even an empty chain or map.
    assert not any(kernel.dump(driver, goal.owner))  # type: ignore[call-overload]


@QUICK
@settings(SLOW, max_examples=8)
@given(steps=PAIRS)
def test_deltas_lead_where_a_fresh_load_leads(kernel: Kernel, driver: str, steps: list[Intent]) -> None:
    deltas_lead_where_a_fresh_load_leads(kernel, driver, steps)


@NFT
@settings(SLOW, max_examples=8)
@given(steps=st.lists(intents(owner="lbctl", everything=True, selective=True), min_size=2, max_size=3))
def test_deltas_of_all_that_nftables_can_express(kernel: Kernel, driver: str, steps: list[Intent]) -> None:
    deltas_lead_where_a_fresh_load_leads(kernel, driver, steps)


@pytest.mark.timeout(600)  # the child of python-iptables writes rule by rule
@IPTABLES
@settings(SLOW, max_examples=4)
@given(steps=st.lists(EVERYTHING.map(lambda x: replace(x, owner="lbctl")), min_size=2, max_size=3))
def test_deltas_of_all_that_iptables_can_express(kernel: Kernel, driver: str, steps: list[Intent]) -> None:
    deltas_lead_where_a_fresh_load_leads(kernel, driver, steps)


@QUICK
@settings(SLOW, max_examples=8)
@given(intent=intents(min_services=1))
def test_a_rendered_text_is_the_program_for_the_plain_tools(
    kernel: Kernel, driver: str, intent: Intent
) -> None:
    program = kernel.compile(driver, intent)
    text = BACKEND[driver].render(program)
    found = engine.render(kernel.host, intent, driver=driver)
    assert (found.rules, found.backend) == (text, BACKEND[driver].name)
    try:
        kernel.load(driver, text)
        if BACKEND[driver] is nftables:
            kernel.load(driver, text)
        found = items(kernel.observe(driver, intent.owner))
        more = {key: item for key, item in found.items() if key not in program.by_key}
        assert {key: item for key, item in found.items() if key not in more} == items(program)
        # A chain's line in a text for both families cannot say for which one it is meant; an empty chain
        # that nothing enters does no harm, and the next change takes it out.
        assert BACKEND[driver] is iptables or not more
        assert all(item.text == "" and item.key[1] == "chain" for item in more.values())
        kernel.apply(driver, intent)
        loaded = kernel.dump(driver, intent.owner)
        kernel.clear(driver, intent.owner)
        kernel.apply(driver, intent)
        assert kernel.dump(driver, intent.owner) == loaded
    finally:
        kernel.clear(driver, intent.owner)


@QUICK
@settings(SLOW, max_examples=5)
@given(pair=PAIRS)
def test_a_check_accepts_every_program_and_changes_nothing(
    kernel: Kernel, driver: str, pair: list[Intent]
) -> None:
    present, asked = pair[:2]
    try:
        for intent in (None, present):
            if intent is not None:
                kernel.apply(driver, intent)
            before = kernel.dump(driver, asked.owner)
            kernel.session(driver).check(kernel.compile(driver, asked))
            assert kernel.dump(driver, asked.owner) == before
    finally:
        kernel.clear(driver, present.owner)


def one(name: str, *endpoints: Endpoint, **options: Any) -> Service:
    listener = Listener(protocol=Protocol.TCP, port=80, address=options.pop("address", None))
    return Service(name=name, listeners=(listener,), endpoints=endpoints, **options)


@QUICK
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_endpoints_elsewhere_come_and_go(kernel: Kernel, driver: str, protocol: Protocol) -> None:
    """nft 1.0.6 does not take every rule about a map that is in the kernel already, as it took the first."""
    places = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "2001:db8:2::1", "2001:db8:2::2")]
    listeners = tuple(Listener(protocol=each, port=53) for each in dict.fromkeys((protocol, Protocol.UDP)))
    try:
        for chosen in (places[::2], places, places[1:], places[:1], places):
            endpoints = tuple(Endpoint(port=53, address=address) for address in chosen)
            intent = Intent(services=(Service(name="dns", listeners=listeners, endpoints=endpoints),))
            kernel.apply(driver, intent)
            assert items(kernel.observe(driver, "lbctl")) == items(kernel.compile(driver, intent))
    finally:
        kernel.clear(driver, "lbctl")


SHAPES = (
    "2001:db8::1",
    "2001:db8::1:0:0:1",
    "2001:db8:0:1:1:1:1:1",
    "2001:db8:0:0:1:1:0:1",
    "2001:0:0:1::",
    "2001:db8:a:b:c:d:e:f",
    "1::",
    "::5",
    "::ffff:0:102:304",
    "64:ff9b::102:304",
    "fe80::1",
    "fd00::ffff:1.2.3.4",
)


@QUICK
def test_ipv6_addresses_of_every_shape(kernel: Kernel, driver: str) -> None:
    """Python and the C library spell some addresses differently."""
    listed = tuple(Listener(protocol=Protocol.TCP, port=80, address=ip_address(text)) for text in SHAPES)
    endpoints = tuple(Endpoint(port=8000, address=ip_address(text)) for text in SHAPES)
    intent = Intent(services=(Service(name="shapes", listeners=listed, endpoints=endpoints),))
    goes_in_and_comes_out(kernel, driver, intent)
    if driver == "legacy":
        passes_between_iptc_and_legacy(kernel, intent)


@settings(SLOW, max_examples=10)
@given(
    addresses=st.lists(
        # Many zeros, so that runs of them compete to be the one that is left out.
        st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0xA0B]), min_size=8, max_size=8)
        .map(lambda words: IPv6Address(b"".join(w.to_bytes(2, "big") for w in words)))
        # ::/96, ::ffff:0:0/96, multicast: nobody's address on a wire.
        .filter(lambda a: int(a) >> 48 and not a.is_multicast),
        min_size=1,
        max_size=30,
        unique=True,
    )
)
def test_any_ipv6_address(kernel: Kernel, addresses: list[IPv6Address]) -> None:
    for driver in ("libnftables", "legacy"):
        endpoints = tuple(Endpoint(port=8000, address=address) for address in addresses)
        service = one("web", *endpoints, address=addresses[0])
        goes_in_and_comes_out(kernel, driver, Intent(services=(service,)))


@QUICK
@pytest.mark.parametrize("owner", ["lbctl", "o" * 12])
def test_the_longest_names(kernel: Kernel, driver: str, owner: str) -> None:
    first, second = (
        Service(
            name=name,
            listeners=(Listener(protocol=Protocol.TCP, port=port),),
            endpoints=tuple(
                Endpoint(port=9000, address=ip_address(f"10.0.0.{i}"), name=f"{i}" + "e" * 62) for i in (1, 2)
            ),
            local_clients=False,
            source_nat=SourceNat.ALWAYS,
        )
        for name, port in ((LONG, 80), (LONGER, 81))
    )
    intent = Intent(services=(first, second), owner=owner)
    goes_in_and_comes_out(kernel, driver, intent)
    if driver == "legacy":
        passes_between_iptc_and_legacy(kernel, intent)


@QUICK
def test_997_slots(kernel: Kernel, driver: str) -> None:
    weights = (500, 300, 197)
    endpoints = (Endpoint(port=8001 + i, weight=weight) for i, weight in enumerate(weights))
    intent = Intent(services=(one("web", *endpoints),))
    program = kernel.compile(driver, intent)
    for service in BACKEND[driver].lift(program).services:
        assert len(service.slots) == 997
    goes_in_and_comes_out(kernel, driver, intent)


def many(count: int) -> Intent:
    return Intent(
        services=tuple(
            Service(
                name=f"s{i}",
                listeners=(Listener(protocol=Protocol.TCP, port=1000 + i),),
                endpoints=tuple(Endpoint(port=9000, address=ip_address(f"10.0.{i}.{j}")) for j in (1, 2, 3)),
            )
            for i in range(count)
        )
    )


@QUICK
def test_200_services(kernel: Kernel, driver: str) -> None:
    full = many(200)
    less = Intent(services=full.services[:100] + full.services[101:])
    try:
        kernel.apply(driver, full)
        kernel.apply(driver, less)
        assert items(kernel.observe(driver, less.owner)) == items(kernel.compile(driver, less))
    finally:
        kernel.clear(driver, less.owner)
    goes_in_and_comes_out(kernel, driver, full)


@NFT
def test_services_whose_slots_want_the_same_place(kernel: Kernel, driver: str) -> None:
    """Found by trying names: the page and range of these two are equal."""
    early, late = "s1702", "s3224"
    assert layout.home(early) == layout.home(late)
    web, other = (
        Service(
            name=name,
            listeners=(Listener(protocol=Protocol.TCP, port=port),),
            endpoints=(Endpoint(port=8001), Endpoint(port=8002)),
        )
        for name, port in ((early, 80), (late, 81))
    )
    try:
        for services in ((other,), (web, other), (web,), (other, web), (other,)):
            intent = Intent(services=services)
            kernel.apply(driver, intent)
            assert items(kernel.observe(driver, "lbctl")) == items(kernel.compile(driver, intent))
            for lifted in nftables.lift(kernel.observe(driver, "lbctl")).services:
                assert lifted.slots == ("8001", "8002")
    finally:
        kernel.clear(driver, "lbctl")
