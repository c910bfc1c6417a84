"""What a backend compiles an intent to, and what it reads back from the kernel: the same shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Identity of one object in the kernel, from the outside in: family, kind, name, …
Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One object in the kernel that can be added, changed or removed by itself.

    `text` is its content in the backend's canonical spelling: two items are equal when their texts are.
    `service` names the service that owns it; None for what all services share.
    """

    key: Key
    text: str
    service: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """All items of one owner, in the order in which they can be created."""

    owner: str
    items: tuple[Item, ...] = ()
    _index: dict[Key, Item] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {item.key: item for item in self.items})
        if len(self._index) != len(self.items):
            raise ValueError("two items of a program have the same key")

    @property
    def by_key(self) -> Mapping[Key, Item]:
        """The items by their keys."""
        return self._index

    def of_kind(self, kind: str) -> Iterator[Item]:
        """The items whose key's second part is `kind`, in order."""
        return (item for item in self.items if item.key[1] == kind)

    def in_order_of(self, other: Program) -> Program:
        """The same items, those that `other` has too in its order and before the rest."""
        shared = [self._index[item.key] for item in other.items if item.key in self._index]
        rest = [item for item in self.items if item.key not in other.by_key]
        return Program(self.owner, (*shared, *rest))

    def __bool__(self) -> bool:
        return bool(self.items)
