"""Follows new connections through the chains of one hook: which are told apart, and where each kind goes.

First every way to an action is walked, which gives the selectors that rules tell apart. Then the connections
of each selector are followed through all chains of the hook, in the order of their priorities, as far as a
number is picked; there the way parts. The result is a graph whose ends are endpoints or leaks.

A rule that selects only a part of a selector's traffic belongs to a narrower selector, which is a service of
its own. Where it ends the way of that part without an endpoint, the rest is what the selector stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from lbctl.model import Family
from lbctl_nftables.reading import grammar, select
from lbctl_nftables.reading.grammar import (
    Limit,
    Lookup,
    Match,
    Nat,
    Pick,
    Ref,
    SetMark,
    Strange,
    Unknown,
    Update,
    Verdict,
    Vmap,
)
from lbctl_nftables.reading.meaning import All, Drawn, Keyed, Learned, Meaning, Never, one
from lbctl_nftables.reading.select import Selector, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl_nftables.reading.document import Chain, Document, Members, Rule, Table
    from lbctl_nftables.reading.grammar import Element, Key, Operand
    from lbctl_nftables.reading.meaning import Conditions, Meant

    _Page: TypeAlias = tuple[dict[int, Element], list[tuple[int, int, Element]]]

#: The kernel's own limit of nested jumps.
_JUMPS = 16
#: Steps of one text; a text that needs more is made to need more.
_BUDGET, _PER_WORD = 150_000, 50
_NODES = 20_000
_WIDEST = 4096
_FEW = 16
T = TypeVar("T")
#: All that a hash can be, as a part of its range.
_ALL = Fraction(0), Fraction(1)
_GUARDS = ("dst", "dport")
_ENDING = {"accept", "drop", "return"}
#: Statements that end a packet's way, or copy it, in ways that are not followed.
_TARGETS = {"target", "tproxy", "queue", "dup", "fwd", "flow", "synproxy", "dnat", "snat", "redirect"}
TRANSLATING = {"dnat", "redirect", "snat"}
#: How chains of one service are called, by lbctl and by kube-proxy.
SERVICE = "service-"


class TooMuch(Exception):
    """Following the rules takes more than a reader should spend on them."""


class Undecided(Exception):
    """What happens to a selector's connections cannot be said: why, and at which rule."""

    def __init__(self, rule: Rule, what: str, reason: str) -> None:
        super().__init__(reason)
        self.rule, self.what, self.reason = rule, what, reason


class End(NamedTuple):
    """Where a connection ends: an endpoint, by `action` and `to`, or a leak, with `to` empty and `why`."""

    action: str
    to: str
    why: str = ""
    #: What a comment calls the endpoint.
    name: str = ""
    #: The line of a rule that put another mark in the place of one that was set before.
    over: int = 0


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


#: Chains that called each other, the innermost last, each with the index among its rules in question.
Frames: TypeAlias = tuple[tuple[int, int], ...]


class Place(NamedTuple):
    """Where a connection is, and what it carries. `hashes` are the spans that its hash is known to lie in."""

    base: int
    frames: Frames
    statement: int
    meta: int | None
    ct: int | None
    over: int = 0
    hashes: tuple[tuple[object, Fraction, Fraction], ...] = ()


@dataclass(slots=True)
class Node:
    """A point where the way parts. Cases are first and last number, and what comes next."""

    pick: Pick | None = None
    rule: Rule | None = None
    cases: list[tuple[int, int, Place | End]] = field(default_factory=list)
    #: Numbers, where connections with them go on, and where their ways part again or end.
    onward: list[tuple[int, int, Place, Place | End]] = field(default_factory=list)


@dataclass(slots=True)
class Followed:
    """All ways of a selector's connections."""

    start: Place | End
    #: Where connections come in, and where their ways part first.
    begin: Place
    first: Place | End
    nodes: dict[Place, Node] = field(default_factory=dict)
    #: The rules that take part, in the order of their discovery.
    used: dict[int, Rule] = field(default_factory=dict)
    #: From where connections go on → the rules that they meet before their ways part again.
    trails: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    #: All points where the way parts, also those behind which all ways are one.
    partings: dict[Place, Node] = field(default_factory=dict)
    #: Numbers that are picked for nothing.
    idle: set[int] = field(default_factory=set)
    #: The rules that take others, of which the selected traffic is what they leave.
    spared: set[int] = field(default_factory=set)
    #: Rule → what a look-up by fields has for the connections.
    looked: dict[int, str] = field(default_factory=dict)
    _trail: list[int] = field(default_factory=list)
    #: Rule, and the numbers at which its condition holds, for conditions on picked numbers.
    drawn: dict[int, tuple[Rule, Chain, Drawn]] = field(default_factory=dict)
    #: What ended the way of a part of the selected traffic: the field, and the values that are left.
    but: dict[str, str] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)
    kept: int | None = None
    keeps: bool = False
    notes: dict[tuple[str, int], tuple[Rule, str]] = field(default_factory=dict)
    #: The rules on the way that are not understood.
    strange: dict[int, Rule] = field(default_factory=dict)
    #: The part of the connections that comes to each place, once that was asked for.
    weighed: Mapping[Place | End, Fraction] = field(default_factory=dict)

    def use(self, rule: Rule) -> None:
        """A rule takes part."""
        self.used.setdefault(id(rule), rule)
        self._trail.append(id(rule))

    @property
    def met(self) -> set[int]:
        """All numbers that are picked for some of the connections."""
        return self.idle | {node.pick.ident for node in self.partings.values() if node.pick is not None}

    def trail(self) -> tuple[int, ...]:
        """The rules that took part since this was asked for."""
        made = tuple(self._trail)
        self._trail.clear()
        return made


class Step(NamedTuple):
    """What a rule does: it lets the `next` one follow, stops where ways `part`, or sends on (`go`)."""

    what: str
    to: Place | End


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
        self._purse = purse
        self._bases = chains
        self._chains: list[Chain] = []
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._meanings: dict[tuple[str, str], Meaning] = {}
        self._guarded: dict[int, _Guarded] = {}
        self._pages: dict[int, _Page] = {}
        #: The marks that rules of these tables set, on packets and on connections.
        self._marks = {"mark": _marks(document, chains, "meta"), "connmark": _marks(document, chains, "ct")}
        self.found: dict[Selector, Found] = {}
        #: By counter, the selectors at whose connections it is moved.
        self.moved: dict[int, dict[Selector, Rule]] = {}
        self.early: dict[int, Rule] = {}
        #: By chain, the kinds of the base chains that lead to it.
        self._kinds: dict[int, set[str]] = {}
        #: Counters that packets move, and not only connections.
        self.packets: dict[int, Rule] = {}
        self.strange: dict[int, tuple[Rule, str, str]] = {}
        self.undefined: dict[int, tuple[Chain, Rule, str]] = {}

    # Which connections are told apart

    def enumerate(self) -> None:
        """Find all selectors that rules tell apart."""
        seen: set[tuple[int, Selector, bool]] = set()
        work: list[tuple[Chain, Selector, bool, str | None]] = [
            (chain, Selector(), False, None) for chain in reversed(self._bases)
        ]
        self._kinds = {self._number(chain): {chain.kind} for chain in self._bases}
        while work:
            chain, selector, picked, name = work.pop()
            mark = (self._number(chain), selector, picked)
            if mark in seen:
                continue
            seen.add(mark)
            if name is None and chain.name.startswith(SERVICE):
                name = chain.name.removeprefix(SERVICE)
            calls: list[tuple[Chain, Selector, bool, str | None]] = []
            guarded = self._guards(chain)
            for rule in guarded.narrowing(selector):
                self._purse.spend()
                calls += self._walk(chain, rule, selector, picked, name)
            for called, *_ in calls:
                self._kinds.setdefault(self._number(called), set()).update(self._kinds[mark[0]])
            work += reversed(calls)

    def _is_nat(self, chain: Chain) -> bool:
        """True for a chain that first packets alone come to."""
        return "nat" in self._kinds[self._number(chain)]

    def _walk(
        self, chain: Chain, rule: Rule, selector: Selector, picked: bool, name: str | None
    ) -> Iterator[tuple[Chain, Selector, bool, str | None]]:
        """The chains that a rule leads to, with what is selected then; its own actions are noted."""
        meaning = self._meaning(chain)
        selectors = [selector]
        here = False
        counting: list[int] = []
        for number, statement in enumerate(rule.statements):
            try:
                match statement:
                    case Match() | Vmap():
                        meant = meaning.of(statement)
                    case Nat() if not self._is_for(chain, statement):
                        # The kernel picks first, and only then sees that it is for the other family.
                        for pick in _idle(statement):
                            self._note_moved(chain, rule, pick, selectors)
                        return
                    case Nat(kind=kind) if kind in TRANSLATING and not self.marking:
                        if kind == "snat" and not (picked or here or self._balances(statement)):
                            return
                        for each in selectors:
                            yield from self._translated(meaning, chain, rule, statement, each, name)
                        return
                    case SetMark(value=value) if self.marking and value is not None:
                        if here or isinstance(value, (Lookup, Pick)) or (picked and not self._is_nat(chain)):
                            for each in selectors:
                                yield from self._marked(meaning, chain, rule, value, each, name)
                        continue
                    case Verdict(kind="jump" | "goto", target=target):
                        called = self._called(chain, target, rule)
                        if called is not None:
                            yield from ((called, each, picked or here, name) for each in selectors)
                        return
                    case Verdict(kind="continue") | Update() | Limit() | SetMark():
                        continue
                    case Unknown(text=text):
                        if self._matters(rule, number):
                            acts = text.removeprefix("xt ").split(" ")[0] in _TARGETS
                            what = "unsupported-target" if acts else "unsupported-match"
                            self.strange[id(rule)] = rule, what, text
                        return
                    case _:
                        return
            except Strange as strange:
                if self._matters(rule, number):
                    self.strange[id(rule)] = rule, "unsupported-match", str(strange)
                return
            self._purse.spend(len(selectors))
            if isinstance(statement, Vmap):
                yield from self._dispatched(chain, rule, statement, meant, selectors, picked or here, name)
                return
            match meant:
                case Never() | Learned():
                    return
                case Drawn(pick=pick):
                    here = True
                    counting.append(pick.ident)
                    self._note_moved(chain, rule, pick, selectors)
                case All() | Keyed():
                    met = [each for s in selectors for each in self._met(s, meant)]
                    if met != selectors:
                        self.early.update((ident, rule) for ident in counting)
                    selectors = met
            if not selectors:
                return

    def _met(self, selector: Selector, meant: All | Keyed) -> Iterator[Selector]:
        """What of a selector meets a condition; for a set of several fields, each element by itself."""
        if isinstance(meant, All):
            ways = [meant.conditions]
        else:
            ways = [(*meant.implied, *conditions) for conditions, _ in meant.of(selector)]
        for conditions in ways:
            narrowed = self._narrow(selector, conditions)
            if narrowed is not None:
                yield narrowed

    def _narrow(self, selector: Selector, conditions: Conditions) -> Selector | None:
        narrowed: Selector | None = selector
        for what, found in conditions:
            if self._is_carried(what, found):
                continue
            if what == "state":
                if "new" not in found.names or found.but:
                    return None
                if not self.marking:
                    # NAT sees first packets alone.
                    continue
            if narrowed is not None:
                narrowed = narrowed.narrowed(what, found)
        return narrowed

    def _is_carried(self, what: str, found: select.Values) -> bool:
        """True for a mark that is known on the way: rules here set it, or nobody did and it is 0."""
        if found.spans is None or what not in select.MARKS:
            return False
        known = {0, *self._marks[what]}
        return any(low <= mark <= high for mark in known for low, high in found.spans)

    def _note_moved(self, chain: Chain, rule: Rule, pick: Pick, selectors: Sequence[Selector]) -> None:
        if pick.kind == "inc":
            if not (self._is_nat(chain) or self.marking or any(map(_is_new, rule.statements))):
                self.packets[pick.ident] = rule
            for each in selectors:
                self.moved.setdefault(pick.ident, {}).setdefault(each, rule)

    def _dispatched(
        self,
        chain: Chain,
        rule: Rule,
        statement: Vmap,
        meant: Meant,
        selectors: Sequence[Selector],
        picked: bool,
        name: str | None,
    ) -> Iterator[tuple[Chain, Selector, bool, str | None]]:
        meaning = self._meaning(chain)
        if isinstance(meant, Drawn):
            self._note_moved(chain, rule, meant.pick, selectors)
            targets = {
                e.data.target for e in meaning.elements(statement.members) if isinstance(e.data, Verdict)
            }
            for target in sorted(targets - {""}):
                called = self._called(chain, target, rule)
                if called is not None:
                    yield from ((called, each, True, name) for each in selectors)
            return
        if not isinstance(meant, Keyed):
            return
        for selector in selectors:
            for conditions, element in meant.of(selector):
                self._purse.spend()
                narrowed = self._narrow(selector, (*meant.implied, *conditions))
                if narrowed is None or not isinstance(element.data, Verdict) or not element.data.target:
                    continue
                called = self._called(chain, element.data.target, rule)
                if called is None:
                    continue
                if "dport" in meant.names and self.name in {"prerouting", "output"} and _is_empty(called):
                    self._note(narrowed, rule, called.name.removeprefix(SERVICE), served=False)
                yield called, narrowed, picked, name

    def _translated(
        self, meaning: Meaning, chain: Chain, rule: Rule, nat: Nat, selector: Selector, name: str | None
    ) -> Iterator[tuple[Chain, Selector, bool, str | None]]:
        yield from ()
        lookups = [each for each in (nat.address, nat.port) if isinstance(each, Lookup)]
        selectors = [selector]
        for lookup in lookups:
            meant = meaning.of(lookup)
            if isinstance(meant, Drawn):
                for each in selectors:
                    self._note_moved(chain, rule, meant.pick, [each])
            elif isinstance(meant, Keyed):
                selectors = [met for each in selectors for met in self._met(each, meant)]
            else:
                # Clients that came before: not what balances.
                return
        for each in selectors:
            self._note(each, rule, name)

    def _marked(
        self, meaning: Meaning, chain: Chain, rule: Rule, value: Operand, selector: Selector, name: str | None
    ) -> Iterator[tuple[Chain, Selector, bool, str | None]]:
        yield from ()
        if isinstance(value, Lookup):
            meant = meaning.of(value)
            if not isinstance(meant, Drawn):
                return
            self._note_moved(chain, rule, meant.pick, [selector])
        elif isinstance(value, Pick):
            self._note_moved(chain, rule, value, [selector])
        self._note(selector, rule, name)

    def _note(self, selector: Selector, rule: Rule, name: str | None, *, served: bool = True) -> None:
        made = self.found.setdefault(selector, Found(name=name, served=False))
        made.rules.append(rule)
        made.served = made.served or served

    def _is_for(self, chain: Chain, nat: Nat) -> bool:
        """False for a statement of the other family, which a table of both may hold."""
        word = "ip" if self.family is Family.IPV4 else "ip6"
        if nat.family:
            return nat.family == word
        if chain.family != "inet" or nat.address is None or isinstance(nat.address, Pick):
            return True
        addresses = [nat.address]
        if isinstance(nat.address, Lookup):
            members = self._meaning(chain).elements(nat.address.members)
            addresses = [element.data for element in members if isinstance(element.data, tuple)]
        return not addresses or any(
            (":" in address[0]) == (word == "ip6") for address in addresses if isinstance(address, tuple)
        )

    def _balances(self, nat: Nat) -> bool:
        """True where a statement has several addresses to choose from."""
        if isinstance(nat.address, Lookup):
            return isinstance(nat.address.key, Pick)
        return isinstance(nat.address, tuple) and "-" in nat.address[0]

    def _matters(self, rule: Rule, number: int) -> bool:
        """True for a rule that could send connections elsewhere, were it understood."""
        acts = (Nat, SetMark) if self.marking else (Nat, Verdict, Vmap, SetMark, Unknown)
        rest = rule.statements[number:]
        if self.marking:
            return any(isinstance(s, SetMark) and s.value is not None for s in rest) and any(
                isinstance(s, (Match, SetMark)) for s in rule.statements
            )
        return any(isinstance(statement, acts) for statement in rest)

    # Where each kind goes

    def follow(self, selector: Selector) -> Followed:
        """All ways of a selector's connections; raises `Undecided`."""
        start = Place(0, self._entered(0), 0, None, None)
        followed = Followed(start, start, start)
        followed.start = self._advance(selector, start, followed)
        work: list[Place | End] = [followed.start]
        while work:
            place = work.pop()
            if isinstance(place, End) or place in followed.nodes:
                continue
            if len(followed.nodes) > _NODES:
                raise TooMuch
            node = followed.nodes[place] = self._part(selector, place, followed)
            node.rule = self._rule_at(selector, place)
            work += [after for _, _, after in reversed(node.cases)]
        followed.first, followed.partings = followed.start, dict(followed.nodes)
        _straighten(followed)
        return followed

    def _entered(self, base: int) -> Frames:
        return ((self._number(self._bases[base]), 0),) if base < len(self._bases) else ()

    def _over(self, place: Place, verdict: str) -> Place | End:
        """After a base chain gave its verdict: what the next chain does, or the end."""
        if verdict.startswith("drop"):
            return End("", "", verdict)
        following = place.base + 1
        if following < len(self._bases):
            return place._replace(base=following, frames=self._entered(following), statement=0)
        return self._outcome(place, verdict)

    def _outcome(self, place: Place, verdict: str) -> End:
        if self.marking and place.ct:
            return End("connmark", f"mark {place.ct:#x}", over=place.over)
        if self.marking and place.meta:
            return End("mark", f"mark {place.meta:#x}", over=place.over)
        return End("", "", verdict)

    def _advance(self, selector: Selector, place: Place, followed: Followed) -> Place | End:
        """Go on to the next place where a number is picked, or to the end."""
        followed.passed.clear()
        followed.trail()
        to = self._gone(selector, place, followed)
        followed.trails[place] = followed.trail()
        if isinstance(to, Place) or to.to:
            # What is left out of a leak leaks as well.
            followed.but |= followed.passed
        return to

    def _gone(self, selector: Selector, place: Place, followed: Followed) -> Place | End:
        while True:
            self._purse.spend()
            if not place.frames:
                after = self._over(place, _policy(self._bases[place.base]))
                if isinstance(after, End):
                    return after
                place = after
                continue
            number, index = place.frames[-1]
            chain = self._chains[number]
            rules = self._guards(chain).covering(selector)
            if index >= len(rules):
                place = place._replace(frames=place.frames[:-1], statement=0)
                continue
            what, to = self._rule(selector, chain, rules[index], place, followed)
            if what == "part" or isinstance(to, End):
                return to
            place = _next_rule(to) if what == "next" else to

    def _rule(self, selector: Selector, chain: Chain, rule: Rule, place: Place, followed: Followed) -> Step:
        meaning = self._meaning(chain)
        for number in range(place.statement, len(rule.statements)):
            statement = rule.statements[number]
            place = place._replace(statement=number)
            match statement:
                case Match() | Vmap():
                    try:
                        meant = meaning.of(statement)
                    except Strange:
                        return self._stuck(rule, place, followed)
                    if isinstance(meant, Drawn):
                        return Step("part", place)
                    if isinstance(meant, Learned):
                        self._remember(meaning, meant.name, followed)
                        return Step("next", place)
                    if isinstance(statement, Vmap):
                        element = self._element(meant, selector)
                        if element is None or not isinstance(element.data, Verdict):
                            return Step("next", place)
                        followed.looked[id(rule)] = _element_text(element)
                        return self._verdict(element.data, chain, rule, place, followed)
                    if not self._holds(meant, selector, place, rule, followed):
                        return Step("next", place)
                case Verdict(kind="continue") | Update():
                    continue
                case Verdict():
                    return self._verdict(statement, chain, rule, place, followed)
                case Nat() if not self._is_for(chain, statement):
                    followed.idle.update(pick.ident for pick in _idle(statement))
                    return Step("next", place)
                case Nat() if self.marking:
                    return Step("go", self._over(place, "translated"))
                case Nat():
                    return self._nat(meaning, selector, rule, statement, place, followed)
                case SetMark(value=Pick()):
                    return Step("part", place)
                case SetMark(value=Lookup() as value):
                    if _picks(value):
                        return Step("part", place)
                case SetMark(where=where, value=tuple() as value):
                    place = self._with_mark(place, where, value, rule, followed)
                case SetMark():
                    continue
                case Limit(text=text):
                    followed.passed.setdefault("limit", text)
                case Unknown():
                    return self._stuck(rule, place, followed)
        followed.use(rule)
        return Step("next", place)

    def _stuck(self, rule: Rule, place: Place, followed: Followed) -> Step:
        if id(rule) in self.strange:
            followed.strange.setdefault(id(rule), rule)
        return Step("next", place)

    def _remember(self, meaning: Meaning, name: str, followed: Followed) -> None:
        followed.keeps = True
        followed.kept = meaning.learned.get(name) or followed.kept

    def _element(self, meant: Meant, selector: Selector) -> Element | None:
        """What a look-up by fields has for all of a selector's connections; None for a part or nothing."""
        if not isinstance(meant, Keyed):
            return None
        if not all(_implied(selector, what, found) for what, found in meant.implied):
            return None
        for conditions, element in meant.covering(selector):
            self._purse.spend()
            if all(_implied(selector, what, found) for what, found in conditions):
                return element
        return None

    def _holds(self, meant: Meant, selector: Selector, place: Place, rule: Rule, followed: Followed) -> bool:
        """True where a condition holds for all of a selector's connections."""
        if isinstance(meant, Keyed):
            return self._element(meant, selector) is not None
        if not isinstance(meant, All):
            return False
        partly = []
        for what, found in meant.conditions:
            set_before = place.meta if what == "mark" else place.ct if what == "connmark" else None
            if set_before is not None or self._is_carried(what, found):
                value = set_before or 0
                if not any(low <= value <= high for low, high in found.spans or ()):
                    return False
                continue
            if what == "state" and not self.marking:
                if "new" in found.names and not found.but:
                    continue
                return False
            mine = selector.get(what) or select.everything(what, self.family)
            if mine.within(found):
                continue
            if mine.meet(found).empty:
                return False
            partly.append((what, found))
        if not partly:
            return True
        last = rule.statements[-1]
        if isinstance(last, Verdict) and last.kind in _ENDING:
            self._except(partly, rule, place.statement, followed)
        return False

    def _except(
        self, partly: list[tuple[str, select.Values]], rule: Rule, number: int, followed: Followed
    ) -> None:
        """Note that a part of the selected traffic ends here."""
        if any(isinstance(s, Match) and isinstance(s.key, Pick) for s in rule.statements):
            return
        if len(partly) == 1 and not any(isinstance(s, Match) for s in rule.statements[number + 1 :]):
            [(what, found)] = partly
            followed.passed[what] = found.rest(what, self.family).written(what, self.family)
        else:
            followed.passed["not"] = rule.text
        followed.use(rule)
        followed.spared.add(id(rule))

    def _verdict(self, verdict: Verdict, chain: Chain, rule: Rule, place: Place, followed: Followed) -> Step:
        followed.use(rule)
        if verdict.kind == "drop":
            return Step("go", End("", "", f"drop in chain {chain.name}"))
        if verdict.kind == "accept":
            return Step("go", self._over(place, f"accept in chain {chain.name}"))
        frames = place.frames
        if verdict.kind == "return":
            return Step("go", place._replace(frames=frames[:-1], statement=0))
        called = self._called(chain, verdict.target, rule) if verdict.target else None
        if called is None:
            return Step("next", place)
        outer = frames[:-1] if verdict.kind == "goto" else _next_rule(place).frames
        if len(outer) >= _JUMPS:
            raise Undecided(rule, "chain-loop", "more nested jumps than the kernel takes")
        return Step("go", place._replace(frames=(*outer, (self._number(called), 0)), statement=0))

    def _with_mark(
        self, place: Place, where: str, value: Sequence[str], rule: Rule, followed: Followed
    ) -> Place:
        try:
            mark = grammar.number(one(tuple(value)))
        except Strange as strange:
            raise Undecided(rule, "mark", f"{strange} is no number") from strange
        before = place.ct if where == "ct" else place.meta
        if self.marking:
            followed.use(rule)
            if before and before != mark:
                place = place._replace(over=rule.line)
        return place._replace(ct=mark) if where == "ct" else place._replace(meta=mark)

    def _nat(
        self, meaning: Meaning, selector: Selector, rule: Rule, nat: Nat, place: Place, followed: Followed
    ) -> Step:
        """The end of a connection that is translated, unless a number is picked for it."""
        if nat.kind == "masquerade":
            followed.use(rule)
            return Step("go", End("", "", "masquerade"))
        parts: list[Key | None] = []
        for operand in (nat.address, nat.port):
            if isinstance(operand, Pick):
                raise Undecided(
                    rule, "numgen", "a picked number used as a port is byte-swapped by the kernel"
                )
            if isinstance(operand, Lookup):
                try:
                    meant = meaning.of(operand)
                except Strange as strange:
                    raise Undecided(rule, "map", f"not understood: {strange}") from strange
                if isinstance(meant, Drawn):
                    return Step("part", place)
                if isinstance(meant, Learned):
                    self._remember(meaning, meant.name, followed)
                    return Step("next", place)
                element = self._element(meant, selector)
                if element is None or not isinstance(element.data, tuple):
                    return Step("next", place)
                parts.append(element.data)
            else:
                parts.append(operand)
        if self._range(nat, parts) is not None:
            return Step("part", place)
        followed.use(rule)
        return Step("go", self._endpoint(nat, parts, selector, rule, followed))

    def _range(self, nat: Nat, parts: Sequence[Key | None]) -> tuple[str, int, int] | None:
        """What the kernel chooses from by itself: what of, first and last; None where nothing is chosen."""
        address, port = _address_and_port(nat, parts)
        for what, text in (("dst", address), ("dport", port)):
            if text is not None and ("-" in text or (what == "dst" and "/" in text)):
                try:
                    span = select.values(what, [text], self.family)
                except Strange:
                    return None
                if span is None or not span.spans:
                    return None
                if what == "dport" and not nat.flags & {"random", "fully-random"}:
                    return None
                return (what, *span.spans[0])
        return None

    def _endpoint(
        self,
        nat: Nat,
        parts: Sequence[Key | None],
        selector: Selector,
        rule: Rule,
        followed: Followed,
    ) -> End:
        address, port = _address_and_port(nat, parts)
        try:
            if address is not None:
                found = select.values("dst", [address], self.family)
                if found is None or found.empty:
                    raise Undecided(rule, "family-mismatch", f"{address} is no address of {self.family}")
                if found.single is None:
                    raise Undecided(rule, "target", f"{address} is more than one address")
                address = found.written("dst", self.family)
            if port is not None:
                span = select.values("dport", [port], self.family)
                if span is None or not span.spans:
                    raise Strange(port)
                if span.single is None:
                    followed.notes["port-range-target", id(rule)] = rule, port
                port = str(span.spans[0][0])
        except Strange as strange:
            raise Undecided(rule, "target", f"{strange} is no address or port") from strange
        if address is None and port is None:
            mine = selector.get("dport")
            port = mine.written("dport", self.family) if mine else "any"
        return End(nat.kind, joined(address, port))

    def _part(self, selector: Selector, place: Place, followed: Followed) -> Node:
        """The ways that part where a number is picked."""
        chain = self._chains[place.frames[-1][0]]
        rule = self._rule_at(selector, place)
        statement = rule.statements[place.statement]
        meaning = self._meaning(chain)
        followed.used.setdefault(id(rule), rule)
        missed = _next_rule(place)
        match statement:
            case Match():
                drawn = meaning.of(statement)
                assert isinstance(drawn, Drawn)  # noqa: S101 (what made this place)
                followed.drawn[id(rule)] = rule, chain, drawn
                after = place._replace(statement=place.statement + 1)
                cases: list[tuple[int, int, Place | End]] = [(*span, after) for span in drawn.spans]
                return self._node(selector, place, drawn.pick, cases, missed, followed)
            case Vmap(key=Pick() as pick, members=members):
                cases = []
                for low, high, element in self._numbered(meaning, pick, members, rule, followed):
                    if isinstance(element.data, Verdict):
                        step = self._verdict(element.data, chain, rule, place, followed)
                        cases.append((low, high, missed if step.what == "next" else step.to))
                return self._node(selector, place, pick, cases, missed, followed)
            case SetMark(where=where, value=Lookup(key=Pick() as pick, members=members)):
                cases = []
                for low, high, element in self._numbered(meaning, pick, members, rule, followed):
                    after = place._replace(statement=place.statement + 1)
                    if isinstance(element.data, tuple):
                        after = self._with_mark(after, where, element.data, rule, followed)
                    cases.append((low, high, after))
                return self._node(selector, place, pick, cases, missed, followed)
            case SetMark(where=where, value=Pick() as pick):
                if pick.modulus > _WIDEST:
                    raise Undecided(rule, "mark", f"{pick.modulus} marks")
                after = place._replace(statement=place.statement + 1)
                cases = [
                    (n, n, self._with_mark(after, where, [str(n + pick.offset)], rule, followed))
                    for n in range(pick.modulus)
                ]
                return self._node(selector, place, pick, cases, missed, followed)
            case Nat():
                return self._nat_node(selector, place, rule, statement, meaning, missed, followed)
        raise Undecided(rule, "pick", "a number is picked in a way that is not known")

    def _rule_at(self, selector: Selector, place: Place) -> Rule:
        number, index = place.frames[-1]
        return self._guards(self._chains[number]).covering(selector)[index]

    def _nat_node(
        self,
        selector: Selector,
        place: Place,
        rule: Rule,
        nat: Nat,
        meaning: Meaning,
        missed: Place,
        followed: Followed,
    ) -> Node:
        picking = [each for each in (nat.address, nat.port) if isinstance(each, Lookup)]
        cases: list[tuple[int, int, Place | End]] = []
        if not picking:
            plain = [each if isinstance(each, tuple) else None for each in (nat.address, nat.port)]
            chosen = self._range(nat, plain)
            assert chosen is not None  # noqa: S101 (what made this place)
            what, first, last = chosen
            if last - first >= _WIDEST:
                raise Undecided(rule, "range", f"a choice of {last - first + 1}")
            code = "snat-pool" if nat.kind == "snat" else "dnat-range"
            if what == "dst":
                followed.notes[code, id(rule)] = rule, _address_and_port(nat, plain)[0] or ""
            for n in range(last - first + 1):
                chosen_one = select.Values(((first + n, first + n),), frozenset(), False, "")
                text = (chosen_one.written(what, self.family),)
                pair = [text, plain[1]] if what == "dst" else [plain[0], text]
                cases.append((n, n, self._endpoint(nat, pair, selector, rule, followed)))
            kind = "jhash" if what == "dst" else "random"
            pick = Pick(kind, len(cases), of="addresses", ident=-id(rule))
            return self._node(selector, place, pick, cases, missed, followed)
        if len(picking) > 1:
            raise Undecided(rule, "map", "address and port are picked apart from each other")
        lookup = picking[0]
        picked = lookup.key
        if not isinstance(picked, Pick):
            raise Undecided(rule, "map", "not understood")
        for low, high, element in self._numbered(meaning, picked, lookup.members, rule, followed):
            if not isinstance(element.data, tuple):
                continue
            parts = [
                element.data if each is lookup else each if isinstance(each, tuple) else None
                for each in (nat.address, nat.port)
            ]
            end = self._endpoint(nat, parts, selector, rule, followed)
            cases.append((low, high, end._replace(name=element.comment.rpartition("/")[2])))
        return self._node(selector, place, picked, cases, missed, followed)

    def _numbered(
        self, meaning: Meaning, pick: Pick, members: grammar.Members, rule: Rule, followed: Followed
    ) -> Iterator[tuple[int, int, Element]]:
        """The data of a map for each number that can be picked, counted from 0."""
        if isinstance(members, Ref):
            declared = meaning.declared(members)
            if declared is None:
                raise Undecided(rule, "map", f"map {members.name} is not in the text")
            yield from self._page(declared, pick)
            return
        outside = False
        for element in members:
            self._purse.spend()
            low, high = _number_span(element.key, pick, rule)
            if high < 0 or low >= pick.modulus:
                outside = True
                continue
            yield max(low, 0), min(high, pick.modulus - 1), element
        if outside:
            followed.notes["packet-out-of-range", id(rule)] = rule, str(pick.modulus)

    def _page(self, declared: Members, pick: Pick) -> Iterator[tuple[int, int, Element]]:
        """The part of a named map that a pick can reach: such maps are shared by many."""
        made = self._pages.get(id(declared))
        if made is None:
            exact: dict[int, Element] = {}
            wide: list[tuple[int, int, Element]] = []
            for element in declared.elements:
                low, high = _number_span(element.key, Pick("inc", 1 << 32), None)
                if low == high:
                    exact.setdefault(low, element)
                else:
                    wide.append((low, high, element))
            made = self._pages[id(declared)] = exact, wide
        exact, wide = made
        if pick.modulus <= len(exact):
            self._purse.spend(pick.modulus)
            for n in range(pick.modulus):
                if n + pick.offset in exact:
                    yield n, n, exact[n + pick.offset]
        else:
            self._purse.spend(len(exact))
            for n, element in exact.items():
                if 0 <= n - pick.offset < pick.modulus:
                    yield n - pick.offset, n - pick.offset, element
        for low, high, element in wide:
            low, high = max(low - pick.offset, 0), min(high - pick.offset, pick.modulus - 1)
            if low <= high:
                yield low, high, element

    def _node(
        self,
        selector: Selector,
        place: Place,
        pick: Pick,
        cases: list[tuple[int, int, Place | End]],
        missed: Place,
        followed: Followed,
    ) -> Node:
        """A parting, with what happens to the numbers that nothing is said about."""
        whole: list[tuple[int, int, Place | End]] = []
        begin = 0
        for low, high, after in sorted(cases, key=lambda case: case[0]):
            low = max(low, begin)
            if low > high:
                continue
            if begin < low:
                whole.append((begin, low - 1, missed))
            whole.append((low, high, after))
            begin = high + 1
        if begin < pick.modulus:
            whole.append((begin, pick.modulus - 1, missed))
        known: dict[Place, Place | End] = {}
        node = Node(pick=pick)
        hashing = pick.kind in {"jhash", "symhash"}
        narrowed = hashing and _known(place, pick) != _ALL
        for low, high, after in whole:
            if isinstance(after, Place):
                if hashing:
                    hashed = _hashed(place, pick, low, high)
                    if hashed is None:
                        continue
                    after = after._replace(hashes=hashed)
                if after not in known:
                    known[after] = self._advance(selector, after, followed)
                node.onward.append((low, high, after, known[after]))
                after = known[after]
            elif narrowed and _hashed(place, pick, low, high) is None:
                continue
            node.cases.append((low, high, after))
        return node

    # Names

    def _called(self, chain: Chain, target: str, rule: Rule) -> Chain | None:
        table = self._document.tables[chain.family, chain.table]
        called = table.chains.get(target)
        if called is None:
            self.undefined[id(rule)] = chain, rule, target
        return called

    def _number(self, chain: Chain) -> int:
        key = chain.family, chain.table, chain.name
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._chains)
            self._chains.append(chain)
        return number

    def _meaning(self, chain: Chain) -> Meaning:
        key = chain.family, chain.table
        made = self._meanings.get(key)
        if made is None:
            made = self._meanings[key] = Meaning(self._document.tables[key], self.family, self.name)
        return made

    def _guards(self, chain: Chain) -> _Guarded:
        number = self._number(chain)
        made = self._guarded.get(number)
        if made is None:
            made = self._guarded[number] = _Guarded(chain, self._meaning(chain))
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
        if isinstance(last, Verdict) and last.kind in _ENDING:
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


def _straighten(followed: Followed) -> None:
    """Take out the partings behind which all ways are one: a number is picked there that changes nothing."""
    beyond: dict[Place, Place | End] = {}
    for place in reversed(_order(followed)):
        node = followed.nodes[place]
        node.cases = [(low, high, _beyond(beyond, after)) for low, high, after in node.cases]
        [only, *others] = {after for _, _, after in node.cases}
        if not others:
            beyond[place] = only
    followed.start = _beyond(beyond, followed.start)
    followed.nodes = {place: node for place, node in followed.nodes.items() if place not in beyond}


def _beyond(beyond: dict[Place, Place | End], after: Place | End) -> Place | End:
    return beyond.get(after, after) if isinstance(after, Place) else after


def shares(followed: Followed) -> dict[End, Fraction]:
    """The part of the connections that comes to each end, each pick taken for itself."""
    return {place: share for place, share in _weighed(followed).items() if isinstance(place, End)}


def weights(followed: Followed) -> dict[int, tuple[Fraction, Fraction]]:
    """By the identity of a rule: the part of the connections that comes to it, and the part that it takes."""
    came: dict[int, Fraction] = dict.fromkeys(followed.trails[followed.begin], _ALL[1])
    left: dict[int, Fraction] = {}
    at: dict[Place | End, Fraction] = {followed.first: _ALL[1]}
    for place in _in_order(followed.first, {place: _next(node) for place, node in followed.partings.items()}):
        node, weight, missed = followed.partings[place], at[place], _next_rule(place)
        rule = id(node.rule)
        came[rule] = came.get(rule, Fraction(0)) + weight
        known = {onward: to for _, _, onward, to in node.onward}
        for part, onward in _parts([(low, high, go) for low, high, go, _ in node.onward], node.pick, place):
            share = part if weight == 1 else weight * part
            # Where a rule goes on behind its pick, it is no other one.
            same = onward.frames == place.frames and onward.statement > 0
            for number in followed.trails[onward]:
                if not (same and number == rule):
                    came[number] = came.get(number, Fraction(0)) + share
            if onward.frames == missed.frames and not onward.statement:
                left[rule] = left.get(rule, Fraction(0)) + share
            at[known[onward]] = at.get(known[onward], Fraction(0)) + share
    left |= {number: share for number, share in came.items() if number in followed.spared}
    return {number: (share, share - left.get(number, 0)) for number, share in came.items()}


def _next(node: Node) -> list[Place]:
    return [to for _, _, _, to in node.onward if isinstance(to, Place)]


def _weighed(followed: Followed) -> Mapping[Place | End, Fraction]:
    if not followed.weighed:
        met: dict[Place | End, Fraction] = {followed.start: _ALL[1]}
        for place in _order(followed):
            weight = met[place]
            for part, after in _parts(followed.nodes[place].cases, followed.nodes[place].pick, place):
                # Most connections come to one picking rule, all of them: fractions cost.
                share = part if weight == 1 else weight * part
                met[after] = met[after] + share if after in met else share
        followed.weighed = met
    return followed.weighed


def _parts(cases: Sequence[tuple[int, int, T]], pick: Pick | None, place: Place) -> list[tuple[Fraction, T]]:
    """What part of the connections at a parting goes where, in the order of the numbers."""
    if pick is None:
        return []
    low, high = _known(place, pick)
    if (low, high) == _ALL:
        # Counted in whole numbers: a table of a hash may have 65,521.
        numbers: dict[T, int] = {}
        for first, last, after in cases:
            numbers[after] = numbers.get(after, 0) + last - first + 1
        return [(_fraction(count, pick.modulus), after) for after, count in numbers.items()]
    counted: dict[T, Fraction] = {}
    for first, last, after in cases:
        met = min(high, Fraction(last + 1, pick.modulus)) - max(low, Fraction(first, pick.modulus))
        counted[after] = counted.get(after, Fraction(0)) + met / (high - low)
    return [(part, after) for after, part in counted.items()]


@lru_cache(maxsize=4096)
def _fraction(count: int, of: int) -> Fraction:
    return Fraction(count, of)


def _order(followed: Followed) -> list[Place]:
    ways = {
        place: [after for _, _, after in node.cases if isinstance(after, Place)]
        for place, node in followed.nodes.items()
    }
    return _in_order(followed.start, ways)


def _in_order(start: Place | End, ways: Mapping[Place, Sequence[Place]]) -> list[Place]:
    """The partings, each before those that it leads to."""
    if isinstance(start, End):
        return []
    done: set[Place] = set()
    order: list[Place] = []
    work: list[tuple[Place, bool]] = [(start, False)]
    while work:
        place, left = work.pop()
        if left:
            order.append(place)
            continue
        if place in done:
            continue
        done.add(place)
        work.append((place, True))
        work += [(after, False) for after in ways[place]]
    order.reverse()
    return order


def sequence(followed: Followed, limit: int) -> list[End] | None:
    """Where one connection after the other goes, until all counters are where they were at first.

    None where that takes more than `limit` connections.
    """
    counters: dict[int, int] = {}
    made: list[End] = []
    away = 0
    while len(made) < limit:
        place = followed.start
        while isinstance(place, Place):
            node = followed.nodes[place]
            pick = node.pick
            if pick is None:
                return None
            value = counters.get(pick.ident, 0)
            following = (value + 1) % pick.modulus
            away += (value == 0) - (following == 0) if pick.modulus > 1 else 0
            counters[pick.ident] = following
            place = _case(node, value)
        made.append(place)
        if not away:
            return made
    return None


def _case(node: Node, value: int) -> Place | End:
    cases = node.cases
    low, high = 0, len(cases) - 1
    while low < high:
        middle = (low + high) // 2
        if cases[middle][1] < value:
            low = middle + 1
        else:
            high = middle
    return cases[low][2]


def hash_key(pick: Pick) -> object:
    """What makes two hashes the same number for the same connection."""
    if pick.kind == "symhash":
        return "symhash"
    return (pick.of, pick.seed) if pick.seed is not None else pick.ident


def _known(place: Place, pick: Pick) -> tuple[Fraction, Fraction]:
    key = hash_key(pick)
    return next(((low, high) for known, low, high in place.hashes if known == key), _ALL)


def _hashed(
    place: Place, pick: Pick, low: int, high: int
) -> tuple[tuple[object, Fraction, Fraction], ...] | None:
    """What is known of a connection's hashes after one lay between two numbers; None where it cannot."""
    key = hash_key(pick)
    first, last = _known(place, pick)
    first, last = max(first, Fraction(low, pick.modulus)), min(last, Fraction(high + 1, pick.modulus))
    if first >= last:
        return None
    return (*(each for each in place.hashes if each[0] != key), (key, first, last))


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
    if isinstance(value, Pick) and value.modulus <= _WIDEST:
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


def _next_rule(place: Place) -> Place:
    number, index = place.frames[-1]
    return place._replace(frames=(*place.frames[:-1], (number, index + 1)), statement=0)


def _element_text(element: Element) -> str:
    """An element of a map of verdicts, as it is written."""
    verdict = element.data
    target = f" {verdict.target}" if isinstance(verdict, Verdict) and verdict.target else ""
    return f"{' . '.join(element.key)} : {verdict.kind if isinstance(verdict, Verdict) else ''}{target}"


def _is_new(statement: grammar.Statement) -> bool:
    return isinstance(statement, Match) and statement.key == grammar.Field("ct state")


def _picks(lookup: Lookup) -> bool:
    return isinstance(lookup.key, Pick)


def _idle(nat: Nat) -> Iterator[Pick]:
    for operand in (nat.address, nat.port):
        if isinstance(operand, Lookup) and isinstance(operand.key, Pick):
            yield operand.key


def _number_span(key: tuple[str, ...], pick: Pick, rule: Rule | None) -> tuple[int, int]:
    if len(key) == 1:
        if key[0] == "*":
            return 0, pick.modulus - 1
        first, dash, last = key[0].partition("-")
        try:
            low = grammar.number(first)
            return low - pick.offset, (grammar.number(last) if dash else low) - pick.offset
        except Strange:
            pass
    if rule is None:
        return -1, -1
    raise Undecided(rule, "map", f"{' . '.join(key)} is no number")


def _address_and_port(nat: Nat, parts: Sequence[Key | None]) -> tuple[str | None, str | None]:
    address, port = parts
    if nat.kind == "redirect" and address is not None and port is None:
        address, port = None, address
    if address is not None and len(address) == 2 and port is None:
        return address[0], address[1]
    return address[0] if address else None, port[-1] if port else None


def _implied(selector: Selector, what: str, found: select.Values) -> bool:
    mine = selector.get(what)
    return mine is not None and mine.within(found)


def _is_empty(chain: Chain) -> bool:
    """True for a chain in which no way leads on."""
    return not any(
        isinstance(s, (Nat, Vmap, Unknown)) or (isinstance(s, Verdict) and s.kind in {"jump", "goto"})
        for rule in chain.rules
        for s in rule.statements
    )


def _policy(chain: Chain) -> str:
    return (
        f"drop by policy of chain {chain.name}"
        if chain.policy == "drop"
        else f"policy accept of chain {chain.name}"
    )
