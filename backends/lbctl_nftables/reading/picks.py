"""The numbers that nft picks → those of the engine."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model.jenkins import slot_of
from lbctl_netfilter.conditions import merged, spans_meet, spans_rest
from lbctl_netfilter.ir import Pick, PickKind
from lbctl_nftables.reading import syntax
from lbctl_nftables.reading.lookups import span_of
from lbctl_nftables.reading.syntax import Field, Masked, UnsupportedSyntax

if TYPE_CHECKING:
    from lbctl_netfilter.conditions import Spans
    from lbctl_nftables.reading.syntax import Source

_KINDS = {"inc": PickKind.COUNTER, "random": PickKind.DICE, "jhash": PickKind.HASH, "symhash": PickKind.HASH}
_SOURCES = frozenset({"ip saddr", "ip6 saddr"})
_RANDOM = "meta random"


def pick_of(pick: syntax.NumberExpression, place: object) -> Pick:
    """Return a pick as the engine has it. `place` tells it from those elsewhere in the rules."""
    kind, source = _KINDS[pick.kind], "source address" if pick.of in _SOURCES else ""
    if kind is not PickKind.HASH:
        return Pick(kind, pick.modulus, place)
    if pick.kind == "symhash":
        return Pick(kind, pick.modulus, "symhash")
    if pick.seed is None:
        return Pick(kind, pick.modulus, ("jhash", place), source)
    return Pick(kind, pick.modulus, (pick.of, pick.seed), source, pick.seed, slot_of if source else None)


def condition_pick(key: Source, place: object) -> tuple[Pick, int] | None:
    """Return what a condition picks, and from which number on; None for a condition that picks nothing.

    `meta random` is a pick of 2^32 numbers, or of as many as a mask leaves; raise `UnsupportedSyntax` if the
    mask has gaps.
    """
    match key:
        case syntax.NumberExpression():
            return pick_of(key, place), key.offset
        case Field(name=name) if name == _RANDOM:
            return Pick(PickKind.DICE, 1 << 32), 0
        case Masked(field=Field(name=name), mask=mask) if name == _RANDOM:
            if mask & (mask + 1):
                raise UnsupportedSyntax("bits that are not adjacent")
            return Pick(PickKind.DICE, mask + 1), 0
    return None


@lru_cache(maxsize=1 << 12)
def within(modulus: int, offset: int, op: str, texts: tuple[str, ...]) -> Spans:
    """Return where a picked number, counted from 0, satisfies a relation."""
    spans = []
    for text in texts:
        low, high = span_of(text)
        if op in {"<", "<="}:
            low, high = 0, low - (op == "<")
        elif op in {">", ">="}:
            low, high = low + (op == ">"), 1 << 32
        if low <= high:
            spans.append((max(low - offset, 0), high - offset))
    inside = spans_meet(merged(span for span in spans if span[1] >= span[0]), ((0, modulus - 1),))
    return spans_rest(inside, modulus - 1) if op == "!=" else inside
