"""The chains that the kernel calls at one hook for one family, and what is found out about them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family
from lbctl_nftables.reading import grammar, select
from lbctl_nftables.reading.grammar import (
    Computed,
    Concat,
    Field,
    Lookup,
    Masked,
    Match,
    Nat,
    Pick,
    SetMark,
    Strange,
    Verdict,
    Vmap,
)
from lbctl_nftables.reading.meaning import All, Meaning, one

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl_nftables.reading.document import Chain, Document, Members, Rule, Table
    from lbctl_nftables.reading.grammar import Element, Operand, Source, Statement
    from lbctl_nftables.reading.select import Selector

    #: A named map of numbers: the data of each number, and of each span of numbers.
    Page: TypeAlias = tuple[dict[int, Element], list[tuple[int, int, Element]]]

#: Steps of one text; a text that needs more is made to need more.
_BUDGET, _PER_WORD = 150_000, 50
#: More marks, or more choices of one rule, than this are not told one by one.
WIDEST = 4096
#: What a statement calls a mark, and what a selector does.
MARK = {"meta": "mark", "ct": "connmark"}
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
        marked: frozenset[str] = frozenset(),
        first: str = "",
    ) -> None:
        self.family, self.name, self.marking = family, hook, marking
        #: The hook where connections come in, for chains of several hooks one after another.
        self._first = first or hook
        self._document = document
        self.purse = purse
        self.bases = chains
        #: Those that were met, base chains or not, by their numbers.
        self.chains: list[Chain] = []
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._meanings: dict[tuple[str, str], Meaning] = {}
        self._guarded: dict[int, _Guarded] = {}
        self._setting: dict[int, frozenset[str]] = {}
        #: Such maps are shared by many, so each is taken apart once.
        self.pages: dict[int, Page] = {}
        #: The marks that rules of an earlier hook may have set.
        self.marked = marked
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
        bits = select.bits_of(what)
        if bits is None or found.spans is None:
            return False
        name, mask = bits
        return any(low <= mark & mask <= high for mark in self._known[name] for low, high in found.spans)

    def sets(self, name: str) -> bool:
        """True for a mark that rules here set."""
        return name in self._marks

    def may_set(self, chain: Chain, rule: Rule) -> frozenset[str]:
        """The marks that a rule sets, or the chains that it leads to."""
        made = self._setting.get(id(rule))
        if made is None:
            chains = self._document.tables[chain.family, chain.table].chains
            called = [target for _, target in calls(chain, self._document, [rule]) if target in chains]
            own = frozenset(MARK[s.where] for s in rule.statements if isinstance(s, SetMark))
            made = self._setting[id(rule)] = own | marks_set(
                self._document, [chains[target] for target in called]
            )
        return made

    @cached_property
    def _marks(self) -> Mapping[str, set[int]]:
        return _marks(self._document, reach(self._document, self.bases))

    @cached_property
    def _known(self) -> Mapping[str, frozenset[int]]:
        """The marks that the way so far accounts for."""
        unset = {name: set() if name in self.marked else {0} for name in MARK.values()}
        return {name: frozenset({*self._marks.get(name, ()), *none}) for name, none in unset.items()}

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
            made = self._meanings[key] = Meaning(self._document.tables[key], self.family, self._first)
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


def calls(
    chain: Chain, document: Document, rules: Sequence[Rule] | None = None
) -> Iterator[tuple[Rule, str]]:
    """The chains that the rules of a chain lead to, or some of its rules."""
    members = document.tables[chain.family, chain.table].members
    for rule in chain.rules if rules is None else rules:
        for statement in rule.statements:
            if isinstance(statement, Verdict) and statement.target:
                yield rule, statement.target
            elif isinstance(statement, Vmap):
                elements = _elements(statement.members, members)
                targets = (e.data.target for e in elements if isinstance(e.data, Verdict) and e.data.target)
                yield from ((rule, target) for target in dict.fromkeys(targets))


def reach(document: Document, bases: Sequence[Chain]) -> list[Chain]:
    """Some chains and all that they lead to."""
    found = {(chain.family, chain.table, chain.name): chain for chain in bases}
    waiting = list(found.values())
    while waiting:
        chain = waiting.pop()
        chains = document.tables[chain.family, chain.table].chains
        for _, target in calls(chain, document):
            key = chain.family, chain.table, target
            if key not in found and target in chains:
                found[key] = chains[target]
                waiting.append(chains[target])
    return list(found.values())


def _marks(document: Document, chains: Sequence[Chain]) -> Mapping[str, set[int]]:
    """Mark → what the rules of some chains may set it to, as far as they say; none that they do not set."""
    found: dict[str, set[int]] = {}
    made: list[tuple[str, Computed]] = []
    for chain in chains:
        members = document.tables[chain.family, chain.table].members
        for rule in chain.rules:
            for statement in rule.statements:
                if isinstance(statement, SetMark):
                    known = found.setdefault(MARK[statement.where], set())
                    if isinstance(statement.value, Computed):
                        made.append((MARK[statement.where], statement.value))
                    else:
                        known.update(_possible(statement.value, members))
    growing = True
    while growing:
        growing = False
        for name, computed in made:
            more = {computed.value(mark) for mark in {0, *found.get(MARK[computed.of], ())}} - found[name]
            growing |= bool(more) and len(found[name]) <= WIDEST
            found[name] |= more
    return found


def _elements(declared: grammar.Members, members: Mapping[str, Members]) -> Sequence[Element]:
    if isinstance(declared, tuple):
        return declared
    return members[declared.name].elements if declared.name in members else ()


def _possible(value: Operand | None, members: Mapping[str, Members]) -> Iterator[int]:
    """The numbers that a value may be."""
    data: list[object] = []
    if isinstance(value, Pick):
        yield from range(value.offset, value.offset + min(value.modulus, WIDEST))
    elif isinstance(value, Lookup):
        data = [element.data for element in _elements(value.members, members)]
    else:
        data = [value]
    for each in data:
        if isinstance(each, tuple):
            with suppress(Strange):
                yield grammar.number(one(each))


def sets_marks(chain: Chain, table: Table) -> bool:
    """True for a chain that may set marks by itself or by chains of its table."""
    return bool(chain.hook) and any(
        isinstance(s, SetMark)
        for each in table.chains.values()
        for rule in each.rules
        for s in rule.statements
    )


def marks_set(document: Document, bases: Sequence[Chain]) -> frozenset[str]:
    """The marks that some chains set, by themselves or by those that they lead to."""
    return frozenset(
        MARK[statement.where]
        for chain in reach(document, bases)
        for rule in chain.rules
        for statement in rule.statements
        if isinstance(statement, SetMark)
    )


def asks_marks(document: Document, bases: Sequence[Chain]) -> bool:
    """True where some chains, or those that they lead to, ask for marks."""
    return any(
        _is_mark(key)
        for chain in reach(document, bases)
        for rule in chain.rules
        for statement in rule.statements
        for key in _keys(statement)
    )


def _keys(statement: Statement) -> Iterator[Source]:
    """What a statement asks or looks up."""
    if isinstance(statement, (Match, Vmap)):
        yield statement.key
    elif isinstance(statement, Nat):
        yield from (each.key for each in (statement.address, statement.port) if isinstance(each, Lookup))


def _is_mark(key: Source) -> bool:
    fields = key.parts if isinstance(key, Concat) else (key.field if isinstance(key, Masked) else key,)
    return any(isinstance(each, Field) and each.name in {"mark", "ct mark"} for each in fields)
