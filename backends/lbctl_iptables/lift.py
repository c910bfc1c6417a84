"""Program → services with exact shares: follows the rules' counters, draws and hashes as the kernel would."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from ipaddress import ip_address
from math import gcd, lcm
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import MAX_SLOTS, Family, LiftedProgram, LiftedService, Listener, Protocol, shares
from lbctl_iptables import layout
from lbctl_iptables.bytecode import Slots, slots_of
from lbctl_iptables.pick import DRAW
from lbctl_iptables.rules import DumpedRule, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import Program

#: Connections after which a set of counters that has not come round is given up: beyond every ladder of ours.
_LONGEST = 1 << 16
#: Chains that lead from one to the next: beyond every tree of ours.
_DEEPEST = 64

_NODES = "--cluster-total-nodes"
_PROGRAM = "--bytecode"
#: A rule of a ladder: its protocol, one of how many it takes, by which target it sends it, and where.
_RUNG = re.compile(
    r"^-p (\S+) (?:-m statistic --mode nth --every (\d+) --packet 0 )?"
    r"(?:-m comment --comment [^ \"]+ )?-j (\S+) --to-(?:destination|ports) (\S+)$",
    re.M,
)

_Odds: TypeAlias = "dict[str | None, Fraction]"


class _Picked(NamedTuple):
    """Where connections go: one after another, or each by its odds."""

    mode: str
    slots: tuple[str | None, ...] = ()
    odds: tuple[tuple[str | None, Fraction], ...] = ()

    @property
    def chances(self) -> _Odds:
        return dict(self.odds) if self.odds else dict(shares(self.slots))


_NOBODY = _Picked("none", (None,))


class _NotUnderstood(Exception):
    """Rules that are not understood."""


def lift(program: Program) -> LiftedProgram:
    """See `lbctl.spi.Backend.lift`."""
    services: list[LiftedService] = []
    unsupported: list[str] = []
    for word in layout.WORD.values():
        # Without it, no connection from outside reaches a service.
        entrance = (word, "jump", layout.NAT, "PREROUTING")
        if not any(item.key[:4] == entrance for item in program.of_kind("jump")):
            continue
        chains = {
            item.key[3]: item.text
            for item in program.of_kind("chain")
            if item.key[0] == word and item.key[2] == layout.NAT
        }
        for rule, target, local in _found(chains, program.owner):
            led = target in chains and rule.text.endswith(f" -g {target}")
            listener = _listener(rule, local=local) if led else None
            name = layout.service_of(program.owner, target, chains.get(target, "")) or ""
            if listener is None:
                unsupported.append(rule.text)
                continue
            # What clients get that are not allowed is no share.
            served = layout.chain(program.owner, name, layout.SERVED)
            entry = served if served in chains else target
            try:
                services.append(_service(word, listener, name, entry, chains))
            except (_NotUnderstood, ValueError):
                unsupported.append(rule.text)
                services.append(_unknown(word, listener, name))
    return LiftedProgram(services=tuple(services), unsupported=tuple(unsupported))


def _found(chains: Mapping[str, str], owner: str) -> Iterator[tuple[DumpedRule, str, bool]]:
    """Yield the rules that lead to services; where to; and whether only this host's addresses come there."""
    waiting, seen = [(layout.prefix(owner), False)], set()
    while waiting:
        name, local = waiting.pop(0)
        seen.add(name)
        for rule in rules_of(chains.get(name, "")):
            here = local or "--dst-type LOCAL " in rule.text
            target = rule.option("-g", "-j") or ""
            if not layout.is_shared(owner, target):
                yield rule, target, here
            elif target not in seen:
                waiting.append((target, here))


def _service(
    word: str, listener: Listener, name: str, entry: str, chains: Mapping[str, str]
) -> LiftedService:
    family = layout.FAMILY[word]
    walk = _Walk(chains, family, listener.protocol)
    picked = walk.chain(entry)
    single = len(picked.slots) == 1
    return LiftedService(
        name=name,
        family=family,
        listener=listener,
        mode=("single" if picked.slots[0] else "none") if single else picked.mode,
        slots=picked.slots,
        odds=picked.odds,
        action=walk.action,
    )


def _unknown(word: str, listener: Listener, name: str) -> LiftedService:
    return LiftedService(
        name=name, family=layout.FAMILY[word], listener=listener, mode="unknown", slots=(), action="none"
    )


class _Walk:
    """The way of one service's connections through its chains."""

    def __init__(self, chains: Mapping[str, str], family: Family, protocol: Protocol) -> None:
        self._chains = chains
        self._family = family
        self._protocol = protocol
        self._actions: set[str] = set()
        self._depth = 0

    @property
    def action(self) -> str:
        return self._actions.pop().lower() if len(self._actions) == 1 else "none"

    def chain(self, name: str) -> _Picked:
        """Return what a chain's rules do with connections that come to its first rule."""
        if self._depth > _DEEPEST:
            raise _NotUnderstood
        self._depth += 1
        picked = self._ladder(self._chains.get(name, "")) or self._rules(self._parsed(name))
        self._depth -= 1
        return picked

    def _ladder(self, text: str) -> _Picked | None:
        """Return what a chain does that is one ladder of endpoints at its start; None for another one.

        Nearly all are, and reading them rule by rule would take several times as long.
        """
        first, _, rest = text.partition("\n")
        text = rest if DumpedRule(first).option("-j") == "MARK" else text
        rungs = _RUNG.findall(text)
        count = text.count("\n") + 1
        if len(rungs) != count or count < 2:
            return None
        protocols, every, actions, to = zip(*rungs, strict=True)
        if set(protocols) != {self._protocol} or every != _downwards(count):
            return None
        self._actions |= set(actions)
        return _Picked("nth", to)

    def _parsed(self, name: str) -> Sequence[DumpedRule]:
        if name not in self._chains:
            raise _NotUnderstood
        return rules_of(self._chains[name])

    def _rules(self, rules: Sequence[DumpedRule]) -> _Picked:
        for i, rule in enumerate(rules):
            text = rule.text
            if " --rcheck " in text or rule.option("-j") in {"RETURN", "MARK"}:
                continue
            if rule.option("-p") not in {None, self._protocol}:
                continue
            if " --every " in text:
                return self._turn(rule, self._rules(rules[i + 1 :]))
            if " --probability " in text:
                return self._chance(rule, self._rules(rules[i + 1 :]))
            if f" {_NODES} " in text or _PROGRAM in text:
                return self._hash(rules[i:])
            return self._lead(rule)
        return _NOBODY

    def _lead(self, rule: DumpedRule) -> _Picked:
        """Return where a rule leads those that match it."""
        sent = rule.sent
        if sent is None:
            return self.chain(rule.option("-g", "-j") or "")
        action, to = sent
        self._actions.add(action)
        return _Picked("single", (to,))

    def _turn(self, rule: DumpedRule, rest: _Picked) -> _Picked:
        """One of `every` goes where the rule leads, and the others to what stands behind it."""
        every, start = int(rule.option("--every") or 0), int(rule.option("--packet") or 0)
        own = self._lead(rule)
        if not 0 <= start < every:
            raise _NotUnderstood
        if own.odds or rest.odds:
            return _mixed(Fraction(1, every), own, rest)
        if every == 1:
            return _Picked("nth", own.slots)
        others = every - 1
        rounds = lcm(len(own.slots), len(rest.slots) // gcd(len(rest.slots), others))
        if rounds * every > _LONGEST:
            return _mixed(Fraction(1, every), own, rest)
        slots: list[str | None] = []
        for turn in range(rounds):
            passed = [rest.slots[(turn * others + i) % len(rest.slots)] for i in range(others)]
            slots += [*passed[:start], own.slots[turn % len(own.slots)], *passed[start:]]
        return _Picked("nth", tuple(slots))

    def _chance(self, rule: DumpedRule, rest: _Picked) -> _Picked:
        stored = round(Fraction(rule.option("--probability") or "") * DRAW)
        mixed = _mixed(_meant(stored), self._lead(rule), rest)
        return _Picked("random", odds=mixed.odds)

    def _hash(self, rules: Sequence[DumpedRule]) -> _Picked:
        """Return the slots of a hash."""
        total = self._finest(rules)
        picked = self._nodes(rules, range(total), total, self._hash_of(rules[0]))
        return _Picked("hash", tuple(picked.get(node) for node in range(total)))

    def _hash_of(self, rule: DumpedRule) -> tuple[str, int] | None:
        """Return what a rule hashes with, and by which seed: rules of one such pair see the same hash."""
        if f" {_NODES} " in rule.text:
            return "cluster", int(rule.option("--cluster-hash-seed") or "0", 0)
        if _PROGRAM in rule.text:
            return "bpf", self._slots(rule).seed
        return None

    def _slots(self, rule: DumpedRule) -> Slots:
        found = slots_of(rule.option(_PROGRAM) or "", self._family)
        if found is None:
            raise _NotUnderstood
        return found

    def _finest(self, rules: Sequence[DumpedRule]) -> int:
        """Return how many slots the rules of one hash tell apart."""
        finest = 1
        for rule in rules:
            if _PROGRAM in rule.text:
                finest = lcm(finest, self._slots(rule).total)
            elif rule.option("-g"):
                finest = lcm(finest, self._finest(self._parsed(rule.option("-g") or "")))
            finest = lcm(finest, int(rule.option(_NODES) or 1))
            if not 0 < finest <= MAX_SLOTS:
                raise _NotUnderstood
        return finest

    def _nodes(
        self, rules: Sequence[DumpedRule], left: Sequence[int], total: int, same: tuple[str, int] | None
    ) -> dict[int, str | None]:
        """Return where the clients of each of the slots `left` go."""
        found: dict[int, str | None] = {}
        for rule in rules:
            hashed = self._hash_of(rule)
            if hashed not in {same, None}:
                raise _NotUnderstood
            taken = [slot for slot in left if hashed is None or self._takes(rule, slot, total)]
            if rule.endpoint is None and not self._leads_out(rule):
                found |= self._nodes(self._parsed(rule.option("-g") or ""), taken, total, same)
            else:
                found |= dict.fromkeys(taken, self._lead(rule).slots[0])
            left = [slot for slot in left if slot not in found]
        return found

    def _leads_out(self, rule: DumpedRule) -> bool:
        """Return True for a rule that leads to an endpoint's own chain."""
        return " --set " in self._chains.get(rule.option("-g") or "", "")

    def _takes(self, rule: DumpedRule, slot: int, total: int) -> bool:
        if _PROGRAM in rule.text:
            slots = self._slots(rule)
            return slots.first <= slot * slots.total // total < slots.end
        mask = int(rule.option("--cluster-local-nodemask") or "0", 0)
        return bool(mask >> slot * int(rule.option(_NODES) or 0) // total & 1)


@lru_cache
def _downwards(count: int) -> tuple[str, ...]:
    """One of how many the rules of a ladder take, as they are written; the last one takes what is left."""
    return (*map(str, range(count, 1, -1)), "")


def _mixed(share: Fraction, own: _Picked, rest: _Picked) -> _Picked:
    odds: _Odds = {to: share * part for to, part in own.chances.items()}
    for to, part in rest.chances.items():
        odds[to] = odds.get(to, Fraction(0)) + (1 - share) * part
    return _Picked("mixed", odds=tuple(odds.items()))


def _meant(stored: int) -> Fraction:
    """Return the fraction of weights that is stored as so many of 2^31, where there is one."""
    near = Fraction(stored, DRAW).limit_denominator(MAX_SLOTS)
    return near if round(near * DRAW) == stored else Fraction(stored, DRAW)


def _listener(rule: DumpedRule, *, local: bool) -> Listener | None:
    address = rule.option("-d")
    if address is None and not local:
        return None
    first, colon, last = (rule.option("--dport") or "").partition(":")
    try:
        return Listener(
            protocol=Protocol(rule.option("-p") or ""),
            port=int(first),
            last_port=int(last) if colon else 0,
            address=ip_address(address.split("/")[0]) if address else None,
        )
    except ValueError:
        return None
