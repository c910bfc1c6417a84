"""What is said of endpoints that checks found down: one line for a family in which all of a service are."""

from __future__ import annotations

import pytest

from lbctl.engine.inspect.failing import failing_lines
from lbctl.host.fake import FakeHost
from lbctl.model import Facts, Family, Health, Intent, Verdict, effective
from support.desk import read_intent
from support.network import service

V4, V6 = Family.IPV4, Family.IPV6
SINCE = 1_700_000_000.0
TIME = "2023-11-14T22:13:20+00:00"
UP = Verdict(health=Health.UP, since=SINCE, result="connected")
DOWN = Verdict(health=Health.DOWN, since=SINCE, result="connection refused", count=3)
LOCAL = read_intent(service("web", "80/tcp", "8001", "8002"))
GLOBAL = "20010db8000100000000000000000001 02 40 00 80     eth0\n"


def lines(
    verdicts: dict[tuple[str, Family], Verdict], *, intent: Intent = LOCAL, ipv6: bool = True
) -> list[str]:
    host = FakeHost(files={"/proc/thread-self/net/if_inet6": GLOBAL} if ipv6 else {})
    found = effective(intent, Facts(verdicts={"web": verdicts}))
    return list(failing_lines(host, found, found.intent.services))


def test_a_family_in_which_all_are_down_is_one_line() -> None:
    half = {("8001", V4): UP, ("8002", V4): UP, ("8001", V6): DOWN, ("8002", V6): DOWN}
    assert lines(half) == ["web (ipv6): all 2 endpoints are down: connection refused, kept by all-down"]


def test_a_family_that_no_client_can_use_is_not_mentioned() -> None:
    half = {("8001", V4): UP, ("8002", V4): UP, ("8001", V6): DOWN, ("8002", V6): DOWN}
    assert lines(half, ipv6=False) == []
    one = read_intent(service("web", "80/tcp", "8001"))
    assert lines({("8001", V4): UP, ("8001", V6): DOWN}, intent=one, ipv6=False) == []


def test_an_endpoint_of_several_is_named_with_its_reason() -> None:
    times = "\N{MULTIPLICATION SIGN}3"
    some = {("8001", V4): UP, ("8002", V4): DOWN, ("8001", V6): DOWN, ("8002", V6): DOWN}
    assert lines(some) == [
        "web (ipv6): all 2 endpoints are down: connection refused, kept by all-down",
        f"web/8002 down: connection refused {times} since {TIME}",
    ]
    assert lines(some, ipv6=False) == [f"web/8002 down: connection refused {times} since {TIME}"]


@pytest.mark.parametrize("ipv6", [True, False])
def test_an_address_of_ipv6_is_never_left_out(ipv6: bool) -> None:
    remote = read_intent(service("web", "[2001:db8::1]:80/tcp", "[2001:db8::2]:80", "[2001:db8::3]:80"))
    names = [endpoint.name for endpoint in remote.services[0].endpoints]
    found = lines({(name, V6): DOWN for name in names}, intent=remote, ipv6=ipv6)
    assert found == ["web (ipv6): all 2 endpoints are down: connection refused, kept by all-down"]


def test_of_results_that_differ_one_is_named() -> None:
    other = Verdict(health=Health.DOWN, since=SINCE, result="timeout")
    mixed = {("8001", V4): DOWN, ("8002", V4): other}
    [line] = lines(mixed)
    assert line.startswith("web (ipv4): all 2 endpoints are down: connection refused, and others")
