"""Rules of nft as people, controllers and documents write them, and what they do."""

import json
from fractions import Fraction
from textwrap import dedent

import pytest

from lbctl.model import Affinity, AnalysedService, Analysis
from lbctl_nftables.reading.read import read
from lbctl_nftables.recognize import recognizes


def chain(
    *rules: str, hook: str = "prerouting", kind: str = "nat", family: str = "ip", more: str = ""
) -> str:
    body = "\n".join(f"\t\t{rule}" for rule in rules)
    return (
        f"table {family} t {{\n{more}\tchain c {{\n"
        f"\t\ttype {kind} hook prerouting priority 0; policy accept;\n{body}\n\t}}\n}}\n"
    )


def only(reading: Analysis) -> AnalysedService:
    assert reading.accept
    assert reading.unsupported == ()
    [service] = reading.services
    return service


def shares(service: AnalysedService) -> dict[str, str]:
    return {each.to: str(each.share) for each in service.backends}


def only_inexact(reading: Analysis) -> bool:
    return not any(service.exact for service in reading.services)


def codes(reading: Analysis) -> list[str]:
    return sorted(finding.code for finding in reading.findings)


THREE = {"10.0.0.1": "1/3", "10.0.0.2": "1/3", "10.0.0.3": "1/3"}
MAP = "{ 0 : 10.0.0.1, 1 : 10.0.0.2, 2 : 10.0.0.3 }"

#: Name → rules, shares, leak, mode. All without a finding.
RIGHT = {
    "a map": ([f"tcp dport 80 dnat to numgen inc mod 3 map {MAP}"], THREE, 0, "nth"),
    "a map with ports": (
        ["tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8081 }"],
        {"10.0.0.1:8080": "1/2", "10.0.0.2:8081": "1/2"},
        0,
        "nth",
    ),
    "one port for all": (
        ["tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }:8080"],
        {"10.0.0.1:8080": "1/2", "10.0.0.2:8080": "1/2"},
        0,
        "nth",
    ),
    "weights as ranges": (
        ["tcp dport 80 dnat to numgen random mod 10 map { 0-6 : 10.0.0.1, 7-9 : 10.0.0.2 }"],
        {"10.0.0.1": "7/10", "10.0.0.2": "3/10"},
        0,
        "random",
    ),
    "a ladder": (
        [
            "tcp dport 80 numgen inc mod 3 0 dnat to 10.0.0.1",
            "tcp dport 80 numgen inc mod 2 0 dnat to 10.0.0.2",
            "tcp dport 80 dnat to 10.0.0.3",
        ],
        THREE,
        0,
        "nth",
    ),
    "draws": (
        [
            "tcp dport 80 meta random & 2147483647 < 536870912 dnat to 10.0.0.1",
            "tcp dport 80 dnat to 10.0.0.2",
        ],
        {"10.0.0.1": "1/4", "10.0.0.2": "3/4"},
        0,
        "random",
    ),
    "a hash": (
        [f"tcp dport 80 dnat to jhash ip saddr mod 3 seed 0xdeadbeef map {MAP}"],
        THREE,
        0,
        "hash",
    ),
    "a symmetric hash": ([f"tcp dport 80 dnat to symhash mod 3 map {MAP}"], THREE, 0, "hash"),
    "one endpoint": (["tcp dport 80 dnat to 10.0.0.1:8080"], {"10.0.0.1:8080": "1"}, 0, "single"),
    "a port kept": (["tcp dport 80 redirect"], {"80": "1"}, 0, "single"),
    "a port's name": (["tcp dport http redirect"], {"80": "1"}, 0, "single"),
}


@pytest.mark.parametrize(("rules", "wanted", "leak", "mode"), RIGHT.values(), ids=RIGHT)
def test_right_rules(rules: list[str], wanted: dict[str, str], leak: int, mode: str) -> None:
    reading = read(chain(*rules))
    service = only(reading)
    assert codes(reading) == []
    assert (shares(service), service.leak, service.mode) == (wanted, leak, mode)
    assert (service.family, service.proto, service.dst, service.dport) == ("ipv4", "tcp", "any", "80")
    assert service.exact
    assert reading.untouched_rules == 0


A, B, C = (f"redirect to :{port}" for port in (8001, 8002, 8003))
#: Code → rules that have it, shares and leak of their first service.
WRONG = {
    "every-n-on-each-line": (
        [f"tcp dport 80 numgen inc mod 3 {n} {to}" for n, to in enumerate((A, B, C))],
        {"8001": "1/3", "8002": "2/9", "8003": "4/27"},
        "8/27",
    ),
    "equal-probability-on-each-line": (
        [f"tcp dport 80 numgen random mod 3 0 {to}" for to in (A, B)] + [f"tcp dport 80 {C}"],
        {"8001": "1/3", "8002": "2/9", "8003": "4/9"},
        "0",
    ),
    "no-catch-all": (
        ["tcp dport 80 redirect to :numgen inc mod 3 map { 0 : 8001, 2 : 8003 }"],
        {"8001": "1/3", "8003": "1/3"},
        "1/3",
    ),
    "packet-out-of-range": (
        ["tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 8001, 1 : 8002, 2 : 8003 }"],
        {"8001": "1/2", "8002": "1/2"},
        "0",
    ),
    "probability-zero": (
        [f"tcp dport 80 meta random & 2147483647 < 0 {A}", f"tcp dport 80 {B}"],
        {"8002": "1"},
        "0",
    ),
    "unreachable-rule": ([f"tcp dport {{ 80, 81 }} {A}", f"tcp dport 80 {B}"], {"8001": "1"}, "0"),
    "duplicate-rules": ([f"tcp dport 80 {A}", f"tcp dport 80 {A}"], {"8001": "1"}, "0"),
    "statistic-before-selector": (
        [f"numgen inc mod 2 0 tcp dport 80 {A}", f"tcp dport 80 {B}"],
        {"8001": "1/2", "8002": "1/2"},
        "0",
    ),
    "dnat-range": (
        ["tcp dport 80 dnat to 10.0.0.1-10.0.0.2"],
        {"10.0.0.1": "1/2", "10.0.0.2": "1/2"},
        "0",
    ),
    "port-range-target": (["tcp dport 80 redirect to :8001-8003"], {"8001": "1"}, "0"),
    "undefined-chain": (["tcp dport 80 jump gone", f"tcp dport 80 {A}"], {"8001": "1"}, "0"),
    "unexpanded-variable": ([f"tcp dport 80 {A}", "tcp dport 81 dnat to $WHERE"], {"8001": "1"}, "0"),
}


@pytest.mark.parametrize(("code", "wanted"), WRONG.items(), ids=WRONG)
def test_wrong_rules(code: str, wanted: tuple[list[str], dict[str, str], str]) -> None:
    rules, parts, leak = wanted
    reading = read(chain(*rules))
    assert code in codes(reading)
    assert shares(reading.services[0]) == parts
    assert str(reading.services[0].leak) == leak
    found = next(finding for finding in reading.findings if finding.code == code)
    assert found.rule in rules
    assert reading.accept


def test_the_corrected_rule_gives_equal_shares() -> None:
    [found, _] = read(chain(*WRONG["every-n-on-each-line"][0])).findings
    [right] = found.corrected
    corrected = read(chain(right))
    assert codes(corrected) == []
    assert shares(only(corrected)) == {"8001": "1/3", "8002": "1/3", "8003": "1/3"}


def test_the_same_turn_on_marking_lines_is_right() -> None:
    reading = read(
        chain(
            *(f"ct state new numgen inc mod 3 {n} ct mark set {n + 1}" for n in range(3)),
            kind="filter",
        )
    )
    service = only(reading)
    assert codes(reading) == []
    assert shares(service) == {f"mark {n:#x}": "1/3" for n in (1, 2, 3)}
    assert (service.action, service.leak, service.exact) == ("connmark", 0, True)


def test_marks_of_packets_that_are_not_only_first_ones() -> None:
    reading = read(chain("tcp dport 80 meta mark set numgen inc mod 2 offset 1", kind="filter"))
    assert codes(reading) == ["per-packet-balancing"]


def test_a_hash_of_clients_tells_its_map() -> None:
    service = only(read(chain(*RIGHT["a hash"][0])))
    assert (service.hash_seed, service.slots) == (0xDEADBEEF, tuple(THREE))
    assert service.affinity == Affinity(kind="hash", by="source address", seconds=None)


def test_two_hashes_with_one_seed_are_one_number() -> None:
    reading = read(
        chain(
            "tcp dport 80 jhash ip saddr mod 2 seed 1 0 redirect to :1",
            "tcp dport 80 redirect to :jhash ip saddr mod 4 seed 1 map { 0 : 2, 1 : 3, 2 : 4, 3 : 5 }",
        )
    )
    # Who is not in the lower half is in one of the upper quarters.
    assert shares(only(reading)) == {"1": "1/2", "4": "1/4", "5": "1/4"}


KUBE = dedent(
    """\
    table ip kube-proxy {
        map service-ips {
            type ipv4_addr . inet_proto . inet_service : verdict
            comment "ClusterIP, ExternalIP and LoadBalancer IP traffic"
            elements = { 172.30.0.41 . tcp . 80 : goto service-ULMVA6XW-ns1/svc1/tcp/p80 }
        }
        map service-nodeports {
            type inet_proto . inet_service : verdict
            elements = { tcp . 3001 : goto external-ULMVA6XW-ns1/svc1/tcp/p80 }
        }
        set nodeport-ips { type ipv4_addr; elements = { 192.168.0.2 } }
        set affinity-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80 {
            type ipv4_addr; flags dynamic,timeout; timeout 3h
        }
        chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
        chain nat-output { type nat hook output priority -100; policy accept; jump services; }
        chain services {
            ip daddr . meta l4proto . th dport vmap @service-ips
            ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
        }
        chain mark-for-masquerade { meta mark set meta mark | 0x00004000; }
        chain service-ULMVA6XW-ns1/svc1/tcp/p80 {
            ip daddr 172.30.0.41 tcp dport 80 ip saddr != 10.0.0.0/8 jump mark-for-masquerade
            ip saddr @affinity-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80 goto endpoint-1
            numgen random mod 2 vmap { 0 : goto endpoint-1, 1 : goto endpoint-2 }
        }
        chain external-ULMVA6XW-ns1/svc1/tcp/p80 {
            jump mark-for-masquerade
            goto service-ULMVA6XW-ns1/svc1/tcp/p80
        }
        chain endpoint-1 {
            ip saddr 10.180.0.1 jump mark-for-masquerade
            update @affinity-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80 { ip saddr }
            meta l4proto tcp dnat to 10.180.0.1:80
        }
        chain endpoint-2 {
            ip saddr 10.180.0.2 jump mark-for-masquerade
            meta l4proto tcp dnat to 10.180.0.2:80
        }
    }
    """
)


def test_kube_proxy() -> None:
    reading = read(KUBE)
    assert (reading.accept, reading.findings, reading.unsupported) == (True, (), ())
    assert [(s.dst, s.dport) for s in reading.services] == [("172.30.0.41", "80"), ("192.168.0.2", "3001")]
    for service in reading.services:
        assert shares(service) == {"10.180.0.1:80": "1/2", "10.180.0.2:80": "1/2"}
        assert (service.mode, service.leak, service.when) == ("random", 0, None)
        assert service.hooks == ("prerouting", "output")
        assert service.affinity == Affinity(kind="map", by="source address", seconds=10800)
        assert service.name == "ULMVA6XW-ns1/svc1/tcp/p80"


def test_a_counter_for_several_listeners() -> None:
    more = "\tchain s {\n\t\tmeta l4proto tcp redirect to :numgen inc mod 2 map { 0 : 1, 1 : 2 }\n\t}\n"
    reading = read(chain("tcp dport vmap { 80 : goto s, 81 : goto s }", more=more))
    assert codes(reading) == ["shared-counter"]
    assert [service.exact for service in reading.services] == [False, False]
    assert (
        reading.services[0].depends_on == "tcp connections to port 81, which move the counter of line 3 too"
    )


def test_who_is_let_in() -> None:
    more = "\tset ours { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.1 } }\n"
    rules = "ip saddr != @ours return", "tcp dport 80 redirect to :1"
    service = only(read(chain(*rules, more=more)))
    assert service.when == {"src": "10.0.0.0/8,192.0.2.1"}


@pytest.mark.parametrize(
    ("condition", "when"),
    [
        ('iifname "eth0"', {"iif": "eth0"}),
        ("ip saddr 10.0.0.0/8", {"src": "10.0.0.0/8"}),
        ("ip saddr { 10.0.0.1/24, 192.0.2.1 }", {"src": "10.0.0.0/24,192.0.2.1"}),
        ("ip saddr { 10.0.0.1, * }", None),
        ("tcp sport 1000-2000", {"sport": "1000-2000"}),
        ("meta skuid 1000", {"uid": "1000"}),
        ("ct state new", None),
        # The first packet of a connection is one.
        ("tcp flags & (fin|syn|rst|ack) == syn", None),
        ("counter packets 1 bytes 2", None),
        ('log prefix "a, b" level info', None),
    ],
)
def test_conditions(condition: str, when: dict[str, str] | None) -> None:
    assert only(read(chain(f"tcp dport 80 {condition} redirect to :1"))).when == when


def test_services_by_map() -> None:
    pairs = "192.0.2.1 . 80 : 10.0.0.1 . 1, 192.0.2.2 . 81 : 10.0.0.2 . 2"
    reading = read(chain(f"dnat ip to ip daddr . tcp dport map {{ {pairs} }}"))
    assert [(s.dst, s.dport, *shares(s)) for s in reading.services] == [
        ("192.0.2.1", "80", "10.0.0.1:1"),
        ("192.0.2.2", "81", "10.0.0.2:2"),
    ]


@pytest.mark.parametrize("head", ["counter", "ct state { new, untracked }", "meta mark 0"])
def test_a_rule_may_begin_as_a_block_does(head: str) -> None:
    service = only(read(chain(f"{head} tcp dport {{ 80 }} dnat to numgen inc mod 3 map {MAP}", "accept")))
    assert (service.dport, shares(service)) == ("80", THREE)


def test_both_families_of_inet() -> None:
    reading = read(chain("tcp dport 80 redirect to :1", family="inet"))
    assert [service.family for service in reading.services] == ["ipv4", "ipv6"]


def test_statements_of_one_family_in_a_table_of_both() -> None:
    reading = read(
        chain(
            "tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }",
            "tcp dport 80 dnat ip6 to 2001:db8::1",
            "ip daddr 192.0.2.1 tcp dport 81 dnat to 10.0.0.1:1",
            family="inet",
        )
    )
    assert codes(reading) == []
    assert [(s.family, s.dport, *shares(s)) for s in reading.services] == [
        ("ipv4", "80", "10.0.0.1", "10.0.0.2"),
        ("ipv4", "81", "10.0.0.1:1"),
        ("ipv6", "80", "2001:db8::1"),
    ]


def test_a_counter_is_early_only_where_the_rest_selects() -> None:
    more = "\tchain y {\n\t\tnumgen inc mod 2 0 meta l4proto tcp redirect to :1\n\t\tredirect to :2\n\t}\n"
    reading = read(chain("tcp dport 80 goto y", more=more))
    assert codes(reading) == []
    assert only(reading).exact


def test_equal_chances_among_others_are_weights() -> None:
    # 2:1:1:2
    chances = ("3 0", "4 0", "3 0")
    rules = [
        f"tcp dport 80 numgen random mod {chance} redirect to :{i}" for i, chance in enumerate(chances, 1)
    ]
    reading = read(chain(*rules, "tcp dport 80 redirect to :4"))
    assert shares(only(reading)) == {"1": "1/3", "2": "1/6", "3": "1/6", "4": "1/3"}
    assert codes(reading) == []


def test_marks_that_no_translation_asks_for_narrow_nothing() -> None:
    nat_chain = chain(f"tcp dport 80 dnat to {PICK}")
    marking = (
        "table inet m {{\n\tchain p {{\n\t\ttype filter hook prerouting priority mangle; policy accept;\n"
        '\t\tiifname "lan" ip daddr 10.0.0.0/8 accept\n\t\tiifname "lan" meta mark set {}\n\t}}\n}}\n'
    )
    assert only(read(nat_chain + marking.format(1))).when is None
    asking = nat_chain.replace("tcp dport 80", "meta mark 1 tcp dport 80")
    assert all(service.when for service in read(asking + marking.format(1)).services)


def test_what_a_chain_of_marks_lets_on_is_translated_like_the_rest() -> None:
    def text(rule: str) -> str:
        post = "chain post {\ntype nat hook postrouting priority srcnat\nmeta mark 1 masquerade\n}\n"
        marks = "chain m {\ntype filter hook prerouting priority mangle\nip saddr 10.0.0.0/8 accept\n"
        return chain(f"tcp dport 80 dnat to {PICK}", more=f"{post}{marks}{rule}\n}}\n")

    service = only(read(text("meta mark set 1")))
    assert (service.when, service.source_nat, service.leak) == (None, None, 0)
    assert (
        only(read(text("meta mark set 1").replace("ip saddr 10.0.0.0/8 accept", ""))).source_nat == "always"
    )
    # Some are translated, others dropped.
    dropped = read(text("meta mark set 1\ntcp dport 80 drop"))
    assert dropped.unsupported == ()
    assert [(each.when, each.leak, each.exact) for each in dropped.services] == [
        ({"src": "! 10.0.0.0/8"}, 1, True),
        ({"src": "10.0.0.0/8"}, 0, True),
    ]


def test_the_kernel_masquerades_behind_the_routing_only() -> None:
    assert read(chain("tcp dport 80 masquerade")).services == ()
    reading = read(chain(f"tcp dport 80 numgen inc mod 2 0 dnat to {PICK}", "masquerade"))
    assert (only_inexact(reading), [each.what for each in reading.unsupported]) == (True, ["masquerade"])


def test_a_kept_mark_that_nobody_can_tell_leaves_the_other_mark_told() -> None:
    rules = (
        "meta mark set meta mark << 1",
        "ct mark set meta mark & 0xf",
        "meta mark set numgen inc mod 2 offset 1",
    )
    reading = read(chain(*rules, kind="filter"))
    assert shares(only(reading)) == {"mark 0x1": "1/2", "mark 0x2": "1/2"}
    assert codes(reading) == ["per-packet-balancing"]


def test_what_follows_a_computed_mark_is_read() -> None:
    for value in ("meta mark", "ct mark & 0xff | 0x100", "ct mark << 2"):
        service = only(read(chain(f"tcp dport 80 ct mark set {value} dnat to {PICK}")))
        assert shares(service) == {"10.0.0.1": "1/2", "10.0.0.2": "1/2"}, value


def test_a_hash_of_more_than_the_client_tells_no_map() -> None:
    pairs = "{ 0 : 10.0.0.1, 1 : 10.0.0.2 }"
    service = only(read(chain(f"tcp dport 80 dnat to jhash ip saddr . tcp sport mod 2 seed 1 map {pairs}")))
    assert (service.mode, service.slots, service.hash_seed, service.affinity) == ("hash", (), None, None)


SCRIPT = """\
#!/bin/sh
set -e
VIP=192.0.2.1
nft add table ip nat
sudo nft add chain ip nat prerouting '{ type nat hook prerouting priority -100; policy accept; }'
/usr/sbin/nft add rule ip nat prerouting ip daddr $VIP tcp dport 80 \\
    dnat to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }
nft insert rule nat prerouting ip daddr 192.0.2.9 return
"""


def test_a_shell_script() -> None:
    reading = read(SCRIPT)
    assert recognizes(SCRIPT)
    service = only(reading)
    assert (service.dst, shares(service)) == ("192.0.2.1", {"10.0.0.1": "1/2", "10.0.0.2": "1/2"})
    assert [(f.code, f.line) for f in reading.findings] == [("shell-construct", 2)]


PICK = "numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }"
TABLE = f"""\
table ip nat {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname "$LAN" tcp dport 80 dnat to {PICK}
    }}
}}"""
CHAIN = "nft add table nat\nnft add chain nat p '{ type nat hook prerouting priority -100; }'\n"


def test_a_document_in_a_script() -> None:
    for call in ("nft -f - <<EOF", "ip netns exec lb nft -f /dev/stdin << EOF", "cat <<EOF | sudo nft -f -"):
        reading = read(f"LAN=br-lan\n{call}\n{TABLE}\nEOF\n")
        assert only(reading).when == {"iif": "br-lan"}, call
        assert (codes(reading), only(reading).lines) == ([], (6,)), call
    # As it is, "$LAN" is a name like another.
    assert only(read(f"LAN=br-lan\nnft -f - <<'EOF'\n{TABLE}\nEOF\n")).when == {"iif": "$LAN"}


def test_a_script_of_many_shapes() -> None:
    script = (
        "NFT='sudo nft'\nPORT=80\n"
        "$NFT add table nat; $NFT add chain nat p { type nat hook prerouting priority -100\\; }\n"
        f'$NFT "add rule nat p tcp dport ${{PORT}}80 dnat to {PICK}"\n'
        f"nft 'add rule nat p tcp dport 81 redirect to :1\nadd rule nat p tcp dport 82 redirect to :2'\n"
    )
    reading = read(script)
    assert recognizes(script)
    assert [(each.dport, each.lines) for each in reading.services] == [
        ("8080", (4,)),
        ("81", (5,)),
        ("82", (6,)),
    ]
    assert codes(reading) == []


def test_what_only_a_shell_can_follow_is_no_rule() -> None:
    rule = f"nft add rule nat p tcp dport 80 dnat to {PICK}"
    for lines in (
        f"for x in 1 2; do\n{rule}\ndone",
        f"if true; then {rule}; fi",
        f"start() {{\n{rule}\n}}",
        f"if true; then nft -f - <<EOF\n{TABLE}\nEOF\nfi",
    ):
        reading = read(CHAIN + lines)
        assert reading.services == (), lines
        assert "shell-construct" in codes(reading), lines
        assert reading.unsupported, lines
    reading = read(CHAIN + rule.replace("80", "$PORT"))
    assert (reading.services, codes(reading)) == ((), ["unexpanded-variable"])
    assert [each.what for each in reading.unsupported] == ["$PORT"]
    for elsewhere in ("nft -f rules.nft", "echo add table x | nft -f -"):
        assert "shell-construct" in codes(read(CHAIN + elsewhere)), elsewhere


def test_variables_and_includes() -> None:
    text = 'define PORTS = { 80, 443 }\ndefine A = 10.0.0.1\ninclude "more.nft"\n' + chain(
        "tcp dport $PORTS dnat to $A"
    )
    reading = read(text)
    service = only(reading)
    assert (service.dport, shares(service)) == ("80,443", {"10.0.0.1": "1"})
    assert [(f.code, f.line) for f in reading.findings] == [("partial-dump", 3)]


def test_commands_take_away_too() -> None:
    text = (
        chain("tcp dport 80 redirect to :1")
        + "flush chain ip t c\nadd rule ip t c tcp dport 81 redirect to :2\n"
    )
    assert only(read(text)).dport == "81"
    assert read(text + "flush ruleset\n").services == ()


def test_rules_for_a_table_that_is_elsewhere() -> None:
    reading = read("add rule ip nat prerouting tcp dport 80 redirect to :1\n")
    assert codes(reading) == ["partial-dump"]
    assert only(reading).hooks == ("prerouting",)


def test_json_in_both_shapes() -> None:
    def whole(elements: object, flags: object) -> str:
        port = {"payload": {"protocol": "tcp", "field": "dport"}}
        pick = {"numgen": {"mode": "inc", "mod": 2, "offset": 0}}
        address = {"map": {"key": pick, "data": elements}}
        place = {"family": "ip", "table": "t"}
        hook = {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}
        rule = [
            {"match": {"op": "==", "left": port, "right": 80}},
            {"dnat": {"family": "ip", "addr": address, "flags": flags}},
        ]
        objects = [
            {"metainfo": {}},
            {"table": {"family": "ip", "name": "t"}},
            {"chain": {**place, "name": "c", **hook}},
            {"rule": {**place, "chain": "c", "expr": rule}},
        ]
        return json.dumps({"nftables": objects})

    for text in (
        whole({"set": [[0, "10.0.0.1"], [1, "10.0.0.2"]]}, ["random"]),
        whole({"set": [[0, {"concat": ["10.0.0.1", 80]}], [1, {"concat": ["10.0.0.2", 80]}]]}, "random"),
    ):
        assert set(shares(only(read(text))).values()) == {"1/2"}


REFUSED = {
    "no rules": ("hello world\n", "unparsable-line"),
    "an open brace": ("table ip t {\nchain c {\n", "unparsable-line"),
    "a brace too many": ("table ip t { }\n}\n", "unparsable-line"),
    "no text": ("table ip t {\0}\n", "input-not-text"),
    "no JSON": ('{"nftables": [', "unparsable-line"),
    "a loop": (
        chain("tcp dport 80 jump a", more="\tchain a {\n\t\tjump b\n\t}\n\tchain b {\n\t\tgoto a\n\t}\n"),
        "chain-loop",
    ),
}


@pytest.mark.parametrize(("text", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_ruleset(text: str, code: str) -> None:
    reading = read(text)
    assert not reading.accept
    assert code in codes(reading)


#: Rules that would matter and cannot be told, and what is said of them.
UNTOLD = {
    "tcp dport 80 xt match statistic redirect to :1": ("xt", "unsupported-match"),
    "tcp dport 80 ip saddr * redirect to :1": ("ip", "unsupported-match"),
    "tcp dport 80 osf name Linux redirect to :1": ("osf", "unsupported-match"),
    "tcp dport 80 jump { redirect to :1; }": ("jump", "unsupported-match"),
    "tcp dport 80 tproxy to :1": ("tproxy", "unsupported-target"),
    "tcp dport 80 redirect to :numgen inc mod 2 offset 8000": ("numgen", None),
    "tcp dport 80 dnat to host.example": ("target", None),
    "tcp dport 80 limit rate 10/second redirect to :1": ("limit", "unsupported-match"),
    "add @seen { ip saddr limit rate over 9/second } tcp dport 80 redirect to :1": (
        "limit",
        "unsupported-match",
    ),
    "tcp dport 80 dnat to 2001:db8::1": ("family-mismatch", "family-mismatch"),
}


@pytest.mark.parametrize(("rule", "said"), UNTOLD.items(), ids=UNTOLD)
def test_what_cannot_be_told_is_said(rule: str, said: tuple[str, str | None]) -> None:
    reading = read(chain(rule))
    assert [(lost.what, lost.rule, lost.line) for lost in reading.unsupported] == [(said[0], rule, 4)]
    assert said[1] is None or said[1] in codes(reading)
    assert reading.services == ()


def test_growing_variables_and_doubling_chains_end() -> None:
    words = "define a0 = { 1, 2 }\n" + "".join(
        f"define a{n} = {{ $a{n - 1}, $a{n - 1} }}\n" for n in range(1, 60)
    )
    assert not read(words).accept
    chains = "".join(
        f"\tchain c{n} {{\n\t\tip saddr != 10.{n}.0.0/16 jump c{n + 1}\n\t\tjump c{n + 1}\n\t}}\n"
        for n in range(40)
    )
    reading = read(chain("jump c0", more=chains + "\tchain c40 {\n\t\ttcp dport 80 redirect to :1\n\t}\n"))
    assert [lost.what for lost in reading.unsupported] == ["rules"]


def test_many_services_take_time_in_proportion() -> None:
    pick = "numgen inc mod 2 map { 0 : 1, 1 : 2 }"
    reading = read(chain(*(f"tcp dport {n} redirect to :{pick}" for n in range(1, 2001))))
    assert len(reading.services) == 2000
    assert {service.leak for service in reading.services} == {Fraction(0)}


def test_counted() -> None:
    reading = read(chain("tcp dport 80 redirect to :1", "tcp dport 22 accept"))
    assert reading.untouched_rules == 1


FOUR_OR_FIVE = {
    "a map": (["tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 1, 1 : 2 }"], {"ipv4", "ipv6"}),
    # The kernel picks a number first, and only then sees that it is for the other family.
    "of one family": (
        ["tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }"],
        {"ipv4"},
    ),
    "a ladder": (
        ["tcp dport 80 numgen inc mod 2 0 dnat ip to 10.0.0.1", "tcp dport 80 dnat ip to 10.0.0.2"],
        {"ipv4"},
    ),
    "by nfproto": (
        ["meta nfproto ipv4 tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 1, 1 : 2 }"],
        set(),
    ),
    "by an address": (
        ["ip daddr 192.0.2.1 tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }"],
        set(),
    ),
    "behind an end": (
        ["meta nfproto ipv6 return", "tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 1, 1 : 2 }"],
        set(),
    ),
    "behind endpoints": (
        [
            "meta nfproto ipv6 tcp dport 80 redirect to :9",
            "tcp dport 80 redirect to :numgen inc mod 2 map { 0 : 1, 1 : 2 }",
        ],
        set(),
    ),
}


@pytest.mark.parametrize(("rules", "inexact"), FOUR_OR_FIVE.values(), ids=FOUR_OR_FIVE)
def test_families_share_a_counter_where_both_move_it(rules: list[str], inexact: set[str]) -> None:
    reading = read(chain(*rules, family="inet"))
    assert {str(each.family) for each in reading.services if not each.exact} == inexact
    for each in reading.services:
        other = "ipv6" if each.family == "ipv4" else "ipv4"
        moved = f"{other} tcp connections to port 80, which move the counter of line"
        assert each.exact or str(each.depends_on).startswith(moved)


def test_the_rungs_of_a_ladder_ask_for_the_same() -> None:
    differing = chain(
        "tcp dport 80 numgen inc mod 3 0 redirect to :8001",
        "tcp dport 81 numgen inc mod 2 0 redirect to :8002",
        "tcp dport 80 redirect to :8003",
    )
    found = next(each for each in read(differing).findings if each.code == "selectors-differ")
    assert "tcp dport 81 where line 4 asks for tcp dport 80" in found.message
    for rules in (
        RIGHT["a ladder"][0],
        # Two ladders, one behind the other.
        [rule.replace("dport 80", f"dport {port}") for port in (80, 81) for rule in RIGHT["a ladder"][0]],
    ):
        assert "selectors-differ" not in codes(read(chain(*rules)))


def test_elements_that_overlap_pick_once() -> None:
    either = "tcp sport . tcp dport { 0-65535 . 80, 80 . 79-90 }"
    apart = "tcp sport . tcp dport { 0-65535 . 80, 80 . 81-90 }"
    ends = ("numgen inc mod 2 0 dnat to 10.0.0.1", "dnat to 10.0.0.2")
    overlapping, disjoint = (read(chain(*(f"{each} {end}" for end in ends))) for each in (either, apart))
    assert only_inexact(overlapping)
    assert {each.what for each in overlapping.unsupported} == {"overlap"}
    assert disjoint.unsupported == ()


def test_the_kernel_calls_no_chain_of_a_dormant_table() -> None:
    rules = chain("tcp dport 80 dnat to 10.0.0.1")
    assert len(read(rules).services) == 1
    assert read(rules.replace("{", "{ flags dormant;", 1)).services == ()
    table = {"table": {"family": "ip", "name": "t", "flags": ["dormant"]}}
    base = {"family": "ip", "table": "t", "name": "c", "type": "nat", "hook": "prerouting", "prio": -100}
    rule = {"family": "ip", "table": "t", "chain": "c", "expr": [{"dnat": {"addr": "10.0.0.1"}}]}
    for objects, services in (([table, {"chain": base}], 0), ([{"chain": base}], 1)):
        assert len(read(json.dumps({"nftables": [*objects, {"rule": rule}]})).services) == services


@pytest.mark.parametrize("command", ["add t c", "add ip t c", "ip t c", "rule ip t c", "add rule ip t c"])
def test_a_rule_needs_few_words(command: str) -> None:
    rules = chain("tcp dport 443 dnat to 10.0.0.1")
    found = read(f"{rules}{command} tcp dport 80 dnat to 10.0.0.2\n")
    assert found.accept
    assert {each.dport for each in found.services} == {"443", "80"}


def test_a_statement_that_is_none_refuses_its_own_line() -> None:
    rules = chain("tcp dport 443 dnat to 10.0.0.1", more="set s { elements = { 1 . }\n}\n")
    found = read(rules)
    assert [each.line for each in found.findings if each.code == "unparsable-line"] == [2]
    assert [each.dport for each in found.services] == ["443"]
