"""Real hosts: each problem is made, reported with its evidence, removed, and no longer reported."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from lbctl.config import load
from lbctl_nftables import layout
from support.examples import FILES, furnish
from support.network import Network, Result, intent, service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEB = intent(service("web", "80/tcp", "8001", "8002"))
API = intent(service("api", "192.0.2.1:443/tcp", "10.0.0.11:8443", "10.0.0.12:8443"))
NFTABLES = ("--backend", "nftables")
LEGACY = ("--driver", "legacy")
#: What every host of these tests has, since its files are those of the machine.
OF_FILES = {"flush-ruleset", "legacy-leaving", "restore-wipes"}


def examined(network: Network, *words: str, config: str | Path | None = None) -> Result:
    return network.lbctl("doctor", "--output", "json", *words, config=config)


def problems(network: Network, config: str | Path | None, *words: str) -> dict[str, list[dict[str, Any]]]:
    """Code → what was found, but for what files tell."""
    result = examined(network, *words, config=config)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in result.json["problems"]:
        if each["code"] not in OF_FILES:
            found.setdefault(each["code"], []).append(each)
    severities = {each["severity"] for each in result.json["problems"]}
    assert result.code == int("error" in severities), result.out
    return found


def only(found: dict[str, list[dict[str, Any]]], code: str) -> dict[str, Any]:
    """The one problem that there is."""
    assert list(found) == [code], found
    (problem,) = found[code]
    return problem


@pytest.fixture
def served(network: Network) -> Network:
    """A host whose two endpoints listen."""
    network.local_endpoints((8001, 8002))
    return network


@pytest.mark.parametrize(
    ("file", "driver"),
    list(zip(FILES, ("libnftables", "libnftables", "nft", "nft", "legacy", "nf_tables"), strict=True)),
    ids=lambda value: value if isinstance(value, str) else value.parent.name,
)
def test_a_right_host_has_no_problem(network: Network, file: Path, driver: str) -> None:
    furnish(network, load(file))
    way = ("--driver", driver)
    assert network.lbctl("apply", "--yes", *way, config=file).code == 0
    assert problems(network, file, *way) == {}
    assert problems(network, file) == {}
    before = network.rules()
    assert examined(network, config=file).json["not_examined"] == []
    assert network.rules() == before


# -- who decides before us


def rule(network: Network, command: str, text: str, *words: str) -> None:
    network.tool(command, "-t", "nat", *text.split(), *words)


def test_a_rule_of_nft_that_comes_first(served: Network) -> None:
    assert served.lbctl("apply", "--yes", *NFTABLES, config=WEB).code == 0
    served.tool(
        "nft",
        "-f",
        "-",
        stdin="""table ip other {
            chain before { type nat hook prerouting priority -110; tcp dport { 80, 81 } redirect to :9000
            }
            chain behind { type nat hook prerouting priority dstnat; tcp dport 80 redirect to :9001
            }
        }""",
    )
    problem = only(problems(served, WEB), "listener-taken")
    assert (problem["severity"], problem["service"]) == ("error", "web")
    assert problem["evidence"] == (
        "nft table ip other, chain before (hook prerouting, priority -110), handle 4: "
        "tcp dport { 80, 81 } redirect to :9000"
    )
    assert "to 9000: a rule of nftables decides before lbctl" in problem["message"]
    # It is so: nobody is there.
    assert served.ask(served.client, "192.0.2.1", 80) == ["refused"]
    command = problem["remedy"].partition(": ")[2]
    assert command == "nft delete rule ip other before handle 4"
    served.tool(*command.split())
    assert problems(served, WEB) == {}
    assert served.ask(served.client, "192.0.2.1", 80, 2) == ["8001", "8002"]


def test_rules_of_iptables_come_behind_ours_of_nft(served: Network) -> None:
    served.lbctl("apply", "--yes", *NFTABLES, config=WEB)
    rule(served, "iptables-legacy", "-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 9000")
    assert problems(served, WEB, *NFTABLES) == {}
    assert served.ask(served.client, "192.0.2.1", 80, 2) == ["8001", "8002"]


@pytest.mark.parametrize("driver", ["legacy", "nf_tables"])
def test_a_rule_in_front_of_ours_in_the_same_table(served: Network, driver: str) -> None:
    command = "iptables-legacy" if driver == "legacy" else "iptables-nft"
    other = "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 9000"
    rule(served, command, f"-A PREROUTING {other}")
    assert served.lbctl("apply", "--yes", "--driver", driver, config=WEB).code == 0
    # Ours is put in front of it.
    assert problems(served, WEB, "--driver", driver) == {}
    rule(served, command, f"-I PREROUTING {other}")
    problem = only(problems(served, WEB, "--driver", driver), "listener-taken")
    assert problem["evidence"] == f"{command}, table nat, PREROUTING rule 1: -A PREROUTING {other}"
    assert served.ask(served.client, "192.0.2.1", 80) == ["refused"]
    served.tool(*problem["remedy"].rpartition(": ")[2].split())
    assert problems(served, WEB, "--driver", driver) == {}
    assert served.ask(served.client, "192.0.2.1", 80, 2) == ["8001", "8002"]


def test_a_rule_in_front_of_ours_that_lets_connections_through(served: Network) -> None:
    served.lbctl("apply", "--yes", *LEGACY, config=WEB)
    rule(served, "iptables-legacy", "-I OUTPUT -p tcp --dport 80 -j ACCEPT")
    problem = only(problems(served, WEB, *LEGACY), "listener-taken")
    assert problem["message"].startswith("this host's own connections to 80/tcp (ipv4) go on without being")
    assert served.ask(served.host, "192.0.2.1", 80) == ["refused"]
    rule(served, "iptables-legacy", "-D OUTPUT 1")
    # Others' connections are nothing of ours.
    rule(served, "iptables-legacy", "-I OUTPUT -p tcp --dport 8080 -j ACCEPT")
    rule(served, "iptables-legacy", "-I PREROUTING -d 198.51.100.1 -p tcp --dport 80 -j ACCEPT")
    assert problems(served, WEB, *LEGACY) == {}


def test_a_rule_at_the_same_point_is_a_warning(served: Network) -> None:
    served.lbctl("apply", "--yes", *LEGACY, config=WEB)
    rule(served, "iptables-nft", "-A PREROUTING -p tcp --dport 80 -j DNAT --to 10.0.0.11")
    found = problems(served, WEB, *LEGACY)
    assert set(found) == {"listener-taken", "flavours-mixed"}
    assert [(t["severity"], "may go to 10.0.0.11" in t["message"]) for t in found["listener-taken"]] == [
        ("warning", True)
    ]
    assert "iptables-nft: 1 rules" in found["flavours-mixed"][0]["evidence"]
    rule(served, "iptables-nft", "-F")
    assert problems(served, WEB, *LEGACY) == {}


# -- who listens


@pytest.fixture
def sockets(network: Network) -> Iterator[list[socket.socket]]:
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


def listener(network: Network, address: str, port: int, kind: str = "tcp") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with network.host.entered():
        made = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if kind == "tcp":
        made.listen()
    return made


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_processes(network: Network, sockets: list[socket.socket], kind: str) -> None:
    config = intent(service("web", f"80/{kind}", "8001"))
    problem = only(problems(network, config), "not-listening")
    assert (problem["severity"], problem["service"]) == ("error", "web")
    assert problem["evidence"] == f"listening on port 8001/{kind}: nothing"
    # A connection that somebody made from that port is nobody who listens.
    sockets.append(listener(network, "127.0.0.1", 8001, kind))
    found = problems(network, config)
    assert found["loopback-only"][0]["evidence"] == f"listening on port 8001/{kind}: 127.0.0.1:8001"
    assert found["not-listening"][0]["severity"] == "warning"
    sockets.pop().close()
    sockets.append(listener(network, "192.0.2.1", 8001, kind))
    assert problems(network, config)["bound-to-address"][0]["severity"] == "warning"
    sockets.pop().close()
    sockets.append(listener(network, "0.0.0.0", 8001, kind))
    problem = only(problems(network, config), "not-listening")
    assert (problem["severity"], "(ipv6)" in problem["message"]) == ("warning", True)
    sockets.append(listener(network, "::1", 8002, kind))
    sockets.pop().close()
    sockets.pop().close()
    sockets.append(listener(network, "::", 8001, kind))
    assert problems(network, config) == {}


def test_an_endpoint_on_a_loopback_address(network: Network, sockets: list[socket.socket]) -> None:
    config = intent(service("web", "192.0.2.1:80/tcp", "127.0.0.1:8001"))
    sockets.append(listener(network, "127.0.0.1", 8001))
    problem = only(problems(network, config), "route-localnet")
    assert problem["evidence"] == "net.ipv4.conf.all.route_localnet=0"
    assert "CVE-2020-8558" in problem["remedy"]
    network.host.write("/proc/sys/net/ipv4/conf/all/route_localnet", "1")
    assert problems(network, config) == {}
    sockets.pop().close()
    only(problems(network, config), "not-listening")


def test_listeners_for_this_host_alone(network: Network, sockets: list[socket.socket]) -> None:
    sockets.append(listener(network, "127.0.0.1", 8001))
    assert problems(network, intent(service("web", "127.0.0.1:80/tcp", "8001"))) == {}
    assert problems(network, intent(service("web", "127.0.0.1:80/tcp", "127.0.0.1:8001"))) == {}
    network.host.write("/proc/sys/net/ipv4/ip_forward", "0")
    assert problems(network, intent(service("api", "127.0.0.1:80/tcp", "10.0.0.11:8443"))) == {}


# -- the way to endpoints elsewhere


def test_the_kernel_goes_on_with_connections_of_another_host(network: Network) -> None:
    keys = {"scheduler": "maglev", "takeover": True}
    shared = intent(service("api", "192.0.2.1:443/tcp", "10.0.0.11:8443", **keys))
    assert set(problems(network, shared)) == {"takeover-liberal"}
    network.host.write("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", "1")
    assert problems(network, shared) == {}
    network.host.write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0")
    problem = only(problems(network, shared), "takeover-loose")
    assert (problem["severity"], problem["service"]) == ("error", "api")
    assert problem["evidence"] == "net.netfilter.nf_conntrack_tcp_loose=0"
    # Datagrams have no beginning, and other services no use for it.
    datagrams = intent(service("api", "192.0.2.1:443/udp", "10.0.0.11:8443", **keys))
    assert "takeover-loose" not in problems(network, datagrams)
    assert problems(network, intent(service("api", "192.0.2.1:443/tcp", "10.0.0.11:8443"))) == {}


def test_routes_and_forwarding(network: Network) -> None:
    both = intent(
        service("api", "192.0.2.1:443/tcp", "10.0.0.11:8443"),
        service("six", "[2001:db8:1::1]:443/tcp", "[2001:db8:2::11]:8443"),
    )
    assert problems(network, both) == {}
    network.host.write("/proc/sys/net/ipv4/ip_forward", "0")
    problem = only(problems(network, both), "forwarding-off")
    assert (problem["service"], problem["evidence"]) == ("api", "net.ipv4.ip_forward=0")
    network.host.write("/proc/sys/net/ipv6/conf/all/forwarding", "0")
    assert [t["service"] for t in problems(network, both)["forwarding-off"]] == ["api", "six"]
    # A process of this host needs none.
    network.local_endpoints((8001, 8002))
    assert problems(network, WEB) == {}
    network.host.write("/proc/sys/net/ipv4/ip_forward", "1")
    network.host.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
    assert problems(network, both) == {}
    lost = intent(service("far", "192.0.2.1:443/tcp", "10.0.0.11:8443", "198.51.100.9:8443"))
    problem = only(problems(network, lost), "no-route")
    assert "198.51.100.9" in problem["message"]
    assert "unreachable" in problem["evidence"]
    network.host.ip("route", "add", "blackhole", "198.51.100.9")
    only(problems(network, lost), "no-route")
    network.host.ip("route", "replace", "198.51.100.9", "via", "10.0.0.11")
    assert problems(network, lost) == {}


def test_replies_that_come_by_another_link(network: Network) -> None:
    network.host.connect("second", network.server, "uplink2")
    network.host.address("second", "10.0.0.2/24")
    assert problems(network, API) == {}
    for link in ("all", "inside", "second"):
        network.host.write(f"/proc/sys/net/ipv4/conf/{link}/rp_filter", "0" if link == "all" else "1")
    found = problems(network, API)["rp-filter"]
    assert len(found) == 2
    assert "net.ipv4.conf.second.rp_filter=1" in found[0]["evidence"]
    network.host.write("/proc/sys/net/ipv4/conf/all/rp_filter", "2")
    assert problems(network, API) == {}


def test_clients_on_the_endpoints_link(network: Network) -> None:
    never = intent(service("api", "10.0.0.1:443/tcp", "10.0.0.11:8443", source_nat="never"))
    only(problems(network, never), "replies-bypass")
    assert problems(network, never.replace("never", "hairpin")) == {}


PASSES = [
    # Not ours, or not sure: no word.
    "ct status dnat accept",
    'iifname "outside" oifname "inside" accept',
    'iifname "out*" accept',
    "ct state vmap { established : accept, related : accept, new : jump more }",
    "ip saddr 192.0.2.0/24 accept",
    "limit rate 9/second accept",
    "tcp dport { 80, 8443 } accept",
    "iifname . ip daddr { outside . 10.0.0.11, outside . 10.0.0.12 } accept",
]
DROPS = [
    "ct state established,related accept",
    'iifname "inside" accept',
    "ip daddr 10.0.0.13 accept",
    "udp dport 8443 accept",
    "ct state vmap { established : accept, invalid : drop }",
    "counter ct state { established, related } accept",
    "limit rate 9/second jump nothing",
    "ip saddr 192.0.2.0/24 goto nothing",
    "ip saddr 192.0.2.0/24 return",
    "ip saddr vmap { 192.0.2.2 : goto nothing, 192.0.2.3 : drop }",
]


def nft_filter(network: Network, hook: str, *rules: str, policy: str = "drop") -> None:
    lines = "\n".join(rules)
    network.tool(
        "nft",
        "-f",
        "-",
        stdin=f"""table inet fw
            delete table inet fw
            table inet fw {{
            chain more {{ accept
            }}
            chain nothing {{ udp dport 9 accept
            }}
            chain base {{ type filter hook {hook} priority 0; policy {policy}
            {lines}
            }}
        }}""",
    )


def test_what_nft_drops_on_its_way(network: Network) -> None:
    network.remote_endpoints(8443)
    network.lbctl("apply", "--yes", *NFTABLES, config=API)
    for passes in PASSES:
        nft_filter(network, "forward", passes, "ct state established accept")
        assert (passes, problems(network, API, *NFTABLES)) == (passes, {})
    base = "nft table inet fw, chain base (hook forward, priority 0)"
    for misses in DROPS:
        nft_filter(network, "forward", misses)
        problem = only(problems(network, API, *NFTABLES), "forward-drop")
        assert problem["evidence"] == f"{base}: policy drop, and no rule accepts", misses
        assert "10.0.0.11:8443/tcp, 10.0.0.12:8443/tcp" in problem["message"]
    assert network.ask(network.client, "192.0.2.1", 443, timeout=0.2) == ["timeout"]
    nft_filter(network, "forward", "ip daddr 10.0.0.12 reject", policy="accept")
    problem = only(problems(network, API, *NFTABLES), "forward-drop")
    assert ": ip daddr 10.0.0.12 reject" in problem["evidence"]
    assert "10.0.0.11" not in problem["message"]
    network.tool("nft", "delete", "table", "inet", "fw")
    assert problems(network, API, *NFTABLES) == {}
    assert network.ask(network.client, "192.0.2.1", 443) == ["10.0.0.12"]


IPTABLES_PASSES = [
    "-m conntrack --ctstate DNAT -j ACCEPT",
    "-i outside -o inside -j ACCEPT",
    "-i out+ -j ACCEPT",
    "-s 192.0.2.0/24 -j ACCEPT",
    "-p tcp -m multiport --dports 80,8443 -j ACCEPT",
]
IPTABLES_DROPS = [
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-i inside -j ACCEPT",
    "-o outside -j ACCEPT",
    "-d 10.0.0.13 -j ACCEPT",
    "-p udp --dport 8443 -j ACCEPT",
    "-s 192.0.2.0/24 -j RETURN",
    "-s 192.0.2.0/24 -g NOTHING",
    "-m limit --limit 9/second -j NOTHING",
]


@pytest.mark.parametrize("command", ["iptables-legacy", "iptables-nft"])
def test_what_iptables_drops_on_its_way(network: Network, command: str) -> None:
    network.tool(command, "-P", "FORWARD", "DROP")
    for text in IPTABLES_PASSES:
        network.tool(command, "-A", "FORWARD", *text.split())
        assert (text, problems(network, API)) == (text, {})
        network.tool(command, "-F", "FORWARD")
    # An address of its own, which may be reached by any link.
    network.host.address("inside", "203.0.113.9/32")
    network.tool(command, "-A", "FORWARD", "-i", "outside", "-j", "ACCEPT")
    assert problems(network, API.replace("192.0.2.1", "203.0.113.9")) == {}
    network.tool(command, "-F", "FORWARD")
    network.tool(command, "-N", "NOTHING")
    for text in IPTABLES_DROPS:
        network.tool(command, "-A", "FORWARD", *text.split())
        problem = only(problems(network, API), "forward-drop")
        assert (
            problem["evidence"] == f"{command}, table filter: the policy of FORWARD is DROP, no rule accepts"
        )
    network.tool(command, "-P", "FORWARD", "ACCEPT")
    assert problems(network, API) == {}
    network.tool(command, "-F", "FORWARD")
    network.tool(command, "-N", "DEEP")
    network.tool(command, "-A", "DEEP", "-p", "tcp", "-j", "REJECT")
    network.tool(command, "-A", "FORWARD", "-o", "inside", "-j", "DEEP")
    problem = only(problems(network, API), "forward-drop")
    assert f"{command}, table filter, DEEP rule 1: -A DEEP -p tcp -j REJECT" in problem["evidence"]


def test_a_firewall_that_knows_the_listener_only(served: Network) -> None:
    served.lbctl("apply", "--yes", *NFTABLES, config=WEB)
    nft_filter(served, "input", "ct state established accept", "tcp dport 80 accept", 'iifname "lo" accept')
    problem = only(problems(served, WEB), "input-drop")
    assert "8001/tcp, 8002/tcp" in problem["message"]
    assert served.ask(served.client, "192.0.2.1", 80, timeout=0.2) == ["timeout"]
    nft_filter(served, "input", "ct state established accept", "ct status dnat accept")
    assert problems(served, WEB) == {}
    assert len(served.ask(served.client, "192.0.2.1", 80)[0]) == 4


def test_our_own_refusals_are_no_trap(served: Network, way: tuple[str, ...]) -> None:
    closed = intent(service("web", "80/tcp", "8001", "8002", allow=["198.51.100.0/24", "2001:db8:9::/64"]))
    assert served.lbctl("apply", "--yes", *way, config=closed).code == 0
    assert problems(served, closed, *way) == {}


def test_a_mark_that_others_write_to(network: Network) -> None:
    network.tool("iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "1")
    problem = only(problems(network, API, *LEGACY), "mark-shared")
    assert problem["evidence"].startswith(
        "iptables-legacy, table mangle, PREROUTING rule 1: -A PREROUTING -j MARK"
    )
    denying = intent(service("web", "80/tcp", "8001", deny=["198.51.100.7"]))
    assert "mark-shared" in problems(network, denying, *LEGACY)
    assert problems(network, API, *NFTABLES) == {}
    network.tool("iptables-legacy", "-t", "mangle", "-F")
    for harmless in ("MARK --set-mark 1/0xff", "CONNMARK --save-mark"):
        network.tool("iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-j", *harmless.split())
    assert problems(network, API, *LEGACY) == {}


# -- what the kernel remembers


def test_lists_of_clients_in_iptables(served: Network) -> None:
    sticky = intent(service("web", "80/tcp", "8001", "8002", affinity="1h"))
    assert served.lbctl("apply", "--yes", *LEGACY, config=sticky).code == 0
    problem = only(problems(served, sticky, *LEGACY), "affinity-list-short")
    assert (problem["severity"], problem["service"]) == ("warning", "web")
    assert problem["evidence"] == "/sys/module/xt_recent/parameters/ip_list_tot: 100"
    assert "xt_recent.ip_list_tot=65536" in problem["remedy"]
    # A plan says the same.
    grown = sticky.replace('"8002"', '"8001"').replace('"8001", "8001"', '"8001"')
    (note,) = served.lbctl("plan", "--output", "json", *LEGACY, config=grown).json["notes"]
    assert note == f"{problem['message']}. For more: {problem['remedy']}."
    served.lbctl("remove", "--yes", config=sticky)
    assert problems(served, sticky, *NFTABLES) == {}


def test_a_map_of_clients_in_nftables(served: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    sticky = intent(service("web", "192.0.2.1:80/tcp", "8001", "8002", affinity="1h"))
    assert served.lbctl("apply", "--yes", *NFTABLES, config=sticky).code == 0
    # To fill the whole map takes nft too long.
    monkeypatch.setattr(layout, "AFFINITY_SIZE", 100)
    elements = ", ".join(f"10.0.{n}.1 : 8001" for n in range(90))
    served.tool("nft", "-f", "-", stdin=f"add element ip lbctl local-affinity-web {{ {elements} }}\n")
    problem = only(problems(served, sticky), "affinity-map-full")
    assert problem["evidence"] == "map local-affinity-web in table ip lbctl: 90 clients"
    served.tool("nft", "flush", "map", "ip", "lbctl", "local-affinity-web")
    assert problems(served, sticky) == {}


# -- leftovers


def test_rules_that_nobody_asks_for(served: Network) -> None:
    for owner, way in (("blue", NFTABLES), ("green", LEGACY)):
        other = intent(service("web", "81/tcp", "8001"), owner=owner)
        assert served.lbctl("apply", "--yes", *way, config=other).code == 0
    served.lbctl("apply", "--yes", *NFTABLES, config=WEB)
    found = problems(served, WEB)
    chains = ("green of iptables-legacy", "green.web of iptables-legacy", "green of ip6tables-legacy")
    assert list(found) == ["leftover-owner"]
    assert [problem["severity"] for problem in found["leftover-owner"]] == ["warning", "warning"]
    assert [problem["evidence"] for problem in found["leftover-owner"]] == [
        "nft list tables: table ip lbctl-blue, table ip6 lbctl-blue",
        "iptables-legacy: " + ", ".join(f"chain LBCTL.{chain} -t nat" for chain in chains),
    ]
    # Without an intent file, nobody names ours either.
    assert len(problems(served, None)["leftover-owner"]) == 3
    for owner in ("blue", "green"):
        assert served.lbctl("remove", "--yes", "--owner", owner).code == 0
    assert problems(served, WEB) == {}


def test_rules_of_ours_in_two_stores(served: Network) -> None:
    served.lbctl("apply", "--yes", *LEGACY, config=WEB)
    dump = served.tool("iptables-legacy-save", "-t", "nat")
    served.lbctl("remove", "--yes", config=WEB)
    served.lbctl("apply", "--yes", *NFTABLES, config=WEB)
    served.tool("iptables-legacy-restore", stdin=dump)
    problem = only(problems(served, WEB, *NFTABLES), "leftover-rules")
    assert (problem["severity"], problem["remedy"].partition(",")[0]) == (
        "error",
        "lbctl remove --driver legacy",
    )
    assert "chain LBCTL of iptables-legacy -t nat" in problem["evidence"]
    assert served.lbctl(*problem["remedy"].partition(",")[0].split()[1:], "--yes", config=WEB).code == 0
    assert problems(served, WEB, *NFTABLES) == {}


# -- how it is said


def test_without_an_intent_file(network: Network) -> None:
    result = examined(network)
    assert result.code == 0
    assert {key: result.json[key] for key in ("format_version", "services")} == {
        "format_version": 1,
        "services": None,
    }
    (unseen,) = result.json["not_examined"]
    assert unseen["reason"].startswith("no intent file")
    assert ", general checks only: 0 problems, " in network.lbctl("doctor").out
    assert network.lbctl("doctor", config=network.folder / "none.toml").code == 2
    assert network.lbctl("doctor", config="schema = 2\n").code == 2
    assert network.lbctl("doctor", "--backend", "paper").code == 2


def test_text_is_for_people_and_nobody_elses_escapes(served: Network) -> None:
    served.lbctl("apply", "--yes", *LEGACY, config=WEB)
    target = "-I PREROUTING -p tcp -j REDIRECT --to-ports 9000"
    rule(served, "iptables-legacy", target, "-m", "comment", "--comment", "\x1b[2Jgone")
    result = served.lbctl("doctor", *LEGACY, config=WEB)
    assert result.code == 1
    assert "iptables (driver legacy), 1 service: 1 problem" in result.out
    assert 'problem listener-taken: service "web": new connections to 80/tcp' in result.out
    assert "\x1b" not in result.out
