"""What the reader of nft says of rules is what the kernel does with them, connection by connection."""

import json
import random
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lbctl import engine
from lbctl.config import dump
from lbctl.conformance.network import CLIENT4, HOST4, HOST6, INSIDE4, NEIGHBOUR4, SERVERS4
from lbctl.engine.migrate.intent import imported
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Intent
from lbctl.model.jenkins import slot_of
from lbctl_nftables import backend as nftables
from support.intents import intents
from support.network import Network, intent, service
from support.nft_findings import CASES, corrected_text
from support.reading import assert_same

PATIENT = settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
#: Who answers where nothing is translated.
LEAK = "80"
PORTS = (8001, 8002, 8003, 8004)


@pytest.mark.usefixtures("inside")
@PATIENT
@given(wanted=intents(owner="lbctl", everything=True))
def test_live_rules_of_ours_read_as_the_intent(folder: Path, wanted: Intent) -> None:
    session = engine.open_session(LocalHost(folder), backend="nftables", driver="nft")
    engine.apply(session, (engine.plan(session, wanted),))
    try:
        assert_same(nftables.read(nftables.dump(session.host, session.driver)), wanted)
        listed = [
            json.loads(done.out)["nftables"]
            for word in ("ip", "ip6")
            if not (done := session.host.run(["nft", "--json", "list", "table", word, "lbctl"])).code
        ]
        whole = {"nftables": [entry for entries in listed for entry in entries]}
        assert_same(nftables.read(json.dumps(whole)), wanted)
    finally:
        engine.remove(session, "lbctl")


def table(*rules: str, more: str = "") -> str:
    body = "\n".join(f"\t\t{rule}" for rule in rules)
    return (
        f"table ip t {{\n{more}\tchain pre {{\n"
        f"\t\ttype nat hook prerouting priority -100; policy accept;\n{body}\n\t}}\n}}\n"
    )


LADDER = "tcp dport 80 numgen inc mod {} {} redirect to :{}"
#: Rules that pick in turn: whatever they are, the sequence must be the kernel's.
SEQUENCES = {
    "a map": table("tcp dport 80 redirect to :numgen inc mod 3 map { 0 : 8001, 1 : 8002, 2 : 8003 }"),
    "a sparse map with an offset": table(
        "tcp dport 80 redirect to :numgen inc mod 4 offset 7 map { 7 : 8001, 9-10 : 8002 }"
    ),
    "a ladder": table(LADDER.format(3, 0, 8001), LADDER.format(2, 0, 8002), "tcp dport 80 redirect to :8003"),
    "the same turn on each line": table(
        LADDER.format(3, 0, 8001), LADDER.format(3, 1, 8002), LADDER.format(3, 2, 8003)
    ),
    "a counter behind chains": table(
        "tcp dport 80 jump a",
        "tcp dport 80 redirect to :8004",
        more="\tchain b {\n\t\tnumgen inc mod 2 1 return\n\t\tmeta l4proto tcp redirect to :8002\n\t}\n"
        "\tchain a {\n\t\tnumgen inc mod 3 vmap { 0 : goto b, 1 : return }\n"
        "\t\tmeta l4proto tcp numgen inc mod 2 0 redirect to :8001\n\t}\n",
    ),
    "marks that later rules read": table(
        "numgen inc mod 3 0 meta mark set 1",
        "numgen inc mod 3 1 meta mark set 2",
        "tcp dport 80 meta mark 1 redirect to :8001",
        "tcp dport 80 meta mark 2 redirect to :8002",
    ),
}


@pytest.mark.parametrize("text", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_are_those_of_the_kernel(network: Network, text: str) -> None:
    network.local_endpoints((80, *PORTS))
    check_sequence(network, text)


def marked(*marking: str, nat: tuple[str, ...], more: str = "") -> str:
    """Rules that see every packet ahead of those that see first ones."""
    body = "\n".join(f"\t\t{rule}" for rule in marking)
    head = (
        f"\tchain marking {{\n\t\ttype filter hook prerouting priority -150; policy accept;\n{body}\n\t}}\n"
    )
    return table(*nat, more=more + head)


THREE_MARKS = "numgen inc mod 3 map { 0 : 1, 1 : 2, 2 : 3 }"
BY_MARK = ("tcp dport 80 meta mark 1 redirect to :8001", "tcp dport 80 meta mark 2 redirect to :8002")
#: Marks that the chains of one hook hand on to those of another, and that connections keep.
MARKED = {
    "of new connections": marked(f"tcp dport 80 ct state new meta mark set {THREE_MARKS}", nat=BY_MARK),
    "put back, and then picked for those without": marked(
        "meta mark set ct mark",
        f"tcp dport 80 meta mark 0 meta mark set {THREE_MARKS}",
        "ct mark set meta mark",
        nat=BY_MARK,
    ),
    "those that have one accepted": marked(
        "ct mark != 0 accept", f"tcp dport 80 ct mark set {THREE_MARKS}", "meta mark set ct mark", nat=BY_MARK
    ),
    "of connections, by a verdict map": marked(
        "ct state vmap { established : accept, new : continue }",
        f"tcp dport 80 ct mark set {THREE_MARKS}",
        nat=("tcp dport 80 ct mark vmap { 1 : goto a, 2 : goto b }", "tcp dport 80 redirect to :8004"),
        more="\tchain a {\n\t\tmeta l4proto tcp redirect to :8001\n\t}\n"
        "\tchain b {\n\t\tmeta l4proto tcp numgen inc mod 2 0 redirect to :8002\n\t}\n",
    ),
    "by a map of ports": marked(
        f"ct state new meta l4proto tcp tcp dport 80 meta mark set {THREE_MARKS}",
        nat=(
            "tcp dport 80 redirect to :meta mark map { 1 : 8001, 3 : 8003 }",
            "tcp dport 80 redirect to :8004",
        ),
    ),
    "by bits of them": marked(
        f"tcp dport 80 ct state new meta mark set {THREE_MARKS}",
        "meta mark set meta mark | 0x10",
        "ct mark set meta mark & 0xfe",
        nat=(
            "tcp dport 80 ct mark & 0xf == 2 meta mark & 0x1 == 0x1 redirect to :8001",
            "tcp dport . meta mark { 80 . 0x12 } redirect to :8002",
        ),
    ),
    "by a map of marks": marked(
        f"tcp dport 80 ct state new ct mark set {THREE_MARKS}",
        "meta mark set ct mark map { 1 : 2, 2 : 1 }",
        nat=BY_MARK,
    ),
}


@pytest.mark.parametrize("text", MARKED.values(), ids=MARKED)
def test_marks_lead_where_the_kernel_leads_them(network: Network, text: str) -> None:
    network.local_endpoints((80, *PORTS))
    check_sequence(network, text)
    assert all(each.exact for each in nftables.read(text).services)


#: Seven turns: a connection has fewer packets, and more than one.
SEVEN_MARKS = "numgen inc mod 7 map { 0 : 1, 1 : 2, 3 : 2 }"
#: Rules by which all packets of connections move a counter, and not only the first ones.
ANEW = {
    "every packet": (f"tcp dport 80 meta mark set {SEVEN_MARKS}",),
    "put back, but never kept": (
        "meta mark set ct mark",
        f"tcp dport 80 meta mark 0 meta mark set {SEVEN_MARKS}",
    ),
    "kept too late": ("ct mark set meta mark", f"tcp dport 80 ct mark 0 meta mark set {SEVEN_MARKS}"),
}


@pytest.mark.parametrize("rules", ANEW.values(), ids=ANEW)
def test_a_counter_that_packets_move_is_not_exact(network: Network, rules: tuple[str, ...]) -> None:
    network.local_endpoints((80, *PORTS))
    text = marked(*rules, nat=BY_MARK)
    network.tool("nft", "-f", "-", stdin=text)
    asked = network.ask(network.client, HOST4, 80, 24)
    reading = nftables.read(text)
    assert "per-packet-balancing" in {found.code for found in reading.findings}
    [found] = [each for each in reading.services if each.action == "redirect"]
    assert (found.exact, found.depends_on) == (False, "packets of established connections")
    assert asked != [found.slots[n % 7] or LEAK for n in range(24)]


SOURCES = ("10.0.0.201", "10.0.0.202")
#: What is picked where connections come in, for what leaves this host.
LEAVING = {
    "a packet's mark": (
        "ct state new meta mark set numgen inc mod 3 map { 0 : 1, 1 : 2, 2 : 2 }",
        ("meta mark 1 snat to 10.0.0.201", "meta mark 2 snat to 10.0.0.202"),
    ),
    "a connection's mark": (
        "ct state new ct mark set numgen inc mod 4 map { 0 : 1, 2 : 2 }",
        ("snat to ct mark map { 1 : 10.0.0.201, 2 : 10.0.0.202 }", "masquerade"),
    ),
    "a mark that others change on the way": (
        "ct state new ct mark set numgen inc mod 2 offset 1",
        ("meta mark & 0xf0 == 0x10 snat to 10.0.0.201", "meta mark 0x2 snat to 10.0.0.202"),
    ),
}


@pytest.mark.parametrize("hook", ["prerouting", "output"])
@pytest.mark.parametrize(("picking", "behind"), LEAVING.values(), ids=LEAVING)
def test_a_source_by_the_mark_of_an_earlier_hook(
    network: Network, hook: str, picking: str, behind: tuple[str, ...]
) -> None:
    responder = network.remote_endpoints(80)
    for source in SOURCES:
        network.host.address("inside", f"{source}/24")
    kind = "route" if hook == "output" else "filter"
    between = "ct mark 1 meta mark set 0x11", "ct mark 2 meta mark set ct mark"
    body = "\n".join(
        f"\tchain {name} {{\n\t\ttype {type_} hook {at} priority {priority}; policy accept;\n"
        + "".join(f"\t\t{rule}\n" for rule in rules)
        + "\t}"
        for name, type_, at, priority, rules in (
            ("first", kind, hook, -150, (f"ip daddr {SERVERS4[0]} tcp dport 80 {picking}",)),
            ("between", "filter", "postrouting", -150, between),
            ("last", "nat", "postrouting", 100, behind),
        )
    )
    text = f"table ip t {{\n{body}\n}}\n"
    network.tool("nft", "-f", "-", stdin=text)
    asking = network.host if hook == "output" else network.client
    network.ask(asking, SERVERS4[0], 80, 24)
    for told in (text, network.tool("nft", "list", "table", "ip", "t")):
        [found] = [each for each in nftables.read(told).services if each.action == "snat"]
        assert (found.hooks, found.dst, found.exact, found.leak) == (("postrouting",), SERVERS4[0], True, 0)
        slots = [INSIDE4 if slot == "masquerade" else str(slot) for slot in found.slots]
        assert responder.peers == [slots[n % len(slots)] for n in range(24)]


def test_a_source_that_the_way_out_decides_is_not_told(network: Network) -> None:
    """What a mark does to the way of a packet is in the routes, and in no rule."""
    text = marked("tcp dport 80 ct state new meta mark set numgen inc mod 3 offset 1", nat=()) + (
        "table ip u {\n\tchain post {\n\t\ttype nat hook postrouting priority 100; policy accept;\n"
        '\t\toifname "inside" meta mark 1 snat to 10.0.0.201\n\t\tmeta mark 2 snat to 10.0.0.202\n'
        "\t\tmeta mark 3 snat to 10.0.0.203\n\t}\n}\n"
    )
    network.tool("nft", "--check", "-f", "-", stdin=text)
    reading = nftables.read(text)
    assert {each.action for each in reading.services} == {"mark"}
    assert [(lost.what, lost.line) for lost in reading.unsupported] == [("oif", 14)]


ENDPOINTS = ", ".join(f"{n} : {address} . 9000" for n, address in enumerate(SERVERS4))
ORIGINAL = "ct status dnat meta l4proto tcp ct original"
WEB = f"ip daddr {INSIDE4} tcp dport 80"
#: Rules behind the routing, the word for them, and whom the endpoints then see: of a client elsewhere, and of
#: one in their own network. None is nobody: they answer their neighbour directly, who knows nothing of it.
REPLACING = {
    "all": (("masquerade",), "always", INSIDE4, INSIDE4),
    "none": ((), "never", CLIENT4, None),
    "all to the endpoints": (
        ("ip daddr 10.0.0.0/24 tcp dport 9000 snat to 10.0.0.1",), "always", INSIDE4, INSIDE4
    ),
    "what asked for the listener": (
        (f"{ORIGINAL} ip daddr {INSIDE4} ct original proto-dst 80 masquerade",),
        "always", INSIDE4, INSIDE4,
    ),
    "what asked for another": (
        ("meta l4proto tcp ct original proto-dst 81 masquerade", "ip daddr 10.9.0.0/16 masquerade"),
        "never", CLIENT4, None,
    ),
    "neighbours": (
        ("ip saddr 10.0.0.0/24 ip daddr 10.0.0.0/24 masquerade",), "hairpin", CLIENT4, INSIDE4
    ),
    "neighbours, behind a chain": (
        ("ip daddr vmap { 10.0.0.11 : jump near, 10.0.0.12 : jump near, 10.0.0.13 : jump near }",),
        "hairpin", CLIENT4, INSIDE4,
    ),
    "back where they came in": (
        ("update @links { iif . iif }", "iif . oif @links masquerade"), "hairpin", CLIENT4, INSIDE4
    ),
    "by a mark": (("meta mark & 0x4 == 0x4 masquerade",), "always", INSIDE4, INSIDE4),
    "by a mark that is kept": (("ct mark 0x4 masquerade",), "always", INSIDE4, INSIDE4),
    "by a mark that nobody has": (("ct mark 0x5 masquerade",), "never", CLIENT4, None),
    # Neighbours: all of these do something, and an intent has no word for it.
    "by the way out": (('oifname "inside" masquerade',), None, INSIDE4, INSIDE4),
    "by where they came in": (('iifname "inside" masquerade',), None, CLIENT4, INSIDE4),
    "clients far away": (("ip saddr 192.0.2.0/24 masquerade",), None, INSIDE4, None),
    "all but some": (("ip saddr 10.0.0.0/24 return", "masquerade"), None, INSIDE4, None),
    "all but some, in a chain": (("ip saddr 10.0.0.0/24 jump leave", "masquerade"), None, INSIDE4, None),
    "for a mark of some": (
        ("ip saddr 192.0.2.0/24 meta mark set 0x8", "meta mark 0x8 masquerade"), None, INSIDE4, None
    ),
    "all to one endpoint": ((f"ip daddr {SERVERS4[1]} masquerade",), None, None, None),
    "in turn": (("numgen inc mod 2 0 masquerade",), None, None, None),
}  # fmt: skip


def replacing(*behind: str) -> str:
    body = "\n".join(f"\t\t{rule}" for rule in behind)
    return marked(
        f"{WEB} ct state new meta mark set meta mark | 0x4",
        "ct mark set meta mark",
        nat=(f"{WEB} dnat ip to numgen inc mod 3 map {{ {ENDPOINTS} }}",),
        more="\tset links {\n\t\ttypeof iif . iif\n\t\tsize 64\n\t\tflags dynamic\n\t}\n"
        "\tchain near {\n\t\tip saddr 10.0.0.0/24 masquerade\n\t}\n\tchain leave {\n\t\taccept\n\t}\n"
        f"\tchain post {{\n\t\ttype nat hook postrouting priority 100; policy accept;\n{body}\n\t}}\n",
    )


@pytest.mark.parametrize(("behind", "word", "elsewhere", "neighbour"), REPLACING.values(), ids=REPLACING)
def test_who_is_replaced_by_rules_is_by_the_intent(
    network: Network, behind: tuple[str, ...], word: str | None, elsewhere: str | None, neighbour: str | None
) -> None:
    responder = network.remote_endpoints(9000)

    def seen(namespace: Namespace, source: str | None = None) -> list[str]:
        """Who answers, and whom the endpoints see."""
        responder.peers.clear()
        answers = network.ask(namespace, INSIDE4, 80, 6, source=source, timeout=0.3)
        return [*answers, *(responder.peers if "timeout" not in answers else ())]

    def all_seen() -> list[list[str]]:
        return [seen(network.client), seen(network.server, NEIGHBOUR4)]

    text = replacing(*behind)
    network.tool("nft", "-f", "-", stdin=text)
    shown = all_seen()
    live = network.tool("nft", "list", "table", "ip", "t")
    for told in (text, live, network.tool("nft", "--json", "list", "table", "ip", "t")):
        [found] = [each for each in nftables.read(told).services if each.action == "dnat"]
        assert found.source_nat == word
        assert (word is None) == bool(found.source_lines)
    made = imported(nftables.read(text))
    said = [note for note in made.notes if "address is replaced" in note]
    assert len(said) == (word is None)
    if word is not None:
        turns = [*SERVERS4, *SERVERS4]
        assert shown == [
            [*turns, *[elsewhere] * 6],
            [*turns, *[neighbour] * 6] if neighbour else ["timeout"],
        ]
        # What is lifted does what the rules did.
        network.tool("nft", "delete", "table", "ip", "t")
        done = network.lbctl("apply", "--yes", "--backend", "nftables", config=dump(made.intent, {}))
        assert done.code == 0, done.err
        assert all_seen() == shown
    elif elsewhere:
        assert {*shown[0][6:]} == {elsewhere}
        assert {*shown[1][6:]} == ({neighbour} if neighbour else set())
    else:
        assert len({*shown[0][6:]}) == 2
    way = network.lbctl("explain", f"{INSIDE4}:80/tcp", "--output", "json").json["services"]
    assert word is None or [each["source_nat"] for each in way] == [word]


def drawn_marks(draw: random.Random) -> str:
    """A few rules that mark new connections in turn, and some that read the marks at the next chain."""

    def asked() -> str:
        name = draw.choice(("meta mark", "ct mark"))
        bits = draw.choice(("", "", " & 0x3", " & 0x2"))
        wanted = draw.sample(range(4), draw.randint(1, 3))
        return f"{name}{bits} {{ {', '.join(map(str, wanted))} }}"

    def marks() -> str:
        name, other = draw.choice((("meta mark", "ct mark"), ("ct mark", "meta mark")))
        modulus = draw.randint(1, 4)
        pairs = ", ".join(f"{n} : {draw.randint(0, 3)}" for n in range(modulus))
        value = draw.choice(
            (
                f"numgen inc mod {modulus} map {{ {pairs} }}",
                f"numgen inc mod {modulus}",
                other,
                f"{other} & 0x2",
                f"{name} ^ 0x3",
                f"{other} | 0x1",
                f"{other} map {{ 0 : 1, 1 : 3, 2 : 0 }}",
                str(draw.randint(0, 3)),
            )
        )
        guard = f"{asked()} " if draw.random() < 0.3 else ""
        return f"tcp dport 80 ct state new {guard}{name} set {value}"

    def takes() -> str:
        match draw.randint(0, 3):
            case 0:
                pairs = ", ".join(f"{n} : {draw.choice(PORTS)}" for n in draw.sample(range(4), 2))
                return f"tcp dport 80 redirect to :meta mark map {{ {pairs} }}"
            case 1:
                verdicts = ", ".join(f"{n} : {draw.choice(('goto a', 'return', 'jump b'))}" for n in range(3))
                return f"tcp dport 80 ct mark vmap {{ {verdicts} }}"
            case 2:
                return f"tcp dport 80 {asked()} numgen inc mod 2 0 redirect to :{draw.choice(PORTS)}"
        return f"tcp dport 80 {asked()} redirect to :{draw.choice(PORTS)}"

    more = "\tchain a {\n\t\tmeta l4proto tcp redirect to :8004\n\t}\n"
    more += f"\tchain b {{\n\t\tmeta l4proto tcp {asked()} redirect to :8003\n\t}}\n"
    nat = tuple(takes() for _ in range(draw.randint(1, 3)))
    return marked(*(marks() for _ in range(draw.randint(1, 4))), nat=nat, more=more)


def test_drawn_marks_lead_where_the_kernel_leads_them(network: Network) -> None:
    network.local_endpoints((80, *PORTS))
    draw = random.Random(21)
    followed = 0
    for _ in range(60):
        text = drawn_marks(draw)
        network.tool("nft", "-f", "-", stdin=text)
        asked = network.ask(network.client, HOST4, 80, 24)
        reading = nftables.read(text)
        # What has a mark that none of these rules sets has it from elsewhere.
        found = [each for each in reading.services if each.changes == "destination" and not each.when]
        if found:
            followed += len(set(asked)) > 1
            assert (len(found), found[0].exact) == (1, True), text
            slots = [slot or LEAK for slot in found[0].slots]
            assert asked == [slots[n % len(slots)] for n in range(24)], text
        else:
            assert set(asked) == {LEAK}, text
        network.tool("nft", "delete", "table", "ip", "t")
    assert followed > 10


def drawn_sources(draw: random.Random) -> list[str]:
    """A few rules behind the routing that may replace a source."""
    conditions = (
        "ip daddr 10.0.0.0/24", f"ip daddr {SERVERS4[0]}", "ip saddr 10.0.0.0/24", "ip saddr 192.0.2.0/24",
        "tcp dport 9000", "tcp dport 80", "meta mark 0x4", "ct mark & 0x4 == 0x4", "meta mark 0x8",
        "ct status dnat", 'oifname "inside"', 'iifname "inside"', "ip saddr != 10.0.0.0/24",
        "iif . oif @links", f"{ORIGINAL} proto-dst 80",
    )  # fmt: skip
    actions = (
        "masquerade", "masquerade", "snat to 10.0.0.1", "return", "accept", "jump near", "goto near",
        "jump leave", "meta mark set 0x8", "update @links { iif . iif }",
    )  # fmt: skip
    return [
        " ".join((*draw.sample(conditions, draw.choice((0, 1, 1, 2))), draw.choice(actions)))
        for _ in range(draw.randint(1, 4))
    ]


def test_drawn_rules_replace_the_sources_that_are_told(network: Network) -> None:
    responder = network.remote_endpoints(9000)

    def seen(asking: Namespace, timeout: float, source: str | None = None) -> set[str | None]:
        """Whom each endpoint sees; None where it answers somebody who knows nothing of it."""
        found: set[str | None] = set()
        for _ in SERVERS4:
            [answer] = network.ask(asking, INSIDE4, 80, source=source, timeout=timeout)
            found.add(None if answer == "timeout" else responder.peers[-1])
        return found

    def is_so(told: str | None, timeout: float) -> bool:
        outside, near = seen(network.client, timeout), seen(network.server, timeout, NEIGHBOUR4)
        match told:
            case "always":
                return (outside, near) == ({INSIDE4}, {INSIDE4})
            case "hairpin":
                # Some endpoints may lack it: what the intent adds is what did not work.
                return (outside, near - {None}) == ({CLIENT4}, {INSIDE4})
            case "never":
                return (outside, near) == ({CLIENT4}, {None})
        return True

    draw = random.Random(221)
    told = {"always": 0, "hairpin": 0, "never": 0, None: 0}
    for _ in range(60):
        text = replacing(*drawn_sources(draw))
        network.tool("nft", "-f", "-", stdin=text)
        [found] = [each for each in nftables.read(text).services if each.action == "dnat"]
        told[found.source_nat] += 1
        # Who is late on a busy machine is asked again, with more patience.
        assert is_so(found.source_nat, 0.2) or is_so(found.source_nat, 2.0), text
        network.tool("nft", "delete", "table", "ip", "t")
    assert min(told.values()) > 3, told


def check_sequence(network: Network, text: str) -> None:
    network.tool("nft", "-f", "-", stdin=text)
    live = network.tool("nft", "list", "table", "ip", "t")
    asked = network.ask(network.client, HOST4, 80, 24)
    for told in (text, live, network.tool("nft", "--json", "list", "table", "ip", "t")):
        reading = nftables.read(told)
        assert reading.accept
        [found] = [each for each in reading.services if each.dport == "80" and each.changes != "mark"]
        slots = [slot or LEAK for slot in found.slots]
        assert asked == [slots[n % len(slots)] for n in range(24)], told
        for backend in found.backends:
            assert backend.share == Fraction(slots.count(backend.to), len(slots))
        assert found.leak == Fraction(slots.count(LEAK), len(slots))


def drawn_rules(draw: random.Random) -> str:
    """A few rules that pick in turn, some in chains of their own."""

    def rule(depth: int) -> str:
        modulus = draw.randint(1, 4)
        condition = ""
        if draw.random() < 0.7:
            residues = draw.sample(range(modulus), draw.randint(1, modulus))
            condition = f"numgen inc mod {modulus} {{ {', '.join(map(str, residues))} }} "
        if depth and draw.random() < 0.4:
            return f"tcp dport 80 {condition}{draw.choice(('jump', 'goto'))} c{draw.randint(depth, 2)}"
        if draw.random() < 0.3:
            pairs = ", ".join(f"{n} : {draw.choice(PORTS)}" for n in range(modulus) if draw.random() < 0.8)
            pick = f"numgen inc mod {modulus} map {{ {pairs or '0 : 8001'} }}"
            return f"tcp dport 80 {condition}redirect to :{pick}"
        if draw.random() < 0.2:
            return f"{condition}return"
        return f"tcp dport 80 {condition}redirect to :{draw.choice(PORTS)}"

    chains = "".join(
        f"\tchain c{depth} {{\n"
        + "".join(f"\t\t{rule(depth + 1 if depth < 2 else 0)}\n" for _ in range(draw.randint(1, 3)))
        + "\t}\n"
        for depth in (2, 1)
    )
    return table(*(rule(1) for _ in range(draw.randint(1, 4))), more=chains)


def test_drawn_rules_give_the_sequences_of_the_kernel(network: Network) -> None:
    network.local_endpoints((80, *PORTS))
    draw = random.Random(20)
    followed = 0
    for _ in range(40):
        text = drawn_rules(draw)
        network.tool("nft", "-f", "-", stdin=text)
        asked = network.ask(network.client, HOST4, 80, 24)
        reading = nftables.read(text)
        found = [each for each in reading.services if each.dport == "80"]
        if found:
            followed += 1
            slots = [slot or LEAK for slot in found[0].slots]
            assert asked == [slots[n % len(slots)] for n in range(24)], text
        else:
            assert set(asked) == {LEAK}, text
        network.tool("nft", "delete", "table", "ip", "t")
    assert followed > 20


@pytest.mark.parametrize(("address", "word"), [(HOST4, "ip"), (HOST6, "ip6")])
def test_the_hash_is_that_of_the_kernel(network: Network, address: str, word: str) -> None:
    network.local_endpoints(PORTS)
    seed, modulus = 0x5EED, 4
    pairs = ", ".join(f"{slot} : {port}" for slot, port in enumerate(PORTS))
    network.tool(
        "nft",
        "-f",
        "-",
        stdin=f"table {word} h {{\nchain pre {{\ntype nat hook prerouting priority -100\n"
        f"tcp dport 80 redirect to :jhash {word} saddr mod {modulus} seed {seed} map {{ {pairs} }}\n}}\n}}\n",
    )
    prefix = address.rpartition("." if word == "ip" else ":")[0] + ("." if word == "ip" else ":")
    clients = [f"{prefix}{n}" for n in range(20, 60)]
    for client in clients:
        network.client.address("uplink", f"{client}/{24 if word == 'ip' else 64}")
    got = {client: network.ask(network.client, address, 80, source=client)[0] for client in clients}
    assert got == {c: str(PORTS[slot_of(ip_address(c), modulus, seed)]) for c in clients}
    assert len(set(got.values())) > 1
    told = network.lbctl("explain", "80/tcp", "--client", clients[7], "--output", "json").json
    [way] = told["services"]
    assert way["chosen"] == got[clients[7]]
    assert way["source"] == "live:nftables"


def test_live_rules_are_compared_with_a_file(network: Network, tmp_path: Path) -> None:
    network.lbctl(
        "apply", "--yes", "--backend", "nftables", config=intent(service("web", "80/tcp", "8001", "8002"))
    )
    rendered = network.lbctl("render", "--backend", "nftables", config=network.folder / "lbctl.toml").out
    same = tmp_path / "same.nft"
    same.write_text(rendered)
    done = network.lbctl("compare", "live:nftables", str(same))
    assert (done.code, "equal: 2 services" in done.out) == (0, True), done.out
    other = tmp_path / "other.nft"
    other.write_text(rendered.replace(": 8002,", ": 8003,"))
    done = network.lbctl("compare", "live:nftables", str(other), "--output", "json")
    assert done.code == 1
    assert done.json["equal"] is False
    assert {each["verdict"] for each in done.json["services"]} == {"different"}


def test_a_dump_leaves_everything_as_it_is_and_iptables_out(network: Network) -> None:
    network.tool("nft", "-f", "-", stdin=table("tcp dport 80 redirect to :8001"))
    network.tool(
        "iptables-nft", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "1"
    )
    before = network.rules()
    told = network.lbctl("explain", "80/tcp", "--from", "live:nftables", "--output", "json")
    assert network.rules() == before
    # Those of iptables-nft are in nftables as well, but another store.
    assert [way["backends"][0]["to"] for way in told.json["services"]] == ["8001"]


@pytest.mark.parametrize("guard", ["", "meta nfproto ipv4 "])
def test_families_of_inet_move_one_counter(network: Network, guard: str) -> None:
    network.remote_endpoints(80)
    one, other, *_ = SERVERS4
    rule = f"{guard}tcp dport 80 dnat ip to numgen inc mod 2 map {{ 0 : {one}, 1 : {other} }}"
    # Linux 6.18 follows connections of IPv6 only where some rule needs it, and this one does not.
    text = table("ct state new counter", rule).replace("table ip t", "table inet t")
    network.tool("nft", "-f", "-", stdin=text)
    [found] = [each for each in nftables.read(text).services if each.action == "dnat"]
    asked = [network.ask(network.client, address, 80, timeout=0.5)[0] for address in (HOST4, HOST6, HOST4)]
    assert [asked[0], asked[2]] == ([one, other] if found.exact else [one, one])
    assert found.exact is bool(guard)
    assert found.exact or "ipv6" in (found.depends_on or "")


@pytest.mark.usefixtures("inside")
def test_corrected_rules_load(folder: Path) -> None:
    host = LocalHost(folder)
    for _, has, _ in CASES:
        for found in nftables.read(has).findings:
            if found.corrected:
                text = corrected_text(has, found)
                done = host.run(["nft", "--check", "--file", "-"], stdin=text)
                assert done.code == 0, (text, done.err)
