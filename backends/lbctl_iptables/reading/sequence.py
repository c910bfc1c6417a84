"""The rules of a chain while commands change it: in blocks, so that no command moves or asks all of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl_iptables.reading.rule import IptRule

#: A block that has more is halved.
_MOST = 2048


class _Block:
    """Neighbours; and, once a rule is deleted by what it says, what each of them says."""

    __slots__ = ("counts", "keys", "rules")

    def __init__(self, rules: list[IptRule]) -> None:
        self.rules = rules
        self.keys: list[int] | None = None
        self.counts: dict[int, int] = {}

    def insert(self, at: int, rule: IptRule, keys: dict[object, int]) -> None:
        self.rules.insert(at, rule)
        if self.keys is not None:
            key = keys.setdefault(rule.key(), len(keys))
            self.keys.insert(at, key)
            self.counts[key] = self.counts.get(key, 0) + 1

    def delete(self, at: int) -> None:
        del self.rules[at]
        if self.keys is not None:
            self.counts[self.keys.pop(at)] -= 1

    def find(self, key: int, keys: dict[object, int]) -> int | None:
        if self.keys is None:
            self.keys = [keys.setdefault(rule.key(), len(keys)) for rule in self.rules]
            self.counts = dict(Counter(self.keys))
        return self.keys.index(key) if self.counts.get(key) else None


class Rules:
    """Rules in their order; positions count from 0."""

    __slots__ = ("_blocks", "_count", "_keys")

    def __init__(self, rules: Iterable[IptRule] = ()) -> None:
        self.clear()
        for rule in rules:
            self.append(rule)

    def clear(self) -> None:
        """Delete all."""
        self._blocks = [_Block([])]
        self._count = 0
        #: What rules say → a number for it.
        self._keys: dict[object, int] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[IptRule]:
        for block in self._blocks:
            yield from block.rules

    def insert(self, position: int, rule: IptRule) -> None:
        """Before the rule at a position, or behind all others."""
        number, at = self._find(position)
        block = self._blocks[number]
        block.insert(at, rule, self._keys)
        self._count += 1
        if len(block.rules) > _MOST:
            # Behind rules that are appended nothing is left to be done.
            cut = _MOST if at == _MOST else _MOST // 2
            self._blocks[number : number + 1] = [_Block(block.rules[:cut]), _Block(block.rules[cut:])]

    def append(self, rule: IptRule) -> None:
        """Behind all others."""
        self.insert(self._count, rule)

    def replace(self, position: int, rule: IptRule) -> None:
        """In the place of the rule at a position."""
        self.delete(position)
        self.insert(position, rule)

    def delete(self, position: int) -> None:
        """The rule at a position."""
        self._delete(*self._find(position))

    def delete_like(self, rule: IptRule) -> None:
        """The first rule that says the same, if there is one."""
        key = self._keys.setdefault(rule.key(), len(self._keys))
        for number, block in enumerate(self._blocks):
            at = block.find(key, self._keys)
            if at is not None:
                self._delete(number, at)
                return

    def _delete(self, number: int, at: int) -> None:
        block = self._blocks[number]
        block.delete(at)
        self._count -= 1
        if not block.rules and len(self._blocks) > 1:
            del self._blocks[number]

    def _find(self, position: int) -> tuple[int, int]:
        """Return the block of a position, and the place in it."""
        last = len(self._blocks) - 1
        if position == self._count:
            return last, len(self._blocks[last].rules)
        for number, block in enumerate(self._blocks):
            if position < len(block.rules):
                return number, position
            position -= len(block.rules)
        raise IndexError(position)
