"""What the reader of nft says of the rules behind a hook that gives endpoints, and of marks on the way."""

import pytest

from lbctl.engine.inspect.compare import compare
from lbctl.engine.migrate.intent import imported
from lbctl.model import AnalysedService, Analysis, SourceNat
from lbctl_iptables.reading import read as read_iptables
from lbctl_nftables.reading.read import read

WEB = "ip daddr 192.0.2.1 tcp dport 80"
PICK = f"{WEB} dnat ip to numgen inc mod 2 map {{ 0 : 10.0.0.1 . 8080, 1 : 10.0.0.2 . 8080 }}"
ALWAYS, HAIRPIN, NEVER = SourceNat.ALWAYS, SourceNat.HAIRPIN, SourceNat.NEVER
PRIORITIES = {"filter": -150, "nat": -100}


def chain(kind: str, hook: str, *rules: str, priority: int | None = None) -> str:
    at = PRIORITIES[kind] if priority is None else priority
    head = f"type {kind} hook {hook} priority {at}; policy accept;"
    return "\n".join([f"chain {kind}-{hook}-{at + 999} {{", head, *rules, "}\n"])


def table(*chains: str, family: str = "ip") -> str:
    return f"table {family} t {{\n{''.join(chains)}}}\n"


def service(reading: Analysis, action: str = "dnat") -> AnalysedService:
    assert reading.accept
    [found] = [each for each in reading.services if each.action == action]
    return found


def behind(*rules: str, more: str = "") -> SourceNat | None:
    text = table(more, chain("nat", "prerouting", PICK), chain("nat", "postrouting", *rules))
    return service(read(text)).source_nat


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ((), NEVER),
        (("masquerade",), ALWAYS),
        (("masquerade fully-random",), ALWAYS),
        (("counter log prefix a masquerade",), ALWAYS),
        (("ip daddr 10.0.0.0/24 tcp dport 8080 snat to 10.0.0.254",), ALWAYS),
        (("ip daddr { 10.0.0.1, 10.0.0.2 } masquerade",), ALWAYS),
        (("ip daddr . tcp dport { 10.0.0.1 . 8080, 10.0.0.2 . 8080 } masquerade",), ALWAYS),
        (("ct status dnat masquerade",), ALWAYS),
        (("ct state new masquerade",), ALWAYS),
        (("ct original ip daddr 192.0.2.1 masquerade",), ALWAYS),
        (("ct original ip daddr 192.0.2.9 masquerade",), NEVER),
        (("ct status snat masquerade",), NEVER),
        # Another port, another network: not for these connections.
        (("ip daddr 10.0.0.0/24 tcp dport 80 masquerade",), NEVER),
        (("tcp dport != 8080 masquerade",), NEVER),
        (("ip saddr 10.0.0.0/24 ip daddr != 10.0.0.0/24 masquerade",), NEVER),
        (("udp dport 8080 masquerade",), NEVER),
        (("ip saddr 10.0.0.0/24 ip daddr 10.0.0.0/24 masquerade",), HAIRPIN),
        (("ip saddr 10.0.0.0/24 ip daddr 10.0.0.1 tcp dport 8080 masquerade",), HAIRPIN),
        (("ip saddr . ip daddr { 10.0.0.1 . 10.0.0.1, 10.0.0.2 . 10.0.0.2 } masquerade",), HAIRPIN),
        (('oifname != "lo" fib saddr type local masquerade',), HAIRPIN),
        # Where the way out or a client far away decides, an intent has no word for it.
        (("oifname eth0 masquerade",), None),
        (('oifname vmap { "eth0" : jump all, "eth1" : accept }',), None),
        (("ip saddr 198.51.100.0/24 masquerade",), None),
        (("ip saddr { 10.0.0.0/24, 198.51.100.0/24 } masquerade",), None),
        (("ip saddr 10.0.0.1-10.0.0.7 masquerade",), None),
        (("limit rate 9/second masquerade",), None),
        (("snat to ip saddr map { 192.0.2.2 : 10.0.0.7 }",), None),
        (("snat to numgen inc mod 2 map { 0 : 10.0.0.7, 1 : 10.0.0.8 }",), None),
        # A set of pairs that somebody else fills.
        (("iif . oif @pairs masquerade",), None),
        (("update @pairs { iif . iif }", "iif . oif @pairs masquerade"), HAIRPIN),
        (("ip saddr 10.0.0.9 update @pairs { iif . iif }", "iif . oif @pairs masquerade"), None),
        # Only the others: what an earlier rule lets go keeps its source.
        (("ip saddr 10.0.0.0/24 return", "masquerade"), None),
        (("ip saddr 10.0.0.0/24 jump none", "masquerade"), None),
        (("ip saddr 10.0.0.0/24 goto back", "masquerade"), None),
        (("ip saddr 10.0.0.0/24 jump back", "masquerade"), ALWAYS),
        (("ip daddr 10.0.0.0/8 accept", "masquerade"), NEVER),
        (("ip daddr 10.0.0.1 masquerade",), None),
        (("numgen inc mod 2 0 masquerade",), None),
        (("xt target MASQUERADE",), None),
        (("jump elsewhere",), None),
    ],
)
def test_when_the_source_is_replaced(rules: tuple[str, ...], found: SourceNat | None) -> None:
    more = "chain all { masquerade; }\nchain none { accept; }\nchain back { return; }\n"
    pairs = "set pairs { typeof iif . oif; flags dynamic; size 9; }\n"
    assert behind(*rules, more=more + pairs) is found


def test_a_part_of_a_text_does_not_say_never() -> None:
    assert service(read(table(chain("nat", "prerouting", PICK)))).source_nat is None
    assert behind() is NEVER
    by_name = f"add rule ip nat prerouting {PICK}\nadd rule ip nat postrouting "
    assert service(read(f"{by_name} ip daddr 10.9.0.0/16 masquerade\n")).source_nat is None
    assert service(read(f"{by_name} masquerade\n")).source_nat is ALWAYS


@pytest.mark.parametrize("first", [50, 150])
def test_an_accept_in_one_chain_of_nat_leads_to_the_next(first: int) -> None:
    text = table(
        chain("nat", "prerouting", PICK),
        chain("nat", "postrouting", "ip daddr 10.0.0.1 accept", priority=first),
        chain("nat", "postrouting", "masquerade", priority=99),
    )
    assert service(read(text)).source_nat is ALWAYS


def test_families_of_inet_are_told_apart() -> None:
    for rule, found in (("snat ip to 10.0.0.9", ALWAYS), ("snat ip6 to 2001:db8::1", NEVER)):
        text = table(chain("nat", "prerouting", PICK), chain("nat", "postrouting", rule), family="inet")
        [one] = [each for each in read(text).services if each.action == "dnat"]
        assert one.source_nat is found


@pytest.mark.parametrize(
    ("marking", "asked", "found"),
    [
        ("meta mark set 0x4", "meta mark 0x4 masquerade", ALWAYS),
        ("meta mark set 0x6", "meta mark & 0x4 == 0x4 masquerade", ALWAYS),
        ("meta mark set 0x3", "meta mark & 0x4 == 0x4 masquerade", NEVER),
        ("ct mark set 0x4", "ct mark vmap { 4 : jump all }", ALWAYS),
        ("ct mark set 0x4", "meta mark 0x4 masquerade", NEVER),
        ("meta mark set meta mark | 0x4000", "meta mark & 0x4000 != 0x0 masquerade", ALWAYS),
        # Half of the connections.
        ("meta mark set numgen inc mod 2 offset 1", "meta mark 1 masquerade", None),
        # It depends on the client, or on nobody knows what.
        ("meta mark set meta mark << 1", "meta mark 4 masquerade", None),
        ("meta mark set ip saddr map { 198.51.100.7 : 4 }", "meta mark 4 masquerade", None),
        ("iifname wg0 meta mark set 4", "meta mark 4 masquerade", None),
        ("iifname wg0 jump marking", "meta mark 4 masquerade", None),
        ("iifname wg0 meta mark set 4", "ct mark 4 masquerade", NEVER),
    ],
)
def test_marks_lead_to_it(marking: str, asked: str, found: SourceNat | None) -> None:
    for at in (-150, -50):
        # Before the destination is rewritten, and behind that.
        text = table(
            "chain all { masquerade; }\nchain marking { meta mark set 4; }\n",
            chain("filter", "prerouting", f"ct state new {marking}", priority=at),
            chain("nat", "prerouting", PICK),
            chain("nat", "postrouting", asked),
        )
        assert service(read(text)).source_nat is found
    moved = text.replace("hook prerouting priority -50", "hook forward priority 0")
    assert service(read(moved)).source_nat is found


def test_each_mark_that_was_picked_may_lead_to_it() -> None:
    text = table(
        chain("filter", "prerouting", "ct state new meta mark set numgen inc mod 2 offset 1"),
        chain("nat", "prerouting", PICK),
        chain("nat", "postrouting", "meta mark 1-2 masquerade"),
    )
    assert service(read(text)).source_nat is ALWAYS


def test_a_mark_of_some_is_not_known_of_the_others() -> None:
    assert behind("ip saddr 192.0.2.0/24 meta mark set 1", "meta mark 1 masquerade") is None
    assert behind("meta mark set 1", "meta mark 1 masquerade") is ALWAYS
    assert behind("meta mark set 1", "meta mark set 0", "meta mark 1 masquerade") is NEVER


def test_what_an_intent_cannot_hold_is_listed() -> None:
    text = table(chain("nat", "prerouting", PICK), chain("nat", "postrouting", "oifname eth0 masquerade"))
    found = service(read(text))
    assert (found.source_nat, found.source_lines) == (None, (8,))
    made = imported(read(text))
    assert made.notes == ("tcp-80: the client address is replaced for some connections only (line 8)",)
    [held] = made.intent.services
    assert held.source_nat is HAIRPIN
    always = text.replace("oifname eth0 ", "")
    made = imported(read(always))
    assert made.notes == ()
    assert [each.source_nat for each in made.intent.services] == [ALWAYS]


def test_sides_that_replace_it_otherwise_are_told() -> None:
    always = table(chain("nat", "prerouting", PICK), chain("nat", "postrouting", "masquerade"))
    never = table(chain("nat", "prerouting", PICK), chain("nat", "postrouting"))
    ladder = "-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80"
    iptables = "\n".join(
        (
            "*nat", ":PREROUTING ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]",
            f"{ladder} -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1:8080",
            f"{ladder} -j DNAT --to-destination 10.0.0.2:8080",
            "-A POSTROUTING -j MASQUERADE", "COMMIT", "",
        )
    )  # fmt: skip
    [pair] = compare(read(never), read_iptables(iptables)).pairs
    assert pair.notes == ("the client's address is replaced: never in A, always in B",)
    some = always.replace("masquerade", "oifname eth0 masquerade")
    [pair] = compare(read(some), read_iptables(iptables)).pairs
    assert pair.notes == ("the client's address is replaced: sometimes in A, always in B",)
    [pair] = compare(read(always), read_iptables(iptables)).pairs
    assert (pair.verdict, pair.notes) == ("identical", ())


PICKING = "ct state new meta mark set numgen inc mod 3 map { 0 : 1, 1 : 2, 2 : 2 }"
SOURCES = ("ct mark 1 snat to 192.0.2.1", "meta mark & 0xf == 2 snat to 192.0.2.2")


def test_a_source_is_chosen_by_the_mark_of_an_earlier_hook() -> None:
    pre = chain("filter", "prerouting", f'iifname "eth1" {PICKING}', "ct mark set meta mark")
    post = chain("nat", "postrouting", *SOURCES, priority=100)
    reading = read(table(pre, chain("nat", "prerouting", "accept"), post))
    found = service(reading, "snat")
    assert (found.hooks, found.when, found.mode) == (("postrouting",), {"iif": "eth1"}, "nth")
    assert found.slots == ("192.0.2.1", "192.0.2.2", "192.0.2.2")
    assert (found.exact, reading.unsupported) == (True, ())
    assert [(step.where.partition(":")[0], str(step.share), str(step.taken)) for step in found.path] == [
        ("prerouting", "1", "1"),
        ("prerouting", "1", "1"),
        ("prerouting", "1", "1"),
        ("postrouting", "1", "1/3"),
        ("postrouting", "2/3", "2/3"),
    ]
    # One source for all is no choice.
    one = chain("nat", "postrouting", "masquerade", *SOURCES, priority=100)
    assert "snat" not in {each.action for each in read(table(pre, one)).services}
    # Who has an endpoint, or is dropped, comes to none.
    taken = chain("nat", "prerouting", "dnat to 10.0.0.1")
    assert "snat" not in {each.action for each in read(table(pre, taken, post)).services}


def test_a_source_that_the_way_out_decides_is_not_told() -> None:
    pre = chain("filter", "prerouting", f"iifname eth1 {PICKING}", "ct mark set meta mark")
    behind_ = chain("nat", "postrouting", f"oifname eth2 {SOURCES[0]}", SOURCES[1], "masquerade")
    reading = read(table(pre, behind_))
    assert {each.action for each in reading.services} == {"mark"}
    assert [(lost.what, lost.line) for lost in reading.unsupported] == [("oif", 9)]


def test_a_counter_moves_on_where_it_changes_nothing() -> None:
    text = table(
        chain(
            "filter",
            "prerouting",
            "tcp dport 80 ct state new ct mark set numgen inc mod 2",
            "tcp dport 80 ct state new meta mark set numgen inc mod 4",
        ),
        # Half of the connections have the same endpoint, whatever their packet's mark is.
        chain(
            "nat",
            "prerouting",
            "tcp dport 80 ct mark 0 redirect to :1",
            "tcp dport 80 redirect to :meta mark map { 0 : 2, 1 : 3, 2 : 4, 3 : 5 }",
        ),
    )
    assert service(read(text), "redirect").slots == ("1", "3", "1", "5")


def test_marks_of_an_earlier_hook_are_conditions_where_nobody_balances_them() -> None:
    post = chain("nat", "postrouting", "meta mark 1 snat to 192.0.2.1-192.0.2.2", priority=100)
    pre = chain("filter", "prerouting", "iifname eth1 meta mark set 1")
    assert service(read(table(pre, post)), "snat").when == {"mark": "0x1"}
    # The mark of a chain that comes first is 0 where nobody set it.
    nobody = chain("nat", "postrouting", "meta mark 0 snat to 192.0.2.1-192.0.2.2", priority=100)
    assert service(read(table(nobody)), "snat").when is None
    assert service(read(table(pre, nobody)), "snat").when == {"mark": "0x0"}


BY_MARK = "meta mark 1 redirect to :1", "redirect to :2"
UNKNOWN = {
    "a shift": "meta mark set meta mark << 1",
    "operators in another order": "meta mark set meta mark | 0x4 & 0xf",
}


def asked_for(rule: str) -> str:
    return table(
        "chain marking { meta mark set 1; }",
        chain("filter", "prerouting", f"tcp dport 80 {rule}"),
        chain("nat", "prerouting", *(f"tcp dport 80 {each}" for each in BY_MARK)),
    )


@pytest.mark.parametrize("rule", UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_mark_is_reported(rule: str) -> None:
    reading = read(asked_for(rule))
    assert not any(each.exact for each in reading.services)
    assert [(lost.what, lost.line) for lost in reading.unsupported] == [("mark", 8)]
    # What does not ask for it is known all the same.
    assert service(read(asked_for(rule).replace("meta mark 1 ", "")), "redirect").mode == "single"


@pytest.mark.parametrize(
    ("rule", "field", "value"),
    [
        ("meta mark set ip saddr map { 198.51.100.7 : 1 }", "src", "198.51.100.7"),
        ("iifname wg0 meta mark set 1", "iif", "wg0"),
        ("iifname wg0 jump marking", "iif", "wg0"),
        ('iifname vmap { "wg0" : jump marking, "lo" : accept }', "iif", "wg0"),
    ],
    ids=["a map", "a condition", "a chain", "a map of chains"],
)
def test_connections_with_a_mark_of_their_own_are_a_service_of_their_own(
    rule: str, field: str, value: str
) -> None:
    reading = read(asked_for(rule))
    assert {each.when[field]: [x.to for x in each.backends] for each in reading.services if each.when} == {
        f"! {value}": ["2"],
        value: ["1"],
    }
    assert all(each.exact for each in reading.services)
    assert reading.unsupported == ()
    assert service(read(asked_for(rule).replace("meta mark 1 ", "")), "redirect").when is None


def test_a_mark_that_only_others_set_leaves_those_known_that_have_none() -> None:
    text = table(
        chain("filter", "prerouting", "meta mark set 1", "ct mark 3 meta mark set 2"),
        chain("nat", "prerouting", "tcp dport 80 meta mark 1 redirect to :1", "tcp dport 80 redirect to :2"),
    )
    reading = read(text)
    assert reading.unsupported == ()
    found = service(reading, "redirect")
    assert (found.when, [each.to for each in found.backends]) == (None, ["1"])


def test_a_look_up_of_marks_that_has_nothing_ends_its_rule() -> None:
    rules = "meta mark set ct mark map { 1 : 2 } accept", "tcp dport 80 meta mark set 7"
    text = table(
        chain("filter", "prerouting", *rules),
        chain("nat", "prerouting", "tcp dport 80 meta mark 7 redirect to :1"),
    )
    assert [each.to for each in service(read(text), "redirect").backends] == ["1"]


def test_the_other_family_has_marks_of_its_own() -> None:
    text = table(chain("filter", "prerouting", "meta mark set 1"), family="ip6") + table(
        chain("nat", "prerouting", "tcp dport 80 meta mark 1 redirect to :1")
    )
    assert service(read(text), "redirect").when == {"mark": "0x1"}
