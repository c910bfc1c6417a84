"""The chains that the kernel calls at one hook for one family, and what is found out about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family
from lbctl_nftables.reading import grammar, select
from lbctl_nftables.reading.grammar import Lookup, Match, Nat, Pick, SetMark, Strange, Verdict
from lbctl_nftables.reading.meaning import All, Meaning, one

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_nftables.reading.document import Chain, Document, Rule, Table
    from lbctl_nftables.reading.grammar import Element, Operand
    from lbctl_nftables.reading.select import Selector

    #: A named map of numbers: the data of each number, and of each span of numbers.
    Page: TypeAlias = tuple[dict[int, Element], list[tuple[int, int, Element]]]

#: Steps of one text; a text that needs more is made to need more.
_BUDGET, _PER_WORD = 150_000, 50
#: More marks, or more choices of one rule, than this are not told one by one.
WIDEST = 4096
_FEW = 16
_GUARDS = ("dst", "dport")
#: Verdicts behind which a connection does not go on in its chain.
ENDING = {"accept", "drop", "return"}


class TooMuch(Exception):
    """Following the rules takes more than a reader should spend on them."""


class Purse:
    """What is left of the steps that a text may take."""

    def __init__(self, words: int) -> None:
        self.left = _BUDGET + _PER_WORD * words

    def spend(self, steps: int = 1) -> None:
        """Raises `TooMuch` where nothing is left."""
        self.left -= steps
        if self.left < 0:
            raise TooMuch


@dataclass(slots=True)
class Found:
    """A selector, and by which rules it came about."""

    rules: list[Rule] = field(default_factory=list)
    name: str | None = None
    #: False where a chain is looked up for it that leads nowhere.
    served: bool = True


class Hook:
    """The chains that the kernel calls at one hook for one family, in the order of their calls."""

    def __init__(
        self,
        document: Document,
        family: Family,
        hook: str,
        chains: Sequence[Chain],
        *,
        marking: bool,
        purse: Purse,
    ) -> None:
        self.family, self.name, self.marking = family, hook, marking
        self._document = document
        self.purse = purse
        self.bases = chains
        #: Those that were met, base chains or not, by their numbers.
        self.chains: list[Chain] = []
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._meanings: dict[tuple[str, str], Meaning] = {}
        self._guarded: dict[int, _Guarded] = {}
        #: Such maps are shared by many, so each is taken apart once.
        self.pages: dict[int, Page] = {}
        #: The marks that rules of these tables set, on packets and on connections.
        self._marks = {"mark": _marks(document, chains, "meta"), "connmark": _marks(document, chains, "ct")}
        self.found: dict[Selector, Found] = {}
        #: By counter, the selectors at whose connections it is moved.
        self.moved: dict[int, dict[Selector, Rule]] = {}
        #: Counters that count before the rest of their rule selects.
        self.early: dict[int, Rule] = {}
        #: Counters that packets move, and not only connections.
        self.packets: dict[int, Rule] = {}
        self.strange: dict[int, tuple[Rule, str, str]] = {}
        self.undefined: dict[int, tuple[Chain, Rule, str]] = {}

    def is_carried(self, what: str, found: select.Values) -> bool:
        """True for a mark that is known on the way: rules here set it, or nobody did and it is 0."""
        if found.spans is None or what not in select.MARKS:
            return False
        known = {0, *self._marks[what]}
        return any(low <= mark <= high for mark in known for low, high in found.spans)

    def is_for(self, chain: Chain, nat: Nat) -> bool:
        """False for a statement of the other family, which a table of both may hold."""
        word = "ip" if self.family is Family.IPV4 else "ip6"
        if nat.family:
            return nat.family == word
        if chain.family != "inet" or nat.address is None or isinstance(nat.address, Pick):
            return True
        addresses = [nat.address]
        if isinstance(nat.address, Lookup):
            members = self.meaning(chain).elements(nat.address.members)
            addresses = [element.data for element in members if isinstance(element.data, tuple)]
        return not addresses or any(
            (":" in address[0]) == (word == "ip6") for address in addresses if isinstance(address, tuple)
        )

    def called_by(self, chain: Chain, target: str, rule: Rule) -> Chain | None:
        """The chain that a rule leads to; one that is not in the text is noted."""
        table = self._document.tables[chain.family, chain.table]
        called = table.chains.get(target)
        if called is None:
            self.undefined[id(rule)] = chain, rule, target
        return called

    def number(self, chain: Chain) -> int:
        """Which of `chains` a chain is."""
        key = chain.family, chain.table, chain.name
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.chains)
            self.chains.append(chain)
        return number

    def meaning(self, chain: Chain) -> Meaning:
        """What the rules of a chain's table mean here."""
        key = chain.family, chain.table
        made = self._meanings.get(key)
        if made is None:
            made = self._meanings[key] = Meaning(self._document.tables[key], self.family, self.name)
        return made

    def guards(self, chain: Chain) -> _Guarded:
        """The rules of a chain, to be asked for by a selector."""
        number = self.number(chain)
        made = self._guarded.get(number)
        if made is None:
            made = self._guarded[number] = _Guarded(chain, self.meaning(chain))
        return made


class _Guarded:
    """The rules of a chain, found by the one port or address that they ask for."""

    def __init__(self, chain: Chain, meaning: Meaning) -> None:
        self._all = chain.rules
        self._by_value: dict[str, dict[int | str, list[int]]] = {}
        self._others: list[int] = []
        self._made: dict[tuple[object, ...], list[Rule]] = {}
        if len(chain.rules) < _FEW:
            return
        self._by_value = {what: {} for what in _GUARDS}
        for number, rule in enumerate(chain.rules):
            guard = self._guard(rule, meaning)
            if guard is None:
                self._others.append(number)
            else:
                self._by_value[guard[0]].setdefault(guard[1], []).append(number)

    def narrowing(self, selector: Selector) -> list[Rule]:
        """The rules that select some of what a selector does, in their order."""
        return self._of(selector, parts=True)

    def covering(self, selector: Selector) -> list[Rule]:
        """As `narrowing`, without those that select a part of it only and do not end its way."""
        return self._of(selector, parts=False)

    def _of(self, selector: Selector, *, parts: bool) -> list[Rule]:
        if not self._by_value:
            return self._all
        asked = [(what, found.single if (found := selector.get(what)) else None) for what in _GUARDS]
        key = (parts, *(value for _, value in asked))
        made = self._made.get(key)
        if made is None:
            numbers = [*self._others]
            for what, value in asked:
                if value is not None:
                    numbers += self._by_value[what].get(value, ())
                elif parts:
                    numbers += [number for each in self._by_value[what].values() for number in each]
            made = self._made[key] = [self._all[number] for number in sorted(numbers)]
        return made

    @staticmethod
    def _guard(rule: Rule, meaning: Meaning) -> tuple[str, int | str] | None:
        last = rule.statements[-1] if rule.statements else None
        if isinstance(last, Verdict) and last.kind in ENDING:
            return None
        for statement in rule.statements:
            if not isinstance(statement, Match) or isinstance(statement.key, Pick):
                return None
            try:
                meant = meaning.of(statement)
            except Strange:
                return None
            if isinstance(meant, All):
                for what, found in meant.conditions:
                    if what in _GUARDS and (value := found.single) is not None:
                        return what, value
        return None


def _marks(document: Document, bases: Sequence[Chain], where: str) -> frozenset[int]:
    """All marks that the rules of some tables may set."""
    found: set[int] = set()
    for key in dict.fromkeys((chain.family, chain.table) for chain in bases):
        for chain in document.tables[key].chains.values():
            for rule in chain.rules:
                for statement in rule.statements:
                    if isinstance(statement, SetMark) and statement.where == where:
                        found.update(_possible(statement.value))
    return frozenset(found)


def _possible(value: Operand | None) -> Iterator[int]:
    if isinstance(value, Pick) and value.modulus <= WIDEST:
        yield from range(value.offset, value.offset + value.modulus)
    data = [value] if isinstance(value, tuple) else []
    if isinstance(value, Lookup) and isinstance(value.members, tuple):
        data = [element.data for element in value.members if isinstance(element.data, tuple)]
    for each in data:
        try:
            yield grammar.number(one(each))
        except Strange:
            continue


def sets_marks(chain: Chain, table: Table) -> bool:
    """True for a chain that may set marks by itself or by chains of its table."""
    return bool(chain.hook) and any(
        isinstance(s, SetMark) and s.value is not None
        for each in table.chains.values()
        for rule in each.rules
        for s in rule.statements
    )
