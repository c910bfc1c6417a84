"""The rules of one intent are read alike on both backends."""

from dataclasses import replace

from hypothesis import given, settings

from lbctl.engine.inspect.compare import Relation, compare
from lbctl.host.fake import FakeHost
from lbctl.model import Family, Intent, Scheduler, SourceNat
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables, dialect
from support.intents import intents

IPTABLES = replace(iptables.probe(FakeHost()).capabilities, families=frozenset(Family))
NFTABLES = dialect.speaking(dialect.CAPABILITIES, dialect.Dialect.MODERN)
#: A Maglev table is large, and a busy machine slow.
PATIENT = settings(deadline=None, max_examples=25)


@PATIENT
@given(intent=intents(min_services=1))
def test_both_backends_give_the_same_turns(intent: Intent) -> None:
    # Networks of links, which hairpins on iptables need, are not known here.
    services = tuple(replace(service, source_nat=SourceNat.NEVER) for service in intent.services)
    intent = replace(intent, services=services)
    old = iptables.read(iptables.render(iptables.compile(intent, IPTABLES)))
    new = nftables.read(nftables.render(nftables.compile(intent, NFTABLES)))
    found = compare(old, new)
    assert found.equal
    assert {pair.verdict for pair in found.pairs} == {Relation.IDENTICAL}
    assert found.pairs


@PATIENT
@given(intent=intents(min_services=1))
def test_chance_is_not_taken_for_a_turn(intent: Intent) -> None:
    drawn = tuple(replace(service, scheduler=Scheduler.RANDOM, takeover=False) for service in intent.services)
    turns = nftables.read(nftables.render(nftables.compile(intent, NFTABLES)))
    draws = nftables.read(nftables.render(nftables.compile(replace(intent, services=drawn), NFTABLES)))
    found = compare(turns, draws)
    assert found.equal
    assert {p.verdict for p in found.pairs} <= {Relation.IDENTICAL, Relation.OTHER_ORDER}
    for pair in found.pairs:
        assert (pair.verdict is Relation.IDENTICAL) == (len(pair.shares) == 1)
