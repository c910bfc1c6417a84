"""Two readings held against each other: service by service, share by share.

Services are the same where they select the same connections. At each place where rules act on them, what the
one side does is held against what the other does; places where both do the same are told together. Where only
one side tells connections to this host from those that it forwards, each of the two is held against what the
other side does with both.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any, TypeAlias

from lbctl.model import with_port
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import AnalysedService, Analysis

#: Parts of a hash that are held against each other one by one; beyond, only shares are.
_FINEST = 1 << 20


#: What selects connections, the hook, and what the rules change.
_Place: TypeAlias = tuple[tuple[Any, ...], str, str]


class Relation(StrEnum):
    """How two services that select the same connections relate, and which side lacks one."""

    IDENTICAL = "identical"
    OTHER_ORDER = "same shares, other order"
    OTHER_CLIENTS = "same shares, other clients"
    DIFFERENT = "different"
    ONLY_A = "only in A"
    ONLY_B = "only in B"

    @property
    def equal(self) -> bool:
        """True where every endpoint has the same share on both sides."""
        return self in {Relation.IDENTICAL, Relation.OTHER_ORDER, Relation.OTHER_CLIENTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One service on both sides; None where a side lacks it. `hooks` are where this holds."""

    a: AnalysedService | None
    b: AnalysedService | None
    hooks: tuple[str, ...]
    verdict: Relation
    #: What differs besides, in words.
    notes: tuple[str, ...] = ()

    @property
    def shares(self) -> Mapping[str, tuple[Fraction, Fraction]]:
        """Endpoint → its share on both sides."""
        one, other = _shares(self.a), _shares(self.b)
        zero = Fraction(0)
        return {to: (one.get(to, zero), other.get(to, zero)) for to in dict.fromkeys([*one, *other])}

    @property
    def leak(self) -> tuple[Fraction, Fraction]:
        """What no endpoint takes, on both sides."""
        return _leak(self.a), _leak(self.b)

    @property
    def distance(self) -> Fraction:
        """The largest difference of a share."""
        return max(abs(one - other) for one, other in (*self.shares.values(), self.leak))

    @property
    def service(self) -> AnalysedService:
        """The service of one of the sides, for what both select."""
        service = self.a or self.b
        if service is None:
            raise ValueError("a pair of nothing")
        return service


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All pairs. `doubts` are reasons for which equal pairs do not make equal rules."""

    pairs: tuple[Pair, ...]
    doubts: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """True where both sides give every endpoint the same share of the same connections."""
        return not self.doubts and all(pair.verdict.equal for pair in self.pairs)


def compare(a: Analysis, b: Analysis) -> Comparison:
    """Hold two readings against each other."""
    one, other = _by_place(a), _by_place(b)
    one, other = one | _also_local(one, other), other | _also_local(other, one)
    met: dict[tuple[int, int], list[str]] = {}
    sides: dict[tuple[int, int], tuple[AnalysedService | None, AnalysedService | None]] = {}
    for place in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(place), other.get(place)
        key = id(mine), id(theirs)
        sides[key] = mine, theirs
        met.setdefault(key, []).append(place[1])
    pairs = tuple(_pair(*sides[key], tuple(dict.fromkeys(hooks))) for key, hooks in met.items())
    return Comparison(pairs=tuple(_noted(pairs)), doubts=tuple(_doubts(a, b)))


def _noted(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Say what a service of any address is not about, where a side lacks it."""
    local = {_but_address(pair.service) for pair in pairs if pair.service.dst == "local"}
    for pair in pairs:
        lacking = pair.verdict in {Relation.ONLY_A, Relation.ONLY_B}
        if lacking and pair.service.dst == "any" and _but_address(pair.service) in local:
            yield replace(pair, notes=(*pair.notes, "not counting connections to this host itself"))
        else:
            yield pair


def _but_address(service: AnalysedService) -> tuple[object, ...]:
    family, proto, _, *rest = service.selector
    return (family, proto, *rest)


def _doubts(a: Analysis, b: Analysis) -> Iterator[str]:
    # Rules of two syntaxes are never the same text.
    texts = a.format == b.format
    lost = [
        sorted((each.what, each.rule if texts else "") for each in reading.unsupported) for reading in (a, b)
    ]
    if lost[0] != lost[1]:
        yield f"rules that would matter are not understood: {len(lost[0])} in A, {len(lost[1])} in B"
    for name, reading in (("A", a), ("B", b)):
        if not reading.accept:
            yield f"{name} cannot be trusted as a ruleset"


def _by_place(reading: Analysis) -> dict[_Place, AnalysedService]:
    """Return the service at each place."""
    places: dict[_Place, AnalysedService] = {}
    for service in reading.services:
        for hook in service.hooks:
            # Translating and marking do not stand in each other's way.
            places.setdefault((service.selector, hook, service.changes), service)
    return places


def _also_local(
    mine: Mapping[_Place, AnalysedService], theirs: Mapping[_Place, AnalysedService]
) -> dict[_Place, AnalysedService]:
    """What services of any address do with connections to this host that the other side distinguishes."""
    local = {id(service): replace(service, dst="local") for service in mine.values() if service.dst == "any"}
    found: dict[_Place, AnalysedService] = {}
    for place in theirs:
        (family, proto, dst, *rest), hook, kind = place
        whole = mine.get(((family, proto, "any", *rest), hook, kind)) if dst == "local" else None
        if whole is not None and place not in mine:
            found[place] = local[id(whole)]
    return found


def _pair(a: AnalysedService | None, b: AnalysedService | None, hooks: tuple[str, ...]) -> Pair:
    if a is None or b is None:
        verdict = Relation.ONLY_B if a is None else Relation.ONLY_A
        return Pair(a=a, b=b, hooks=hooks, verdict=verdict)
    notes = tuple(_notes(a, b))
    if (
        _shares(a) != _shares(b)
        or a.leak != b.leak
        or (a.action != b.action and "none" not in {a.mode, b.mode})
    ):
        return Pair(a=a, b=b, hooks=hooks, verdict=Relation.DIFFERENT, notes=notes)
    return Pair(a=a, b=b, hooks=hooks, verdict=_alike(a, b), notes=notes)


def _alike(a: AnalysedService, b: AnalysedService) -> Relation:
    """How services with the same shares relate."""
    if _keeping(a) != _keeping(b):
        return Relation.OTHER_CLIENTS
    if a.mode in {"single", "none"} and b.mode == a.mode:
        return Relation.IDENTICAL
    if "hash" in {a.mode, b.mode} or "mixed" in {a.mode, b.mode}:
        return Relation.IDENTICAL if a.mode == b.mode and _same_clients(a, b) else Relation.OTHER_CLIENTS
    if a.mode == b.mode == "random":
        return Relation.IDENTICAL
    same = a.mode == b.mode and bool(a.slots) and _period(_slots(a)) == _period(_slots(b))
    return Relation.IDENTICAL if same else Relation.OTHER_ORDER


def _same_clients(a: AnalysedService, b: AnalysedService) -> bool:
    """Return True if a hash is known to send each client to the same endpoint on both sides."""
    if None in {a.hash_seed, b.hash_seed} or a.hash_seed != b.hash_seed or a.placing is not b.placing:
        return False
    if not a.slots or not b.slots:
        return False
    one_side, other_side = _slots(a), _slots(b)
    if one_side == other_side:
        return True
    # A hash is scaled to the number of slots, so that slots are spans of it.
    parts = lcm(len(a.slots), len(b.slots))
    if parts > _FINEST:
        return False
    one, other = parts // len(a.slots), parts // len(b.slots)
    return all(one_side[n // one] == other_side[n // other] for n in range(parts))


def _period(slots: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Return the shortest sequence that this one repeats."""
    # A word has a period where it is found in itself doubled, before its end (Knuth, Morris, Pratt).
    known = [0] * len(slots)
    for place in range(1, len(slots)):
        length = known[place - 1]
        while length and slots[place] != slots[length]:
            length = known[length - 1]
        known[place] = length + (slots[place] == slots[length])
    period = len(slots) - known[-1] if slots else 0
    return slots[:period] if period and len(slots) % period == 0 else slots


def _keeping(service: AnalysedService) -> tuple[str, int | None] | None:
    """How long clients are kept, by whatever means; a hash is no memory."""
    kept = service.affinity
    return (kept.by, kept.seconds) if kept is not None and kept.kind != "hash" else None


def _notes(a: AnalysedService, b: AnalysedService) -> Iterator[str]:
    if a.action != b.action:
        yield f"{a.action} in A, {b.action} in B"
    if a.mode != b.mode:
        yield f"{a.mode} in A, {b.mode} in B"
    sources = _source(a), _source(b)
    if None not in sources and sources[0] != sources[1]:
        yield f"the client's address is replaced: {sources[0]} in A, {sources[1]} in B"
    one, other = _keeping(a), _keeping(b)
    if one != other:
        told = [
            "forgotten" if kept is None else f"kept for {kept[1]} s by {kept[0]}" for kept in (one, other)
        ]
        yield f"clients are {told[0]} in A, {told[1]} in B"
    for name, service in (("A", a), ("B", b)):
        if not service.exact:
            yield f"{name} depends on {service.depends_on}"


def _source(service: AnalysedService) -> str | None:
    """When the client's address is replaced; None where the rules do not say."""
    return str(service.source_nat) if service.source_nat else "sometimes" if service.source_lines else None


def _shares(service: AnalysedService | None) -> dict[str, Fraction]:
    """Endpoint → share, each with the port that its connections come to."""
    if service is None:
        return {}
    return {with_port(backend.to, service) or "": backend.share for backend in service.backends}


def _slots(service: AnalysedService) -> tuple[str | None, ...]:
    return tuple(with_port(slot, service) for slot in service.slots)


def _leak(service: AnalysedService | None) -> Fraction:
    return service.leak if service else Fraction(1)
