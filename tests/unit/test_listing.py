"""Reading what nft tells: its text as its JSON, and JSON of other shapes than that of nft 1.0.6."""

import json
from typing import Any

import pytest

from lbctl.host.fake import FakeHost
from lbctl.model import Program
from lbctl.spi import Count
from lbctl_nftables import backend as nftables
from lbctl_nftables import layout, listing
from support.effort import cpu_seconds
from support.netlink import has_tables

PAGE = """
table ip lbctl { # handle 3
	map ports-3f {
		typeof numgen inc mod 2 : th dport
		size 65535	# count 2
		counter
		elements = { 65536 counter packets 3 bytes 180 comment "web/a" : 8001,
				65537 counter packets 2 bytes 120 comment "web/8002" : 8002 }
	}

	map ports {
		type inet_proto . inet_service : verdict
		elements = { tcp . 80 : goto service-web }
	}

	set links {
		typeof iif . oif
		size 1024
		flags dynamic
		elements = { "eth0" . "eth0" }
	}

	chain prerouting {
		type nat hook prerouting priority dstnat - 1; policy accept;
		fib daddr type local meta l4proto . th dport vmap @ports # handle 7
	}

	chain service-web {
		meta l4proto 6 redirect to :numgen inc mod 2 offset 65536 map @ports-3f
	}
}
"""


def without_json(text: str) -> FakeHost:
    host = FakeHost()
    host.answer("nft", "--json", code=1, err="JSON support not compiled-in\n")
    host.answer("nft", "--numeric-priority", out=text)
    has_tables(host, ("ip", "lbctl"))
    return host


def with_json(*objects: Any) -> FakeHost:
    host = FakeHost()
    host.answer("nft", "--json", out=json.dumps({"nftables": objects}))
    has_tables(host, ("ip", "lbctl"))
    return host


def read(host: FakeHost) -> Program:
    return nftables.observe(host, "nft", "lbctl")


def test_text_is_read_as_a_program() -> None:
    host = without_json(PAGE)
    found = {item.key[1:]: (item.text, item.service) for item in read(host).items}
    declared = layout.declarations("ip")
    assert found == {
        ("table",): ("", None),
        ("map", "ports-3f"): ("\n".join(declared["page-ports"]), None),
        ("map", "ports"): ("\n".join(declared[layout.PORTS]), None),
        ("set", "links"): ("\n".join(declared[layout.LINKS]), None),
        ("chain", "prerouting"): ("type nat hook prerouting priority -101; policy accept;", None),
        ("chain", "service-web"): ("", "web"),
        ("rules", "prerouting"): ("fib daddr type local meta l4proto . th dport vmap @ports", None),
        ("rules", "service-web"): (
            "meta l4proto tcp redirect to :numgen inc mod 2 offset 65536 map @ports-3f",
            "web",
        ),
        ("element", "ports-3f", "65536"): ('comment "web/a" : 8001', "web"),
        ("element", "ports-3f", "65537"): ('comment "web/8002" : 8002', "web"),
        ("element", "ports", "tcp . 80"): (": goto service-web", "web"),
    }
    assert nftables.stats(host, "nft", "lbctl") == (
        Count(service="web", to="8001", connections=3, packets=3, bytes=180),
        Count(service="web", to="8002", connections=2, packets=2, bytes=120),
    )


@pytest.mark.parametrize(
    ("listed", "spelled"),
    [
        (
            "numgen inc mod 2 vmap { 1 : goto b, 0 : goto a }",
            "numgen inc mod 2 offset 0 vmap { 0 : goto a, 1 : goto b }",
        ),
        ("numgen inc mod 30 offset 4 map @p", "numgen inc mod 30 offset 4 map @p"),
        ("jhash ip saddr mod 3 seed 0x5eed map @p", "jhash ip saddr mod 3 seed 0x5eed offset 0 map @p"),
        ("jhash ip saddr mod 3 seed 24301 offset 9", "jhash ip saddr mod 3 seed 0x5eed offset 9"),
        ("meta l4proto 17 accept", "meta l4proto udp accept"),
        ("dnat ip to 10.0.0.1:80", "dnat to 10.0.0.1:80"),
        ("dnat ip to numgen inc mod 1 offset 5 map @p", "dnat ip to numgen inc mod 1 offset 5 map @p"),
        ("reject with icmpv6 port-unreachable", "reject"),
        ("reject with tcp reset", "reject with tcp reset"),
        ("counter packets 1 bytes 2 accept", "counter accept"),
        ("counter packets 1 bytes", "counter packets 1 bytes"),
        ('accept comment "a ; } b"', "accept"),
        ("tcp dport { 80,\n 443 } accept", "tcp dport { 80, 443 } accept"),
    ],
)
def test_rules_are_spelled_as_a_program_does(listed: str, spelled: str) -> None:
    host = without_json(f"table ip lbctl {{\n\tchain x {{\n\t\t{listed}\n\t}}\n}}\n")
    assert read(host).by_key["ip", "rules", "x"].text == spelled


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("elements = { 10.0.0.0/8 }", {"elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}),
        ("elements = { 10.0.0.1-10.0.0.9 }", {"elem": [{"range": ["10.0.0.1", "10.0.0.9"]}]}),
        ("elements = { 2001:db8::1 }", {"elem": ["2001:db8::1"]}),
        (
            "elements = { 192.0.2.1 timeout 1d2h3m4s expires 1h500ms : 10.0.0.1 . 80 }",
            {
                "elem": [
                    [
                        {"elem": {"val": "192.0.2.1", "timeout": 93784, "expires": 3600}},
                        {"concat": ["10.0.0.1", 80]},
                    ]
                ]
            },
        ),
        ("elements = { }", {"elem": []}),
        ("flags dynamic,timeout", {"flags": ["dynamic", "timeout"]}),
        ("timeout 3h", {"timeout": 10800}),
        ("auto-merge", {"auto-merge": True}),
        ("counter", {"stmt": [{"counter": None}]}),
    ],
)
def test_what_a_set_says_is_what_json_says(text: str, value: dict[str, Any]) -> None:
    _, found = listing.objects(f"table ip x {{\n\tset s {{\n\t\ttype ipv4_addr\n\t\t{text}\n\t}}\n}}\n")
    assert found == {"set": {"name": "s", "type": "ipv4_addr", **value}}


@pytest.mark.parametrize(
    "text",
    [
        "flowtable f {\n\t\thook ingress priority 0\n\t}",
        'comment "a table"',
        "map broken {\n\t\telements = { 1 : 2 }\n\t}",
        "nonsense",
        "ct helper x {\n\t}\n\tct helper y {\n\t}",
    ],
)
def test_what_is_not_understood_is_foreign(text: str) -> None:
    found = read(without_json(f"table ip lbctl {{\n\t{text}\n}}\n"))
    assert found.items[0].key == ("ip", "table")
    assert {item.key[1] for item in found.items[1:]} == {"foreign"}


@pytest.mark.parametrize("end", range(0, len(PAGE), 7))
def test_a_listing_that_ends_early_is_no_error(end: int) -> None:
    read(without_json(PAGE[:end]))


def test_a_long_rule_takes_no_quadratic_time() -> None:
    verdicts = ", ".join(f"{n} : goto endpoint-web/8001" for n in range(65521))
    text = f"table ip x {{\n\tchain c {{\n\t\tnumgen inc mod 65521 vmap {{ {verdicts} }}\n\t}}\n}}\n"
    # Hours, if every word meant a copy of the rest.
    with cpu_seconds(20):
        assert len(listing.objects(text)) == 3


# -- shapes of JSON

TABLE = {"table": {"family": "ip", "name": "lbctl"}}
VALUE = {"name": "ports-3f", "table": "lbctl", "type": "integer", "map": "inet_service"}
COUNTED = {"stmt": [{"counter": None}]}
COUNTER = {"counter": {"packets": 3, "bytes": 180}}


@pytest.mark.parametrize(
    "page",
    [
        {**VALUE, **COUNTED},
        {**VALUE, **COUNTED, "handle": 4, "new-key": {"x": 1}, "flags": []},
        {**VALUE, "stmt": {"counter": None}},
        {**VALUE, **COUNTED, "type": ["integer"], "map": ["inet_service"]},
        {**VALUE, **COUNTED, "type": {"typeof": {"numgen": {"mode": "inc", "mod": 2, "offset": 0}}}},
    ],
)
@pytest.mark.parametrize(
    "element",
    [
        {"val": 65536, "comment": "web/a", **COUNTER},
        {"val": 65536, "comment": "web/a", "stmt": [COUNTER]},
        {"val": 65536, "comment": "web/a", **COUNTER, "new-key": 1},
    ],
)
def test_shapes_of_a_page(page: dict[str, Any], element: dict[str, Any]) -> None:
    host = with_json(TABLE, {"map": {**page, "elem": [[{"elem": element}, 8001]]}})
    found = read(host)
    assert found.by_key["ip", "map", "ports-3f"].text == "\n".join(layout.declarations("ip")["page-ports"])
    assert found.by_key["ip", "element", "ports-3f", "65536"].text == 'comment "web/a" : 8001'
    [count] = nftables.stats(host, "nft", "lbctl")
    assert (count.to, count.connections, count.bytes) == ("8001", 3, 180)


def test_addresses_behind_typeof() -> None:
    data = [
        {"payload": {"protocol": "ip", "field": "daddr"}},
        {"payload": {"protocol": "tcp", "field": "dport"}},
    ]
    page = {
        "name": "addresses-tcp-a2",
        "type": {"typeof": {"numgen": {"mode": "inc", "mod": 2}}},
        "map": {"typeof": {"concat": data}},
        **COUNTED,
    }
    found = read(with_json(TABLE, {"map": page}))
    declared = layout.declarations("ip")["page-addresses-tcp"]
    assert found.by_key["ip", "map", "addresses-tcp-a2"].text == "\n".join(declared)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"quantum": {"name": "q"}},
        {"quantum": 7},
        {"map": {"table": "lbctl"}},
        {"map": None},
        {"rule": {"chain": "x"}},
        {"chain": {}},
    ],
)
def test_kinds_that_nobody_knows_are_foreign(entry: dict[str, Any]) -> None:
    # Twice: two foreign objects without names are two.
    found = read(with_json(TABLE, entry, entry))
    assert [item.key[1] for item in found.items] == ["table", "foreign", "foreign"]


def test_a_rule_before_its_chain() -> None:
    rule = {"rule": {"chain": "x", "expr": [{"accept": None}], "new-key": 1}}
    found = read(with_json(TABLE, rule, {"chain": {"name": "x", "new-key": 1}}))
    assert found.by_key["ip", "rules", "x"].text == "accept"
    assert found.by_key["ip", "chain", "x"].text == ""
