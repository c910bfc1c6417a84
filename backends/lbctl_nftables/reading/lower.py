"""The tables of a document → a program of the engine, for one family.

A look-up by fields becomes a rule for each element; one by a picked number, a `Switch`. A rule of a table of
both families is lowered for each of them, and a statement of the other family drops out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, assert_never

from lbctl_netfilter.conditions import EVERY_BIT, EVERY_FLAG, YES, fact, mark_of, spelled
from lbctl_netfilter.draft import Draft
from lbctl_netfilter.index import reach
from lbctl_netfilter.ir import (
    INGRESS,
    Act,
    Base,
    Branch,
    Chain,
    Draw,
    DrawMark,
    FamilyProgram,
    Memory,
    Opaque,
    SetMark,
    Switch,
)
from lbctl_netfilter.marks import Marking
from lbctl_netfilter.source_nat import BACK
from lbctl_nftables import layout
from lbctl_nftables.reading import frames, symbols, syntax
from lbctl_nftables.reading.frames import Frames
from lbctl_nftables.reading.grammar import FLAGS, number
from lbctl_nftables.reading.lookups import Lookups, either_port, only
from lbctl_nftables.reading.picks import condition_pick, pick_of, within
from lbctl_nftables.reading.syntax import (
    ANYTHING,
    Computed,
    Field,
    Forwarding,
    FrameStatement,
    Lookup,
    Masked,
    Nat,
    NftVerdict,
    NumberExpression,
    RateLimit,
    Ref,
    Relational,
    Unknown,
    UnsupportedSyntax,
    Update,
    Vmap,
    picks,
)
from lbctl_nftables.reading.translations import WIDEST, NoEndpoint, Translations
from lbctl_nftables.reading.values import ask, compared, condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl.model import Family
    from lbctl_netfilter.conditions import Condition, Selector
    from lbctl_netfilter.ir import Rule
    from lbctl_nftables.reading import document
    from lbctl_nftables.reading.document import Document, NftTable
    from lbctl_nftables.reading.syntax import Element, Members, Source, Statement

#: The family of tables of both.
_BOTH = "inet"
#: Families of tables whose rules are for IPv4 and IPv6.
_SHARED = frozenset({_BOTH, "netdev"})
#: How chains of one service are called, by lbctl and by kube-proxy.
SERVICE = "service-"
#: Where the kernel takes translations of destinations, and those of sources.
HOOKS_OF: Mapping[bool, tuple[str, ...]] = {True: ("prerouting", "output"), False: ("postrouting", "input")}
_OUTSIDE = Opaque("masquerade", "the kernel accepts it in postrouting only")
_VERDICTS = {
    "accept": Act.ACCEPT, "drop": Act.DROP, "return": Act.RETURN, "continue": Act.GO_ON, "jump": Act.JUMP,
    "goto": Act.GOTO,
}  # fmt: skip
#: Beginnings of fields of which the rules do not say when they match, with the reason.
_OPAQUE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("meta day", "meta hour", "meta time"), ("time", "it depends on the time of day")),
    **{
        name: (name, "this header is not analysed")
        for name in ("frag", "hbh", "dst", "mh", "srh", "exthdr", "rt type", "rt nexthdr")
    },
    "ct label": ("label", "labels of connections are not analysed"),
    "socket": ("socket", "it depends on the sockets of this host"),
    "osf": ("osf", "it depends on a table of fingerprints"),
    "@": ("payload", "it reads raw bytes of the packet, which may be those of other fields"),
    "ipsec": ("ipsec", "it depends on the policies of IPsec"),
}  # fmt: skip
#: Ends of fields that change while a connection lasts.
_TRAFFIC = frozenset({"bytes", "packets", "avgpkt"})
#: Statements that end the path of a packet, or copy it, in ways that are not followed.
_TARGETS = frozenset({"tproxy", "queue", "dup", "fwd", "flow", "synproxy", "dnat", "snat", "redirect"})
#: Words of statements that pick, or send packets elsewhere, whatever chain they are in.
_ELSEWHERE = frozenset({"tproxy", "queue", "dup", "fwd", "numgen", "jhash", "symhash"})
#: Words of statements that are not understood, and may decide what becomes of connections.
_DECIDING = frozenset(
    {*_TARGETS, *_ELSEWHERE, "accept", "drop", "jump", "goto", "return", "map", "masquerade", "vmap", "xt"}
    | {"mark", "reject"}
)


def program(found: Document, family: Family, rules: int) -> FamilyProgram:
    """Return what the tables of a document do for one family. `rules` is how many the document has."""
    chains: dict[str, Chain] = {}
    bases: list[Base] = []
    whole = False
    for table in found.tables.values():
        if table.family not in {layout.WORD[family], *_SHARED}:
            continue
        lowering = _Lowering(table, family)
        for chain in table.chains.values():
            chains[chain.place] = lowering.chain(chain)
            if chain.hook and not table.dormant:
                bases.append(Base(chain.hook, chain.priority, chain.kind, chain.place, table.name))
                whole |= chain.hook == "postrouting" and chain.kind == "nat" and chain.declared
    return FamilyProgram(family, bases, chains, whole=whole, rules=rules)


def misplaced(made: FamilyProgram) -> list[tuple[Rule, Opaque]]:
    """Return the translations that the kernel does not take where they are; they do nothing from here on."""
    found: list[tuple[Rule, Opaque]] = []
    for base in made.bases:
        for rule in made.chains[base.chain].rules:
            if not rule.action:
                continue
            if rule.action == frames.ACTION:
                if base.hook == INGRESS:
                    continue
                found.append((rule, Opaque("fwd", f"what is sent on at hook {base.hook} is not followed")))
                rule.refused, rule.act, rule.switch = True, Act.GO_ON, None
                continue
            places = HOOKS_OF[rule.action in {"dnat", "redirect"}]
            if base.kind != "nat" or (base.hook not in places and rule.target != "masquerade"):
                found.append((rule, Opaque("wrong-table", f"{rule.target} at hook {base.hook}")))
                rule.refused, rule.act, rule.switch = True, Act.GO_ON, None
    masquerades = {
        name: [rule for rule in chain.rules if rule.target == "masquerade" and not rule.refused]
        for name, chain in made.chains.items()
    }
    if any(masquerades.values()):
        calls = {
            name: [t for rule in chain.rules for t in rule.targets] for name, chain in made.chains.items()
        }
        entered = reach([base.chain for base in made.bases if base.hook != "postrouting"], calls)
        for rule in (rule for name, rules in masquerades.items() if name in entered for rule in rules):
            rule.opaque, rule.act = _OUTSIDE, Act.UNKNOWN
            found.append((rule, _OUTSIDE))
    return found


class _Lowering:
    """Lowers the rules of one table, one after the other, statement by statement.

    A rule is one draft, or one for each element of the look-ups on the way; each method for a statement
    returns the drafts of what goes on behind it.
    """

    def __init__(self, table: NftTable, family: Family) -> None:
        self._table = table
        self._family = family
        self._lookups = Lookups(table, family)
        self._own = layout.owner_of(table.family, table.name) is not None
        both = table.family == _BOTH
        self._translations = Translations(self._lookups, family, both=both, make=self._make)
        self._frames = Frames(self._lookups, family, own=self._own, make=self._make)
        #: What the hook of the chain that is lowered asks of all packets.
        self._of_hook: tuple[Condition, ...] = ()
        #: The rule that is lowered, the number of its statement, and the rules of the engine so far.
        self._rule: document.NftRule
        self._number = 0
        self._made: list[Rule] = []
        #: What conditions ask, by their text.
        self._known: dict[str, tuple[Condition, ...]] = {}
        #: What the conditions at the beginning of a rule ask together, by their texts.
        self._heads: dict[tuple[str, ...], Selector] = {}

    def chain(self, chain: document.NftChain) -> Chain:
        """Return a chain as the engine has it."""
        self._made = []
        self._of_hook = self._arriving(chain)
        for rule in chain.rules:
            self._rule = rule
            self._lower_rule(rule)
        verdict = "drop by policy" if chain.policy == "drop" else "policy accept"
        return Chain(
            chain.place,
            self._made,
            Act.DROP if chain.policy == "drop" else Act.ACCEPT,
            f"{verdict} of chain {chain.name}",
            chain.line,
            service=chain.name.removeprefix(SERVICE) if chain.name.startswith(SERVICE) else None,
            own=self._own,
        )

    def _arriving(self, chain: document.NftChain) -> tuple[Condition, ...]:
        """Return the condition that frames arrive at one of a chain's interfaces."""
        if chain.hook != INGRESS or not chain.devices:
            return ()
        found = condition("iif", chain.devices, self._family)
        return (found,) if found is not None else ()

    def _lower_rule(self, rule: document.NftRule) -> None:
        draft, asked = self._head(rule)
        if not draft.possible:
            return
        drafts: Sequence[Draft] = (draft,)
        for self._number, statement in enumerate(rule.statements[asked:], asked):
            if len(drafts) == 1:
                drafts = self._statement(drafts[0], statement)
            else:
                drafts = [each for draft in drafts for each in self._statement(draft, statement)]
            drafts = [draft for draft in drafts if draft.first or draft.later]
            if not drafts:
                return
        for draft in drafts:
            self._make(draft, Act.GO_ON)

    def _head(self, rule: document.NftRule) -> tuple[Draft, int]:
        """Return a draft that asks what the first conditions of a rule do, and how many these are.

        The rungs of a ladder begin alike, and have one selector.
        """
        draft, texts = Draft(self._family), []
        if self._of_hook:
            ask(draft, self._of_hook)
            return draft, 0
        for statement in rule.statements:
            if not isinstance(statement, Relational) or statement.text not in self._known:
                break
            texts.append(statement.text)
        if texts:
            where = self._heads.get(key := tuple(texts))
            if where is not None:
                draft.where = where
                return draft, len(texts)
            for text in texts:
                ask(draft, self._known[text])
            if draft.first and draft.later and not draft.steps:
                self._heads[key] = draft.where
        return draft, len(texts)

    @property
    def _at(self) -> tuple[document.NftRule, int]:
        """The place of the statement that is lowered."""
        return self._rule, self._number

    def _make(self, draft: Draft, act: Act, target: str = "", switch: Switch | None = None) -> Rule:
        rule = draft.rule(self._rule, act, target, switch)
        self._made.append(rule)
        return rule

    def _statement(  # noqa: C901, PLR0912 (a case for each kind)
        self, draft: Draft, statement: Statement
    ) -> Sequence[Draft]:
        try:
            match statement:
                case Relational():
                    return self._match(draft, statement)
                case Nat():
                    self._translations.lower(draft, statement, self._at)
                case FrameStatement():
                    return self._frame(draft, statement)
                case Forwarding():
                    self._frames.lower(draft, self._rule.statements, self._number, self._at)
                case NftVerdict():
                    self._verdict(draft, statement)
                case Vmap():
                    self._vmap(draft, statement)
                case syntax.MarkStatement():
                    return self._mark(draft, statement)
                case Update():
                    return self._update(draft, statement)
                case RateLimit():
                    return self._limit(draft, statement)
                case Unknown():
                    self._unknown(draft, statement)
                case _:
                    assert_never(statement)
        except NoEndpoint as error:
            draft.remarks += ("family-mismatch",) if error.what == "family-mismatch" else ()
            draft.cannot(error.what, error.reason)
            self._make(draft, Act.UNKNOWN, "nat")
        except UnsupportedSyntax as unsupported:
            text = str(unsupported)
            self._opaque(draft, text[:40], f"not understood: {text[:80]}")
            if isinstance(statement, Forwarding):
                draft.remarks += ("elsewhere",)
            if not isinstance(statement, (Vmap, Nat, Forwarding)):
                return (draft,)
            self._make(draft, Act.UNKNOWN, type(statement).__name__.lower())
        return ()

    def _opaque(self, draft: Draft, what: str, reason: str) -> Sequence[Draft]:
        """Note something that may match or not."""
        draft.remarks += ("unsupported-match",)
        draft.cannot(what, reason)
        return (draft,)

    # -- statements that are not understood, or of which the traffic decides whether they match

    def _limit(self, draft: Draft, limit: RateLimit) -> Sequence[Draft]:
        what = limit.text.partition(" ")[0]
        on = "the rate of the traffic" if what == "limit" else "the traffic"
        return self._opaque(draft, what, f"how often it matches depends on {on}")

    def _update(self, draft: Draft, update: Update) -> Sequence[Draft]:
        if update.limited:
            what = update.limited.partition(" ")[0]
            return self._opaque(draft, what, "how often it matches depends on the traffic")
        if update.name not in self._lookups.links:
            draft.step(Memory("map", update.name, asks=False, inverted=False, seconds=None, by=""))
        return (draft,)

    def _unknown(self, draft: Draft, unknown: Unknown) -> None:
        """Lower the rest of a rule that is not understood."""
        head, *more = unknown.text.split(" ")
        every = {head, *more}
        if head == "xt":
            code = "unsupported-target" if more[:1] == ["target"] else "unsupported-match"
            draft.remarks += (code, "mixed-backends")
            draft.cannot("xt", "it belongs to iptables-nft, whose own dump shows it")
        elif not _DECIDING.isdisjoint(every):
            code = "unsupported-target" if head in _TARGETS else "unsupported-match"
            draft.remarks += (code,) if _ELSEWHERE.isdisjoint(every) else (code, "elsewhere")
            draft.cannot(head[:40], f"not understood from here on: {unknown.text[:80]}")
        else:
            self._make(draft, Act.GO_ON)
            return
        self._make(draft, Act.UNKNOWN, head)

    def _frame(self, draft: Draft, statement: FrameStatement) -> Sequence[Draft]:
        """Leave MAC addresses to the `fwd` behind them; what stays on this host is not balanced by them."""
        if isinstance(statement.value, tuple) or frames.sends(self._rule.statements, self._number):
            return (draft,)
        draft.remarks += ("elsewhere",)
        return self._opaque(draft, "ether", "MAC addresses that are chosen and not sent on are not followed")

    # -- conditions

    def _match(  # noqa: C901, PLR0912 (the order of the cases is what they mean)
        self, draft: Draft, match: Relational
    ) -> Sequence[Draft]:
        known = self._known.get(match.text)
        if known is not None:
            ask(draft, known)
            return (draft,)
        key, members, inverted = match.key, match.members, match.op == "!="
        if (picked := condition_pick(key, self._at)) is not None:
            pick, offset = picked
            draft.step(Draw(pick, within(pick.modulus, offset, match.op, tuple(self._texts(match)))))
        elif self._lookups.is_link(members, key):
            draft.add(BACK[0], YES, inverted)
        elif self._lookups.is_crossing(members):
            return ()
        elif (memory := self._lookups.memory(members)) is not None:
            draft.step(memory._replace(inverted=inverted))
        elif isinstance(key, Field) and (reason := _opaque_field(key.name)) is not None:
            return self._opaque(draft, *reason)
        elif (asked := self._lookups.asked(key)) is None:
            return ()
        elif len(asked.fields) > 1:
            entries = self._lookups.entries(key, members)
            either = either_port(asked, entries)
            if either is None and inverted:
                raise UnsupportedSyntax(match.op)
            if either is not None:
                ports = fact("port", spelled("dport", either, draft.bits), inverted=inverted)
                ask(draft, (*asked.implied, ports))
            elif any(map(picks, self._rule.statements)) and self._lookups.overlap(key, members):
                return self._opaque(
                    draft, "overlap", "a packet that matches two elements picks once, not twice"
                )
            else:
                return [_asking(draft, conditions) for conditions, _ in entries]
        else:
            ask(draft, asked.implied)
            if (bits := _flag_bits(key)) is not None:
                draft.tcp_flags(bits, self._flags(match), inverted)
                return (draft,)
            return self._values(draft, match, asked.implied, *asked.fields)
        return (draft,)

    def _values(
        self, draft: Draft, match: Relational, implied: tuple[Condition, ...], field: str
    ) -> Sequence[Draft]:
        """Ask for some values of one field."""
        texts, inverted = self._texts(match), match.op == "!="
        if match.op not in {"==", "!="}:
            [text, *others] = texts
            if others:
                raise UnsupportedSyntax(match.op)
            ask(draft, ((field, compared(field, match.op, text, self._family)),))
        elif ANYTHING[0] in texts:
            return () if inverted else (draft,)
        else:
            field, texts = _prefix(field, texts)
            found = condition(field, texts, self._family)
            if found is None:
                return (draft,) if inverted else ()
            ask(draft, (found,), inverted=inverted)
            if not inverted and not isinstance(match.members, Ref):
                self._known[match.text] = (*implied, found)
        return (draft,)

    def _flags(self, match: Relational) -> list[int]:
        """Return the values that some flags of TCP are compared with."""
        values = [symbols.mask(FLAGS.name, text) for text in self._texts(match)]
        if match.op not in {"==", "!="} or None in values:
            raise UnsupportedSyntax(match.text)
        return [value for value in values if value is not None]

    def _texts(self, match: Relational) -> list[str]:
        return [only(element.key) for element in self._lookups.members(match.members)]

    # -- verdicts

    def _verdict(self, draft: Draft, verdict: NftVerdict) -> None:
        act = _VERDICTS[verdict.kind]
        if verdict.target:
            rule = self._make(draft, act, self._place(verdict.target))
            called = self._table.chains.get(verdict.target)
            # Connections were looked up by their port.
            is_dispatch = draft.element is not None and draft.where.dport is not None
            rule.serves_none = called is not None and is_dispatch and _is_empty(called)
        else:
            self._make(draft, act, verdict.kind)

    def _place(self, name: str) -> str:
        """Return a chain of this table, as the engine has it."""
        return f"{self._table.family} {self._table.name} {name}"

    def _vmap(self, draft: Draft, vmap: Vmap) -> None:
        if isinstance(vmap.key, NumberExpression):
            cases = self._lookups.cases(draft, vmap.key, vmap.members, self._target)
            self._make(draft, Act.SWITCH, switch=Switch(pick_of(vmap.key, self._at), cases))
        elif (memory := self._lookups.memory(vmap.members)) is not None:
            draft.step(memory)
            self._make(draft, Act.GO_ON)
        else:
            for conditions, element in self._lookups.entries(vmap.key, vmap.members):
                made = _asking(draft, conditions)
                if made.possible and isinstance(element.data, NftVerdict):
                    made.element = element.text
                    self._verdict(made, element.data)

    def _target(self, element: Element) -> Branch | None:
        verdict = element.data
        if not isinstance(verdict, NftVerdict):
            return None
        to = self._place(verdict.target) if verdict.target else verdict.kind
        return Branch(_VERDICTS[verdict.kind], to)

    # -- marks

    def _mark(self, draft: Draft, statement: syntax.MarkStatement) -> Sequence[Draft]:
        connection = statement.where == "ct"
        match statement.value:
            case Computed(of=of, mask=mask, flip=flip):
                packet, kept = (mask, 0) if of == "meta" else (0, mask)
                draft.step(SetMark(Marking(connection, packet, kept, flip)))
            case NumberExpression() as pick if pick.modulus > WIDEST:
                draft.cannot("mark", f"{pick.modulus} marks")
            case NumberExpression() as pick:
                marks = range(pick.offset, pick.offset + pick.modulus)
                markings = (Marking.constant(mark, connection=connection) for mark in marks)
                cases = tuple((((n, n),), marking) for n, marking in enumerate(markings))
                draft.step(DrawMark(pick_of(pick, self._at), cases))
            case Lookup(key=NumberExpression() as pick, members=members):
                found = self._lookups.cases(draft, pick, members, partial(_marking, connection))
                draft.step(DrawMark(pick_of(pick, self._at), found))
            case Lookup(key=key, members=members):
                return self._mark_looked_up(draft, key, members, connection)
            case tuple() as value:
                draft.step(SetMark(Marking.constant(number(only(value)), connection=connection)))
            case None:
                draft.step(SetMark(Marking.unknown(connection=connection)))
        return (draft,)

    def _mark_looked_up(
        self, draft: Draft, key: Source, members: Members, connection: bool
    ) -> Sequence[Draft]:
        drafts = []
        if self._lookups.memory(members) is None:
            for conditions, element in self._lookups.entries(key, members):
                made, marking = _asking(draft, conditions), _marking(connection, element)
                if made.possible and marking is not None:
                    made.step(SetMark(marking))
                    drafts.append(made)
        return drafts


def _marking(connection: bool, element: Element) -> Marking | None:
    """Return what an element of a map has for a mark."""
    if not isinstance(element.data, tuple):
        return None
    return Marking.constant(number(only(element.data)), connection=connection)


def _asking(draft: Draft, conditions: Iterable[Condition]) -> Draft:
    """Return a copy of a draft that asks for some more conditions."""
    made = draft.fork()
    ask(made, conditions)
    return made


def _flag_bits(key: Source) -> int | None:
    """Return the flags of TCP that a condition is about; None for any other."""
    if key == FLAGS:
        return EVERY_FLAG
    return key.mask if isinstance(key, Masked) and key.field == FLAGS else None


def _opaque_field(name: str) -> tuple[str, str] | None:
    """Return what is not known, and why, if the rules do not say when a field matches; else None."""
    head, _, last = name.partition(" ")
    if head == "ct" and last.rpartition(" ")[2] in _TRAFFIC:
        return name, "it depends on the traffic of the connection"
    return _OPAQUE.get(name) or _OPAQUE.get(name[:1] if name.startswith("@") else head)


def _prefix(field: str, texts: list[str]) -> tuple[str, list[str]]:
    """Return a field with its values; for a mark that nft lists as `mark/bits`, these bits of it."""
    if mark_of(field) is None or not any("/" in text for text in texts):
        return field, texts
    [text] = texts
    value, _, length = text.partition("/")
    mask = EVERY_BIT & ~((1 << (32 - min(number(length), 32))) - 1)
    return f"{field.partition('/')[0]}/{mask:#x}", [value]


def _is_empty(chain: document.NftChain) -> bool:
    """Return True for a chain in which no rule leads on."""
    return not any(
        isinstance(s, (Nat, Vmap, Unknown)) or (isinstance(s, NftVerdict) and s.target)
        for rule in chain.rules
        for s in rule.statements
    )
