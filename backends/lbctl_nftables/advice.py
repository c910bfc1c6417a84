"""What a user should know of a plan that its changes do not show: connections that it breaks.

A change of translated services breaks none: the kernel tracks them. With direct server return and a hash,
each packet goes where the table then leads its client.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from lbctl.model import FamilyListener, Forward, touched, written
from lbctl_nftables import layout, lift

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import LiftedService, Plan, Program

_HASH = "hash"


def notes(host: Host, plan: Plan) -> tuple[str, ...]:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Backend`."""
    if not any(change.key[0] in layout.INGRESS.values() for change in plan.changes):
        return ()
    names = touched(plan.changes)
    before, after = (_services(program, names) for program in (plan.before, plan.after))
    return tuple(dict.fromkeys(_notes(before, after)))


def _services(
    program: Program, names: frozenset[str | None]
) -> Mapping[tuple[str, FamilyListener], LiftedService]:
    known = program if None in names else program.only(names)
    return {
        (each.name, FamilyListener(each.family, each.listener)): each for each in lift.lift(known).services
    }


def _notes(
    before: Mapping[tuple[str, FamilyListener], LiftedService],
    after: Mapping[tuple[str, FamilyListener], LiftedService],
) -> Iterator[str]:
    for place, old in before.items():
        new = after.get(place)
        if new is None or not old.shares:
            continue
        if old.forward is not new.forward:
            yield (
                f"the established connections of {old.name} are lost: none survives a change between address "
                "translation and direct server return"
            )
        elif old.forward is Forward.DSR and _HASH in {old.mode, new.mode}:
            part = moved(old.slots, new.slots) if old.mode == new.mode else Fraction(1)
            if part:
                yield (
                    f"{written(part)} of the clients of {old.name} ({old.family}) go to another endpoint "
                    "and lose their established connections: direct server return with a hash keeps none"
                )


def moved(before: Sequence[str | None], after: Sequence[str | None]) -> Fraction:
    """Return the part of all hashes that lead elsewhere with another table.

    The kernel scales a hash to the number of slots (reciprocal_scale): each slot has an equal part of all.
    """
    if not before or not after:
        return Fraction(1)
    sizes = {len(before), len(after)}
    edges = sorted({Fraction(slot, size) for size in sizes for slot in range(size + 1)})
    return sum(
        (
            end - begin
            for begin, end in pairwise(edges)
            if before[int(begin * len(before))] not in {None, after[int(begin * len(after))]}
        ),
        start=Fraction(0),
    )
