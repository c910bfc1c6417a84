"""Listeners that overlap with those of other services."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, TypeAlias

from lbctl.config.drafts import on_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.config.drafts import ProblemReport, ServiceDraft
    from lbctl.model import Address, Listener, Protocol

    #: A listener: the service that has it, and its number there.
    NumberedListener: TypeAlias = tuple[ServiceDraft, int]


#: Ranges of ports that the listeners of an intent may have: each is looked for among all others.
MAX_RANGES = 4096


def check_listeners(drafts: Iterable[ServiceDraft], report: ProblemReport) -> None:
    """Note listeners that overlap with another one: each once. `Listener.overlaps`, through indexes."""
    single, ranges = _SingleListeners(), _ListenerRanges()
    for draft in drafts:
        for count, listener in enumerate(draft.listeners):
            index = ranges if listener.is_range else single
            met = index.add((draft, count), listener)
            if met is not None:
                _report_overlap((draft, count), met, report)
    if ranges.count > MAX_RANGES:
        (draft, count), *_ = ranges.last
        report.about(
            draft,
            draft.listener_place(count),
            f"more than {MAX_RANGES} listeners are ranges of ports",
            "join ranges, or give several listeners one address",
        )


def _leaves_alone(one: NumberedListener, other: NumberedListener) -> bool:
    """Return True if the service of one of two listeners excludes the address of the other one."""
    for (draft, count), (there, their) in ((one, other), (other, one)):
        address = there.listeners[their].address
        if address is not None and draft.listeners[count].address is None:
            return any(address in network for network in draft.table.exclude or ())
    return False


class _SingleListeners:
    """The listeners with a single port: of each protocol and port, the first one of each address."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[Protocol, int], dict[Address | None, NumberedListener]] = {}

    def add(self, new: NumberedListener, listener: Listener) -> NumberedListener | None:
        """Add a listener; return one that overlaps with it, if there is one."""
        key = (listener.protocol, listener.port)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = {listener.address: new}
            return None
        same = bucket.get(listener.address)
        if same is None:
            rivals = bucket.values() if listener.address is None else filter(None, [bucket.get(None)])
            same = next((each for each in rivals if not _leaves_alone(new, each)), None)
            bucket[listener.address] = new
        return same


class _ListenerRanges:
    """The listeners with a range of ports: of each protocol and address, in the order of their ports."""

    def __init__(self) -> None:
        self._found: dict[Protocol, dict[Address | None, list[tuple[int, int, int]]]] = {}
        self._all: list[NumberedListener] = []
        #: False once two of one address overlap.
        self._disjoint = True

    @property
    def count(self) -> int:
        """The number of ranges."""
        return len(self._all)

    @property
    def last(self) -> Sequence[NumberedListener]:
        """The first range beyond those that an intent can have, and all behind it."""
        return self._all[MAX_RANGES:]

    def add(self, new: NumberedListener, listener: Listener) -> NumberedListener | None:
        """Add a range; return one that overlaps with it, if there is one."""
        by_address = self._found.setdefault(listener.protocol, {})
        self._all.append(new)
        if len(self._all) > MAX_RANGES:
            return None
        places = list(by_address) if listener.address is None else [listener.address, None]
        found = (
            other
            for address in places
            for other in self._overlapping(by_address.get(address, ()), listener)
            if not _leaves_alone(new, other)
        )
        met = next(found, None)
        self._disjoint = self._disjoint and met is None
        mine = by_address.setdefault(listener.address, [])
        insort(mine, (listener.port, listener.last_port, len(self._all) - 1))
        return met

    def _overlapping(
        self, ordered: Sequence[tuple[int, int, int]], listener: Listener
    ) -> list[NumberedListener]:
        """Return the ranges that share a port with a listener."""
        end = bisect_left(ordered, (listener.last_port + 1,))
        # Of disjoint ranges, one at most begins before the first port and ends behind it.
        begin = max(0, bisect_left(ordered, (listener.port,)) - 1) if self._disjoint else 0
        return [self._all[number] for _, last, number in ordered[begin:end] if last >= listener.port]


def _report_overlap(one: NumberedListener, other: NumberedListener, report: ProblemReport) -> None:
    (draft, count), (first, first_count) = one, other
    listener, met = draft.listeners[count], first.listeners[first_count]
    where = on_line(draft, first, first.listener_place(first_count))
    whose = "this service" if draft is first else first.label
    if listener == met:
        message = f"listener {listener} is given twice, first by {whose} {where}"
        hint = (
            "write it once"
            if draft is first
            else "a listener belongs to one service: join them, or change one"
        )
    else:
        message = f"listener {listener} overlaps {met} of {whose} {where}"
        wide = listener if listener.address is None else met
        narrow = met if wide is listener else listener
        hint = (
            f"{wide} is every address of this host, {narrow.address} too: give addresses to both, keep one, "
            f'or write `exclude = ["{narrow.address}"]` in the service of {wide}'
            if wide.address != narrow.address
            else "each port of an address belongs to one service: change the ends of a range"
        )
    report.about(draft, draft.listener_place(count), f"{message}", hint)
