"""What a backend compiles an intent to, and what it reads back from the kernel: the same shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

#: Identity of one object in the kernel, from the outside in: family, kind, name, …
Key: TypeAlias = tuple[str, ...]


class Item(NamedTuple):
    """One object in the kernel that can be added, changed or removed by itself.

    A tuple, since a program has hundreds of thousands: it is made in half the time of a frozen dataclass.
    `text` is its content in the backend's canonical spelling: two items are equal when their texts are.
    `service` names the service that owns it; None for what all services share.
    """

    key: Key
    text: str
    service: str | None = None


#: The items of one service, or of what services share, in one family.
Part: TypeAlias = tuple[Item, ...]


class Program:
    """All items of one owner, in the order in which they can be created. A value: never changed once made.

    It is made of `items` of whatever services, as they are read, and of `parts`, as they are compiled. A
    compiler hands out the same part for the same service again, so that two programs are compared by a look
    at each part, and not at each item.

    `generation` is the kernel's own mark of the state in which the program was read or written there; None
    where there is no such mark, and for a program that was only compiled.

    `origin` is what the backend that compiled it needs to compile the next one faster: an immutable value of
    its own, and no part of what the program is.

    `beside` is what the backend counted of others while it read, and needs to advise: the keys are its own,
    and it is no part of what the program is.

    `reading` is what the backend read it from, if counters came with that: only the backend looks at it.

    `previous` is a program that most parts may come from: what is known of it need not be found out again.
    """

    __slots__ = (
        "_index",
        "_items",
        "_places",
        "_whole",
        "beside",
        "generation",
        "origin",
        "owner",
        "parts",
        "reading",
    )

    def __init__(
        self,
        owner: str,
        items: Iterable[Item] = (),
        *,
        parts: Iterable[Part] = (),
        generation: str | None = None,
        beside: Mapping[Key, int] | None = None,
        origin: object = None,
        reading: object = None,
        previous: Program | None = None,
    ) -> None:
        self.owner = owner
        self.origin = origin
        self.reading = reading
        self.beside: Mapping[Key, int] = beside or {}
        self.parts: tuple[Part, ...] = tuple(parts)
        self.generation = generation
        self._whole: Part = tuple(items)
        self._items: tuple[Item, ...] | None = None
        self._index: dict[Key, Item] | None = None
        self._places: Mapping[str | None, Sequence[int]] | None = (
            previous._places_for(self.parts) if previous is not None else None
        )
        if self._whole:
            # What was read, or written by hand, is looked at at once; what a compiler made, on demand.
            _ = self.by_key

    @property
    def items(self) -> tuple[Item, ...]:
        """All items."""
        if self._items is None:
            self._items = (*self._whole, *(item for part in self.parts for item in part))
        return self._items

    @property
    def by_key(self) -> Mapping[Key, Item]:
        """The items by their keys; raises `ValueError` where two have the same."""
        if self._index is None:
            self._index = {item.key: item for item in self.items}
            if len(self._index) != len(self.items):
                raise ValueError("two items of a program have the same key")
        return self._index

    @property
    def services(self) -> Mapping[str, None]:
        """The names of the services that own items, in order."""
        owners = (item.service for item in (*self._whole, *(part[0] for part in self.parts)))
        return dict.fromkeys(owner for owner in owners if owner is not None)

    @property
    def places(self) -> Mapping[str | None, Sequence[int]]:
        """Service → the numbers of its parts; None stands for what all services share."""
        if self._places is None:
            places: dict[str | None, list[int]] = {}
            for number, part in enumerate(self.parts):
                places.setdefault(part[0].service, []).append(number)
            self._places = places
        return self._places

    def _places_for(self, parts: Sequence[Part]) -> Mapping[str | None, Sequence[int]] | None:
        """Return `places` if it is known and holds for other parts too."""
        if parts is self.parts or self._places is None:
            return self._places
        if len(parts) != len(self.parts):
            return None
        changed = [pair for pair in zip(self.parts, parts, strict=True) if pair[0] is not pair[1]]
        return self._places if all(was[0].service == now[0].service for was, now in changed) else None

    def of_kind(self, kind: str) -> Iterator[Item]:
        """Return the items whose key's second part is `kind`, in order."""
        return (item for item in self.items if item.key[1] == kind)

    def at(self, generation: str | None) -> Program:
        """Return the same program, as the kernel held it at a generation."""
        return Program(self.owner, self._whole, parts=self.parts, generation=generation, previous=self)

    def of(self, parts: Sequence[Part]) -> Program:
        """The program with only these of its parts; with all of them itself, since it knows its items."""
        return self if len(parts) == len(self.parts) else Program(self.owner, self._whole, parts=parts)

    def only(self, services: Collection[str | None]) -> Program:
        """Return the program without what belongs to other services: enough to follow these through it."""
        wanted = {None, *services}
        numbers = sorted([number for name in wanted for number in self.places.get(name, ())])
        parts = [self.parts[number] for number in numbers]
        if not self._whole:
            return self.of(parts)
        return Program(self.owner, [item for item in self._whole if item.service in wanted], parts=parts)

    def in_order_of(self, other: Program) -> Program:
        """Return the same items, those that `other` has too in its order and before the rest."""
        shared = [self.by_key[item.key] for item in other.items if item.key in self.by_key]
        rest = [item for item in self.items if item.key not in other.by_key]
        return Program(self.owner, (*shared, *rest), generation=self.generation)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and (self.owner, self.items) == (other.owner, other.items)

    def __hash__(self) -> int:
        return hash((self.owner, len(self.items)))

    def __bool__(self) -> bool:
        return bool(self._whole or self.parts)

    def __repr__(self) -> str:
        return f"Program({self.owner!r}, {self.items!r})"
