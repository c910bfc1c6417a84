"""What is surely dropped at a hook, of connections of which not all is known."""

from ipaddress import ip_address

import pytest

from lbctl.model import Family
from lbctl_iptables.reading.lower import Lowering
from lbctl_iptables.reading.ruleset import read_tables
from lbctl_netfilter import filters
from lbctl_netfilter.log import Log

POLICY = "policy"
#: Rules of FORWARD, whose policy is DROP, and of chain A → what drops a connection to 10.0.0.1:80 by eth1.
CASES = {
    "nothing": (["-j ACCEPT"], [], None),
    "the policy": ([], [], POLICY),
    "another port": (["-p tcp -m tcp --dport 81 -j ACCEPT"], [], POLICY),
    "a rule": (["-p tcp -m tcp --dport 80 -j REJECT", "-j ACCEPT"], [], "-j REJECT"),
    "behind an accept for some": (["-s 192.0.2.1 -j ACCEPT", "-j DROP"], [], None),
    "behind a mark that is not known": (["-m mark --mark 1 -j ACCEPT", "-j DROP"], [], None),
    "for connections that are there already": (["-m conntrack --ctstate ESTABLISHED -j ACCEPT"], [], POLICY),
    "in a chain": (["-j A", "-j ACCEPT"], ["-d 10.0.0.1 -j DROP"], "-j DROP"),
    "back from a chain": (["-j A", "-j DROP"], ["-d 10.0.0.1 -j RETURN", "-j ACCEPT"], "-j DROP"),
    "with and without a chain": (["-i eth0 -j A"], ["-s 192.0.2.1 -j DROP"], POLICY),
    "a chain at some rate": (["-m limit --limit 1/sec -j A"], ["-s 192.0.2.1 -j DROP"], POLICY),
    "an accept at some rate": (["-m limit --limit 1/sec -j ACCEPT"], [], None),
    "a queue": (["-j NFQUEUE", "-j DROP"], [], None),
    "a chain that is managed by lbctl": (["-j LBCTL-x"], [], POLICY),
}


@pytest.mark.parametrize(("forward", "inner", "by"), CASES.values(), ids=CASES)
def test_dropped(forward: list[str], inner: list[str], by: str | None) -> None:
    head = ["*filter", ":FORWARD DROP [0:0]", ":A - [0:0]", ":LBCTL-x - [0:0]"]
    rules = [*(f"-A FORWARD {rule}" for rule in forward), *(f"-A A {rule}" for rule in inner)]
    text = "\n".join([*head, *rules, "-A LBCTL-x -j ACCEPT", "COMMIT"])
    [tables] = read_tables(text, Family.IPV4, Log()).stores.values()
    given = filters.packet(Family.IPV4, "tcp", ip_address("10.0.0.1"), 80, None, "eth1")
    found = filters.dropped(Lowering().program(Family.IPV4, tables, 0), given, "forward")
    if by is None or found is None:
        assert (found, by) == (None, None)
    else:
        assert found.rule.text.endswith(by) if found.rule else by is POLICY
