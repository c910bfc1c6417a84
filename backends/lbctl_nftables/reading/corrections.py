"""The rules that would be right: one rule with a map, or the rule that was read, changed in one thing.

A correction is a list of lines: rules for the chain of the rule itself, or where that is no place for them a
whole `table`, as `nft -f` takes it.
"""

from __future__ import annotations

import re
from math import gcd, lcm
from typing import TYPE_CHECKING

from lbctl.model import decimal, schedule
from lbctl_nftables import layout
from lbctl_nftables.reading.syntax import Lookup, NftVerdict, NumberExpression, Relational

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import AnalysedService
    from lbctl_netfilter import ir
    from lbctl_netfilter.conditions import Selector
    from lbctl_netfilter.corrections import Lines
    from lbctl_nftables.reading.document import Document, NftChain, NftRule

#: Slots of a map, and rules, that are spelled for one finding: a longer list helps no reader.
MOST = 64
#: The way in which a service picks → what picks so.
_PICKS = {"nth": "numgen inc", "random": "numgen random"}
_PLAIN = re.compile(r"[\w.:/ *-]+")
_ACTS = re.compile(r"(?:^|(?<=\s))(?:dnat|redirect|snat|masquerade|jump|goto)\b")
_PRIORITIES = {"prerouting": -100, "output": -100, "postrouting": 100, "input": 100}


def one_rule(service: AnalysedService, mode: str, *, equal: bool = False) -> Lines:
    """One rule that gives each endpoint its part of what all of them get, or the same part.

    Nothing where the service has conditions, or endpoints, that have no words here.
    """
    to = [backend.to for backend in service.backends]
    shares = [backend.share for backend in service.backends]
    whole = lcm(*(share.denominator for share in shares)) if shares else 1
    weights = [1] * len(to) if equal else [int(share * whole) for share in shares]
    if mode not in _PICKS or not to or sum(weights) // gcd(*weights) > MOST:
        return ()
    head, word = _head(service), layout.WORD[service.family]
    slots = [to[index] for index in schedule(tuple(weights))]
    data = [_data(each, service.action) for each in slots]
    if head is None or None in data or len({each and each.count(" . ") for each in data}) > 1:
        return ()
    if any(" . " in (each or "") for each in data) and service.proto == "any":
        return ()
    statement = "redirect to :" if service.action == "redirect" else f"{service.action} {word} to "
    if len(slots) == 1:
        target = to[0]
    else:
        pairs = ", ".join(f"{number} : {each}" for number, each in enumerate(data))
        target = f"{_PICKS[mode]} mod {len(slots)} map {{ {pairs} }}"
    return (" ".join([*head, statement]) + target if head else statement + target,)


def _head(service: AnalysedService) -> list[str] | None:
    """Return the conditions of a service; None where one has no words here."""
    if service.action not in {"dnat", "redirect", "snat"} or "," in service.proto:
        return None
    word = layout.WORD[service.family]
    said = [("fib daddr type", "local")] if service.dst == "local" else []
    if service.dst not in {"local", "any"}:
        said.append((f"{word} daddr", service.dst))
    for what, value in (service.when or {}).items():
        name = {
            "src": f"{word} saddr",
            "dst": f"{word} daddr",
            "dst-type": "fib daddr type",
            "iif": "iifname",
            "oif": "oifname",
        }.get(what)
        if name is None:
            return None
        said.append((name, value))
    if service.proto != "any":
        said.append(
            ("meta l4proto", service.proto)
            if service.dport == "any"
            else (f"{service.proto} dport", service.dport)
        )
    elif service.dport != "any":
        return None
    words = []
    for name, value in said:
        if ", " in value:
            return None
        operator, text = ("!= ", value[2:]) if value.startswith("! ") else ("", value)
        parts = [part.strip().strip('"') for part in text.split(",")]
        if not all(_PLAIN.fullmatch(part) for part in parts):
            return None
        if name.endswith("ifname"):
            parts = [f'"{part}"' for part in parts]
        words.append(f"{name} {operator}" + (f"{{ {', '.join(parts)} }}" if len(parts) > 1 else parts[0]))
    return words


def _data(to: str, action: str) -> str | None:
    """Return an endpoint as data of a map; None for one that only has a part."""
    if to == "masquerade":
        return None
    if decimal(to, 5) is not None:
        return to if action == "redirect" else None
    address, colon, port = to.rpartition(":")
    if colon and not address:
        return None
    if to.startswith("[") or (colon and "." in address):
        return f"{address.strip('[]')} . {port}"
    return to if _PLAIN.fullmatch(to) and not to.startswith(":") else None


def larger(rule: NftRule) -> Lines:
    """With a number that reaches all keys of its map."""
    for statement in rule.statements:
        for operand in (getattr(statement, name, None) for name in ("address", "port", "value")):
            if (
                isinstance(operand, Lookup)
                and isinstance(operand.key, NumberExpression)
                and isinstance(operand.members, tuple)
            ):
                keys = [part for element in operand.members for part in element.key[0].split("-")]
                numbers = [decimal(key) for key in keys]
                if None not in numbers:
                    needed = max(filter(None, numbers), default=0) - operand.key.offset + 1
                    return _once(rf"\bmod\s+{operand.key.modulus}\b", f"mod {needed}", rule.text)
    return ()


def reachable(rule: NftRule) -> Lines:
    """With a number that is one of those that can be picked."""
    for statement in rule.statements:
        if not isinstance(statement, Relational) or statement.text not in rule.text:
            continue
        found = re.search(r"([0-9]{1,10})\s*\Z", statement.text)
        if found is None:
            continue
        modulus = statement.key.modulus if isinstance(statement.key, NumberExpression) else 0
        value = (
            1 if statement.op == "<" and int(found[1]) == 0 else int(found[1]) % modulus if modulus else None
        )
        if value is not None:
            return (rule.text.replace(statement.text, statement.text[: found.start()] + str(value), 1),)
    return ()


def random_port(rule: NftRule) -> Lines:
    """With any port of a range, and not the first free one."""
    return _once(r":\s*\d+\s*-\s*\d+", r"\g<0> random", rule.text)


def _once(pattern: str, by: str, text: str) -> Lines:
    made, count = re.subn(pattern, by, text)
    return (made,) if count == 1 else ()


def in_turn(rule: NftRule, texts: Sequence[str]) -> Lines:
    """With one address of a range after the other, instead of a hash of addresses."""
    if len(texts) > MOST:
        return ()
    pairs = ", ".join(f"{number} : {text}" for number, text in enumerate(texts))
    picked = f"numgen inc mod {len(texts)} map {{ {pairs} }}"
    return _once(r"\bto\s+[0-9A-Fa-f.:]+\s*-\s*[0-9A-Fa-f.:]+(?=\s|$)", f"to {picked}", rule.text)


def chained(
    chain: NftChain, hook: str, rules: Sequence[NftRule], *, local: bool = False, empty: str = ""
) -> Lines:
    """Rules in a chain of NAT at a hook, with a chain that they lead to where it is nowhere else.

    `local` leaves what goes to other hosts alone. Nothing where the rules lead to more than that.
    """
    targets = {s.target for rule in rules for s in rule.statements if isinstance(s, NftVerdict) and s.target}
    if not rules or targets - {empty} or len(rules) > MOST or hook not in _PRIORITIES:
        return ()
    guard = "fib daddr type local "
    texts = [(guard if local and " daddr " not in f" {rule.text}" else "") + rule.text for rule in rules]
    return (
        f"table {chain.family} {chain.table} {{",
        *((f"chain {empty} {{", "}") if empty else ()),
        f"chain {chain.name if empty else f'{hook}_nat'} {{",
        f"type nat hook {hook} priority {_PRIORITIES[hook]}; policy accept;",
        *texts,
        "}",
        "}",
    )


class NftCorrections:
    """See `lbctl_netfilter.corrections.Corrections`."""

    def __init__(self, found: Document) -> None:
        self._chains = {
            chain.place: chain for table in found.tables.values() for chain in table.chains.values()
        }

    def own(self, rules: Sequence[ir.Rule]) -> Lines:
        """Return the rules as they are; none where there are too many."""
        return tuple(rule.text for rule in rules) if len(rules) <= MOST else ()

    def equal(self, rules: Sequence[ir.Rule], service: AnalysedService | None, *, by_chance: bool) -> Lines:
        """One rule that gives each endpoint the same part; without a service, the rules as a ladder."""
        if service is not None:
            return one_rule(service, "random" if by_chance else "nth", equal=True)
        texts = [_without_picks(rule) for rule in rules] if len(rules) <= MOST else []
        if not all(map(_ACTS.search, texts)):
            return ()
        picks = (f"numgen inc mod {left} 0 " if left > 1 else "" for left in range(len(texts), 0, -1))
        return tuple(_ACTS.sub(rf"{pick}\g<0>", text, 1) for pick, text in zip(picks, texts, strict=True))

    def caught(self, rules: Sequence[ir.Rule], service: AnalysedService, *, by_chance: bool) -> Lines:
        """One rule that gives each endpoint its part of what all of them get."""
        del rules, by_chance
        return one_rule(service, service.mode)

    def alike(self, rules: Sequence[ir.Rule]) -> Lines:
        """Nothing: rules have no one place for what they ask."""
        del rules
        return ()

    def behind(self, rule: ir.Rule) -> Lines:
        """Return the rule with its counters behind all other conditions."""
        matches = [each for each in read_of(rule).statements if isinstance(each, Relational)]
        rest = rule.text
        for each in matches:
            if each.text not in rule.text:
                return ()
            rest = rest.replace(each.text, "", 1)
        matches.sort(key=lambda each: isinstance(each.key, NumberExpression))
        return (" ".join([*(each.text for each in matches), *rest.split()]),)

    def apart(
        self,
        rules: Sequence[ir.Rule],
        listeners: Sequence[Selector],
        hook: str,
        services: Sequence[AnalysedService],
    ) -> Lines:
        """One rule for each of the services that share one."""
        del rules, listeners, hook
        made = [one_rule(service, service.mode) for service in services]
        return tuple(line for lines in made for line in lines) if all(made) else ()

    def unmarked(self, before: Sequence[ir.Rule], rule: ir.Rule) -> Lines:
        """Rules that mark, and one behind them for what none of them has marked."""
        side = "ct" if any(each.connection for each in rule.markings) else "meta"
        return (*self.own(before), f"{side} mark 0 {rule.text}")

    def remembered(self, rules: Sequence[ir.Rule]) -> Lines:
        """Rules that mark new connections alone, between those that restore a mark and save it."""
        new = [f"ct state new {text}" for text in self.own(rules)]
        return ("meta mark set ct mark", *new, "ct mark set meta mark") if new else ()

    def outward(self, rules: Sequence[ir.Rule]) -> Lines:
        """Return a chain at hook output with these rules, for what goes to this host."""
        chain = self._chains.get(rules[0].place) if rules else None
        read = list(dict.fromkeys(read_of(rule) for rule in rules))
        return chained(chain, "output", read, local=True) if chain is not None else ()


def _without_picks(rule: ir.Rule) -> str:
    """Return the text of a rule without the conditions that pick a number."""
    text = rule.text
    for each in read_of(rule).statements:
        if isinstance(each, Relational) and isinstance(each.key, NumberExpression):
            text = text.replace(f"{each.text} ", "", 1)
    return text


def read_of(rule: ir.Rule) -> NftRule:
    """Return the rule of the text that a rule of the engine comes from."""
    return rule.origin  # type: ignore[return-value]
