"""Whatever a text holds, the reader of nft ends, soon, and says nothing that it does not know.

LBCTL_FUZZ_EXAMPLES sets how many texts of each kind are tried.
"""

import json
import os
from fractions import Fraction

from hypothesis import HealthCheck, given, settings, strategies as st

from lbctl.documents.reading import document
from lbctl.engine.inspect.compare import compare
from lbctl.engine.migrate.intent import imported
from lbctl.model import Analysis
from lbctl_nftables.reading.read import read
from lbctl_nftables.recognize import recognizes
from support.effort import cpu_seconds

FUZZ = settings(
    deadline=None,
    max_examples=int(os.environ.get("LBCTL_FUZZ_EXAMPLES", settings.default.max_examples)),
    suppress_health_check=list(HealthCheck),
)
#: What rules are made of, and what they are broken with.
WORDS = [
    "\ntable",
    "chain",
    "rule",
    "map",
    "set",
    "add",
    "insert",
    "delete",
    "flush",
    "ruleset",
    "element",
    "define",
    "include",
    "nft",
    "sudo",
    "ip",
    "ip6",
    "inet",
    "nat",
    "t",
    "c",
    "d\n{",
    "}",
    "(",
    ")",
    ";",
    ",",
    ":",
    ".",
    "=",
    "@",
    "$",
    "-",
    "!",
    "#",
    '"',
    "'",
    "\\",
    "\n",
    "type",
    "hook",
    "prerouting",
    "output",
    "postrouting",
    "priority",
    "policy",
    "accept",
    "drop",
    "return\ngoto",
    "jump",
    "vmap",
    "map",
    "numgen",
    "inc",
    "random",
    "mod",
    "offset",
    "jhash",
    "symhash",
    "seed",
    "tcp",
    "udp",
    "dport",
    "sport",
    "saddr",
    "daddr",
    "meta",
    "l4proto",
    "th",
    "mark\nct",
    "state",
    "new",
    "fib",
    "local",
    "dnat",
    "snat",
    "redirect",
    "masquerade",
    "to",
    ":",
    "counter",
    "comment",
    "limit",
    "rate",
    "1/second",
    "log",
    "update",
    "timeout\nelements",
    "flags",
    "dynamic",
    "typeof",
    "0",
    "1",
    "2",
    "3",
    "4",
    "80",
    "443",
    "65536",
    "4294967296",
    "-1",
    "0x5",
    "10.0.0.1",
    "10.0.0.0/8",
    "10.0.0.1-10.0.0.9",
    "2001:db8::1\n[2001:db8::1]",
    "::/0",
    "0.0.0.0/0",
    "/0",
    "*",
    "\x00",
    "\ufeff",
    "\u202e",
    "\x1b[31m",
    "é",
    "http",
    "xt",
    "target",
    "match",
    "eth0",
    '"a"',
    '"\\"',
    "1h30m",
    "==",
    "!=",
    "<",
    "&",
    "2147483647\n",
]
PIECES = st.lists(st.sampled_from(WORDS), max_size=80).map(" ".join)
RULES = st.lists(
    st.sampled_from(
        [
            "tcp dport 80 numgen inc mod 2 0 dnat to 10.0.0.1:80",
            "tcp dport { 80, 443 } redirect to :numgen random mod 3 map { 0 : 1, 1-2 : 2 }",
            "numgen inc mod 3 vmap { 0 : jump d, 1 : goto d, 2 : return }",
            "ip saddr != 10.0.0.0/8 return",
            "tcp dport vmap { 80 : jump d, 81-90 : drop, 91 : accept }",
            "meta mark set numgen inc mod 2 offset 1",
            "meta mark 1 jump d",
            "ct state new ct mark set jhash ip saddr mod 2 seed 1 map { 0 : 1, 1 : 2 }",
            "dnat to jhash ip saddr mod 2 seed 1 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }",
            "jhash ip saddr mod 2 seed 1 0 jump d",
            "meta random & 2147483647 < 5 redirect to :9",
            "tcp dport 80 redirect to :8001-8003",
            "fib daddr type local meta l4proto . th dport vmap @m",
            "dnat to 10.0.0.1-10.0.0.3",
            "jump e",
            "goto d",
        ]
    ),
    max_size=7,
)


MARKING = st.lists(
    st.sampled_from(
        [
            "meta mark set numgen inc mod 3 offset 1",
            "tcp dport 80 ct state new ct mark set numgen random mod 2 map { 0 : 1, 1 : 0x12 }",
            "meta mark set ct mark",
            "ct mark set meta mark & 0xf",
            "meta mark set meta mark << 1",
            "meta mark set ct mark map { 1 : 2, 2 : 3 }",
            "meta mark set ip saddr map { 10.0.0.1 : 7 }",
            "meta mark != 0 accept",
            "meta mark & 0x2 == 0x2 jump d",
            "ct mark vmap { 1 : goto d, 2 : accept, 3 : drop }",
            "ct state vmap { established : accept, new : jump e }",
            "ip saddr 10.0.0.0/8 meta mark set 2",
        ]
    ),
    max_size=6,
)
BEHIND = st.lists(
    st.sampled_from(
        [
            "masquerade",
            "oifname eth0 masquerade",
            "ip saddr 10.0.0.0/24 ip daddr 10.0.0.0/24 masquerade",
            "meta mark 1 snat to 192.0.2.1",
            "ct mark & 0x2 == 0x2 snat to 192.0.2.2",
            "snat to meta mark map { 1 : 192.0.2.1, 2 : 192.0.2.2 }",
            "update @links { iif . iif }",
            "iif . oif @links masquerade",
            "ct original ip daddr . ct original proto-dst { 10.0.0.1 . 80 } masquerade",
            "meta mark 3 return",
            "ip daddr vmap { 10.0.0.1 : jump e, 10.0.0.0/8 : accept }",
            "jump e",
        ]
    ),
    max_size=6,
)


def block(name: str, lines: list[str], hook: str = "") -> str:
    head = f"type {hook}; policy accept;\n" if hook else ""
    return f"chain {name} {{\n{head}" + "\n".join(lines) + "\n}\n"


def table(
    rules: list[str], others: list[str], last: list[str], more: str = "", hook: str = "prerouting"
) -> str:
    return (
        "table ip t {\nmap m {\ntype inet_proto . inet_service : verdict\n"
        "elements = { tcp . 80 : goto d, udp . 53 : jump e }\n}\n"
        f"{more}{block('e', last)}{block('d', others)}{block('c', rules, f'nat hook {hook} priority 0')}}}\n"
    )


def judged(text: str) -> Analysis:
    recognizes(text)
    # Two seconds for each 100 kB.
    with cpu_seconds(10):
        reading = read(text)
    lines = text.count("\n") + 1
    for service in reading.services:
        parts = [backend.share for backend in service.backends]
        assert sum(parts, start=Fraction(0)) + service.leak == 1
        assert all(0 < part <= 1 for part in parts)
        assert service.leak >= 0
        assert len({backend.to for backend in service.backends}) == len(parts)
        assert service.hooks
        if service.slots and service.mode != "hash":
            for backend in service.backends:
                assert Fraction(service.slots.count(backend.to), len(service.slots)) == backend.share
        for value in (
            service.proto,
            service.dst,
            service.dport,
            *(backend.to for backend in service.backends),
        ):
            assert value.isprintable()
            assert not set(value) & set("\"'\\;{}\n")
    for found in (*reading.findings, *reading.unsupported):
        assert 1 <= found.line <= lines
    json.dumps(document(reading))
    assert compare(reading, reading).equal is reading.accept
    imported(reading, text.split("\n"))
    return reading


@FUZZ
@given(PIECES)
def test_heaps_of_words(text: str) -> None:
    judged(text)


@FUZZ
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    judged(text)


@FUZZ
@given(RULES, RULES, RULES)
def test_rules_that_nft_would_take(rules: list[str], others: list[str], last: list[str]) -> None:
    reading = judged(table(rules, others, last))
    assert reading.accept or "chain-loop" in {found.code for found in reading.findings}


@FUZZ
@given(MARKING, RULES | MARKING, BEHIND | MARKING, BEHIND, st.sampled_from(["prerouting", "output"]))
def test_marks_from_hook_to_hook(
    marking: list[str], rules: list[str], last: list[str], behind: list[str], hook: str
) -> None:
    more = "set links {\ntypeof iif . oif\nsize 9\nflags dynamic\n}\n"
    more += block("f", marking, f"filter hook {hook} priority -150")
    more += block("b", behind, "nat hook postrouting priority 100")
    by_mark = ["tcp dport 80 meta mark 1 dnat to 10.0.0.1", "tcp dport 80 dnat to 10.0.0.2", *rules]
    reading = judged(table(by_mark, last, last[:2], more, hook))
    for service in reading.services:
        assert not (service.source_nat and service.source_lines)


@FUZZ
@given(RULES, st.data())
def test_rules_that_were_cut_and_swapped(rules: list[str], data: st.DataObject) -> None:
    text = table(rules, [], rules[:2])
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + 30)))
        text = text[:begin] + data.draw(st.sampled_from(WORDS)) + text[end:]
    judged(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 99)
    | st.sampled_from(["ip", "t", "c", "nat", "10.0.0.1", "@m", '"; drop']),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "table",
                    "chain",
                    "rule",
                    "map",
                    "elem",
                    "expr",
                    "family",
                    "name",
                    "match",
                    "left",
                    "right",
                    "op",
                    "dnat",
                    "addr",
                    "port",
                    "vmap",
                    "key",
                    "data",
                    "set",
                    "numgen",
                    "mod",
                    "mode",
                    "concat",
                    "goto",
                    "target",
                    "hook",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@FUZZ
@given(st.lists(JSON, max_size=6))
def test_any_json(objects: list[object]) -> None:
    judged(json.dumps({"nftables": objects}))
