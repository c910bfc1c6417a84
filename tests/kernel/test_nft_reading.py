"""What the reader of nft says of rules is what the kernel does with them, connection by connection."""

import json
import random
from fractions import Fraction
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lbctl import engine
from lbctl.conformance.network import HOST4, HOST6, SERVERS4
from lbctl.host import LocalHost
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
        engine.apply(session, engine.removal(session, "lbctl", everywhere=False))


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


def check_sequence(network: Network, text: str) -> None:
    network.tool("nft", "-f", "-", stdin=text)
    live = network.tool("nft", "list", "table", "ip", "t")
    asked = network.ask(network.client, HOST4, 80, 24)
    for told in (text, live, network.tool("nft", "--json", "list", "table", "ip", "t")):
        reading = nftables.read(told)
        assert reading.accept
        [found] = [each for each in reading.services if each.dport == "80" and each.action != "mark"]
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
