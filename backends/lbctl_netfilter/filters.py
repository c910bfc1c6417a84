"""Which connections the filters of a host surely drop, whatever else is let through elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl_netfilter.budget import Budget, BudgetExceeded
from lbctl_netfilter.conditions import BITS, EVERYTHING, Words, exactly, of, words
from lbctl_netfilter.hooks import bases
from lbctl_netfilter.ir import Act, Chain
from lbctl_netfilter.source_nat import Exit, Path

if TYPE_CHECKING:
    from lbctl.model import Address, Family
    from lbctl_netfilter.conditions import Condition, Selector
    from lbctl_netfilter.ir import Base, FamilyProgram, Rule

_LOOPBACK = "lo"


class Dropped(NamedTuple):
    """The base chain that drops a connection, and its rule; None for its policy."""

    base: Base
    rule: Rule | None


def packet(
    family: Family,
    protocol: str,
    address: Address | None,
    port: int,
    incoming: str | None,
    outgoing: str | None,
) -> Selector:
    """Return the first packet of a connection that was translated already.

    `incoming` None stands for any link but loopback.
    """
    given: list[Condition] = [
        ("proto", words(protocol)),
        ("dport", exactly(port)),
        ("ctstatus", words("dnat")),
        ("ctdir", words("original")),
        ("iif", words(incoming) if incoming else Words(None, frozenset({_LOOPBACK}))),
    ]
    given += [("dst", exactly(int(address)))] if address else []
    given += [("oif", words(outgoing))] if outgoing else []
    return of(*given, bits=BITS[family]) or EVERYTHING


def dropped(program: FamilyProgram, given: Selector, hook: str) -> Dropped | None:
    """Return what surely drops a connection at a hook; None where nothing does, or that is not known.

    Each base chain decides by itself, and an accept in one overrides no drop in another.
    """
    # Rules of lbctl refuse what is not served, and that alone.
    chains = {name: Chain(name) if chain.own else chain for name, chain in program.chains.items()}
    for base in bases(program, hook):
        path = Path(chains, given, Budget.of(program.rules), marks=(None, None))
        try:
            exits = path.chain(base.chain)
        except BudgetExceeded:
            continue
        by_policy = Exit.BACK in exits
        if exits <= {Exit.DROPPED, Exit.BACK} and not (by_policy and chains[base.chain].policy is Act.ACCEPT):
            return Dropped(base, None if by_policy else path.met[-1].rule)
    return None
