"""The tables of a document → a program of the engine, for one family.

A look-up by fields becomes a rule for each element; one by a picked number, a `Switch`. A rule of a table of
both families is lowered for each of them, and a statement of the other family drops out.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import MAX_SLOTS, Family
from lbctl.model.jenkins import slot_of
from lbctl_netfilter.conditions import (
    BITS,
    EVERY_BIT,
    YES,
    Words,
    address,
    mark_of,
    merged,
    rest,
    spans_meet,
    spans_rest,
    spelled,
    words,
)
from lbctl_netfilter.draft import Draft
from lbctl_netfilter.index import reach
from lbctl_netfilter.ir import (
    Act,
    Base,
    Chain,
    Draw,
    DrawMark,
    MarkIs,
    Memory,
    Opaque,
    Pick,
    PickKind,
    Program,
    Rule,
    SetMark,
    Switch,
    Target,
)
from lbctl_netfilter.marks import Marking
from lbctl_netfilter.source_nat import BACK
from lbctl_nftables import layout
from lbctl_nftables.reading import grammar, symbols
from lbctl_nftables.reading.grammar import (
    ANYTHING,
    Computed,
    Concat,
    Element,
    Field,
    Limit,
    Lookup,
    Masked,
    Match,
    Nat,
    Ref,
    Strange,
    Unknown,
    Update,
    Verdict,
    Vmap,
    number,
)
from lbctl_nftables.reading.grammar import (
    SetMark as MarkStatement,
)
from lbctl_nftables.reading.values import compared, condition, field_of, is_family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl_netfilter.conditions import Condition, Span, Spans, Values
    from lbctl_nftables.reading import document
    from lbctl_nftables.reading.document import Document, Table
    from lbctl_nftables.reading.grammar import Key, Members, Operand, Source

FAMILIES: Mapping[Family, frozenset[str]] = {
    Family.IPV4: frozenset({"ip", "inet"}),
    Family.IPV6: frozenset({"ip6", "inet"}),
}
#: How chains of one service are called, by lbctl and by kube-proxy.
SERVICE = "service-"
_KINDS = {"inc": PickKind.COUNTER, "random": PickKind.DICE, "jhash": PickKind.HASH, "symhash": PickKind.HASH}
_SOURCES = frozenset({"ip saddr", "ip6 saddr"})
_RANDOM = "meta random"
_TIMES = frozenset({"meta day", "meta hour", "meta time"})
_VERDICTS = {"accept": Act.ACCEPT, "drop": Act.DROP, "return": Act.RETURN, "continue": Act.GO_ON}
_VERDICTS |= {"jump": Act.JUMP, "goto": Act.GOTO}
#: Statements that end the path of a packet, or copy it, in ways that are not followed.
_TARGETS = frozenset({"tproxy", "queue", "dup", "fwd", "flow", "synproxy", "dnat", "snat", "redirect"})
#: Words of statements that pick, or send packets elsewhere, whatever chain they are in.
_ELSEWHERE = frozenset({"tproxy", "queue", "dup", "fwd", "numgen", "jhash", "symhash"})
#: More marks, or more choices of one rule, than this are not told one by one.
_WIDEST = 4096
#: Words of statements that are not understood, and may decide what becomes of connections.
_DECIDING = frozenset(
    {
        "accept", "drop", "jump", "goto", "return", "queue", "tproxy", "dup", "fwd", "dnat", "snat", "map",
        "redirect", "masquerade", "vmap", "numgen", "jhash", "symhash", "xt", "synproxy", "mark", "reject",
    }
)  # fmt: skip
_ONE = Fraction(1)
_EVERY_PORT = ((0, 0xFFFF),)
#: Fields of which nothing is decided before connections come.
_PLAIN_FIELDS = frozenset({"dst", "dport", "src", "sport", "proto", "iif", "oif"})
#: Elements of a look-up, each with what it asks, and in words.
_Entries: TypeAlias = "list[tuple[tuple[Condition, ...], Element]]"


class _Key(NamedTuple):
    """The fields of a key, and what they ask by themselves."""

    fields: tuple[str, ...]
    implied: tuple[Condition, ...]


def program(found: Document, family: Family, rules: int) -> Program:
    """What the tables of a document say for one family. `rules` is how many the document has."""
    chains: dict[str, Chain] = {}
    bases: list[Base] = []
    whole = False
    for table in found.tables.values():
        if table.family not in FAMILIES[family]:
            continue
        of_table = _Table(table, family)
        for chain in table.chains.values():
            chains[chain.place] = of_table.chain(chain)
            if chain.hook:
                bases.append(Base(chain.hook, chain.priority, chain.kind, chain.place, table.name))
                whole |= chain.hook == "postrouting" and chain.kind == "nat" and chain.declared
    return Program(family, bases, chains, whole=whole, rules=rules)


#: Where the kernel takes translations of destinations, and those of sources.
HOOKS_OF: Mapping[bool, tuple[str, ...]] = {True: ("prerouting", "output"), False: ("postrouting", "input")}
_OUTSIDE = Opaque("masquerade", "the kernel takes it behind the routing only, in postrouting")


def misplaced(made: Program) -> list[tuple[Rule, Opaque]]:
    """The translations that the kernel does not take where they are; they do nothing from here on."""
    found: list[tuple[Rule, Opaque]] = []
    for base in made.bases:
        for rule in made.chains[base.chain].rules:
            places = HOOKS_OF[rule.action in {"dnat", "redirect"}]
            outside = base.kind != "nat" or (base.hook not in places and rule.target != "masquerade")
            if rule.action and outside:
                found.append((rule, Opaque("wrong-table", f"{rule.target} at hook {base.hook}")))
                rule.refused, rule.act, rule.switch = True, Act.GO_ON, None
    calls = {name: [t for rule in chain.rules for t in rule.targets] for name, chain in made.chains.items()}
    entered = reach([base.chain for base in made.bases if base.hook != "postrouting"], calls)
    for name in entered & made.chains.keys():
        for rule in made.chains[name].rules:
            if rule.target == "masquerade" and not rule.refused:
                rule.opaque, rule.act = _OUTSIDE, Act.UNKNOWN
                found.append((rule, _OUTSIDE))
    return found


class _Undecidable(Exception):
    """An endpoint that is none: what, and why."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(reason)
        self.what, self.reason = what, reason


class _Table:
    """Lowers the rules of one table."""

    def __init__(self, table: Table, family: Family) -> None:
        self._table = table
        self.family = family
        self._bits = BITS[family]
        self._learned, self.links = _learned(table)
        self._own = layout.owner_of(table.family, table.name) is not None
        self._entries: dict[object, _Entries | None] = {}
        self._pages: dict[str, dict[int, Element]] = {}
        #: By the identity of a statement, what it asks.
        self.known: dict[int, tuple[Match, tuple[Condition, ...]]] = {}

    def chain(self, chain: document.Chain) -> Chain:
        """A chain as the engine has it."""
        rules: list[Rule] = []
        for rule in chain.rules:
            rules += _Rule(self, chain, rule).lowered()
        verdict = "drop by policy" if chain.policy == "drop" else "policy accept"
        return Chain(
            chain.place,
            rules,
            Act.DROP if chain.policy == "drop" else Act.ACCEPT,
            f"{verdict} of chain {chain.name}",
            chain.line,
            service=chain.name.removeprefix(SERVICE) if chain.name.startswith(SERVICE) else None,
            own=self._own,
        )

    def place(self, name: str) -> str:
        """A chain of this table, as the engine has it."""
        return f"{self._table.family} {self._table.name} {name}"

    def called(self, name: str) -> document.Chain | None:
        """A chain of this table."""
        return self._table.chains.get(name)

    def members(self, members: Members) -> Sequence[Element]:
        """The elements of a set or map; raise `Strange` for one that is not in the text."""
        if not isinstance(members, Ref):
            return members
        found = self._table.members.get(members.name)
        if found is None:
            raise Strange(f"@{members.name}")
        return found.elements

    def memory(self, members: Members) -> Memory | None:
        """The list of clients that a set or map is, where packets fill it."""
        if not isinstance(members, Ref) or members.name not in self._learned:
            return None
        seconds, key = self._learned[members.name]
        by = "destination address" if "daddr" in key and "saddr" not in key else "source address"
        return Memory("map", members.name, asks=True, inverted=False, seconds=seconds, by=by)

    def is_link(self, members: Members, key: Source) -> bool:
        """True for a set of pairs of a link with itself, asked for the way in and out."""
        return (
            isinstance(members, Ref)
            and members.name in self.links
            and isinstance(key, Concat)
            and {part.name for part in key.parts} == {"iif", "oif"}
        )

    def key(self, source: Source) -> _Key | None:
        """The fields of a key; None for those of the other family. Raise `Strange`."""
        if isinstance(source, Masked):
            found = field_of(source.field.name, self.family)
            if found is None:
                return None
            name = found[0]
            if mark_of(name) is not None:
                return _Key((f"{name}/{source.mask:#x}" if source.mask != EVERY_BIT else name,), ())
            return _Key((symbols.masked(source.field.name, source.mask),), ())
        if isinstance(source, grammar.Pick):
            raise Strange(source.kind)
        fields: list[str] = []
        implied: dict[Condition, None] = {}
        for part in source.parts if isinstance(source, Concat) else (source,):
            found = field_of(part.name, self.family)
            if found is None:
                return None
            fields.append(found[0])
            if found[1] is not None:
                implied["proto", words(found[1])] = None
        return _Key(tuple(fields), tuple(implied))

    def entries(self, key: _Key, members: Members) -> _Entries:
        """What each element of a look-up asks; raise `Strange`."""
        known = (id(members), key) if not isinstance(members, Ref) else (members.name, key)
        found = self._entries.get(known)
        if found is None:
            found = self._entries[known] = list(self._asked(key, self.members(members)))
        return found

    def _asked(
        self, key: _Key, elements: Sequence[Element]
    ) -> Iterator[tuple[tuple[Condition, ...], Element]]:
        others: list[Element] = []
        taken: dict[str, list[Values]] = {}
        for element in elements:
            if element.key == ANYTHING:
                others.append(element)
                continue
            if len(element.key) != len(key.fields):
                raise Strange(" . ".join(element.key))
            made = [
                condition(f, [text], self.family) for f, text in zip(key.fields, element.key, strict=True)
            ]
            asked = tuple(pair for pair in made if pair is not None)
            if len(asked) == len(made):
                taken.setdefault(asked[0][0], []).append(asked[0][1])
                yield (*key.implied, *asked), element
        for element in others:
            if len(key.fields) != 1:
                raise Strange("*")
            yield (*key.implied, *self._rest(key.fields[0], taken.get(key.fields[0], []))), element

    def _rest(self, field: str, taken: Sequence[Values]) -> tuple[Condition, ...]:
        """What is left of a field."""
        if not taken:
            return ()
        if any(isinstance(values, Words) for values in taken):
            names = [name for values in taken if isinstance(values, Words) for name in values.names or ()]
            return ((field, Words(None, frozenset(names))),)
        spans = merged(span for values in taken if not isinstance(values, Words) for span in values)
        others = rest(field, spans, self._bits)
        return ((field, others),) if others is not None else ()

    def page(self, members: Ref) -> dict[int, Element]:
        """The numbers of a named map, which many look-ups may share; raise `Strange`."""
        known = self._pages.get(members.name)
        if known is None:
            known = self._pages[members.name] = {}
            for element in self.members(members):
                low, high = _numbers(element.key, 1 << 32)
                if high - low >= MAX_SLOTS:
                    high = low + MAX_SLOTS
                for each in range(low, high + 1):
                    known.setdefault(each, element)
        return known


class _Rule:
    """Lowers one rule: statement by statement, for each element of the look-ups on the way."""

    def __init__(self, table: _Table, chain: document.Chain, rule: document.Rule) -> None:
        self._table = table
        self._chain = chain
        self._rule = rule
        self._family = table.family
        self._bits = BITS[table.family]
        self._made: list[Rule] = []

    def lowered(self) -> list[Rule]:
        """The rules of the engine that do what this one does."""
        drafts = [Draft(self._family)]
        for statement in self._rule.statements:
            following: list[Draft] = []
            for draft in drafts:
                following += self._statement(draft, statement)
            drafts = [draft for draft in following if draft.possible]
            if not drafts:
                return self._made
        for draft in drafts:
            self._make(draft, Act.GO_ON)
        return self._made

    def _make(self, draft: Draft, act: Act, target: str = "", switch: Switch | None = None) -> Rule:
        rule = draft.rule(self._rule, act, target, switch)
        self._made.append(rule)
        return rule

    def _statement(self, draft: Draft, statement: grammar.Statement) -> Iterator[Draft]:
        """The drafts of what goes on behind a statement."""
        try:
            match statement:
                case Match():
                    yield from self._match(draft, statement)
                case Vmap():
                    yield from self._vmap(draft, statement)
                case Verdict():
                    self._verdict(draft, statement)
                case Nat():
                    self._nat(draft, statement)
                case MarkStatement():
                    yield from self._mark(draft, statement)
                case Update(name=name, limited=limited):
                    if limited:
                        draft.remarks += ("unsupported-match",)
                        draft.cannot(limited.split(" ")[0], "how often it matches depends on the traffic")
                    elif name not in self._table.links:
                        draft.step(Memory("map", name, asks=False, inverted=False, seconds=None, by=""))
                    yield draft
                case Limit():
                    draft.remarks += ("unsupported-match",)
                    draft.cannot("limit", "how often it matches depends on the rate of the traffic")
                    yield draft
                case Unknown(text=text):
                    self._unknown(draft, text)
        except _Undecidable as error:
            draft.remarks += ("family-mismatch",) if error.what == "family-mismatch" else ()
            draft.cannot(error.what, error.reason)
            self._make(draft, Act.UNKNOWN, "nat")
        except Strange as strange:
            draft.remarks += ("unsupported-match",)
            draft.cannot(str(strange)[:40], f"not understood: {str(strange)[:80]}")
            if isinstance(statement, (Vmap, Nat)):
                self._make(draft, Act.UNKNOWN, type(statement).__name__.lower())
            else:
                yield draft

    def _unknown(self, draft: Draft, text: str) -> None:
        """The rest of a rule that is not understood."""
        head, *more = text.split(" ")
        if head == "xt":
            code = "unsupported-target" if more[:1] == ["target"] else "unsupported-match"
            draft.remarks += (code, "mixed-backends")
            draft.cannot("xt", "it belongs to iptables-nft, whose own dump shows it")
        elif not _DECIDING.isdisjoint({head, *more}):
            code = "unsupported-target" if head in _TARGETS else "unsupported-match"
            draft.remarks += (code, *(["elsewhere"] if not _ELSEWHERE.isdisjoint({head, *more}) else []))
            draft.cannot(head[:40], f"not understood from here on: {text[:80]}")
        else:
            self._make(draft, Act.GO_ON)
            return
        self._make(draft, Act.UNKNOWN, head)

    # -- conditions

    def _match(self, draft: Draft, match: Match) -> Iterator[Draft]:
        known = self._table.known.get(id(match))
        if known is not None:
            self._ask(draft, known[1])
            yield draft
            return
        key = match.key
        if isinstance(key, grammar.Pick):
            draft.step(Draw(_pick(key), _within(key.modulus, key.offset, match.op, self._texts(match))))
            yield draft
            return
        if (modulus := _random(key)) is not None:
            hits = _within(modulus, 0, match.op, self._texts(match))
            draft.step(Draw(Pick(PickKind.DICE, modulus), hits))
            yield draft
            return
        if self._table.is_link(match.members, key):
            draft.add(BACK[0], YES, match.op == "!=")
            yield draft
            return
        memory = self._table.memory(match.members)
        if memory is not None:
            draft.step(memory._replace(inverted=match.op == "!="))
            yield draft
            return
        if isinstance(key, Field) and key.name in _TIMES:
            draft.remarks += ("unsupported-match",)
            draft.cannot("time", "it depends on the time of day")
            yield draft
            return
        if isinstance(key, Masked) and key.field.name == grammar.FLAGS:
            self._ask(draft, [("proto", words("tcp"))])
            draft.tcp_flags(key.mask, self._flags(match), match.op == "!=")
            yield draft
            return
        asked = self._table.key(key)
        if asked is None:
            return
        if len(asked.fields) > 1:
            entries = self._table.entries(asked, match.members)
            if (either := _either_port(asked, entries)) is not None:
                self._ask(draft, asked.implied)
                draft.fact("port", spelled("dport", either, self._bits), match.op == "!=")
                yield draft
                return
            if match.op != "==":
                raise Strange(match.op)
            for conditions, _ in entries:
                made = draft.fork()
                self._ask(made, conditions)
                yield made
            return
        self._ask(draft, asked.implied)
        [field] = asked.fields
        if match.op in {"<", ">", "<=", ">="}:
            [text, *others] = self._texts(match)
            if others:
                raise Strange(match.op)
            self._one(draft, field, compared(field, match.op, text, self._family), inverted=False)
        elif ANYTHING in [element.key for element in self._table.members(match.members)]:
            if match.op == "!=":
                return
        elif match.op == "==" and mark_of(field) is None and not isinstance(match.members, Ref):
            found = condition(field, self._texts(match), self._family)
            if found is None:
                return
            # The statement, too, so that no other one can have its identity.
            self._table.known[id(match)] = match, (found,) if not asked.implied else (*asked.implied, found)
            self._ask(draft, (found,))
        else:
            self._any(draft, field, self._texts(match), inverted=match.op == "!=")
        yield draft

    def _any(self, draft: Draft, field: str, texts: Sequence[str], *, inverted: bool) -> None:
        """One of some values of a field."""
        prefixed = [text for text in texts if "/" in text] if mark_of(field) is not None else []
        if prefixed:
            # As nft lists some masks: a mark, and how many of its first bits count.
            [text] = texts
            value, _, length = text.partition("/")
            mask = EVERY_BIT & ~((1 << (32 - min(number(length), 32))) - 1)
            field, texts = f"{field.partition('/')[0]}/{mask:#x}", [value]
        found = condition(field, texts, self._family)
        if found is None:
            if not inverted:
                draft.never()
            return
        self._one(draft, *found, inverted=inverted)

    def _ask(self, draft: Draft, conditions: Sequence[Condition]) -> None:
        for field, values in conditions:
            self._one(draft, field, values, inverted=False)

    def _one(self, draft: Draft, field: str, values: Values, *, inverted: bool) -> None:
        """A condition, where it is not decided by the family or the state of connections."""
        if field in _PLAIN_FIELDS:
            draft.add(field, values, inverted)
            return
        marked = mark_of(field)
        if marked is not None and not isinstance(values, Words):
            connection, mask = marked
            met = spans_rest(values, EVERY_BIT) if inverted else values
            draft.step(MarkIs(connection, mask, met))
        elif field == "family" and isinstance(values, Words):
            if is_family(values, self._family) is inverted:
                draft.never()
        elif field == "state" and isinstance(values, Words):
            names = {part for name in values.names or () for part in name.split("|")}
            draft.packets(
                first=("new" in names) is not inverted, later=("established" in names) is not inverted
            )
        elif field == "ctdir" and isinstance(values, Words):
            draft.first &= ("original" in (values.names or ())) is not inverted
        else:
            draft.add(field, values, inverted)

    def _flags(self, match: Match) -> Iterator[int]:
        """The values that some bits are compared with; raise `Strange`."""
        if match.op not in {"==", "!="}:
            raise Strange(match.op)
        for text in self._texts(match):
            bits = symbols.mask(grammar.FLAGS, text)
            if bits is None:
                raise Strange(text)
            yield bits

    def _texts(self, match: Match) -> list[str]:
        return [_only(element.key) for element in self._table.members(match.members)]

    # -- verdicts

    def _verdict(self, draft: Draft, verdict: Verdict) -> None:
        act = _VERDICTS[verdict.kind]
        if act is Act.JUMP or act is Act.GOTO:
            rule = self._make(draft, act, self._table.place(verdict.target))
            called = self._table.called(verdict.target)
            rule.serves_none = called is not None and self._is_dispatch(draft) and _is_empty(called)
        else:
            self._make(draft, act, verdict.kind)

    def _is_dispatch(self, draft: Draft) -> bool:
        """True where connections were looked up by their port."""
        return draft.element is not None and draft.where.dport is not None

    def _vmap(self, draft: Draft, vmap: Vmap) -> Iterator[Draft]:
        yield from ()
        key = vmap.key
        if isinstance(key, grammar.Pick):
            pick = _pick(key)
            targets: dict[Target, list[Span]] = {}
            for low, high, element in self._numbered(key, vmap.members, draft):
                if isinstance(element.data, Verdict):
                    targets.setdefault(self._target(element.data), []).append((low, high))
            cases = tuple((merged(spans), target) for target, spans in targets.items())
            self._make(draft, Act.SWITCH, switch=Switch(pick, cases))
            return
        memory = self._table.memory(vmap.members)
        if memory is not None:
            draft.step(memory)
            self._make(draft, Act.GO_ON)
            return
        asked = self._table.key(key)
        if asked is None:
            return
        for conditions, element in self._table.entries(asked, vmap.members):
            if not isinstance(element.data, Verdict):
                continue
            made = draft.fork()
            self._ask(made, conditions)
            if not made.possible:
                continue
            made.element = _element_text(element)
            self._verdict(made, element.data)

    def _target(self, verdict: Verdict) -> Target:
        act = _VERDICTS[verdict.kind]
        return Target(act, self._table.place(verdict.target) if verdict.target else verdict.kind)

    def _numbered(
        self, pick: grammar.Pick, members: Members, draft: Draft
    ) -> Iterator[tuple[int, int, Element]]:
        """The data of a map for each number that can be picked, counted from 0."""
        if isinstance(members, Ref):
            page = self._table.page(members)
            if pick.modulus <= len(page):
                for value in range(pick.modulus):
                    element = page.get(value + pick.offset)
                    if element is not None:
                        yield value, value, element
            else:
                for value, element in page.items():
                    if 0 <= value - pick.offset < pick.modulus:
                        yield value - pick.offset, value - pick.offset, element
            return
        inside: list[tuple[int, int, int, Element]] = []
        others: list[Element] = []
        for number_, element in enumerate(members):
            low, high = _numbers(element.key, pick.modulus, pick.offset)
            if element.key == ANYTHING:
                others.append(element)
            elif high < 0 or low >= pick.modulus:
                if "packet-out-of-range" not in draft.remarks:
                    draft.remarks += ("packet-out-of-range",)
            else:
                inside.append((max(low, 0), min(high, pick.modulus - 1), number_, element))
        begin = 0
        for low, high, _, element in sorted(inside, key=lambda entry: entry[:3]):
            # nft takes no two elements for one number.
            if max(low, begin) <= high:
                yield max(low, begin), high, element
                begin = high + 1
        left = spans_rest(merged((low, high) for low, high, _, _ in inside), pick.modulus - 1)
        for element in others[:1]:
            yield from ((low, high, element) for low, high in left)

    # -- marks

    def _mark(self, draft: Draft, statement: MarkStatement) -> Iterator[Draft]:
        connection = statement.where == "ct"
        match statement.value:
            case Computed(of=of, mask=mask, flip=flip):
                packet, kept = (mask, 0) if of == "meta" else (0, mask)
                draft.step(SetMark(Marking(connection, packet, kept, flip)))
            case grammar.Pick() as pick:
                if pick.modulus > _WIDEST:
                    draft.cannot("mark", f"{pick.modulus} marks")
                else:
                    cases = [
                        (((n, n),), Marking.constant(n + pick.offset, connection=connection))
                        for n in range(pick.modulus)
                    ]
                    draft.step(DrawMark(_pick(pick), tuple(cases)))
            case Lookup(key=grammar.Pick() as pick, members=members):
                draft.step(DrawMark(_pick(pick), self._mark_cases(draft, pick, members, connection)))
            case Lookup(key=key, members=members):
                yield from self._mark_looked_up(draft, key, members, connection)
                return
            case tuple() as value:
                draft.step(SetMark(Marking.constant(number(_only(value)), connection=connection)))
            case _:
                draft.step(SetMark(Marking.unknown(connection=connection)))
        yield draft

    def _mark_cases(
        self, draft: Draft, pick: grammar.Pick, members: Members, connection: bool
    ) -> tuple[tuple[Spans, Marking], ...]:
        cases: dict[Marking, list[Span]] = {}
        for low, high, element in self._numbered(pick, members, draft):
            if isinstance(element.data, tuple):
                marking = Marking.constant(number(_only(element.data)), connection=connection)
                cases.setdefault(marking, []).append((low, high))
        return tuple((merged(spans), marking) for marking, spans in cases.items())

    def _mark_looked_up(
        self, draft: Draft, key: Source, members: Members, connection: bool
    ) -> Iterator[Draft]:
        if self._table.memory(members) is not None:
            return
        asked = self._table.key(key)
        for conditions, element in self._table.entries(asked, members) if asked else ():
            if isinstance(element.data, tuple):
                made = draft.fork()
                self._ask(made, conditions)
                if made.possible:
                    made.step(SetMark(Marking.constant(number(_only(element.data)), connection=connection)))
                    yield made

    # -- translations

    def _nat(self, draft: Draft, nat: Nat) -> None:
        picked = list(grammar.idle_picks(nat))
        if not self._is_for(nat):
            # The kernel picks first, and only then sees that it is for the other family.
            for pick in picked:
                draft.step(Draw(_pick(pick), spans_rest((), pick.modulus - 1)))
            if draft.picks:
                self._make(draft, Act.GO_ON)
            return
        if nat.kind == "masquerade":
            self._endpoints(draft, nat, [("masquerade", _ONE)])
            return
        if any(isinstance(each, grammar.Pick) for each in (nat.address, nat.port)):
            draft.remarks += ("unsupported-target",)
            draft.cannot("numgen", "a picked number used as a port is byte-swapped by the kernel")
            self._make(draft, Act.UNKNOWN, nat.kind)
            return
        if len(picked) > 1:
            draft.remarks += ("unsupported-target",)
            draft.cannot("map", "address and port are picked apart from each other")
            self._make(draft, Act.UNKNOWN, nat.kind)
            return
        self._looked_up(draft, nat, [])

    def _looked_up(self, draft: Draft, nat: Nat, known: list[Key | None]) -> None:
        """An endpoint for each element of the look-ups by fields; `known` are the operands so far."""
        operands = (nat.address, nat.port)
        if len(known) == len(operands):
            self._to(draft, nat, known)
            return
        operand = operands[len(known)]
        if not isinstance(operand, Lookup):
            self._looked_up(draft, nat, [*known, operand if isinstance(operand, tuple) else None])
            return
        if isinstance(operand.key, grammar.Pick):
            self._switched(draft, nat, operand, operand.key)
            return
        memory = self._table.memory(operand.members)
        if memory is not None:
            draft.step(memory)
            self._make(draft, Act.GO_ON)
            return
        asked = self._table.key(operand.key)
        for conditions, element in self._table.entries(asked, operand.members) if asked else ():
            if not isinstance(element.data, tuple):
                continue
            made = draft.fork()
            self._ask(made, conditions)
            if made.possible:
                made.element = _element_text(element)
                self._looked_up(made, nat, [*known, element.data])

    def _switched(self, draft: Draft, nat: Nat, lookup: Lookup, picked: grammar.Pick) -> None:
        cases: dict[Target, list[Span]] = {}
        for low, high, element in self._numbered(picked, lookup.members, draft):
            if not isinstance(element.data, tuple):
                continue
            parts = [
                element.data if each is lookup else each if isinstance(each, tuple) else None
                for each in (nat.address, nat.port)
            ]
            to = self._endpoint(nat, *_address_and_port(nat, parts))
            cases.setdefault(Target(Act.TO, to, element.comment or None), []).append((low, high))
        switch = Switch(_pick(picked), tuple((merged(spans), target) for target, spans in cases.items()))
        self._make(draft, Act.SWITCH, nat.kind, switch).action = _action(nat)

    def _to(self, draft: Draft, nat: Nat, parts: Sequence[Key | None]) -> None:
        host, port = _address_and_port(nat, parts)
        if host is not None and ("-" in host or "/" in host):
            found = condition("dst", [host], self._family)
            spans: Values = found[1] if found else ()
            low, high = spans[0] if spans and not isinstance(spans, Words) else (0, 0)
            if high - low >= _WIDEST:
                raise Strange(f"a choice of {high - low + 1}")
            count = high - low + 1
            hosts = [str(address(low + n, self._bits)) for n in range(count)]
            rule = self._endpoints(
                draft, nat, [(self._endpoint(nat, each, port), Fraction(1, count)) for each in hosts]
            )
            rule.own_mode, rule.by = "hash", "source and destination address"
            rule.by = "source address" if "persistent" in nat.flags else rule.by
            rule.remarks += ("snat-pool" if nat.kind == "snat" else "dnat-range",)
            return
        if "-" not in (port or ""):
            self._endpoints(draft, nat, [(self._endpoint(nat, host, port), _ONE)])
            return
        found = condition("dport", [port or ""], self._family)
        span = found[1][0] if found and not isinstance(found[1], Words) else (0, 0)
        low, high = span[0], span[1]
        if nat.flags & {"random", "fully-random"} and nat.kind != "snat":
            if high - low >= _WIDEST:
                raise Strange(f"a choice of {high - low + 1}")
            part = Fraction(1, high - low + 1)
            ports = [(self._endpoint(nat, host, str(n)), part) for n in range(low, high + 1)]
            self._endpoints(draft, nat, ports).own_mode = "random"
            return
        if nat.kind == "snat":
            # Ports of sources are no endpoints.
            self._endpoints(draft, nat, [(self._endpoint(nat, host, None), _ONE)])
            return
        rule = self._endpoints(draft, nat, [(self._endpoint(nat, host, str(low)), _ONE)])
        rule.ports = (low, high)
        rule.remarks += ("port-range-target",)

    def _endpoints(self, draft: Draft, nat: Nat, to: Sequence[tuple[str, Fraction]]) -> Rule:
        rule = self._make(draft, Act.TO, nat.kind)
        rule.action, rule.to = _action(nat), tuple(to)
        return rule

    def _endpoint(self, nat: Nat, host: str | None, port: str | None) -> str:
        """An endpoint as it is shown; raise `_Undecidable` for what is none."""
        try:
            if host is not None:
                found = condition("dst", [host], self._family)
                if found is None or isinstance(found[1], Words):
                    raise _Undecidable("family-mismatch", f"{host} is no address of {self._family}")
                if found[1][0][0] != found[1][-1][1]:
                    raise _Undecidable("target", f"{host} is more than one address")
                host = str(address(found[1][0][0], self._bits))
            if port is not None:
                given = condition("dport", [port], self._family)
                if given is None or isinstance(given[1], Words):
                    raise Strange(port)
                port = str(given[1][0][0])
        except Strange as strange:
            raise _Undecidable("target", f"{strange} is no address or port") from strange
        if host is None:
            return (port if nat.kind == "redirect" else f":{port}") if port is not None else "local"
        if port is None:
            return host
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _is_for(self, nat: Nat) -> bool:
        """False for a statement of the other family, which a table of both may hold."""
        word = layout.WORD[self._family]
        if nat.family:
            return nat.family == word
        if self._chain.family != "inet" or nat.address is None or isinstance(nat.address, grammar.Pick):
            return True
        found: list[Operand] = [nat.address]
        if isinstance(nat.address, Lookup):
            members = self._table.members(nat.address.members)
            found = [element.data for element in members if isinstance(element.data, tuple)]
        return not found or any(
            (":" in each[0]) == (word == "ip6") for each in found if isinstance(each, tuple)
        )


def _action(nat: Nat) -> str:
    return "snat" if nat.kind == "masquerade" else nat.kind


def _address_and_port(nat: Nat, parts: Sequence[Key | None]) -> tuple[str | None, str | None]:
    host, port = parts
    if nat.kind == "redirect" and host is not None and port is None:
        host, port = None, host
    if host is not None and len(host) == 2 and port is None:
        return host[0], host[1]
    return host[0] if host else None, port[-1] if port else None


def _either_port(key: _Key, entries: _Entries) -> Spans | None:
    """The ports that a set of pairs has for the source, with any destination, and the other way round.

    It is how iptables-translate writes `--ports`. The kernel asks such a set once, however many of its
    elements overlap.
    """
    found: dict[str, list[Span]] = {"sport": [], "dport": []}
    if set(key.fields) != found.keys():
        return None
    for conditions, _ in entries:
        asked = {field: values for field, values in conditions if field in found and values != _EVERY_PORT}
        if len(asked) != 1:
            return None
        [(field, values)] = asked.items()
        found[field] += values  # type: ignore[arg-type]
    sports, dports = merged(found["sport"]), merged(found["dport"])
    return sports if sports == dports else None


def _pick(pick: grammar.Pick) -> Pick:
    kind = _KINDS[pick.kind]
    if kind is PickKind.COUNTER:
        return Pick(kind, pick.modulus, ("inc", pick.ident))
    if kind is PickKind.DICE:
        return Pick(kind, pick.modulus, ("random", pick.ident))
    if pick.kind == "symhash":
        return Pick(kind, pick.modulus, "symhash")
    key = (pick.of, pick.seed) if pick.seed is not None else ("jhash", pick.ident)
    by_source = pick.of in _SOURCES
    return Pick(
        kind,
        pick.modulus,
        key,
        "source address" if by_source else "",
        pick.seed,
        slot_of if by_source and pick.seed is not None else None,
    )


def _random(key: Source) -> int | None:
    """Of how many numbers `meta random` is one; None for another field. Raise `Strange`."""
    if isinstance(key, Field) and key.name == _RANDOM:
        return 1 << 32
    if isinstance(key, Masked) and key.field.name == _RANDOM:
        if key.mask & (key.mask + 1):
            raise Strange("bits with gaps")
        return key.mask + 1
    return None


def _within(modulus: int, offset: int, op: str, texts: Sequence[str]) -> Spans:
    """Where a picked number, counted from 0, satisfies a relation."""
    spans = []
    for text in texts:
        first, dash, last = text.partition("-")
        low = number(first)
        high = number(last) if dash else low
        if op in {"<", "<="}:
            low, high = 0, low - (op == "<")
        elif op in {">", ">="}:
            low, high = low + (op == ">"), 1 << 32
        if low <= high:
            spans.append((max(low - offset, 0), high - offset))
    inside = spans_meet(merged(span for span in spans if span[1] >= span[0]), ((0, modulus - 1),))
    return spans_rest(inside, modulus - 1) if op == "!=" else inside


def _numbers(key: Key, modulus: int, offset: int = 0) -> Span:
    """The numbers that a key of a map stands for, counted from 0; raise `Strange`."""
    if key == ANYTHING:
        return 0, modulus - 1
    first, dash, last = _only(key).partition("-")
    low = number(first)
    return low - offset, (number(last) if dash else low) - offset


def _only(key: Key) -> str:
    """The only part of a key; raise `Strange`."""
    if len(key) != 1:
        raise Strange(" . ".join(key))
    return key[0]


def _element_text(element: Element) -> str:
    """An element of a look-up, as it is written."""
    data = element.data
    if isinstance(data, Verdict):
        return f"{' . '.join(element.key)} : {data.kind}{f' {data.target}' if data.target else ''}"
    return f"{' . '.join(element.key)} : {' . '.join(data or ())}"


def _is_empty(chain: document.Chain) -> bool:
    """True for a chain in which no rule leads on."""
    return not any(
        isinstance(s, (Nat, Vmap, Unknown)) or (isinstance(s, Verdict) and s.kind in {"jump", "goto"})
        for rule in chain.rules
        for s in rule.statements
    )


def _learned(table: Table) -> tuple[dict[str, tuple[int | None, str]], frozenset[str]]:
    """The sets and maps that packets fill, with how long an entry stays and its key; those of links apart."""
    found: dict[str, tuple[int | None, str]] = {}
    links: set[str] = set()
    for chain in table.chains.values():
        for rule in chain.rules:
            asked = False
            for statement in rule.statements:
                asked |= isinstance(statement, (Match, Vmap))
                if isinstance(statement, Update):
                    declared = table.members.get(statement.name)
                    stays = statement.timeout or (declared.timeout if declared else None)
                    before = found.get(statement.name, (None, ""))
                    found[statement.name] = stays or before[0], statement.key
                    if statement.key == "iif . iif" and not asked:
                        links.add(statement.name)
    for name, members in table.members.items():
        if members.dynamic:
            found.setdefault(name, (members.timeout, ""))
    return found, frozenset(links)
