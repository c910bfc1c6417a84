"""What the kernel holds, read by netlink: as it was written, whatever else lies beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import AnalysedService, Endpoint, Intent, Item, Listener, Protocol, Service
from lbctl_nftables import backend as nftables, dialect, listing
from lbctl_nftables.kernel import elements, netlink, objects
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.layout import Dialect
from lbctl_nftables.observe import touched
from support.intents import forgetful, intents
from support.written import differences

PATIENT = settings(deadline=None, suppress_health_check=list(HealthCheck))
TABLE = KernelTable("ip", "lbctl")
SPEAKING = dialect.speaking(dialect.CAPABILITIES, Dialect.MODERN)


class Kernel:
    """A network namespace whose nf_tables is empty at first."""

    def __init__(self, folder: Path) -> None:
        self.host = LocalHost(folder)

    def nft(self, text: str) -> None:
        done = self.host.run(["nft", "-f", "-"], stdin=text)
        assert done.code == 0, (text, done.err)

    def held(self) -> dict[tuple[str, ...], Item]:
        return dict(nftables.observe(self.host, "nft", "lbctl").by_key)

    def rules(self, chain: str = "c") -> list[str]:
        return self.held()["ip", "rules", chain].text.split("\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    namespace = Namespace(LocalHost(tmp_path))
    with namespace.entered():
        yield Kernel(tmp_path)
    namespace.close()


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("speaking", [Dialect.MODERN, Dialect.CLASSIC])
@settings(PATIENT, max_examples=15)
@given(intent=intents(everything=True, selective=True))
def test_any_intent_is_read_as_it_was_compiled(folder: Path, speaking: str, intent: Intent) -> None:
    intent = intent if speaking == Dialect.MODERN else forgetful(intent)
    assert differences(LocalHost(folder), intent, nft="nft", speaking=speaking) == {}


#: A rule for nft → what is read of it, if that is something else; "" if it has no text of nft's.
RULES = {
    "ip saddr 192.0.2.1 accept": None,
    "ip daddr != 192.0.2.1 drop": None,
    "ip saddr 10.0.0.0/8 accept": None,
    "ip saddr 10.128.0.0/9 accept": None,
    "tcp dport 80 accept": None,
    "udp sport 53 drop": None,
    "tcp dport 80-90 return": None,
    "tcp dport != 80-90 return": None,
    "meta l4proto udp accept": None,
    "meta l4proto 47 accept": None,
    "meta l4proto != tcp drop": None,
    'iif "lo" accept': None,
    'iifname "eth0" accept': None,
    'oifname != "eth*" accept': None,
    "meta mark 0x5 accept": "meta mark 5 accept",
    "meta mark & 0xff == 0x5 accept": "meta mark & 0xff000000 == 0x05000000 accept",
    "ct state new accept": None,
    "ct state established,related accept": None,
    "ct state 0x100 accept": "ct state & 0x00010000 != 0x00000000 accept",
    "ct status dnat accept": None,
    "meta l4proto tcp ct original proto-dst 80 accept": None,
    "fib daddr type local accept": None,
    "fib daddr . iif type broadcast drop": None,
    "fib saddr oif 0 drop": "",
    "ip saddr { 192.0.2.2, 192.0.2.1 } accept": "ip saddr { 192.0.2.1, 192.0.2.2 } accept",
    "ip saddr != { 192.0.2.0/31, 10.0.0.0/8 } drop": "ip saddr != { 10.0.0.0/8, 192.0.2.0/31 } drop",
    "tcp dport vmap { 80 : accept, 79 : goto other }": "tcp dport vmap { 79 : goto other, 80 : accept }",
    "meta mark set numgen inc mod 2 offset 4": None,
    "ct mark set 0x7": "ct mark set 7",
    "counter accept": None,
    "counter packets 5 bytes 7 drop": "counter drop",
    "jump other": None,
    "reject": None,
    "reject with tcp reset": None,
    "reject with icmp type host-unreachable": "",
    "limit rate 5/second accept": "",
    'log prefix "x" accept': "",
    "update @seen { ip saddr timeout 90s }": None,
    "add @seen { ip saddr timeout 1500ms }": None,
    "update @seen { ip saddr counter }": "",
    "ip saddr @seen accept": None,
    "ip saddr . tcp dport @pairs accept": None,
    "ip saddr . udp dport != @pairs accept": None,
    "ip saddr . tcp dport { 10.0.0.0/8 . 80-90, 192.0.2.1 . 443 } accept": None,
}
NAT_RULES = {
    "dnat to 10.0.0.1": None,
    "meta l4proto tcp dnat to 10.0.0.1:80": None,
    "meta l4proto tcp redirect to :8001": None,
    "meta l4proto tcp redirect to :8001-8003": "",
    "meta l4proto tcp dnat ip to numgen inc mod 1 offset 0 map { 0 : 10.0.0.1 . 80 }": None,
    "meta l4proto tcp redirect to :numgen random mod 2 offset 7 map { 7 : 81, 8 : 82 }": None,
    "dnat ip to jhash ip saddr mod 2 seed 0x1f offset 0 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }": None,
    "dnat ip to jhash ip saddr . ip daddr mod 1 seed 0x0 offset 0 map { 0 : 10.0.0.1 }": None,
    "dnat to 10.0.0.1 persistent": None,
    "dnat to 10.0.0.1 random,persistent": None,
    "dnat to 10.0.0.1-10.0.0.2": "",
    "dnat ip to ip saddr map @places": None,
}
OBJECTS = """
table ip lbctl {
    set seen { type ipv4_addr; size 100; flags dynamic,timeout; }
    set pairs { type ipv4_addr . inet_service; }
    map places { type ipv4_addr : ipv4_addr; }
    chain other { }
    chain c { type %s; policy accept; }
}
"""


@pytest.mark.parametrize(
    ("chain", "rules"),
    [
        ("filter hook input priority 0", RULES),
        ("nat hook prerouting priority -101", NAT_RULES),
        ("nat hook postrouting priority 99", {"masquerade": None, "masquerade fully-random": None}),
    ],
    ids=["filter", "dnat", "masquerade"],
)
def test_each_expression_has_one_text(kernel: Kernel, chain: str, rules: dict[str, str | None]) -> None:
    kernel.nft(OBJECTS % chain)
    wrong = []
    for written, expected in rules.items():
        kernel.nft(f"flush chain ip lbctl c\nadd rule ip lbctl c {written}\n")
        [found] = kernel.rules()
        unknown = re.search(r"\[\w+ \d+=", found) is not None
        if not (unknown if expected == "" else found == (expected or written)):
            wrong.append((written, expected, found))
    assert wrong == []


KEYS = "add element ip lbctl m { %s }\n"


def written_with_map(kernel: Kernel, declared: str, *written: str) -> dict[str, str]:
    """Key → text of the elements of a map that nft made."""
    kernel.nft(f"add table ip lbctl\nadd map ip lbctl m {{ {declared} }}\n")
    for text in written:
        kernel.nft(KEYS % text)
    return {key[3]: item.text for key, item in kernel.held().items() if key[1:3] == ("element", "m")}


def test_keys_are_what_the_kernel_compares(kernel: Kernel) -> None:
    """nft 1.1.7 writes key 5 of such a map as 83886080, and lists it as 5."""
    found = written_with_map(
        kernel, "typeof numgen inc mod 2 : th dport; counter;", "83886080 : 8001, 5 : 8002"
    )
    assert found == {"83886080": ": 8001", "5": ": 8002"}
    [shown] = elements.elements_at(kernel.host, TABLE, "m", [(5).to_bytes(4, "little")])
    assert shown.value == (8002).to_bytes(2, "big")


def test_elements_asked_for_in_one_go_are_those_that_there_are(kernel: Kernel) -> None:
    """More than fit into one request, of which every third is missing; and a map that is missing."""
    present = [number for number in range(500) if number % 3]
    written = (f"{number} : {1000 + number}" for number in present)
    written_with_map(kernel, "type mark : inet_service;", ", ".join(written))
    keys = [number.to_bytes(4, "little") for number in range(500)]
    found = elements.elements_at(kernel.host, TABLE, "m", keys)
    assert [int.from_bytes(each.value, "big") - 1000 for each in found] == present
    assert elements.elements_at(kernel.host, TABLE, "other", keys[:40]) == []
    assert elements.elements_at(kernel.host, TABLE, "m", []) == []


def test_elements_of_many_layouts_in_one_map(kernel: Kernel) -> None:
    """Comments of every length and none, mixed: no pattern of one layout covers them all."""
    keys = range(600)
    comments = {key: "c" * (key % 129) for key in keys}
    texts = [
        f'{key} comment "{comments[key]}" : {key + 1}' if comments[key] else f"{key} : {key + 1}"
        for key in keys
    ]
    found = written_with_map(kernel, "typeof numgen inc mod 2 : th dport; counter;", ",\n".join(texts))
    assert found == {
        str(key): f'comment "{comments[key]}" : {key + 1}' if comments[key] else f": {key + 1}"
        for key in keys
    }


def test_elements_with_strings_of_every_length(kernel: Kernel) -> None:
    """A name ends with one to four zeros: what pads it is no part of what follows."""
    chains = {f"10.0.0.{length} . 80": "x" * length for length in range(1, 65)}
    kernel.nft("add table ip lbctl\n" + "".join(f"add chain ip lbctl {name}\n" for name in chains.values()))
    declared = "type ipv4_addr . inet_service : verdict;"
    written = ",\n".join(f"{key} : goto {name}" for key, name in chains.items())
    found = written_with_map(kernel, declared, written)
    assert found == {key: f": goto {name}" for key, name in chains.items()}


@pytest.mark.parametrize(
    ("declared", "written", "read"),
    [
        ("ipv4_addr", "10.0.0.0/8, 11.0.0.0/8, 192.0.2.1", ["10.0.0.0/8", "11.0.0.0/8", "192.0.2.1"]),
        ("ipv4_addr", "0.0.0.0/0", ["0.0.0.0/0"]),
        ("ipv4_addr", "0.0.0.0/1", ["0.0.0.0/1"]),
        ("ipv4_addr", "128.0.0.0/1, 0.0.0.1", ["0.0.0.1", "128.0.0.0/1"]),
        ("ipv4_addr", "255.255.255.255", ["255.255.255.255"]),
        ("ipv4_addr", "10.0.0.1-10.0.0.6", ["10.0.0.1-10.0.0.6"]),
        ("ipv6_addr", "::/0", ["::/0"]),
        ("ipv6_addr", "2001:db8::/32, ff00::/8", ["2001:db8::/32", "ff00::/8"]),
        ("inet_service", "80, 90-99, 1024-65535", ["80", "90-99", "1024-65535"]),
        (
            "ipv4_addr . inet_service",
            "10.0.0.0/8 . 80-90, 192.0.2.1 . 443",
            ["10.0.0.0/8 . 80-90", "192.0.2.1 . 443"],
        ),
    ],
)
def test_intervals(kernel: Kernel, declared: str, written: str, read: list[str]) -> None:
    kernel.nft(f"add table ip lbctl\nadd set ip lbctl s {{ type {declared}; flags interval; }}\n")
    kernel.nft(f"add element ip lbctl s {{ {written} }}\n")
    found = [key[3] for key in kernel.held() if key[1:3] == ("element", "s")]
    assert found == read
    keys = [("ip", "element", "s", key) for key in [*read, "192.0.2.77"]]
    one_by_one = touched(kernel.host, "lbctl", keys)
    assert [key[3] for key, item in one_by_one.items() if item is not None] == read


WEB = Intent(
    services=(
        Service(
            name="web",
            listeners=(Listener(protocol=Protocol.TCP, port=80),),
            endpoints=tuple(Endpoint(port=port) for port in (8001, 8002)),
            affinity=60,
        ),
        Service(
            name="api",
            listeners=(Listener(protocol=Protocol.TCP, port=443, address=ip_address("192.0.2.1")),),
            endpoints=tuple(Endpoint(address=ip_address(f"10.0.0.{n}"), port=80) for n in range(1, 41)),
            affinity=60,
        ),
    )
)


def test_what_is_touched_is_found_by_its_key(kernel: Kernel) -> None:
    program = nftables.compile(WEB, SPEAKING)
    kernel.nft(nftables.render(program))
    kernel.nft("add element ip lbctl affinity-api { 192.0.2.9 timeout 1h : 10.0.0.77 . 80 }\n")
    kernel.nft("flush chain ip lbctl service-web\nadd chain ip lbctl mine\nadd counter ip lbctl some\n")
    kernel.nft("delete element ip lbctl ports { tcp . 80 }\n")
    held = kernel.held()
    missing = [
        ("ip", "element", "ports", "tcp . 80"),
        ("ip", "element", "ports", "no key"),
        ("ip", "element", "ports", "tcp . 99999"),
        ("ip", "element", "services", "2001:db8::1 . tcp . 80"),
        ("ip", "element", "nothing", "1"),
        ("ip", "chain", "nothing"),
        ("ip", "rules", "nothing"),
        ("ip", "map", "nothing"),
        ("ip", "set", "services"),
        ("ip", "flags", "dormant"),
        ("ip", "stale", "local-affinity-web"),
        ("ip", "foreign", "quota", "some"),
    ]
    assert ("ip", "stale", "affinity-api") in held
    assert ("ip", "foreign", "counter", "some") in held
    found = touched(kernel.host, "lbctl", [*held, *missing])
    assert found == {**held, **dict.fromkeys(missing)}
    # What one rule set has is not asked for all of another owner's.
    assert set(touched(kernel.host, "blue", [*held]).values()) == {None}
    kernel.nft("table ip lbctl { flags dormant; }\n")
    assert touched(kernel.host, "lbctl", [("ip", "flags", "dormant")]) == {
        ("ip", "flags", "dormant"): Item(("ip", "flags", "dormant"), "")
    }


def test_sets_of_packets_are_no_items(kernel: Kernel) -> None:
    kernel.nft(nftables.render(nftables.compile(WEB, SPEAKING)))
    before = kernel.held()
    kernel.nft("add element ip lbctl affinity-api { 192.0.2.9 timeout 1h : 10.0.0.1 . 80 }\n")
    assert kernel.held() == before


def unplaced(service: AnalysedService) -> AnalysedService:
    """A service without the lines that it was read from: nft breaks lines elsewhere."""
    return replace(service, lines=(), picking=(), source_lines=(), outcomes=())


def test_a_table_as_nft_lists_it(kernel: Kernel) -> None:
    """The text of our own tables, made without nft, is read as nft's listing is."""
    kernel.nft(nftables.render(nftables.compile(WEB, SPEAKING)))
    kernel.nft("add counter ip lbctl some\nadd set ip lbctl s { type ipv4_addr; flags interval; }\n")
    text = listing.text_of(kernel.host, TABLE, handles=True)
    listed = kernel.host.run(["nft", "--handle", "list", "table", "ip", "lbctl"]).out
    rules = re.compile(
        r"^\t\t(?!type |typeof |counter|size|flags|elements| ).* # handle (\d+)$", re.MULTILINE
    )
    assert rules.findall(text) == rules.findall(listed)
    mine, theirs = (nftables.read(each) for each in (text, listed))
    assert [*map(unplaced, mine.services)] == [*map(unplaced, theirs.services)]
    assert len(mine.services) == 2
    assert (mine.accept, mine.unsupported) == (theirs.accept, theirs.unsupported)


def test_foreign_tables_are_not_read(kernel: Kernel) -> None:
    kernel.nft(
        "table ip foreign { chain c { accept; }\n set s { type ipv4_addr; elements = { 10.0.0.1 } }\n }\n"
    )
    kernel.nft("table ip lbctl { chain c { drop; }\n }\ntable inet lbctl { chain c { accept; }\n }\n")
    assert kernel.held() == {
        ("ip", "table"): Item(("ip", "table"), ""),
        ("ip", "chain", "c"): Item(("ip", "chain", "c"), ""),
        ("ip", "rules", "c"): Item(("ip", "rules", "c"), "drop"),
    }
    assert [chain.name for chain in objects.chains(kernel.host, KernelTable("ip", "foreign"))] == ["c"]
    assert netlink.tables(kernel.host).keys() == {("ip", "foreign"), ("ip", "lbctl"), ("inet", "lbctl")}
