"""The cases from the field as the kernel has them: real connections, in each flavour and syntax."""

from collections import Counter

import pytest

from support.field_cases import CASES, ONE, TWO, VIP, Ask, Case
from support.network import Network
from support.places import answering

LOADED = [
    (name, how)
    for name, case in CASES.items()
    for syntax in case.texts
    for how in (("iptables-legacy", "iptables-nft") if syntax == "iptables" else ("nft",))
]


@pytest.fixture
def places(network: Network) -> Network:
    answering(network)
    return network


def load(network: Network, text: str, how: str) -> None:
    if how == "nft":
        network.tool("nft", "-f", "-", stdin=text)
    else:
        network.tool(f"{how}-restore", stdin=text)


def text_of(case: Case, how: str) -> str:
    return case.texts["nft" if how == "nft" else "iptables"]


@pytest.mark.parametrize(("name", "how"), LOADED, ids=[f"{name}, {how}" for name, how in LOADED])
def test_the_kernel_does_as_the_case_says(places: Network, name: str, how: str) -> None:
    case = CASES[name]
    load(places, text_of(case, how), how)
    for ask in case.asks:
        assert answers(places, ask) == {to: share * ask.count for to, share in ask.shares.items()}, ask


def answers(network: Network, ask: Ask) -> Counter[str]:
    return Counter(network.ask(network.client, ask.to, ask.port, ask.count, source=ask.source))


def test_a_rate_takes_connections_away_before_a_pick_sees_them(places: Network) -> None:
    pick = f"dnat to numgen inc mod 2 map {{ 0 : {ONE} . 80, 1 : {TWO} . 80 }}"
    text = (
        "table ip t {\nchain c {\ntype nat hook prerouting priority -100\n"
        f"tcp dport 80 limit rate over 1/hour burst 4 packets drop\ntcp dport 80 {pick}\n}}\n}}\n"
    )
    places.tool("nft", "-f", "-", stdin=text)
    found = places.ask(places.client, VIP, 80, 12, timeout=0.5)
    assert "timeout" in found
    served = found[: found.index("timeout")]
    assert len(served) >= 4
    assert served == [f"{(ONE, TWO)[number % 2]}:80" for number in range(len(served))]
