"""A constant of nft reads the same by its name and by its number."""

import pytest

from lbctl_nftables.reading import symbols
from lbctl_nftables.reading.grammar import Grammar
from lbctl_nftables.reading.read import read
from lbctl_nftables.reading.syntax import Field, Masked, Relational

#: Field, a value as nft prints it with some option, and the one spelling of it.
SPELLINGS = [
    ("dst-type", "2", "local"),
    ("fib daddr . iif type", "3", "broadcast"),
    ("dst-type", "11", "11"),
    ("state", "0x8", "new"),
    ("state", "10", "established|new"),
    ("ct status", "0x410", "snat|fixed-timeout"),
    ("ct status", "0x8010", "snat|0x8000"),
    ("ct status", "helper", "expected|assured|confirmed"),
    ("tcp flags", "0x2|0x10", "syn|ack"),
    ("tcp flags", "0x0", "0"),
    ("proto", "58", "ipv6-icmp"),
    ("proto", "icmpv6", "ipv6-icmp"),
    ("proto", "99", "99"),
    ("family", "10", "ipv6"),
    ("family", "0x0800", "ip"),
    ("family", "8", "ip"),
    ("ether type", "129", "8021q"),
    ("pkttype", "unicast", "host"),
    ("iiftype", "772", "loopback"),
    ("icmp type", "3-8", "destination-unreachable-echo-request"),
    ("icmp type", "destination-unreachable-8", "destination-unreachable-echo-request"),
    ("icmpv6 type", "mld-listener-reduction", "mld-listener-done"),
    ("ip dscp", "0x0a", "af11"),
    ("ip dscp", "be", "cs0"),
    ("ip ecn", "0x3", "ce"),
    ("meta day", "1", "Monday"),
    ("dport", "https", "443"),
    ("dport", "ssh-http", "22-80"),
    ("dport", "iso-tsap", "102"),
    ("skuid", "root", "0"),
    ("skuid", "daemon", "daemon"),
    ("iifgroup", "0", "default"),
    ("mark", "0x00000010", "0x10"),
    ("ip ttl", "0x40", "64"),
    ("iif", "0", "0"),
    ("state", "late", "late"),
]


@pytest.mark.parametrize(("field", "word", "spelling"), SPELLINGS)
def test_a_value_has_one_spelling(field: str, word: str, spelling: str) -> None:
    assert symbols.canonical(field, word) == spelling
    assert symbols.canonical(field, spelling) == spelling


@pytest.mark.parametrize(
    "text",
    [
        "tcp flags syn / syn,ack",
        "tcp flags 0x2 / 0x2,0x10",
        "tcp flags & (syn|ack) == syn",
        "tcp flags & (syn | ack) == 0x2",
        "tcp flags & 0x12 == syn",
    ],
)
def test_flags_under_a_mask_have_several_forms(text: str) -> None:
    [match], _ = Grammar().rule(
        text.replace(",", " , ").replace("|", " | ").replace("(", "( ").replace(")", " )").split()
    )
    assert isinstance(match, Relational)
    assert match.key == Masked(Field("tcp flags"), 0x12)
    assert [symbols.canonical("tcp flags", each.key[0]) for each in match.members] == ["syn"]


def test_a_numeric_listing_has_the_same_services() -> None:
    rules = "table inet t {{ chain c {{ type nat hook prerouting priority {}; policy accept; {} }} }}"
    picked = "redirect to :numgen inc mod 2 map { 0 : 8001, 1 : 8002 }"
    plain = f"fib daddr type local meta l4proto tcp tcp dport 80 ct state new {picked}"
    numeric = f"fib daddr type 2 meta l4proto 6 tcp dport 80 ct state 0x8 {picked}"
    [one, other] = (read(rules.format(*each)).services for each in (("dstnat", plain), ("-100", numeric)))
    assert len(one) == 2
    assert one == other


def test_a_state_that_is_not_another_one_may_be_new() -> None:
    head = "table ip t { chain c { type nat hook prerouting priority dstnat; policy accept; "
    picked = "tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 8001, 1 : 8002 } } }"
    assert len(read(f"{head}ct state != invalid {picked}").services) == 1
    assert not read(f"{head}ct state != new {picked}").services
