"""Shares on two sides in words: folded where all families and listeners agree."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Family, agreed, families_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model import EndpointChange, FamilyListener, Listener, ServiceChange, Shares

#: A family in sentences.
FAMILY_NAMES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


_NOTHING = Fraction(0)


class ShareRow(NamedTuple):
    """One line of a table of shares. Without a family, it is for all; without a listener, for all of them."""

    to: str
    family: Family | None
    listener: Listener | None
    before: Fraction | None
    after: Fraction | None

    @property
    def where(self) -> str:
        """The listener and the family; "" where the line is for all."""
        return " ".join(str(part) for part in (self.listener, self.family) if part is not None)


def share_rows(service: ServiceChange) -> list[ShareRow]:
    """Return one line for each endpoint; one for each family, or listener, where these disagree."""
    before, after = _alike(service.before), _alike(service.after)
    # Of a listener that moves, the endpoints keep their shares.
    moved = any(change.key == "listen" for change in service.changes)
    whole = moved or not service.before or not service.after or service.before.keys() == service.after.keys()
    if before is None or after is None or not whole:
        return [row for endpoint in service.endpoints for row in _rows(endpoint)]
    # Most services are alike wherever they are balanced: ten thousand of them are a second of the other way.
    return [
        ShareRow(to, None, None, before.get(to, _NOTHING), after.get(to, _NOTHING)) for to in service.targets
    ]


def _alike(side: Shares) -> Mapping[str, Fraction] | None:
    """Return the shares of one side if they are the same for all listeners and families, {} for none."""
    first, *others = side.values() or ({},)
    return first if first is not None and all(each == first for each in others) else None


def _rows(endpoint: EndpointChange) -> Iterator[ShareRow]:
    to, families = endpoint.to, endpoint.families
    if any(_disagree(endpoint, family) for family in families):
        for frontend in dict.fromkeys((*endpoint.after, *endpoint.before)):
            before, after = (side.get(frontend, _NOTHING) for side in (endpoint.before, endpoint.after))
            yield ShareRow(to, frontend.family, frontend.listener, before, after)
        return
    both = {family: endpoint.in_family(family) for family in families}
    if one := agreed(both.values()):
        yield ShareRow(to, None, None, *one)
    else:
        yield from (ShareRow(to, family, None, *shares) for family, shares in both.items())


def _disagree(endpoint: EndpointChange, family: Family) -> bool:
    return any(
        len({value for frontend, value in side.items() if frontend.family is family}) > 1
        for side in (endpoint.before, endpoint.after)
    )


def lost_families(missing: Iterable[FamilyListener], whole: Shares) -> tuple[Family, ...]:
    """Return the families of which every place is missing that `whole`, the other side, has."""
    rest = families_of(whole.keys() - set(missing))
    return tuple(family for family in families_of(missing) if family not in rest)


def clients(missing: Sequence[FamilyListener], whole: Shares, other: Shares) -> Iterator[str]:
    """Name whose connections are meant: `IPv4 clients`, `clients of 81/tcp`, `IPv4 clients of 81/tcp`.

    `missing` are places that the side `other` does not balance, `whole` is the side that does.
    """
    # Of a listener that moved, the family is balanced on both sides.
    lost = [family for family in lost_families(missing, whole) if family not in families_of(other)]
    yield from (f"{FAMILY_NAMES[family]} clients" for family in lost)
    by_listener: dict[Listener, list[Family]] = {}
    for frontend in missing:
        if frontend.family not in lost:
            by_listener.setdefault(frontend.listener, []).append(frontend.family)
    for listener, families in by_listener.items():
        elsewhere = any(each.listener == listener for each in whole.keys() - set(missing))
        only = f"{' and '.join(FAMILY_NAMES[family] for family in families)} " if elsewhere else ""
        yield f"{only}clients of {listener}"
