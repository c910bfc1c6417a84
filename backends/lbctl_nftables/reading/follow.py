"""Follows the connections of a selector through the chains of a hook, in the order of their priorities.

As far as a number is picked: there the way parts.

A rule that selects only a part of a selector's traffic belongs to a narrower selector, which is a service of
its own. Where it ends the way of that part without an endpoint, the rest is what the selector stands for.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from lbctl_nftables.reading import grammar, select
from lbctl_nftables.reading.grammar import (
    ANYTHING,
    Computed,
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
    idle_picks,
)
from lbctl_nftables.reading.graph import (
    ALL,
    UNTOLD,
    End,
    Followed,
    Node,
    Place,
    known_hash,
    narrowed_hash,
    next_rule,
    straighten,
)
from lbctl_nftables.reading.hook import ENDING, MARK, WIDEST, TooMuch
from lbctl_nftables.reading.meaning import All, Drawn, Keyed, Learned, Meaning, one
from lbctl_nftables.reading.select import Selector, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_nftables.reading.document import Chain, Members, Rule
    from lbctl_nftables.reading.grammar import Element, Key, Operand
    from lbctl_nftables.reading.graph import Frames
    from lbctl_nftables.reading.hook import Hook
    from lbctl_nftables.reading.meaning import Meant
    from lbctl_nftables.reading.select import Values

#: The kernel's own limit of nested jumps.
_JUMPS = 16
_NODES = 20_000
#: Steps that each way of a parting takes.
_PARTING = 16


class Undecided(Exception):
    """What happens to a selector's connections cannot be said: why, and at which rule."""

    def __init__(self, rule: Rule, what: str, reason: str) -> None:
        super().__init__(reason)
        self.rule, self.what, self.reason = rule, what, reason


class Step(NamedTuple):
    """What a rule does: it lets the `next` one follow, stops where ways `part`, or sends on (`go`)."""

    what: str
    to: Place | End


def follow(hook: Hook, selector: Selector) -> Followed:
    """All ways of a selector's connections; raises `Undecided`."""
    return _Ways(hook, selector).all()


def follow_again(hook: Hook, selector: Selector, mark: int | None) -> Followed:
    """All ways of such connections' later packets, with the mark that was kept; raises `Undecided`."""
    return _Ways(hook, selector, again=True, mark=mark).all()


class _Ways:
    """Those of one selector's connections at one hook."""

    def __init__(
        self, hook: Hook, selector: Selector, *, again: bool = False, mark: int | None = None
    ) -> None:
        self._hook, self._selector, self._again = hook, selector, again
        #: True where the rule in question is for some of the connections, whichever these are.
        self._partial = False
        #: By base chain that does not translate, where it accepts a part: that goes on in the next one, and
        #: what the rest of the chain does is for the others only.
        self._let_on: dict[int, Rule] = {}
        #: The rules that set marks to what nobody can say.
        self._telling_nothing: list[Rule] = []
        #: Those of each chain that was met that select these connections.
        self._rules: dict[int, Sequence[Rule]] = {}
        start = Place(0, self._entered(0), 0, None, mark)
        self._followed = Followed(start, start, start)

    def all(self) -> Followed:
        """Where all of them go."""
        followed = self._followed
        followed.start = self._advance(followed.begin)
        work: list[Place | End] = [followed.start]
        while work:
            place = work.pop()
            if isinstance(place, End) or place in followed.nodes:
                continue
            if len(followed.nodes) > _NODES:
                raise TooMuch
            node = followed.nodes[place] = self._part(place)
            node.rule = self._rule_at(place)
            work += [after for _, _, after in reversed(node.cases)]
        followed.first, followed.partings = followed.start, dict(followed.nodes)
        straighten(followed)
        return followed

    def _entered(self, base: int) -> Frames:
        bases = self._hook.bases
        if base >= len(bases) or (self._again and bases[base].kind == "nat"):
            # Chains of NAT see first packets alone.
            return ()
        return ((self._hook.number(bases[base]), 0),)

    def _over(self, place: Place, verdict: str) -> Place | End:
        """After a base chain gave its verdict: what the next chain does, or the end."""
        if verdict.startswith("drop"):
            if place.base in self._let_on:
                reason = f"what it accepts goes on to the next chain, and the rest does not ({verdict})"
                raise Undecided(self._let_on[place.base], "accept", reason)
            return End("", "", verdict)
        following = place.base + 1
        if following < len(self._hook.bases):
            return place._replace(base=following, frames=self._entered(following), statement=0)
        return self._outcome(place, verdict)

    def _outcome(self, place: Place, verdict: str) -> End:
        self._followed.keep.add(place.ct)
        # Of later packets only the numbers that they pick matter.
        if self._hook.marking and not self._again:
            for action, mark in (("mark", place.meta), ("connmark", place.ct)):
                if mark == UNTOLD:
                    rule = self._telling_nothing[-1]
                    raise Undecided(rule, "mark", "what it sets the mark to depends on more than the rules")
                if mark:
                    return End(action, f"mark {mark:#x}", over=place.over)
        return End("", "", verdict)

    def _advance(self, place: Place) -> Place | End:
        """Go on to the next place where a number is picked, or to the end."""
        # A way that parts costs as much as several rules on one way.
        self._hook.purse.spend(_PARTING)
        self._followed.passed.clear()
        self._followed.begin_trail()
        to = self._gone(place)
        self._followed.end_trail(place)
        if isinstance(to, Place) or to.to:
            # What is left out of a leak leaks as well.
            self._followed.but |= self._followed.passed
        return to

    def _gone(self, place: Place) -> Place | End:
        while True:
            self._hook.purse.spend()
            if not place.frames:
                after = self._over(place, _policy(self._hook.bases[place.base]))
                if isinstance(after, End):
                    return after
                place = after
                continue
            number, index = place.frames[-1]
            chain, rules = self._hook.chains[number], self._rules_of(number)
            if index >= len(rules):
                place = place._replace(frames=place.frames[:-1], statement=0)
                continue
            what, to = self._rule(chain, rules[index], place)
            if what == "part" or isinstance(to, End):
                return to
            place = next_rule(to) if what == "next" else to

    def _use(self, rule: Rule, place: Place) -> None:
        """A rule takes part."""
        self._followed.use(rule)
        self._followed.bases.setdefault(id(rule), place.base)

    def _rule(self, chain: Chain, rule: Rule, place: Place) -> Step:
        meaning = self._hook.meaning(chain)
        self._partial = False
        for number in range(place.statement, len(rule.statements)):
            statement = rule.statements[number]
            if number != place.statement:
                place = place._replace(statement=number)
            match statement:
                case Match() | Vmap():
                    try:
                        meant = meaning.of(statement)
                    except Strange:
                        return self._stuck(rule, place)
                    if isinstance(meant, Drawn):
                        return Step("part", place)
                    if isinstance(meant, Learned):
                        self._remember(meaning, meant.name)
                        return Step("next", place)
                    if isinstance(statement, Vmap):
                        element = self._element(meant, place, rule)
                        if element is None or not isinstance(element.data, Verdict):
                            return Step("next", self._passed_by(chain, rule, place))
                        self._followed.looked[id(rule)] = _element_text(element)
                        return self._verdict(element.data, chain, rule, place)
                    if not self._holds(meant, place, rule):
                        return Step("next", self._passed_by(chain, rule, place))
                case Verdict(kind="continue") | Update():
                    continue
                case Verdict():
                    return self._verdict(statement, chain, rule, place)
                case Nat() if not self._hook.is_for(chain, statement):
                    self._followed.idle.update(pick.ident for pick in idle_picks(statement))
                    return Step("next", place)
                case Nat() if self._hook.marking:
                    return Step("go", self._over(place, "translated"))
                case Nat():
                    return self._nat(meaning, rule, statement, place)
                case SetMark(value=Pick()):
                    return Step("part", place)
                case SetMark(value=Lookup() as value) if _picks(value):
                    return Step("part", place)
                case SetMark(where=where, value=value):
                    marked = self._marked(meaning, rule, where, value, place)
                    if marked is None:
                        return Step("next", place)
                    place = marked
                case Limit(text=text):
                    self._followed.passed.setdefault("limit", text)
                case Unknown():
                    return self._stuck(rule, place)
        self._use(rule, place)
        return Step("next", place)

    def _passed_by(self, chain: Chain, rule: Rule, place: Place) -> Place:
        """Behind a rule that is not for all of the connections: the marks of some may be what it sets."""
        if self._partial and not self._hook.marking:
            for where, name in MARK.items():
                if self._hook.sets(name) and name in self._hook.may_set(chain, rule):
                    place = _with_mark(place, where, UNTOLD)
        return place

    def _stuck(self, rule: Rule, place: Place) -> Step:
        if id(rule) in self._hook.strange:
            self._followed.strange.setdefault(id(rule), rule)
        return Step("next", place)

    def _remember(self, meaning: Meaning, name: str) -> None:
        self._followed.keeps = True
        self._followed.kept = meaning.learned.get(name) or self._followed.kept

    def _known(self, what: str, place: Place, rule: Rule, asked: Values | None = None) -> Values | None:
        """What is known of a field; None where it may have any value. `asked` is what a rule asks of it."""
        if what == "state" and (self._again or not self._hook.marking):
            # NAT sees first packets alone.
            return select.named("established" if self._again else "new")
        mine, bits = self._selector.get(what), select.bits_of(what)
        if bits is None:
            return mine
        name, mask = bits
        mark = place.ct if name == "connmark" else place.meta
        if mark is None and (mine or (asked is not None and not self._hook.is_carried(what, asked))):
            return mine
        if mark is None and name in self._hook.marked and not self._hook.sets(name):
            return None
        mark = self._mark_of(name, place)
        if mark == UNTOLD:
            raise Undecided(rule, what, "what it was set to before depends on more than the rules here")
        return select.exactly(mark & mask)

    def _element(self, meant: Meant, place: Place, rule: Rule) -> Element | None:
        """What a look-up by fields has for all the connections; None for a part or nothing."""
        if not isinstance(meant, Keyed):
            return None
        if not all(self._implied(what, found, place, rule) for what, found in meant.implied):
            return None
        known = partial(self._known, place=place, rule=rule)
        for conditions, element in meant.covering(known):
            self._hook.purse.spend()
            if all(self._implied(what, found, place, rule) for what, found in conditions):
                return element
        open_ = next((name for name in meant.names if known(name) is None), None)
        if any(map(select.bits_of, meant.names)):
            self._followed.miss(rule)
        if open_ is not None:
            self._partial = True
            self._followed.partly.setdefault(id(rule), (rule, open_))
        return None

    def _implied(self, what: str, found: Values, place: Place, rule: Rule) -> bool:
        mine = self._known(what, place, rule)
        return mine is not None and mine.within(found)

    def _holds(self, meant: Meant, place: Place, rule: Rule) -> bool:
        """True where a condition holds for all the connections."""
        if isinstance(meant, Keyed):
            return self._element(meant, place, rule) is not None
        if not isinstance(meant, All):
            return False
        partly = []
        for what, found in meant.conditions:
            mine = self._known(what, place, rule, found) or select.everything(what, self._hook.family)
            if mine.within(found):
                continue
            if mine.meet(found).empty:
                if select.bits_of(what):
                    self._followed.miss(rule)
                return False
            partly.append((what, found))
        if not partly:
            return True
        last = rule.statements[-1]
        if isinstance(last, Verdict) and last.kind in ENDING:
            if (
                last.kind == "accept"
                and self._hook.bases[place.base].kind != "nat"
                and not self._hook.marking
            ):
                self._let_on.setdefault(place.base, rule)
            else:
                self._except(partly, rule, place)
            return False
        # A mark that no rule here sets is nobody's, as far as the rules say.
        marks = [bits[0] for what, _ in partly if (bits := select.bits_of(what))]
        self._partial = all(name in self._hook.marked for name in marks)
        if not isinstance(last, SetMark):
            self._followed.partly.setdefault(id(rule), (rule, partly[0][0]))
        return False

    def _except(self, partly: list[tuple[str, Values]], rule: Rule, place: Place) -> None:
        """Note that a part of the selected traffic ends here."""
        if any(isinstance(s, Match) and isinstance(s.key, Pick) for s in rule.statements):
            return
        behind = rule.statements[place.statement + 1 :]
        if len(partly) == 1 and not any(isinstance(s, Match) for s in behind):
            [(what, found)] = partly
            self._followed.passed[what] = found.rest(what, self._hook.family).written(what, self._hook.family)
        else:
            self._followed.passed["not"] = rule.text
        self._use(rule, place)
        self._followed.spared.add(id(rule))

    def _verdict(self, verdict: Verdict, chain: Chain, rule: Rule, place: Place) -> Step:
        self._use(rule, place)
        if verdict.kind in {"drop", "accept"}:
            return Step("go", self._over(place, f"{verdict.kind} in chain {chain.name}"))
        frames = place.frames
        if verdict.kind == "return":
            return Step("go", place._replace(frames=frames[:-1], statement=0))
        called = self._hook.called_by(chain, verdict.target, rule) if verdict.target else None
        if called is None:
            return Step("next", place)
        outer = frames[:-1] if verdict.kind == "goto" else next_rule(place).frames
        if len(outer) >= _JUMPS:
            raise Undecided(rule, "chain-loop", "more nested jumps than the kernel takes")
        return Step("go", place._replace(frames=(*outer, (self._hook.number(called), 0)), statement=0))

    def _marked(
        self, meaning: Meaning, rule: Rule, where: str, value: Operand | Computed | None, place: Place
    ) -> Place | None:
        """Behind a statement that sets a mark; None where a look-up ends the rule, since it has nothing."""
        if place.base in self._let_on:
            return self._untold(place, where, rule)
        match value:
            case Computed(of=of):
                before = self._mark_of(MARK[of], place)
                if before == UNTOLD:
                    return self._untold(place, where, rule)
                if self._hook.marking:
                    self._use(rule, place)
                return _with_mark(place, where, value.value(before))
            case Lookup():
                return self._looked_up(meaning, rule, where, value, place)
            case tuple():
                return self._with_number(place, where, value, rule)
            case _:
                return self._untold(place, where, rule)

    def _looked_up(
        self, meaning: Meaning, rule: Rule, where: str, lookup: Lookup, place: Place
    ) -> Place | None:
        try:
            meant = meaning.of(lookup)
        except Strange as strange:
            raise Undecided(rule, "map", f"not understood: {strange}") from strange
        element = self._element(meant, place, rule)
        if element is not None and isinstance(element.data, tuple):
            return self._with_number(place, where, element.data, rule)
        known = partial(self._known, place=place, rule=rule)
        possible = not isinstance(meant, Keyed) or any(
            all((mine := known(what)) is None or not mine.meet(found).empty for what, found in conditions)
            for conditions, _ in meant.of(known)
        )
        return self._untold(place, where, rule) if possible else None

    def _mark_of(self, name: str, place: Place) -> int:
        """The mark that a place comes with; `UNTOLD` where nobody can say."""
        mark = place.ct if name == "connmark" else place.meta
        if mark is not None:
            return mark
        asked = self._selector.get(name)
        if asked is not None and isinstance(asked.single, int):
            return asked.single
        bits = (select.bits_of(what) for what, _ in self._selector.fields)
        return UNTOLD if name in self._hook.marked or any(each and each[0] == name for each in bits) else 0

    def _untold(self, place: Place, where: str, rule: Rule) -> Place:
        self._telling_nothing.append(rule)
        return _with_mark(place, where, UNTOLD)

    def _with_number(self, place: Place, where: str, value: Sequence[str], rule: Rule) -> Place:
        try:
            mark = grammar.number(one(tuple(value)))
        except Strange as strange:
            raise Undecided(rule, "mark", f"{strange} is no number") from strange
        before = place.ct if where == "ct" else place.meta
        if self._hook.marking:
            self._use(rule, place)
            if before and before != mark:
                place = place._replace(over=rule.line)
        return _with_mark(place, where, mark)

    def _nat(self, meaning: Meaning, rule: Rule, nat: Nat, place: Place) -> Step:
        """The end of a connection that is translated, unless a number is picked for it."""
        if nat.kind == "masquerade":
            if self._hook.name != "postrouting":
                raise Undecided(
                    rule, "masquerade", "the kernel takes it behind the routing only, in postrouting"
                )
            self._use(rule, place)
            return Step("go", End("snat", "masquerade"))
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
                    self._remember(meaning, meant.name)
                    return Step("next", place)
                element = self._element(meant, place, rule)
                if element is None or not isinstance(element.data, tuple):
                    return Step("next", place)
                parts.append(element.data)
            else:
                parts.append(operand)
        if self._range(nat, parts) is not None:
            return Step("part", place)
        self._use(rule, place)
        return Step("go", self._endpoint(nat, parts, rule, place))

    def _range(self, nat: Nat, parts: Sequence[Key | None]) -> tuple[str, int, int] | None:
        """What the kernel chooses from by itself: what of, first and last; None where nothing is chosen."""
        address, port = _address_and_port(nat, parts)
        for what, text in (("dst", address), ("dport", port)):
            if text is not None and ("-" in text or (what == "dst" and "/" in text)):
                try:
                    span = select.values(what, [text], self._hook.family)
                except Strange:
                    return None
                if span is None or not span.spans:
                    return None
                if what == "dport" and not nat.flags & {"random", "fully-random"}:
                    return None
                return (what, *span.spans[0])
        return None

    def _endpoint(self, nat: Nat, parts: Sequence[Key | None], rule: Rule, place: Place) -> End:
        address, port = _address_and_port(nat, parts)
        try:
            if address is not None:
                found = select.values("dst", [address], self._hook.family)
                if found is None or found.empty:
                    reason = f"{address} is no address of {self._hook.family}"
                    raise Undecided(rule, "family-mismatch", reason)
                if found.single is None:
                    raise Undecided(rule, "target", f"{address} is more than one address")
                address = found.written("dst", self._hook.family)
            if port is not None:
                span = select.values("dport", [port], self._hook.family)
                if span is None or not span.spans:
                    raise Strange(port)
                if span.single is None:
                    self._followed.notes["port-range-target", id(rule)] = rule, port
                port = str(span.spans[0][0])
        except Strange as strange:
            raise Undecided(rule, "target", f"{strange} is no address or port") from strange
        if address is None and port is None:
            mine = self._selector.get("dport")
            port = mine.written("dport", self._hook.family) if mine else "any"
        end = End(nat.kind, joined(address, port))
        self._followed.keep.add(place.ct)
        self._followed.left.setdefault((end.action, end.to), set()).add((place.meta, place.ct, place.base))
        return end

    def _part(self, place: Place) -> Node:
        """The ways that part where a number is picked."""
        chain = self._hook.chains[place.frames[-1][0]]
        rule = self._rule_at(place)
        statement = rule.statements[place.statement]
        meaning = self._hook.meaning(chain)
        self._followed.used.setdefault(id(rule), rule)
        self._followed.bases.setdefault(id(rule), place.base)
        missed = next_rule(place)
        match statement:
            case Match():
                drawn = meaning.of(statement)
                assert isinstance(drawn, Drawn)  # noqa: S101 (what made this place)
                self._followed.drawn[id(rule)] = rule, chain, drawn
                after = place._replace(statement=place.statement + 1)
                cases: list[tuple[int, int, Place | End]] = [(*span, after) for span in drawn.spans]
                return self._node(place, drawn.pick, cases, missed)
            case Vmap(key=Pick() as pick, members=members):
                cases = []
                for low, high, element in self._numbered(meaning, pick, members, rule):
                    if isinstance(element.data, Verdict):
                        step = self._verdict(element.data, chain, rule, place)
                        cases.append((low, high, missed if step.what == "next" else step.to))
                return self._node(place, pick, cases, missed)
            case SetMark(where=where, value=Lookup(key=Pick() as pick, members=members)):
                cases = []
                for low, high, element in self._numbered(meaning, pick, members, rule):
                    after = place._replace(statement=place.statement + 1)
                    if isinstance(element.data, tuple):
                        after = self._with_number(after, where, element.data, rule)
                    cases.append((low, high, after))
                return self._node(place, pick, cases, missed)
            case SetMark(where=where, value=Pick() as pick):
                if pick.modulus > WIDEST:
                    raise Undecided(rule, "mark", f"{pick.modulus} marks")
                after = place._replace(statement=place.statement + 1)
                cases = [
                    (n, n, self._with_number(after, where, [str(n + pick.offset)], rule))
                    for n in range(pick.modulus)
                ]
                return self._node(place, pick, cases, missed)
            case Nat():
                return self._nat_node(place, rule, statement, meaning, missed)
        raise Undecided(rule, "pick", "a number is picked in a way that is not known")

    def _rule_at(self, place: Place) -> Rule:
        number, index = place.frames[-1]
        return self._rules_of(number)[index]

    def _rules_of(self, number: int) -> Sequence[Rule]:
        found = self._rules.get(number)
        if found is None:
            guards = self._hook.guards(self._hook.chains[number])
            found = self._rules[number] = guards.covering(self._selector)
        return found

    def _nat_node(self, place: Place, rule: Rule, nat: Nat, meaning: Meaning, missed: Place) -> Node:
        picking = [each for each in (nat.address, nat.port) if isinstance(each, Lookup)]
        cases: list[tuple[int, int, Place | End]] = []
        if not picking:
            plain = [each if isinstance(each, tuple) else None for each in (nat.address, nat.port)]
            chosen = self._range(nat, plain)
            assert chosen is not None  # noqa: S101 (what made this place)
            what, first, last = chosen
            if last - first >= WIDEST:
                raise Undecided(rule, "range", f"a choice of {last - first + 1}")
            code = "snat-pool" if nat.kind == "snat" else "dnat-range"
            if what == "dst":
                self._followed.notes[code, id(rule)] = rule, _address_and_port(nat, plain)[0] or ""
            for n in range(last - first + 1):
                chosen_one = select.Values(((first + n, first + n),), frozenset(), False, "")
                text = (chosen_one.written(what, self._hook.family),)
                pair = [text, plain[1]] if what == "dst" else [plain[0], text]
                cases.append((n, n, self._endpoint(nat, pair, rule, place)))
            kind = "jhash" if what == "dst" else "random"
            pick = Pick(kind, len(cases), of="addresses", ident=-id(rule))
            return self._node(place, pick, cases, missed)
        if len(picking) > 1:
            raise Undecided(rule, "map", "address and port are picked apart from each other")
        lookup = picking[0]
        picked = lookup.key
        if not isinstance(picked, Pick):
            raise Undecided(rule, "map", "not understood")
        for low, high, element in self._numbered(meaning, picked, lookup.members, rule):
            if not isinstance(element.data, tuple):
                continue
            parts = [
                element.data if each is lookup else each if isinstance(each, tuple) else None
                for each in (nat.address, nat.port)
            ]
            end = self._endpoint(nat, parts, rule, place)
            cases.append((low, high, end._replace(name=element.comment.rpartition("/")[2])))
        return self._node(place, picked, cases, missed)

    def _numbered(
        self, meaning: Meaning, pick: Pick, members: grammar.Members, rule: Rule
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
            self._hook.purse.spend()
            low, high = _number_span(element.key, pick, rule)
            if high < 0 or low >= pick.modulus:
                outside = True
                continue
            yield max(low, 0), min(high, pick.modulus - 1), element
        if outside:
            self._followed.notes["packet-out-of-range", id(rule)] = rule, str(pick.modulus)

    def _page(self, declared: Members, pick: Pick) -> Iterator[tuple[int, int, Element]]:
        """The part of a named map that a pick can reach: such maps are shared by many."""
        made = self._hook.pages.get(id(declared))
        if made is None:
            exact: dict[int, Element] = {}
            wide: list[tuple[int, int, Element]] = []
            for element in declared.elements:
                low, high = _number_span(element.key, Pick("inc", 1 << 32), None)
                if low == high:
                    exact.setdefault(low, element)
                else:
                    wide.append((low, high, element))
            made = self._hook.pages[id(declared)] = exact, wide
        exact, wide = made
        if pick.modulus <= len(exact):
            self._hook.purse.spend(pick.modulus)
            for n in range(pick.modulus):
                if n + pick.offset in exact:
                    yield n, n, exact[n + pick.offset]
        else:
            self._hook.purse.spend(len(exact))
            for n, element in exact.items():
                if 0 <= n - pick.offset < pick.modulus:
                    yield n - pick.offset, n - pick.offset, element
        for low, high, element in wide:
            low, high = max(low - pick.offset, 0), min(high - pick.offset, pick.modulus - 1)
            if low <= high:
                yield low, high, element

    def _node(
        self,
        place: Place,
        pick: Pick,
        cases: list[tuple[int, int, Place | End]],
        missed: Place,
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
        narrowed = hashing and known_hash(place, pick) != ALL
        for low, high, after in whole:
            if isinstance(after, Place):
                if hashing:
                    hashed = narrowed_hash(place, pick, low, high)
                    if hashed is None:
                        continue
                    after = after._replace(hashes=hashed)
                if after not in known:
                    known[after] = self._advance(after)
                node.onward.append((low, high, after, known[after]))
                after = known[after]
            elif narrowed and narrowed_hash(place, pick, low, high) is None:
                continue
            node.cases.append((low, high, after))
        return node


def _element_text(element: Element) -> str:
    """An element of a map of verdicts, as it is written."""
    verdict = element.data
    target = f" {verdict.target}" if isinstance(verdict, Verdict) and verdict.target else ""
    return f"{' . '.join(element.key)} : {verdict.kind if isinstance(verdict, Verdict) else ''}{target}"


def _with_mark(place: Place, where: str, mark: int) -> Place:
    return place._replace(ct=mark) if where == "ct" else place._replace(meta=mark)


def _picks(lookup: Lookup) -> bool:
    return isinstance(lookup.key, Pick)


def _number_span(key: tuple[str, ...], pick: Pick, rule: Rule | None) -> tuple[int, int]:
    if len(key) == 1:
        if key == ANYTHING:
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


def _policy(chain: Chain) -> str:
    return (
        f"drop by policy of chain {chain.name}"
        if chain.policy == "drop"
        else f"policy accept of chain {chain.name}"
    )
