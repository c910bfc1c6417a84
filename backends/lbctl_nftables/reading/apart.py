"""Which connections the rules of a hook tell apart: every way to an action is walked."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from lbctl_nftables.reading import grammar
from lbctl_nftables.reading.grammar import (
    Computed,
    Limit,
    Lookup,
    Match,
    Nat,
    Pick,
    SetMark,
    Strange,
    Unknown,
    Update,
    Verdict,
    Vmap,
    idle_picks,
)
from lbctl_nftables.reading.hook import Found
from lbctl_nftables.reading.meaning import All, Drawn, Keyed, Learned, Meaning, Never
from lbctl_nftables.reading.select import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_nftables.reading.document import Chain, Rule
    from lbctl_nftables.reading.grammar import Operand
    from lbctl_nftables.reading.hook import Hook
    from lbctl_nftables.reading.meaning import Conditions, Meant

    #: A chain, what is selected where it is entered, whether a number was picked before, the service's name.
    _Entry: TypeAlias = tuple[Chain, Selector, bool, str | None]

#: Statements that end a packet's way, or copy it, in ways that are not followed.
_TARGETS = {"target", "tproxy", "queue", "dup", "fwd", "flow", "synproxy", "dnat", "snat", "redirect"}
_TRANSLATING = {"dnat", "redirect", "snat", "masquerade"}
_SOURCE = {"snat", "masquerade"}
#: How chains of one service are called, by lbctl and by kube-proxy.
SERVICE = "service-"


def tell_apart(hook: Hook) -> None:
    """Find all selectors that the rules of a hook tell apart, and what else is seen on the way."""
    _Walk(hook).everywhere()


class _Walk:
    def __init__(self, hook: Hook) -> None:
        self._hook = hook
        #: By chain, the kinds of the base chains that lead to it.
        self._kinds: dict[int, set[str]] = {}

    def everywhere(self) -> None:
        """Enter each chain with each selector that leads to it."""
        seen: set[tuple[int, Selector, bool]] = set()
        work: list[_Entry] = [(chain, Selector(), False, None) for chain in reversed(self._hook.bases)]
        self._kinds = {self._hook.number(chain): {chain.kind} for chain in self._hook.bases}
        while work:
            chain, selector, picked, name = work.pop()
            mark = (self._hook.number(chain), selector, picked)
            if mark in seen:
                continue
            seen.add(mark)
            if name is None and chain.name.startswith(SERVICE):
                name = chain.name.removeprefix(SERVICE)
            calls: list[_Entry] = []
            guarded = self._hook.guards(chain)
            for rule in guarded.narrowing(selector):
                self._hook.purse.spend()
                calls += self._walk(chain, rule, selector, picked, name)
            for called, *_ in calls:
                self._kinds.setdefault(self._hook.number(called), set()).update(self._kinds[mark[0]])
            work += reversed(calls)

    def _is_nat(self, chain: Chain) -> bool:
        """True for a chain that first packets alone come to."""
        return "nat" in self._kinds[self._hook.number(chain)]

    def _walk(
        self, chain: Chain, rule: Rule, selector: Selector, picked: bool, name: str | None
    ) -> Iterator[_Entry]:
        """The chains that a rule leads to, with what is selected then; its own actions are noted."""
        meaning = self._hook.meaning(chain)
        selectors = [selector]
        here = False
        counting: list[int] = []
        for number, statement in enumerate(rule.statements):
            try:
                match statement:
                    case Match() | Vmap():
                        meant = meaning.of(statement)
                    case Nat() if not self._hook.is_for(chain, statement):
                        # The kernel picks first, and only then sees that it is for the other family.
                        for pick in idle_picks(statement):
                            self._note_moved(chain, rule, pick, selectors)
                        return
                    case Nat(kind=kind) if kind in _TRANSLATING and not self._hook.marking:
                        if kind in _SOURCE and not (picked or here or self._balances(statement)):
                            return
                        for each in selectors:
                            yield from self._translated(meaning, chain, rule, statement, each, name)
                        return
                    case SetMark(value=value) if not self._hook.marking:
                        picked_by = value.key if isinstance(value, Lookup) else value
                        if isinstance(picked_by, Pick):
                            self._note_moved(chain, rule, picked_by, selectors)
                        continue
                    case SetMark(where=where, value=Computed(of=of)) if where != of:
                        # A mark that is kept, or comes back.
                        continue
                    case SetMark(value=value) if value is not None:
                        if here or isinstance(value, (Lookup, Pick)) or (picked and not self._is_nat(chain)):
                            for each in selectors:
                                yield from self._marked(meaning, chain, rule, value, each, name)
                        continue
                    case Verdict(kind="jump" | "goto", target=target):
                        called = self._hook.called_by(chain, target, rule)
                        if called is not None:
                            yield from ((called, each, picked or here, name) for each in selectors)
                        return
                    case Verdict(kind="continue") | Update() | Limit() | SetMark():
                        continue
                    case Unknown(text=text):
                        if self._matters(rule, number):
                            acts = text.removeprefix("xt ").split(" ")[0] in _TARGETS
                            what = "unsupported-target" if acts else "unsupported-match"
                            self._hook.strange[id(rule)] = rule, what, text
                        return
                    case _:
                        return
            except Strange as strange:
                if self._matters(rule, number):
                    self._hook.strange[id(rule)] = rule, "unsupported-match", str(strange)
                return
            self._hook.purse.spend(len(selectors))
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
                        self._hook.early.update((ident, rule) for ident in counting)
                    selectors = met
            if not selectors:
                return

    def _met(self, selector: Selector, meant: All | Keyed) -> Iterator[Selector]:
        """What of a selector meets a condition; for a set of several fields, each element by itself."""
        if isinstance(meant, All):
            ways = [meant.conditions]
        else:
            ways = [(*meant.implied, *conditions) for conditions, _ in meant.of(selector.get)]
        for conditions in ways:
            narrowed = self._narrow(selector, conditions)
            if narrowed is not None:
                yield narrowed

    def _narrow(self, selector: Selector, conditions: Conditions) -> Selector | None:
        narrowed: Selector | None = selector
        for what, found in conditions:
            if self._hook.is_carried(what, found):
                continue
            if what == "state":
                if ("new" in found.names) is found.but:
                    return None
                if not self._hook.marking:
                    # NAT sees first packets alone.
                    continue
            if narrowed is not None:
                narrowed = narrowed.narrowed(what, found)
        return narrowed

    def _note_moved(self, chain: Chain, rule: Rule, pick: Pick, selectors: Sequence[Selector]) -> None:
        if pick.kind == "inc":
            if not (self._is_nat(chain) or self._hook.marking or any(map(_is_new, rule.statements))):
                self._hook.packets[pick.ident] = rule
            for each in selectors:
                self._hook.moved.setdefault(pick.ident, {}).setdefault(each, rule)

    def _dispatched(
        self,
        chain: Chain,
        rule: Rule,
        statement: Vmap,
        meant: Meant,
        selectors: Sequence[Selector],
        picked: bool,
        name: str | None,
    ) -> Iterator[_Entry]:
        meaning = self._hook.meaning(chain)
        if isinstance(meant, Drawn):
            self._note_moved(chain, rule, meant.pick, selectors)
            targets = {
                e.data.target for e in meaning.elements(statement.members) if isinstance(e.data, Verdict)
            }
            for target in sorted(targets - {""}):
                called = self._hook.called_by(chain, target, rule)
                if called is not None:
                    yield from ((called, each, True, name) for each in selectors)
            return
        if not isinstance(meant, Keyed):
            return
        for selector in selectors:
            for conditions, element in meant.of(selector.get):
                self._hook.purse.spend()
                narrowed = self._narrow(selector, (*meant.implied, *conditions))
                if narrowed is None or not isinstance(element.data, Verdict) or not element.data.target:
                    continue
                called = self._hook.called_by(chain, element.data.target, rule)
                if called is None:
                    continue
                coming = "dport" in meant.names and self._hook.name in {"prerouting", "output"}
                if coming and _is_empty(called):
                    self._note(narrowed, rule, called.name.removeprefix(SERVICE), served=False)
                yield called, narrowed, picked, name

    def _translated(
        self, meaning: Meaning, chain: Chain, rule: Rule, nat: Nat, selector: Selector, name: str | None
    ) -> Iterator[_Entry]:
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
        self,
        meaning: Meaning,
        chain: Chain,
        rule: Rule,
        value: Operand | Computed,
        selector: Selector,
        name: str | None,
    ) -> Iterator[_Entry]:
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
        made = self._hook.found.setdefault(selector, Found(name=name, served=False))
        made.rules.append(rule)
        made.served = made.served or served

    def _balances(self, nat: Nat) -> bool:
        """True where a statement has several addresses to choose from."""
        if isinstance(nat.address, Lookup):
            return isinstance(nat.address.key, Pick)
        return isinstance(nat.address, tuple) and "-" in nat.address[0]

    def _matters(self, rule: Rule, number: int) -> bool:
        """True for a rule that could send connections elsewhere, were it understood."""
        acts = (Nat, SetMark) if self._hook.marking else (Nat, Verdict, Vmap, SetMark, Unknown)
        rest = rule.statements[number:]
        if self._hook.marking:
            return any(isinstance(s, SetMark) and s.value is not None for s in rest) and any(
                isinstance(s, (Match, SetMark)) for s in rule.statements
            )
        return any(isinstance(statement, acts) for statement in rest)


def _is_new(statement: grammar.Statement) -> bool:
    return isinstance(statement, Match) and statement.key == grammar.Field("ct state")


def _is_empty(chain: Chain) -> bool:
    """True for a chain in which no way leads on."""
    return not any(
        isinstance(s, (Nat, Vmap, Unknown)) or (isinstance(s, Verdict) and s.kind in {"jump", "goto"})
        for rule in chain.rules
        for s in rule.statements
    )
