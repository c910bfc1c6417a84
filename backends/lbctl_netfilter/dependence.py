"""What the shares of services depend on beside their own rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_netfilter.conditions import ALL, BITS, covers, described, unmarked
from lbctl_netfilter.selectors import SelectorKind
from lbctl_netfilter.services import decides, rungs_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.model import Family
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.follow import Walk
    from lbctl_netfilter.ledger import Ledger
    from lbctl_netfilter.services import TracedService


def dependences(found: TracedService, ledger: Ledger) -> Iterator[str]:
    """Yield what the shares of a service depend on beside its rules."""
    for walk in found.walks:
        yield from _of_walk(found, walk, ledger)


def _of_walk(found: TracedService, walk: Walk, ledger: Ledger) -> Iterator[str]:
    for rule in walk.doubts:
        what = rule.opaque.what if rule.opaque else "mark" if rule.asks_mark else rule.target.lower()
        yield f"line {rule.line}, which may match or not ({what})"
    if found.service.mode in {"single", "none"}:
        return
    if walk.long and any(visit.rule.asks_mark for visit in walk.visits):
        yield "counters whose common period is too long to follow"
    if walk.twice:
        yield "a counter that one connection advances more than once"
    if found.kind is SelectorKind.NAT and any(decides(found, walk, walk.met[each]) for each in found.anew):
        yield "packets of established connections"
    for counter, rule in walk.counters:
        wide = walk.wide.get(rule)
        if wide is None and len(ledger.movers[counter]) == 1:
            continue
        line = rule.line
        if wide is not None and (found.family, wide) not in ledger.followed:
            more = described(wide, BITS[found.family])
            yield f"all of {more}, which move the counter of line {line}"
        mine = found.family, found.selector.where
        # What has a mark that no rule sets has it from elsewhere, and is a part of these connections.
        others = [
            each
            for each in ledger.movers[counter]
            if each != mine and (each[0], unmarked(each[1])) != mine and not _alike(found, walk, each, ledger)
        ]
        if others and decides(found, walk, rule):
            family, other = others[0]
            rest = f" and {len(others) - 1} more" if len(others) > 1 else ""
            more = described(other, BITS[family])
            prefix = "" if family is found.family else f"{family} "
            yield f"{prefix}{more}{rest}, which move the counter of line {line} too"


def _alike(found: TracedService, walk: Walk, other: tuple[Family, Selector], ledger: Ledger) -> bool:
    """True for some of the service's own connections that its picks treat as they treat all others."""
    family, where = other
    if family is not found.family or covers(walk.given, where) is not ALL:
        return False
    mine = {rule: met for rule, met in rungs_of(walk).items() if decides(found, walk, rule)}
    theirs = map(rungs_of, ledger.walks.get(other, ()))
    return all(met.keys().isdisjoint(mine) or mine.items() <= met.items() for met in theirs)
