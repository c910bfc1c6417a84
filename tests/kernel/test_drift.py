"""`status` says whether, and where, the kernel differs from the intent file; a timer may ask it often."""

from typing import Any

import pytest

from lbctl.conformance.network import HOST4, HOST6
from support.network import BOTH as FOR_BOTH, Network, Result, intent, service

WEB, API = service("web", "80/tcp", "8001", "8002"), service("api", "81/tcp", "8003")
BOTH = intent(WEB, API)


def look(network: Network, way: tuple[str, ...] = (), config: str = BOTH) -> tuple[int, Any]:
    found = network.lbctl("status", "--brief", "--exit-code", "--output", "json", *way, config=config)
    assert found.err == ""
    return found.code, found.json["drift"]


def words(network: Network, way: tuple[str, ...] = (), config: str = BOTH) -> Result:
    return network.lbctl("status", "--brief", "--exit-code", *way, config=config)


def wipe(network: Network) -> None:
    """What a reload of somebody's firewall does."""
    network.tool("nft", "flush", "ruleset")
    for command in ("iptables-legacy", "ip6tables-legacy"):
        network.tool(command, "-t", "nat", "-F")
        network.tool(command, "-t", "nat", "-X")


def test_connections_are_no_drift(network: Network, way: tuple[str, ...]) -> None:
    network.local_endpoints((8001, 8002, 8003))
    assert network.lbctl("apply", "--yes", *way, config=BOTH).code == 0
    for _ in range(2):
        network.ask(network.client, HOST4, 80, 3)
        assert look(network, way) == (0, {"gone": None, "services": [], "rules": [], "elsewhere": []})
    shown = words(network, way)
    assert (shown.code, shown.out) == (0, f"{way[1]} (driver {way[3]}), in sync with the intent\n")
    # All that status shows comes with the same exit code.
    assert network.lbctl("status", "--exit-code", *way, config=BOTH).code == 0


def test_rules_that_are_gone_are_missing(network: Network, way: tuple[str, ...]) -> None:
    assert network.lbctl("apply", "--yes", *way, config=BOTH).code == 0
    wipe(network)
    code, drift = look(network, way)
    assert (code, [(s["name"], s["action"]) for s in drift["services"]]) == (
        1,
        [("web", "add"), ("api", "add")],
    )
    assert words(network, way).out.splitlines()[1:5] == [
        "Attention:",
        (
            "  lbctl's own tables are gone (restart, or nft flush ruleset?), no connection is balanced: "
            "lbctl apply restores them"
        ),
        "  web is missing",
        "  api is missing",
    ]
    assert network.lbctl("status", "--exit-code", *way, config=BOTH).code == 1
    assert network.lbctl("apply", "--yes", *way, config=BOTH).code == 0
    assert look(network, way)[0] == 0


def endpoint(to: str, **shares: str) -> dict[str, Any]:
    """An endpoint with the same shares in both families."""
    return {"to": to, **shares, "families": {"ipv4": shares, "ipv6": shares}}


def test_what_differs_is_named(network: Network, way: tuple[str, ...]) -> None:
    old = service("old", "82/tcp", "8004")
    assert network.lbctl("apply", "--yes", *way, config=intent(WEB, old)).code == 0
    code, drift = look(network, way, intent(service("web", "80/tcp", "8001", "8002", "8005"), API))
    assert code == 1
    assert [(each["name"], each["action"]) for each in drift["services"]] == [
        ("web", "change"),
        ("api", "add"),
        ("old", "remove"),
    ]
    web, api, _ = drift["services"]
    assert web["endpoints"] == [
        endpoint("8001", held="1/2", wanted="1/3"),
        endpoint("8002", held="1/2", wanted="1/3"),
        endpoint("8005", held="0/1", wanted="1/3"),
    ]
    assert api["endpoints"] == [endpoint("8003", held="0/1", wanted="1/1")]
    assert {rule["service"] for rule in drift["rules"]} >= {"web", "api", "old"}
    lines = words(
        network, way, intent(service("web", "80/tcp", "8001", "8002", "8005"), API)
    ).out.splitlines()
    assert lines[2] == "  web differs: 8001 has 1/2, not 1/3, 8002 has 1/2, not 1/3, 8005 has 0, not 1/3"
    assert lines[3:5] == ["  api is missing", "  old is not in the intent"]


@pytest.mark.parametrize(("family", "host"), [("ip", HOST4), ("ip6", HOST6)])
@FOR_BOTH
def test_a_table_that_was_put_to_sleep_wakes_as_it_was(
    network: Network, options: tuple[str, ...], family: str, host: str
) -> None:
    network.local_endpoints((80, 8001, 8002, 8003))
    assert network.lbctl("apply", "--yes", *options, config=BOTH).code == 0
    assert network.ask(network.client, host, 80, 3) == ["8001", "8002", "8001"]
    network.tool("nft", "add", "table", family, "lbctl", "{ flags dormant; }")
    # nft 1.0.6 shows these as JSON from memory that it never wrote.
    network.tool("nft", "add", "table", "ip", "somebody", "{ flags dormant; }")
    assert network.ask(network.client, host, 80) == ["80"]
    code, drift = look(network, options)
    assert (code, drift["rules"]) == (1, [{"service": None, "rule": f"{family} flags dormant"}])
    asleep = {"listen": "80/tcp", "family": {"ip": "ipv4", "ip6": "ipv6"}[family]}
    assert [s["listeners"]["added"] for s in drift["services"]] == [[asleep], [asleep | {"listen": "81/tcp"}]]
    shown = network.lbctl("plan", "--exit-code", "--rules", *options, config=BOTH)
    assert shown.code == 1
    assert [line for line in shown.out.splitlines() if line.startswith(("-", "+"))][2:] == [
        "-\tflags dormant"
    ]
    assert network.lbctl("apply", "--yes", *options, config=BOTH).code == 0
    assert look(network, options)[0] == 0
    # The turn goes on where it was, and so do the counters.
    assert network.ask(network.client, host, 80, 2) == ["8002", "8001"]
    web = network.lbctl("status", "--output", "json", *options, config=BOTH).json["services"][0]
    assert [endpoint["connections"] for endpoint in web["endpoints"]] == [3, 2]


def test_many_differences_are_counted(network: Network, options: tuple[str, ...]) -> None:
    many = intent(*(service(f"s{n}", f"{n}/tcp", "8001") for n in range(100, 125)))
    shown = words(network, options, many)
    assert (shown.code, shown.out.count("is missing")) == (1, 20)
    assert "  s119 is missing (and 5 more)\n" in shown.out


@pytest.mark.parametrize(("tool", "jump"), [("iptables-legacy", "legacy"), ("iptables-nft", "nf_tables")])
def test_rules_that_nothing_leads_to_any_more(network: Network, tool: str, jump: str) -> None:
    way = ("--backend", "iptables", "--driver", jump)
    assert network.lbctl("apply", "--yes", *way, config=BOTH).code == 0
    network.tool(tool, "-t", "nat", "-D", "PREROUTING", "1")
    code, drift = look(network, way)
    missing = [{"service": None, "rule": "iptables jump nat PREROUTING"}]
    assert (code, drift["rules"], drift["elsewhere"]) == (1, missing, [])
    assert words(network, way).out.splitlines()[1:] == [
        "Attention:",
        "  web differs: IPv4 clients are not balanced",
        "  api differs: IPv4 clients are not balanced",
        "  rules that services share differ: iptables jump nat PREROUTING",
    ]


def test_rules_of_another_store_are_followed_and_told(network: Network) -> None:
    # As a host is before it moves to nftables.
    assert (
        network.lbctl("apply", "--yes", "--backend", "iptables", "--driver", "legacy", config=BOTH).code == 0
    )
    assert words(network).out == "iptables (driver legacy), in sync with the intent\n"
    # Old rules that come back beside the new ones, as a saved dump is loaded when a host starts.
    saved = network.tool("iptables-legacy-save", "-t", "nat")
    wipe(network)
    assert network.lbctl("apply", "--yes", config=BOTH).code == 0
    assert look(network)[0] == 0
    network.tool("iptables-legacy-restore", "--noflush", stdin=saved)
    assert look(network) == (1, {"gone": None, "services": [], "rules": [], "elsewhere": ["iptables-legacy"]})
    assert "iptables-legacy also holds rules of this owner" in words(network).out
    # That others have rules there is nobody's drift.
    wipe(network)
    assert network.lbctl("apply", "--yes", config=BOTH).code == 0
    network.tool("iptables-legacy", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-j", "RETURN")
    assert look(network)[0] == 0


def test_a_watch_has_no_exit_code(network: Network) -> None:
    refused = network.lbctl("status", "--watch", "--exit-code", config=BOTH)
    assert (refused.code, refused.out) == (2, "")
