"""Direct server return without a kernel: what may be asked for, next hops, and what a change moves."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from ipaddress import ip_address, ip_network

import pytest

from lbctl.config.loader import loads
from lbctl.config.render import dump
from lbctl.engine import Session
from lbctl.engine.inspect.compare import compare
from lbctl.engine.migrate.intent import imported
from lbctl.engine.record import hops as recorded_hops
from lbctl.engine.record.hops import RecordedHops
from lbctl.engine.record.memory import SessionMemory
from lbctl.engine.record.next_hops import NextHops, with_next_hops
from lbctl.errors import IntentError, Unsupported
from lbctl.host import Completed
from lbctl.host.fake import FakeHost, Ran
from lbctl.model import (
    AnalysedService,
    Discovered,
    Endpoint,
    Facts,
    Family,
    Forward,
    Hop,
    Intent,
    Scheduler,
    Service,
    State,
    effective,
)
from lbctl.spi import Driver, Selection, next_hops
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables
from lbctl_nftables.advice import moved
from lbctl_nftables.dialect import CAPABILITIES
from lbctl_nftables.rivals import ListedRules

OWN, CARD = "02:00:00:00:00:01", "02:00:00:00:01:{:02x}"
SERVERS = tuple(ip_address(f"192.0.2.{n}") for n in (101, 102, 103))
TEXT = """schema = 1
[[service]]
name = "far"
listen = "192.0.2.200:80/tcp"
forward = "dsr"
endpoints = ["192.0.2.101", "192.0.2.102", "192.0.2.103"]
"""


def hop(number: int, device: str = "eth0") -> Hop:
    return Hop(address=SERVERS[number], device=device, source=OWN, mac=CARD.format(number))


def service(text: str = TEXT, **keys: object) -> Service:
    [found] = loads(text).services
    return replace(found, hops=frozenset(map(hop, range(3))), **keys)  # type: ignore[arg-type]


def rules(service: Service) -> str:
    return nftables.render(nftables.compile(Intent(services=(service,)), CAPABILITIES))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"192.0.2.200:80/tcp"', '"80/tcp"', "each listener needs one"),
        ("80/tcp", "80/sctp", "for TCP and UDP"),
        ('["192.0.2.101"', '["192.0.2.101:8080"', "keep their destination port"),
        ('forward = "dsr"', 'forward = "dsr"\nscheduler = "least-connections"', "tracks no connections"),
        ('forward = "dsr"', 'forward = "dsr"\naffinity = "1h"', "has no affinity"),
        ('forward = "dsr"', 'forward = "dsr"\nlocal-clients = true', "no local connections"),
        ('forward = "dsr"', 'forward = "dsr"\nsource-nat = "never"', "the client's address stays"),
        ('forward = "dsr"', 'forward = "dsr"\ninterfaces = ["eth*"]', "each interface by itself"),
        (
            'forward = "dsr"\nendpoints = ["192.0.2.101", "192.0.2.102", "192.0.2.103"]',
            'forward = "dsr"\nendpoints = ["8001"]',
            "endpoints are other hosts",
        ),
        ('forward = "dsr"', 'forward = "tunnel"', 'forward "tunnel" is not known'),
    ],
)
def test_what_it_cannot_do_is_refused_with_its_reason(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(IntentError) as error:
        loads(TEXT.replace(old, new))
    assert any(reason in problem.message for problem in error.value.problems), error.value.problems


def test_an_intent_is_written_as_it_was_read() -> None:
    table = '{ address = "192.0.2.102", mac = "02-00-00-00-01-AA" }'
    intent = loads(TEXT.replace('"192.0.2.102"', table))
    assert intent.services[0].endpoints[1].mac == "02:00:00:00:01:aa"
    assert loads(dump(intent)) == intent
    for wrong in ("01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:00:00:01"):
        with pytest.raises(IntentError):
            loads(dump(intent).replace("02:00:00:00:01:aa", wrong))


def test_a_backend_refuses_by_name_what_it_cannot_forward() -> None:
    capabilities = iptables.capabilities_for("iptables", "1.8.9")
    with pytest.raises(Unsupported, match="forward dsr"):
        iptables.compile(Intent(services=(service(),)), capabilities)
    with pytest.raises(Unsupported, match="forward dsr"):
        nftables.compile(
            Intent(services=(service(),)), replace(CAPABILITIES, forwards=frozenset({Forward.NAT}))
        )
    assert nftables.capabilities_for("nft", "0.9.2").forwards == {Forward.NAT}


@pytest.mark.parametrize("device", ["bond0", "bond0.100", "vlan7"])
def test_rules_are_written_for_any_interface(device: str) -> None:
    """Bonds and VLANs are not in the kernel of the tests: their rules are read, and not run."""
    hops = frozenset(hop(number, device) for number in range(3))
    text = rules(replace(service(), hops=hops))
    assert f'type filter hook ingress device "{device}" priority 50; policy accept;' in text
    assert f'fwd to "{device}"' in text
    assert f"vmap @services-{device}\n" in text


def test_packets_are_looked_up_among_the_listeners_of_their_interface() -> None:
    """And where a narrower listener of another interface hides a port of a range, the port is left alone."""
    ranged = service(TEXT.replace("200:80/tcp", "200:70-90/tcp"), interfaces=("eth1", "eth2"))
    near = service(TEXT.replace('"far"', '"near"'), interfaces=("eth2",))
    program = nftables.compile(Intent(services=(ranged, near)), CAPABILITIES)
    found = {key[2:]: item.text for key, item in program.by_key.items() if "192.0.2.200" in key[-1]}
    assert found == {
        ("service-ranges-eth1", "192.0.2.200 . tcp . 70-90"): ": goto service-far",
        ("service-ranges-eth2", "192.0.2.200 . tcp . 70-90"): ": goto service-far",
        ("services-eth1", "192.0.2.200 . tcp . 80"): ": return",
        ("services-eth2", "192.0.2.200 . tcp . 80"): ": goto service-near",
    }
    asked = program.by_key["netdev.ip", "rules", "ingress-eth1"].text.split("\n")
    assert [rule.rpartition("@")[2] for rule in asked] == ["services-eth1", "service-ranges-eth1"]
    lifted = nftables.lift(program)
    assert [(each.name, len(each.slots)) for each in lifted.services] == [("far", 3), ("near", 3)]
    assert not lifted.unsupported


@pytest.mark.parametrize("scheduler", [Scheduler.SOURCE_HASH, Scheduler.MAGLEV])
def test_a_packet_placed_by_a_hash_is_asked_nothing_twice(scheduler: Scheduler) -> None:
    """Each condition costs every packet: what the listener has asked is asked no more."""
    program = nftables.compile(Intent(services=(service(scheduler=scheduler),)), CAPABILITIES)
    first, second = program.by_key["netdev.ip", "rules", "service-far"].text.split("\n")
    assert first.startswith("@th,104,8 & 0x17 == 0x02 @ll,0,96 set jhash @nh,96,32 mod ")
    assert second.startswith("@ll,0,96 set jhash @nh,96,32 mod ")
    both = service(TEXT.replace('"192.0.2.200:80/tcp"', '["192.0.2.200:80/tcp", "192.0.2.200:80/udp"]'))
    program = nftables.compile(Intent(services=(replace(both, scheduler=scheduler),)), CAPABILITIES)
    texts = program.by_key["netdev.ip", "rules", "service-far"].text.split("\n")
    assert [text.partition(" @ll")[0] for text in texts] == [
        "tcp flags & 0x17 == 0x02",
        "meta l4proto tcp",
        "meta l4proto udp",
    ]


def test_both_addresses_of_a_frame_are_in_one_slot() -> None:
    assert 'comment "far/192.0.2.102" : 0x020000000101020000000001' in rules(service())


def test_an_unknown_next_hop_is_an_error_and_never_a_rule() -> None:
    partial = service()
    partial = replace(partial, hops=frozenset({hop(0), hop(1)}))
    with pytest.raises(IntentError, match=r"192\.0\.2\.103"):
        rules(partial)
    drained = replace(partial.endpoints[2], state=State.DRAIN)
    left = replace(partial, endpoints=(*partial.endpoints[:2], drained))
    assert set(next_hops(left, Family.IPV4)) == {"192.0.2.101", "192.0.2.102"}


@pytest.mark.parametrize("scheduler", [Scheduler.SOURCE_HASH, Scheduler.MAGLEV])
def test_a_drain_changes_the_slots_of_one_endpoint_alone(scheduler: Scheduler) -> None:
    whole = service(scheduler=scheduler)
    drained = replace(whole.endpoints[1], state=State.DRAIN)
    less = replace(whole, endpoints=(whole.endpoints[0], drained, whole.endpoints[2]))
    before, after = ([each.to for each in side.slots(Family.IPV4)] for side in (whole, less))
    assert len(before) == len(after)
    assert all(a == b for a, b in zip(before, after, strict=True) if a != drained.to)
    assert drained.to not in after
    assert less.ready(Family.IPV4) == (whole.endpoints[0], whole.endpoints[2])
    # The kernel tracks connections that are translated: there the shares are exact instead.
    translated = replace(less, forward=Forward.NAT, hops=frozenset())
    assert len(translated.slots(Family.IPV4)) != len(before) or scheduler is Scheduler.MAGLEV
    # Where all are drained, none is left.
    gone = replace(whole, endpoints=tuple(replace(e, state=State.DRAIN) for e in whole.endpoints))
    assert gone.slots(Family.IPV4) == ()


def test_the_part_of_clients_that_move_is_that_of_their_hashes() -> None:
    tables = ["abc", "abcd", "aab", "a", "cba", "abcabc"]
    for before in tables:
        for after in tables:
            size = len(before) * len(after) * 4
            exact = sum(
                before[place * len(before) // size] != after[place * len(after) // size]
                for place in range(size)
            )
            assert moved(before, after) == pytest.approx(exact / size), (before, after)


class Neighbours:
    """A kernel with one Ethernet interface, that answers rtnetlink."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.silent: set[str] = set()
        self.host = FakeHost(programs=("ip",))
        self.host.asked = self.answer
        self.host.answer_with(self._solicit, "ip", "neigh", "replace")
        self.route("192.0.2.0/24", "{} dev eth0 src 192.0.2.100 uid 0")

    def route(self, network: str, text: str) -> None:
        for address in ip_network(network):
            self.host.answer("ip", "route", "get", str(address), out=text.format(address) + "\n")

    def _solicit(self, ran: Ran) -> Completed:
        address = ran.argv[3]
        if address not in self.silent:
            self.known[address] = CARD.format(int(address.rpartition(".")[2]) - 101)
        return Completed(code=0, out="", err="")

    def answer(self, protocol: int, request: bytes) -> bytes | None:
        assert protocol == 0
        kind = struct.unpack_from("=IH", request)[1]
        bodies = [self._link()] if kind == 18 else [self._neighbour(a, m) for a, m in self.known.items()]
        return b"".join(struct.pack("=IHHII", 16 + len(b), kind - 2, 2, 1, 0) + b for b in bodies)

    @staticmethod
    def _link() -> bytes:
        fields = {3: b"eth0\0", 1: bytes.fromhex(OWN.replace(":", "")), 4: struct.pack("=I", 1500)}
        return struct.pack("=BxHiII", 0, 1, 7, 0, 0) + _attributes(fields)

    @staticmethod
    def _neighbour(address: str, mac: str) -> bytes:
        fields = {1: ip_address(address).packed, 2: bytes.fromhex(mac.replace(":", ""))}
        return struct.pack("=BxxxiHBB", 2, 7, 2, 0, 0) + _attributes(fields)


def _attributes(fields: Mapping[int, bytes]) -> bytes:
    packed = (struct.pack("=HH", 4 + len(value), kind) + value for kind, value in fields.items())
    return b"".join(each + bytes(-len(each) % 4) for each in packed)


def resolved(kernel: Neighbours, known: NextHops, text: str = TEXT) -> Service:
    intent = loads(text)
    known.resolve(kernel.host, intent, {})
    found = effective(intent, Facts(hops=known.found))
    known.require(found.intent)
    return found.intent.services[0]


def test_next_hops_are_asked_of_the_kernel_and_their_objects_stay() -> None:
    kernel, known = Neighbours(), NextHops()
    assert resolved(kernel, known).hops == set(map(hop, range(3)))
    before = known.found
    assert resolved(kernel, known).hops
    assert known.found is before
    kernel.known["192.0.2.101"] = "02:00:00:00:09:09"
    assert "02:00:00:00:09:09" in {each.mac for each in resolved(kernel, known).hops}


def test_an_endpoint_that_falls_silent_keeps_its_address_on_record() -> None:
    kernel, known = Neighbours(), NextHops()
    intent = loads(TEXT)
    known.resolve(kernel.host, intent, {})
    known.note(kernel.host, "lbctl", effective(intent, Facts(hops=known.found)))
    kernel.known.clear()
    kernel.silent = {str(each) for each in SERVERS}
    again = NextHops()
    assert resolved(kernel, again).hops == set(map(hop, range(3)))
    # It is not asked for at each step: the steps of an agent do not wait.
    before = kernel.host.uptime
    resolved(kernel, again)
    assert kernel.host.uptime == before
    again.note(kernel.host, "lbctl", None)
    assert recorded_hops.read(kernel.host, "lbctl") == RecordedHops()
    with pytest.raises(IntentError, match="does not answer on eth0"):
        resolved(kernel, NextHops())


def test_another_interface_of_the_same_name_is_noticed() -> None:
    kernel, known = Neighbours(), NextHops()
    resolved(kernel, known)
    assert not known.replaced
    recorded_hops.write(
        kernel.host, "lbctl", RecordedHops(hops=frozenset(map(hop, range(3))), links={"eth0": 3})
    )
    resolved(kernel, known)
    assert known.replaced


def test_an_endpoint_behind_a_router_is_an_error_of_its_own() -> None:
    kernel = Neighbours()
    kernel.route("198.51.100.7/32", "{} via 192.0.2.1 dev eth0 src 192.0.2.100 uid 0")
    text = TEXT.replace("192.0.2.103", "198.51.100.7")
    with pytest.raises(IntentError, match="behind a router"):
        resolved(kernel, NextHops(), text)


def test_a_damaged_record_is_no_record() -> None:
    host = FakeHost()
    host.shelf["lbctl.hops"] = '{"format_version": 1, "links": [], "hops": [{"address": "x"}]}'
    assert recorded_hops.read(host, "lbctl") == RecordedHops()


def test_an_endpoint_with_a_mac_address_is_another_endpoint() -> None:
    plain = Endpoint(address=SERVERS[0])
    assert plain != replace(plain, mac=CARD.format(1))
    with pytest.raises(ValueError, match="MAC address"):
        Endpoint(address=SERVERS[0], mac="ff:ff:ff:ff:ff:ff")


#: How others send frames on at ingress → the endpoint shares, and the codes of findings.
INGRESS = {
    "ether saddr set 02:00:00:00:00:09 ether daddr set jhash ip saddr mod 4 seed 0xabc map "
    "{ 0-2 : 02:00:00:00:00:01, 3 : 02:00:00:00:00:02 } fwd to eth1": (
        {"mac 02:00:00:00:00:01": Fraction(3, 4), "mac 02:00:00:00:00:02": Fraction(1, 4)},
        [],
    ),
    "ether daddr set numgen inc mod 2 map { 0 : aa:bb:cc:dd:ee:01, 1 : 02:00:00:00:00:02 } fwd to eth1": (
        {"mac aa:bb:cc:dd:ee:01": Fraction(1, 2), "mac 02:00:00:00:00:02": Fraction(1, 2)},
        ["per-packet-balancing"],
    ),
    "ether daddr set numgen random mod 2 map @cards fwd to eth1": (
        {"mac 02:00:00:00:00:07": Fraction(1, 2), "mac 02:00:00:00:00:08": Fraction(1, 2)},
        ["per-packet-balancing"],
    ),
    "ether daddr set ip saddr map { 198.51.100.1 : 02:00:00:00:00:01 } fwd to eth1": (
        {"mac 02:00:00:00:00:01": Fraction(1)},
        [],
    ),
    'fwd to symhash mod 2 map { 0 : "eth1", 1 : "eth2" }': (
        {"link eth1": Fraction(1, 2), "link eth2": Fraction(1, 2)},
        [],
    ),
    "fwd ip to jhash ip saddr mod 2 seed 0x1 map { 0 : 192.0.2.9, 1 : 192.0.2.10 } device eth1": (
        {"192.0.2.9": Fraction(1, 2), "192.0.2.10": Fraction(1, 2)},
        [],
    ),
}


def ingress(*rules: str, hook: str = "ingress", family: str = "netdev") -> str:
    body = "\n".join(f"\t\t{rule}" for rule in rules)
    cards = "type inet_service : ether_addr; elements = { 0 : 02:00:00:00:00:07, 1 : 02:00:00:00:00:08 }"
    head = f'type filter hook {hook} device "eth0" priority 0; policy accept;'
    return f"table {family} t {{\n\tmap cards {{ {cards}; }}\n\tchain c {{\n\t\t{head}\n{body}\n\t}}\n}}\n"


def shares(found: AnalysedService) -> dict[str, Fraction]:
    return {each.to: each.share for each in found.backends}


@pytest.mark.parametrize("family", ["netdev", "inet"])
@pytest.mark.parametrize("rule", INGRESS)
def test_frames_that_existing_rules_send_on_are_read(rule: str, family: str) -> None:
    reading = nftables.read(ingress(f"ip daddr 192.0.2.200 udp dport 53 {rule}", family=family))
    assert (reading.accept, reading.unsupported) == (True, ())
    [found] = reading.services
    expected, codes = INGRESS[rule]
    assert shares(found) == expected
    assert (found.action, found.hooks, found.changes) == ("dsr", ("ingress",), "frame")
    assert (found.when or {})["iif"] == "eth0"
    assert [each.code for each in reading.findings] == codes
    assert found.exact is not bool(codes)
    # What is known by its MAC address alone is named with its share, and what has an address is imported.
    made = imported(reading)
    if "192.0.2.9" in expected:
        assert [each.to for each in made.intent.services[0].endpoints] == ["192.0.2.9", "192.0.2.10"]
        assert made.intent.services[0].forward is Forward.DSR
    else:
        [(lost, reason)] = made.lost
        assert lost is found
        assert all(f"{to} ({share})" in reason for to, share in expected.items())


def test_a_rule_of_no_address_is_for_both_families() -> None:
    text = ingress("udp dport 53 ether daddr set numgen inc mod 2 map @cards fwd to eth1")
    found = nftables.read(text).services
    assert {each.family for each in found} == set(Family)
    # One counter serves both.
    assert all(not each.exact and "move the counter" in str(each.depends_on) for each in found)


@pytest.mark.parametrize(
    ("rule", "hook"),
    [
        ("ether daddr set numgen inc mod 2 map @cards", "ingress"),
        ("ether daddr set numgen inc mod 2 map @cards dup to eth1", "ingress"),
        ("dup to numgen inc mod 2 map @cards", "ingress"),
        ("ether daddr set jhash ip id mod 2 map @cards fwd to eth1", "ingress"),
        ("ether daddr set numgen inc mod 2 map @cards fwd to numgen inc mod 2 map @links", "ingress"),
        ("ether daddr set numgen inc mod 2 map @cards fwd to eth1", "egress"),
    ],
)
def test_what_is_chosen_for_frames_and_not_followed_is_reported(rule: str, hook: str) -> None:
    reading = nftables.read(ingress("tcp dport 22 accept", f"tcp dport 80 {rule}", hook=hook))
    assert reading.accept
    assert reading.services == ()
    assert rule in [each.rule.removeprefix("tcp dport 80 ") for each in reading.unsupported]


def test_a_copy_is_reported_and_what_goes_on_is_read() -> None:
    rule = "ip daddr 192.0.2.200 tcp dport 80"
    sent = f"{rule} ether daddr set 02:00:00:00:00:01 fwd to eth1"
    reading = nftables.read(ingress(f"{rule} dup to eth2", sent))
    assert reading.accept
    assert [each.what for each in reading.unsupported] == ["dup"]
    assert [shares(each) for each in reading.services] == [{"mac 02:00:00:00:00:01": 1}]


def test_json_of_rules_at_ingress_reads_as_their_text() -> None:
    pick = {"numgen": {"mode": "inc", "mod": 2, "offset": 0}}
    cards = {"set": [[0, "02:00:00:00:00:01"], [1, "02:00:00:00:00:02"]]}
    ether = {"payload": {"protocol": "ether", "field": "daddr"}}
    port = {"payload": {"protocol": "udp", "field": "dport"}}
    rule = {
        "family": "netdev",
        "table": "t",
        "chain": "c",
        "expr": [
            {"match": {"op": "==", "left": port, "right": 53}},
            {"mangle": {"key": ether, "value": {"map": {"key": pick, "data": cards}}}},
            {"fwd": {"dev": "eth1"}},
        ],
    }
    place = {"family": "netdev", "table": "t", "name": "c", "type": "filter", "hook": "ingress"}
    listed = [
        {"table": {"family": "netdev", "name": "t"}},
        {"chain": {**place, "prio": 0, "dev": "eth0", "policy": "accept"}},
        {"rule": rule},
    ]
    chosen = "numgen inc mod 2 map { 0 : 02:00:00:00:00:01, 1 : 02:00:00:00:00:02 }"
    text = nftables.read(ingress(f"udp dport 53 ether daddr set {chosen} fwd to eth1"))
    assert compare(nftables.read(json.dumps({"nftables": listed})), text).equal


@pytest.mark.parametrize("scheduler", ["round-robin", "random", "source-hash", "maglev"])
@pytest.mark.parametrize("listen", ["192.0.2.200:80/tcp", "192.0.2.200:53/udp"])
def test_rules_managed_by_lbctl_read_as_the_service_that_they_are_of(scheduler: str, listen: str) -> None:
    text = TEXT.replace("192.0.2.200:80/tcp", listen) + f'scheduler = "{scheduler}"\n'
    reading = nftables.read(rules(service(text)))
    assert (reading.accept, reading.findings, reading.unsupported) == (True, (), ())
    [found] = reading.services
    assert (found.name, found.action, found.exact, found.leak) == ("far", "dsr", True, 0)
    assert shares(found) == service(text).shares(Family.IPV4)
    [made] = imported(reading).intent.services
    assert (made.forward, made.listeners) == (Forward.DSR, service(text).listeners)
    assert {each.to for each in made.endpoints} == set(map(str, SERVERS))
    assert reading.untouched_rules == 0


def test_rules_at_ingress_act_before_any_translation() -> None:
    rule = "tcp dport 80 ether daddr set jhash ip saddr mod 2 map @cards fwd to eth1"
    found = list(ListedRules(ingress(f"ip daddr 192.0.2.200 {rule}"), shared=False).rivals(-100))
    assert [(each.certain, each.service.dst) for each in found] == [(True, "192.0.2.200")]
    assert "hook ingress, priority 0" in found[0].rules[0]


def discovering(*found: str) -> tuple[Intent, dict[str, Discovered]]:
    [first, *_] = SERVERS
    source = '[service.discover]\nsource = "file"\nname = "/e.json"\n'
    listed = f'endpoints = ["{first}"]\n{source}'
    intent = loads(TEXT[: TEXT.index("endpoints")] + listed)
    endpoints = tuple(Endpoint(address=ip_address(each)) for each in found)
    return intent, {"far": Discovered(source="file", name="/e.json", endpoints=endpoints, good=0.0)}


def test_a_discovered_endpoint_that_does_not_answer_stays_out_and_the_others_go_on() -> None:
    kernel, known = Neighbours(), NextHops()
    kernel.silent = {"192.0.2.103"}
    intent, answers = discovering("192.0.2.102", "192.0.2.103")
    known.resolve(kernel.host, intent, answers)
    found = effective(intent, Facts(found=answers, hops=known.found, unreachable=known.unreachable))
    known.require(found.intent)
    [carried] = found.intent.services
    assert [each.to for each in carried.ready(Family.IPV4)] == ["192.0.2.101", "192.0.2.102"]
    assert "does not answer on eth0" in str(found.reason("far", carried.endpoints[2]))
    # What is watched changes as soon as it answers.
    before = known.look(kernel.host)
    kernel.silent.clear()
    kernel.host.uptime += 60
    known.look(kernel.host)
    assert known.look(kernel.host) != before
    known.resolve(kernel.host, intent, answers)
    again = effective(intent, Facts(found=answers, hops=known.found, unreachable=known.unreachable), found)
    assert len(again.intent.services[0].ready(Family.IPV4)) == 3
    # An endpoint of the file is still an error of the file.
    kernel.known.clear()
    kernel.silent = {"192.0.2.101"}
    fresh = NextHops()
    fresh.resolve(kernel.host, intent, answers)
    facts = Facts(found=answers, hops=fresh.found, unreachable=fresh.unreachable)
    with pytest.raises(IntentError, match=r"192\.0\.2\.101: it does not answer"):
        fresh.require(effective(intent, facts).intent)


def test_a_step_leaves_out_a_discovered_endpoint_without_a_next_hop() -> None:
    kernel = Neighbours()
    kernel.silent = {"192.0.2.103"}
    intent, answers = discovering("192.0.2.102", "192.0.2.103")
    probe = nftables.probe(FakeHost())
    driver = Driver(name="nft", store="nftables", usable=True, reason="usable")
    session = Session(
        host=kernel.host,
        candidates=(),
        choice=Selection(backend=nftables, driver=driver, probe=probe, reason="asked for"),  # type: ignore[arg-type]
        memory=SessionMemory(kernel.host),
    )
    session.memory.found[intent.owner] = answers
    carried = session.effective(intent).intent
    session.next_hops(intent.owner).require(carried)
    [found] = nftables.lift(nftables.compile(carried, CAPABILITIES)).services
    assert found.shares == dict.fromkeys(["192.0.2.101", "192.0.2.102"], Fraction(1, 2))


def test_rules_are_rendered_for_the_host_that_knows_the_next_hops() -> None:
    kernel = Neighbours()
    intent = loads(TEXT)
    [found] = with_next_hops(kernel.host, intent).services
    assert found.hops == set(map(hop, range(3)))
    plain = loads(TEXT.replace('forward = "dsr"\n', ""))
    assert with_next_hops(kernel.host, plain) is plain
