"""A text → what its rules do: services, findings, and what was not understood."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from lbctl.model import Family, Finding, Kept, Reading, ReadService, ReadShare, Severity, Step
from lbctl.model import shares as parts_of
from lbctl.model.jenkins import slot_of
from lbctl_nftables import layout
from lbctl_nftables.reading import judge
from lbctl_nftables.reading.apart import SERVICE, tell_apart
from lbctl_nftables.reading.document import Document, is_script, read_text
from lbctl_nftables.reading.follow import Undecided, follow, follow_again
from lbctl_nftables.reading.graph import End, sequence, shares, weights
from lbctl_nftables.reading.hook import Found, Hook, Purse, TooMuch, asks_marks, calls, marks_set, sets_marks
from lbctl_nftables.reading.later import Later
from lbctl_nftables.reading.listed import read_json
from lbctl_nftables.reading.select import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl_nftables.reading.document import Chain, Rule
    from lbctl_nftables.reading.grammar import Pick
    from lbctl_nftables.reading.graph import Followed

FORMAT = "nft"
_LOOKS = re.compile(
    r"(?m)^[ \t]*(?:#!.*\bnft\b|(?:(?:add|create|insert)[ \t]+)?(?:table|chain|rule)[ \t]+"
    r"(?:(?:ip6?|inet|arp|bridge|netdev)[ \t]+)?[\w\"]"
    r"|flush[ \t]+ruleset)"
)
_JSON = re.compile(r'\s*\{\s*"nftables"\s*:')
#: Where a chain that is only named would be hooked by its name, as in rules for a table of another text.
_BY_NAME = {
    "prerouting": ("nat", "prerouting", -100),
    "output": ("nat", "output", -100),
    "postrouting": ("nat", "postrouting", 100),
}
_HOOKS = {
    False: ("prerouting", "output", "postrouting", "input"),
    True: ("prerouting", "input", "forward", "output", "postrouting"),
}
#: Where connections come in, and what they pass before they come to any other hook.
_COMING = ("prerouting", "output")
_BEFORE = {
    "input": ("prerouting",),
    "forward": ("prerouting",),
    "postrouting": ("prerouting", "output", "forward"),
}
_WORDS = {Family.IPV4: {"ip", "inet"}, Family.IPV6: {"ip6", "inet"}}
#: The longest sequence that is told; shares are exact all the same.
_LONGEST = 65536
#: Connections of one text that are followed one by one.
_TURNS = 1_000_000
_MODES = {"inc": "nth", "random": "random", "jhash": "hash", "symhash": "hash"}
_SOURCE = {"ip saddr", "ip6 saddr"}
_SHOWN = {"family", "proto", "dst", "dport", "dst-type", "state"}


def recognizes(text: str) -> bool:
    """See `lbctl.spi.Reader`."""
    return bool(_JSON.match(text) or _LOOKS.search(text) or is_script(text))


def read(text: str, *, family: Family | None = None) -> Reading:
    """See `lbctl.spi.Reader`. A text of nft says its families itself."""
    del family
    text = text.removeprefix("\ufeff")
    if "\0" in text or any("\udc80" <= letter <= "\udcff" for letter in text if letter > "\ud7ff"):
        line = 1 + text[
            : next(i for i, c in enumerate(text) if c == "\0" or "\udc80" <= c <= "\udcff")
        ].count("\n")
        finding = Finding(
            code="input-not-text",
            severity=Severity.ERROR,
            line=line,
            rule="",
            message="there are bytes that are no text",
        )
        return Reading(format=FORMAT, accept=False, findings=(finding,))
    document = read_json(text) if _JSON.match(text) else read_text(text)
    return read_document(document, len(text))


def read_document(document: Document, size: int) -> Reading:
    """What the rules of a document do; `size` is that of its text, which bounds the work."""
    return _Reader(document, size).reading()


@dataclass(slots=True)
class Seen:
    """A selector's connections at one hook, followed to their ends."""

    hook: Hook
    selector: Selector
    found: Found
    followed: Followed
    ends: Mapping[End, Fraction]
    slots: tuple[End, ...]
    service: ReadService
    #: Numbers that are picked anew for packets behind the first one of a connection.
    again: frozenset[int] = frozenset()


class _Reader:
    def __init__(self, document: Document, size: int) -> None:
        self._document = document
        self._words = size // 5
        self._purse = Purse(self._words)
        self._hooks: list[Hook] = []
        self._seen: list[Seen] = []
        #: Rules that are not come to, each with those that take all before it.
        self._behind: dict[int, tuple[Rule, list[Rule]]] = {}
        self._turns = _TURNS
        self._later: dict[Family, Later] = {}
        self._chains_of = {
            id(rule): chain
            for table in document.tables.values()
            for chain in table.chains.values()
            for rule in chain.rules
        }
        #: By counter, whose connections may move it, and at which hooks.
        self._moved: dict[tuple[bool, int], dict[tuple[Family, Selector], list[Hook]]] = {}
        #: By family and the hook where connections come in, what they pass up to where they leave.
        self._throughs: dict[tuple[Family, str], Hook | None] = {}
        self._met: dict[tuple[Hook, Selector], set[int] | None] = {}

    def reading(self) -> Reading:
        """What the document does."""
        document = self._document
        self._suppose_hooks()
        loops = _loops(document)
        for rule, name in loops:
            document.refuse(
                "chain-loop",
                rule.line,
                rule.text,
                f"chain {name} leads back to itself; the kernel refuses that",
            )
        if not loops:
            try:
                self._follow()
            except TooMuch:
                document.skip(1, "", "size", "following these rules takes more steps than their size allows")
        judge.document(document)
        for hook in self._hooks:
            judge.hook(document, hook)
        judge.services(document, self._seen, self._hooks, self._chains_of)
        judge.behind(document, self._seen, self._behind)
        services = self._merged()
        used = {number for seen in self._seen for number in seen.followed.used}
        skipped = {(each.line, each.rule) for each in document.unsupported}
        rules = [
            rule
            for table in document.tables.values()
            for chain in table.chains.values()
            for rule in chain.rules
        ]
        untouched = sum(
            id(rule) not in used and (rule.line, rule.text[:400]) not in skipped for rule in rules
        )
        return Reading(
            format=FORMAT,
            accept=document.accept,
            services=services,
            findings=tuple(sorted(dict.fromkeys(document.findings), key=lambda finding: finding.line)),
            unsupported=tuple(dict.fromkeys(document.unsupported)),
            untouched_rules=untouched,
        )

    def _suppose_hooks(self) -> None:
        """Chains that are not declared in the text, but named like hooks, are taken for chains of these."""
        for table in self._document.tables.values():
            for chain in table.chains.values():
                supposed = _BY_NAME.get(chain.name.lower())
                if not chain.declared and supposed and chain.rules:
                    chain.kind, chain.hook, chain.priority = supposed
                    message = f"chain {chain.name} is not declared in this text; "
                    message += f"taken for the {chain.hook} hook of NAT"
                    first = chain.rules[0]
                    self._document.find("partial-dump", Severity.WARNING, first.line, first.text, message)

    def _follow(self) -> None:
        for family in Family:
            # With a purse of its own: what comes later is no reason to leave the rest untold.
            self._later[family] = Later(self._document, family, self._bases, Purse(self._words))
            for marking in (False, True):
                for name in _HOOKS[marking]:
                    chains = self._chains(family, name, marking=marking)
                    if chains:
                        hook = Hook(
                            self._document,
                            family,
                            name,
                            chains,
                            marking=marking,
                            purse=self._purse,
                            marked=self._marked(family, name),
                        )
                        tell_apart(hook)
                        self._hooks.append(hook)
        for hook in self._hooks:
            for ident, selectors in hook.moved.items():
                movers = self._moved.setdefault((hook.marking, ident), {})
                for each in selectors:
                    movers.setdefault((hook.family, each), []).append(hook)
        for hook in self._hooks:
            for selector, found in hook.found.items():
                self._one(hook, selector, found)

        for seen in [each for each in self._seen if each.hook.marking and each.hook.name in _COMING]:
            self._by_mark(seen)

    def _chains(self, family: Family, hook: str, *, marking: bool) -> list[Chain]:
        """The base chains of a hook in the order of their calls; of a `marking` one, all of them.

        Else those that translate, and those that set marks where one that translates, here or at a later
        hook, asks for them.
        """
        chains = self._bases(family, hook)
        if marking:
            return chains
        if not any(chain.kind == "nat" for chain in chains):
            return []
        nat = [chain for chain in self._bases(family, *_HOOKS[False]) if chain.kind == "nat"]
        asked = asks_marks(self._document, nat)
        return [chain for chain in chains if chain.kind == "nat" or (asked and self._sets(chain))]

    def _bases(self, family: Family, *hooks: str) -> list[Chain]:
        """All base chains of some hooks, one hook after another."""
        chains = [
            chain
            for table in self._document.tables.values()
            if table.family in _WORDS[family]
            for chain in table.chains.values()
            if chain.hook in hooks
        ]
        return sorted(chains, key=lambda chain: (hooks.index(chain.hook), chain.priority))

    def _sets(self, chain: Chain) -> bool:
        return sets_marks(chain, self._document.tables[chain.family, chain.table])

    def _marked(self, family: Family, hook: str) -> frozenset[str]:
        """The marks that connections may have when they come to a hook."""
        before = _BEFORE.get(hook, ())
        return marks_set(self._document, self._bases(family, *before)) if before else frozenset()

    def _by_mark(self, seen: Seen) -> None:
        """Sources that are chosen behind the routing by a mark, for connections whose marks are balanced."""
        hook = self._through(seen.hook.family, seen.hook.name)
        if hook is None:
            return
        asked = Selector(tuple(pair for pair in seen.selector.fields if pair[0] != "state"))
        try:
            followed = follow(hook, asked)
            ends, slots = self._weighed(followed, seen.found)
        except Undecided as undecided:
            self._undecided(undecided)
            return
        served = {end.to: end.action for end in ends if end.to}
        if len(served) < 2 or set(served.values()) != {"snat"}:
            return
        for rule, what in followed.partly.values():
            if self._chains_of[id(rule)].hook not in _COMING:
                reason = f"it is for some of the connections whose mark is balanced, by {what}: the way out "
                reason += "may depend on the mark"
                self._document.skip(rule.line, rule.text, what, reason)
                return
        depends = self._depends(seen.hook, seen.selector, followed, seen.again)
        service = self._service(hook, asked, seen.found, followed, ends, slots, depends)
        if service is not None:
            self._seen.append(Seen(hook, asked, seen.found, followed, ends, slots, service))

    def _through(self, family: Family, first: str) -> Hook | None:
        """What connections pass from where they come in to where they leave; None where no mark is asked."""
        key = family, first
        if key not in self._throughs:
            between = ("forward",) if first == "prerouting" else ()
            chains = [
                chain
                for chain in self._bases(family, first, *between, "postrouting")
                if chain.kind == "nat" or self._sets(chain)
            ]
            behind = [chain for chain in chains if chain.kind == "nat" and chain.hook == "postrouting"]
            self._throughs[key] = hook = None
            if asks_marks(self._document, behind):
                hook = Hook(
                    self._document,
                    family,
                    "postrouting",
                    chains,
                    marking=False,
                    purse=self._purse,
                    first=first,
                )
                for each in self._hooks:
                    hook.strange |= each.strange
                self._throughs[key] = hook
        return self._throughs[key]

    def _undecided(self, undecided: Undecided) -> None:
        rule = undecided.rule
        self._document.skip(rule.line, rule.text, undecided.what, undecided.reason)
        if undecided.what in judge.CODES:
            self._document.find(undecided.what, Severity.ERROR, rule.line, rule.text, undecided.reason)

    def _packets(self, hook: Hook, selector: Selector, followed: Followed) -> frozenset[int]:
        """The numbers that are picked anew for packets behind the first one of connections."""
        picks = {pick.ident for pick in _picks(followed)}
        if not picks or not (hook.marking or picks & hook.packets.keys()):
            return frozenset()
        again: set[int] = set()
        for mark in followed.keep:
            try:
                again |= follow_again(hook, selector, mark).met
            except Undecided:
                return frozenset(picks)
        return frozenset(again)

    def _one(self, hook: Hook, selector: Selector, found: Found) -> None:
        try:
            followed = follow(hook, selector)
            unmet = [rule for rule in found.rules if id(rule) not in followed.used]
            if unmet and any(end.to for end in shares(followed)):
                # Other rules, before these, have endpoints for all of it.
                taking = [rule for rule in followed.used.values() if judge.translates(rule)]
                self._behind.update((id(rule), (rule, taking)) for rule in unmet)
            if unmet and len(unmet) == len(found.rules):
                return
            ends, slots = self._weighed(followed, found)
        except Undecided as undecided:
            self._undecided(undecided)
            return
        again = self._packets(hook, selector, followed)
        # That packets are balanced, where marks are, is a finding.
        depends = self._depends(hook, selector, followed, frozenset() if hook.marking else again)
        service = self._service(hook, selector, found, followed, ends, slots, depends)
        if service is not None:
            self._seen.append(Seen(hook, selector, found, followed, ends, slots, service, again))

    def _weighed(self, followed: Followed, found: Found) -> tuple[Mapping[End, Fraction], tuple[End, ...]]:
        """The shares, and one period where there is a sequence, or the slots of a hash."""
        picks = _picks(followed)
        kinds = {pick.kind for pick in picks}
        tangled = _tangled(followed)
        if kinds == {"inc"}:
            longest = max(pick.modulus for pick in picks)
            limit = min(_LONGEST, self._turns)
            turns = sequence(followed, limit) if longest <= limit else None
            self._turns -= limit if turns is None else len(turns)
            if turns is not None and tangled:
                return parts_of(turns), tuple(turns)
            if turns is not None:
                return shares(followed), tuple(turns)
        if tangled:
            rule = found.rules[0]
            raise Undecided(
                rule, "counters", "counters that are met on several ways have no exact share here"
            )
        if isinstance(followed.start, End):
            return shares(followed), (followed.start,) if followed.start.to else ()
        short = len(picks) == 1 and picks[0].modulus <= _LONGEST
        if short and picks[0].of in _SOURCE and picks[0].seed is not None:
            [node] = followed.nodes.values()
            if all(isinstance(after, End) for _, _, after in node.cases):
                slots = [after for low, high, after in node.cases for _ in range(low, high + 1)]
                return shares(followed), tuple(each for each in slots if isinstance(each, End))
        return shares(followed), ()

    def _service(
        self,
        hook: Hook,
        selector: Selector,
        found: Found,
        followed: Followed,
        ends: Mapping[End, Fraction],
        slots: tuple[End, ...],
        depends: str | None,
    ) -> ReadService | None:
        order = dict.fromkeys([*slots, *ends])
        served = [end for end in order if end.to]
        if hook.marking and len({end.to for end in served}) < (1 if slots else 2):
            return None
        parts: dict[str, Fraction] = {}
        for end in served:
            parts[end.to] = parts[end.to] + ends[end] if end.to in parts else ends[end]
        leaks = [end for end in ends if not end.to]
        picks = _picks(followed)
        hashes = {pick for pick in picks if pick.kind == "jhash"}
        mode = _mode(followed, ends)
        affinity = None
        if followed.keeps:
            affinity = Kept(kind="map", by="source address", seconds=followed.kept)
        elif mode == "hash" and hashes and all(pick.of in _SOURCE for pick in hashes):
            affinity = Kept(kind="hash", by="source address", seconds=None)
        family = hook.family
        when = {
            what: values.written(what, family)
            for what, values in selector.fields
            if what not in _SHOWN
            or (what == "dst-type" and (values.names != {"local"} or selector.get("dst")))
        }
        when |= followed.but
        dst = selector.get("dst")
        local = selector.get("dst-type")
        is_local = local is not None and local.names == {"local"} and not local.but
        proto, dport = selector.get("proto"), selector.get("dport")
        lines = sorted({rule.line for rule in followed.used.values()})
        names = {end.to: end.name for end in reversed(served) if end.name != end.to}
        ours = any(self._is_ours(number) for number in followed.used)
        source_nat, source_lines = self._later[family].source_nat(hook, selector, followed, ours=ours)
        return ReadService(
            family=family,
            proto=proto.text if proto else "any",
            dst=dst.written("dst", family) if dst else "local" if is_local else "any",
            dport=dport.written("dport", family) if dport else "any",
            hooks=(hook.name,),
            action=served[0].action if served else "none",
            mode=mode,
            backends=tuple(
                ReadShare(to=to, share=share, name=names.get(to) or None) for to, share in parts.items()
            ),
            leak=sum((ends[end] for end in leaks), start=Fraction(0)),
            leak_to="; ".join(dict.fromkeys(end.why for end in leaks)) or None,
            affinity=affinity,
            exact=depends is None,
            depends_on=depends,
            when=when or None,
            name=found.name,
            slots=tuple(end.to or None for end in slots),
            hash_seed=next(iter(hashes)).seed if len(hashes) == 1 and slots else None,
            placing=slot_of if len(hashes) == 1 and slots else None,
            lines=tuple(lines),
            picking=self._picking(found, followed),
            source_nat=source_nat,
            source_lines=source_lines,
            way=partial(self._path, hook, followed),
        )

    def _is_ours(self, number: int) -> bool:
        """True for a rule of a table of lbctl, by its identity."""
        chain = self._chains_of[number]
        return layout.owner_of(chain.family, chain.table) is not None

    def _picking(self, found: Found, followed: Followed) -> tuple[int, ...]:
        """The lines of the rules that pick; those of all protocols where one chain is one service's."""
        rules = self._parting(followed) or {id(rule): rule for rule in found.rules}
        chains = {id(chain): chain for number in rules if (chain := self._chains_of.get(number))}
        own_chain = [chain for chain in chains.values() if chain.name.startswith(SERVICE)]
        if own_chain and len(chains) == 1:
            rules = {id(rule): rule for rule in own_chain[0].rules if judge.picks(rule)} or rules
        return tuple(sorted({rule.line for rule in rules.values()}))

    def _parting(self, followed: Followed) -> dict[int, Rule]:
        parting = {id(node.rule) for node in followed.nodes.values()}
        return {
            number: rule for number, rule in followed.used.items() if number in parting and judge.picks(rule)
        }

    def _path(self, hook: Hook, followed: Followed) -> tuple[Step, ...]:
        """The rules that take part, in the order in which they are met."""
        # Of counters that are met on several ways only the ends are exact.
        met = {} if _tangled(followed) else weights(followed)
        steps = []
        for number, rule in followed.used.items():
            chain = self._chains_of[number]
            at = hook.bases[followed.bases[number]].hook
            where = f"{at}: {chain.family} {chain.table} {chain.name}"
            share, taken = met.get(number, (None, None))
            looked = followed.looked.get(number)
            steps.append(Step(where, rule.line, rule.text, share, taken, hook.name, looked))
        return tuple(steps)

    def _depends(
        self, hook: Hook, selector: Selector, followed: Followed, again: frozenset[int]
    ) -> str | None:
        """What else moves the counters of a service. `again` are those that its later packets move."""
        others: list[str] = []
        for pick in _picks(followed):
            if pick.kind == "inc" and pick.modulus > 1:
                others += [
                    _described(family, other)
                    for (family, other), hooks in self._moved.get((hook.marking, pick.ident), {}).items()
                    if (family, other) != (hook.family, selector)
                    and any(self._moves(at, other, pick.ident) for at in hooks)
                ]
        if any(pick.ident in again and pick.kind == "inc" for pick in _picks(followed)):
            return "packets of connections that are there already"
        if others:
            few = sorted(set(others))
            return (
                "connections of " + ", ".join(few[:4]) + (f" and {len(few) - 4} more" if len(few) > 4 else "")
            )
        if followed.strange:
            line = min(rule.line for rule in followed.strange.values())
            return f"a rule that is not understood (line {line})"
        return None

    def _moves(self, hook: Hook, selector: Selector, ident: int) -> bool:
        """True where connections come to a counter: rules before it may have ended the way of them all."""
        key = hook, selector
        if key not in self._met:
            try:
                self._met[key] = follow(hook, selector).met
            except Undecided:
                self._met[key] = None
        met = self._met[key]
        return met is None or ident in met

    def _merged(self) -> tuple[ReadService, ...]:
        """The services, those that are the same at several hooks as one."""
        made: dict[object, ReadService] = {}
        for seen in self._seen:
            service = seen.service
            key = (
                seen.hook.family, seen.hook.marking, seen.selector, service.action, service.mode,
                service.backends, service.leak, service.slots, service.affinity, service.hash_seed,
                service.when and tuple(service.when.items()),
            )  # fmt: skip
            other = made.get(key)
            if other is None:
                made[key] = service
            else:
                made[key] = replace(
                    other,
                    hooks=(*other.hooks, *(hook for hook in service.hooks if hook not in other.hooks)),
                    way=partial(_joined, other, service),
                    lines=tuple(sorted({*other.lines, *service.lines})),
                )
        return tuple(made.values())


def _joined(one: ReadService, other: ReadService) -> tuple[Step, ...]:
    return one.path + other.path


def _picks(followed: Followed) -> list[Pick]:
    return [node.pick for node in followed.nodes.values() if node.pick is not None]


def _tangled(followed: Followed) -> bool:
    """True where a counter is met on several ways."""
    met = [pick.ident for pick in _picks(followed) if pick.kind == "inc"]
    return len(met) > len(set(met))


def _mode(followed: Followed, ends: Mapping[End, Fraction]) -> str:
    if not any(end.to for end in ends):
        return "none"
    if len({end.to for end in ends}) == 1:
        return "single"
    kinds = {
        _MODES[node.pick.kind]
        for node in followed.nodes.values()
        if node.pick is not None and len({after for _, _, after in node.cases}) > 1
    }
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _described(family: Family, selector: Selector) -> str:
    found = {what: values.written(what, family) for what, values in selector.fields}
    dst = found.get("dst") or ("local" if "dst-type" in found else "any")
    return f"{family} {dst} {found.get('proto', 'any')} {found.get('dport', 'any')}"


def _loops(document: Document) -> list[tuple[Rule, str]]:
    """The rules that lead back to a chain that led to them, one for each such chain."""
    found: list[tuple[Rule, str]] = []
    for table in document.tables.values():
        done: set[str] = set()
        for first in table.chains:
            if first in done:
                continue
            path: dict[str, Iterator[tuple[Rule, str]]] = {first: calls(table.chains[first], document)}
            while path:
                name = next(reversed(path))
                for rule, target in path[name]:
                    if target in path:
                        found.append((rule, target))
                    elif target in table.chains and target not in done:
                        path[target] = calls(table.chains[target], document)
                        break
                else:
                    del path[name]
                    done.add(name)
    return found
