"""What is known of an object is never taken for that of another one, made in its place in memory."""

from typing import NamedTuple

from lbctl.model import Family
from lbctl_iptables.reading.grammar import parse
from lbctl_iptables.reading.lower import Lowering
from lbctl_iptables.reading.rule import IptRule, Store
from lbctl_netfilter.analyse import Analyser
from lbctl_netfilter.conditions import EVERYTHING
from lbctl_netfilter.ir import Act, Rule
from lbctl_netfilter.log import Log
from lbctl_nftables.reading.document import NftRule, NftTable
from lbctl_nftables.reading.lookups import Lookups
from lbctl_nftables.reading.syntax import Element, Field

TIMES = 100


def test_the_elements_of_a_look_up() -> None:
    lookups = Lookups(NftTable("ip", "t"), Family.IPV4)
    for number in range(TIMES):
        found = lookups.entries(Field("ip ttl"), (Element((str(number),)),))
        assert [conditions for conditions, _ in found] == [(("ttl", ((number, number),)),)]


def test_the_matches_of_a_rule() -> None:
    lowering = Lowering()
    for port in (80, 81):
        # No order of iptables-save, whose matches are remembered for good.
        specs = [parse(f"-p tcp --dport {port} -A PREROUTING -j ACCEPT".split()) for _ in range(TIMES)]
        for spec in specs:
            read = IptRule(1, "", (), spec, "nat", "PREROUTING", Store(Family.IPV4))
            assert lowering.rule(read, {}).where.dport == ((port, port),)
        del specs, spec, read


class _NoCorrections(NamedTuple):
    """Spells nothing."""


def test_the_rules_that_are_not_understood() -> None:
    analysis = Analyser(Log(), _NoCorrections(), TIMES)  # type: ignore[arg-type]
    for number in range(TIMES):
        origin = NftRule((), number, "", "ip t c")
        assert not analysis.ledger.is_lost(origin)
        analysis.ledger.lose(Rule(origin, EVERYTHING, Act.GO_ON), "what", "why")
        assert analysis.ledger.is_lost(origin)
    assert analysis.untouched == 0
