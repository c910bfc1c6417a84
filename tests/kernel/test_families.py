"""IPv4 and IPv6 are counted and compared apart: the one never hides what the other lost, or took."""

from fractions import Fraction
from typing import Any

import pytest

from lbctl.conformance.network import HOST4, HOST6, SERVERS4, SERVERS6
from support.network import Network, intent, service

WEB = service("web", "80/tcp", "8001", "8002")
EVERYWHERE = service(
    "far", "81/tcp", *(f"{address}:8080" for address in SERVERS4[:2]), f"[{SERVERS6[0]}]:8080"
)
TWO_LISTENERS = service("web", ["80/tcp", "81/tcp"], "8001", "8002")


def lose(network: Network, way: tuple[str, ...], family: str) -> None:
    """Delete all NAT rules of one family, as a reload of a firewall may do."""
    word = {"ipv4": "ip", "ipv6": "ip6"}[family]
    match way[1], way[3]:
        case "nftables", _:
            network.tool("nft", "delete", "table", word, "lbctl")
        case _, "nf_tables":
            network.tool("nft", "delete", "table", word, "nat")
        case _:
            for action in ("-F", "-X"):
                network.tool(f"{word}tables-legacy", "-t", "nat", action)


def shares(endpoint: Any, *fields: str) -> dict[str, tuple[str, ...]]:
    """Family → the values of some fields."""
    return {family: tuple(own[field] for field in fields) for family, own in endpoint["families"].items()}


@pytest.mark.parametrize(("lost", "kept"), [("ipv4", "ipv6"), ("ipv6", "ipv4")])
def test_a_lost_family_is_named(network: Network, every_way: tuple[str, ...], lost: str, kept: str) -> None:
    text = intent(WEB)
    name = {"ipv4": "IPv4", "ipv6": "IPv6"}[lost]
    assert network.lbctl("apply", "--yes", *every_way, config=text).code == 0
    lose(network, every_way, lost)
    plan = network.lbctl("plan", "--exit-code", *every_way, config=text)
    assert plan.code == 1
    lines = [" ".join(line.split()) for line in plan.out.splitlines()]
    assert f"not balanced now: {name} clients" in lines
    assert {f"800{n} {lost} 0 → 1/2" for n in (1, 2)} <= set(lines)
    assert {f"800{n} {kept} 1/2 → 1/2" for n in (1, 2)} <= set(lines)
    [web] = network.lbctl("plan", "--output", "json", *every_way, config=text).json["services"]
    assert web["listeners"] == {"added": [{"listen": "80/tcp", "family": lost}], "removed": []}
    for endpoint in web["endpoints"]:
        assert (endpoint["before"], endpoint["after"]) == (None, "1/2")
        assert shares(endpoint, "before", "after") == {lost: ("0/1", "1/2"), kept: ("1/2", "1/2")}

    status = network.lbctl("status", "--exit-code", *every_way, config=text)
    assert status.code == 1
    assert f"  web differs: {name} clients are not balanced" in status.out
    [drift] = network.lbctl("status", "--output", "json", *every_way, config=text).json["drift"]["services"]
    assert drift["listeners"]["added"] == [{"listen": "80/tcp", "family": lost}]
    assert {endpoint["held"] for endpoint in drift["endpoints"]} == {None}
    assert shares(drift["endpoints"][0], "held", "wanted") == {lost: ("0/1", "1/2"), kept: ("1/2", "1/2")}

    assert network.lbctl("apply", "--yes", *every_way, config=text).code == 0
    assert network.lbctl("plan", "--exit-code", *every_way, config=text).code == 0


def test_the_share_of_each_family_is_exact(network: Network, way: tuple[str, ...]) -> None:
    text = intent(WEB, EVERYWHERE)
    network.local_endpoints((8001, 8002))
    network.remote_endpoints(8080)
    assert network.lbctl("apply", "--yes", *way, config=text).code == 0
    assert network.ask(network.client, HOST4, 81, 4) == [*SERVERS4[:2]] * 2
    assert network.ask(network.client, HOST6, 81, 4) == [SERVERS6[0]] * 4
    assert network.ask(network.client, HOST4, 80, 6) == ["8001", "8002"] * 3
    web, far = network.lbctl("status", "--output", "json", *way, config=text).json["services"]
    assert far["connections"] == 8
    for endpoint in far["endpoints"]:
        assert endpoint["actual"] == endpoint["wanted"]
        [(_, (wanted, actual, connections))] = shares(endpoint, "wanted", "actual", "connections").items()
        assert (actual, connections) == (wanted, 4 * Fraction(wanted))
    # A family without connections has no share that could differ from the other one's.
    for endpoint in web["endpoints"]:
        assert (endpoint["wanted"], endpoint["actual"], endpoint["connections"]) == ("1/2", "1/2", 3)
        assert shares(endpoint, "actual", "connections") == {"ipv4": ("1/2", 3), "ipv6": (None, 0)}
    shown = network.lbctl("status", *way, config=text).out
    assert " family " not in shown
    assert [line.split()[4] for line in shown.splitlines() if ":8080" in line] == ["50.0%", "50.0%", "100.0%"]

    # One connection more in one family: 4 of 7, and exactly half in the other one.
    assert network.ask(network.client, HOST4, 80, 1) == ["8001"]
    assert network.ask(network.client, HOST6, 80, 2) == ["8001", "8002"]
    web, _ = network.lbctl("status", "--output", "json", *way, config=text).json["services"]
    first = web["endpoints"][0]
    assert (first["wanted"], first["actual"], first["connections"]) == ("1/2", None, 5)
    assert shares(first, "actual", "connections") == {"ipv4": ("4/7", 4), "ipv6": ("1/2", 1)}
    lines = network.lbctl("status", *way, config=text).out.splitlines()
    assert [" ".join(line.split()[:6]) for line in lines if line.startswith("  8001 ")] == [
        "8001 ipv4 active 1 1/2 57.1%",
        "8001 ipv6 active 1 1/2 50.0%",
    ]


def test_a_lost_listener_is_named(network: Network, way: tuple[str, ...]) -> None:
    text = intent(TWO_LISTENERS)
    assert network.lbctl("apply", "--yes", *way, config=text).code == 0
    if way[1] == "nftables":
        network.tool("nft", "delete", "element", "ip", "lbctl", "ports", "{ tcp . 81 }")
    else:
        tool = {"legacy": "iptables-legacy", "nf_tables": "iptables-nft"}[way[3]]
        rules = network.tool(tool, "-t", "nat", "-S").splitlines()
        [rule] = [rule for rule in rules if "--dport 81 " in rule]
        network.tool(tool, "-t", "nat", *rule.replace("-A ", "-D ", 1).split())
    plan = network.lbctl("plan", *way, config=text).out
    assert "    not balanced now: IPv4 clients of 81/tcp\n" in plan
    # The other listener gets what it got.
    assert "    8001  1/2  →  1/2\n" in plan
    [web] = network.lbctl("plan", "--output", "json", *way, config=text).json["services"]
    assert web["listeners"]["added"] == [{"listen": "81/tcp", "family": "ipv4"}]
    status = network.lbctl("status", "--brief", *way, config=text).out
    assert "  web differs: IPv4 clients of 81/tcp are not balanced" in status


def test_a_family_that_nothing_leads_to_any_more(network: Network, way: tuple[str, ...]) -> None:
    """The rules are all there, and no connection meets them."""
    text = intent(WEB)
    network.local_endpoints((80, 8001, 8002))
    assert network.lbctl("apply", "--yes", *way, config=text).code == 0
    match way[1], way[3]:
        case "nftables", "nft":
            network.tool("nft", "add", "table", "ip", "lbctl", "{ flags dormant; }")
        case "nftables", _:
            network.tool("nft", "flush", "chain", "ip", "lbctl", "prerouting")
        case _, driver:
            tool = {"legacy": "iptables-legacy", "nf_tables": "iptables-nft"}[driver]
            network.tool(tool, "-t", "nat", "-F", "PREROUTING")
    assert network.ask(network.client, HOST4, 80, 2) == ["80"] * 2
    assert network.ask(network.client, HOST6, 80, 2) == ["8001", "8002"]
    plan = network.lbctl("plan", *way, config=text).out
    assert "    not balanced now: IPv4 clients\n" in plan
    assert "  web differs: IPv4 clients are not balanced" in network.lbctl("status", *way, config=text).out
    assert network.lbctl("apply", "--yes", *way, config=text).code == 0
    assert network.ask(network.client, HOST4, 80, 2) == ["8001", "8002"]


def test_a_new_listener_is_shown_as_one(network: Network, way: tuple[str, ...]) -> None:
    assert network.lbctl("apply", "--yes", *way, config=intent(WEB)).code == 0
    more = intent(TWO_LISTENERS)
    assert "\n~ web  80/tcp, 81/tcp\n" in network.lbctl("plan", *way, config=more).out
    [web] = network.lbctl("plan", "--output", "json", *way, config=more).json["services"]
    families = ("ipv4", "ipv6")
    assert web["listeners"]["added"] == [{"listen": "81/tcp", "family": family} for family in families]
    assert network.lbctl("apply", "--yes", *way, config=more).code == 0
    assert "no longer balanced: clients of 81/tcp" in network.lbctl("plan", *way, config=intent(WEB)).out
