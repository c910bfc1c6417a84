"""What is wrong with rules by themselves, whoever comes to them, and how they would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Severity
from lbctl_netfilter.findings import SEVERITIES
from lbctl_netfilter.ir import Draw, PickKind
from lbctl_nftables.reading import corrections
from lbctl_nftables.reading.corrections import read_of
from lbctl_nftables.reading.grammar import Match, Nat, Pick, SetMark, Unknown
from lbctl_nftables.reading.lower import HOOKS_OF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lbctl_netfilter import ir
    from lbctl_nftables.reading.document import Chain, Document, Rule
    from lbctl_nftables.reading.grammar import Statement

_DESTINATION = {"dnat", "redirect"}
#: What becomes of connections by a rule that nft refuses.
_REFUSED = "the kernel refuses the rule, so that 0 % of connections meet it"


def of_document(found: Document) -> None:
    """What can be seen without following anything."""
    for table in found.tables.values():
        for chain in table.chains.values():
            seen: dict[str, Rule] = {}
            before: Rule | None = None
            for rule in chain.rules:
                _place_of(found, chain, rule)
                _differs(found, before, rule)
                before = rule
                if any(isinstance(s, (Nat, SetMark)) for s in rule.statements):
                    if rule.text in seen:
                        message = f"the same rule as in line {seen[rule.text].line}: 2 rules where 1 is meant"
                        found.find(
                            "duplicate-rules", Severity.WARNING, rule.line, rule.text, message, rule.text
                        )
                    seen.setdefault(rule.text, rule)


def of_others(found: Document) -> None:
    """What tables of other families pick: they are not followed."""
    for table in found.tables.values():
        if table.family in {"ip", "ip6", "inet"}:
            continue
        for chain in table.chains.values():
            for rule in chain.rules:
                if any(isinstance(s, Unknown) or _picks(s) for s in rule.statements):
                    reason = f"rules of family {table.family} are not followed"
                    found.skip(rule.line, rule.text, table.family, reason)


def _picks(statement: Statement) -> bool:
    keys = [getattr(statement, name, None) for name in ("key", "value", "address", "port")]
    return any(isinstance(getattr(key, "key", key), Pick) for key in keys)


def _differs(found: Document, before: Rule | None, rule: Rule) -> None:
    """A ladder's next rung that asks for something else."""
    if before is None or not all(any(isinstance(s, Nat) for s in each.statements) for each in (before, rule)):
        return
    (above, wide), (here, narrow) = _rung(before), _rung(rule)
    if above is None or here is None or above.modulus != here.modulus + 1 or wide == narrow:
        return
    message = f"one of {here.modulus} behind one of {above.modulus} in line {before.line}, but it asks for "
    message += f"{' '.join(narrow) or 'everything'} where line {before.line} asks for "
    message += f"{' '.join(wide) or 'everything'}: they share nothing"
    found.find("selectors-differ", Severity.ERROR, rule.line, rule.text, message)


def _rung(rule: Rule) -> tuple[Pick | None, list[str]]:
    """The turn that a rule of a ladder waits for, and what it asks beside it."""
    matches = [s for s in rule.statements if isinstance(s, Match)]
    turns = [s.key for s in matches if isinstance(s.key, Pick) and s.key.kind == "inc"]
    return turns[0] if len(turns) == 1 else None, [s.text for s in matches if not isinstance(s.key, Pick)]


def _place_of(found: Document, chain: Chain, rule: Rule) -> None:
    nat = next((s for s in rule.statements if isinstance(s, Nat)), None)
    if nat is None or not chain.hook:
        return
    places = HOOKS_OF[nat.kind in _DESTINATION]
    if chain.kind != "nat":
        message = f"{nat.kind} in a chain of type {chain.kind}, and not nat: {_REFUSED}"
    elif chain.hook not in places:
        message = f"{nat.kind} at hook {chain.hook}: {_REFUSED}"
    else:
        return
    place = chain.hook if chain.hook in places else places[0]
    corrected = corrections.chained(chain, place, [rule])
    found.find("wrong-table", Severity.ERROR, rule.line, rule.text, message, *corrected)


def of_rules(
    found: Document, rules: Iterable[ir.Rule], chains: Mapping[str, ir.Chain], is_lost: Callable[[Rule], bool]
) -> None:
    """What turned up while rules were lowered and followed."""
    of_place = {chain.place: chain for table in found.tables.values() for chain in table.chains.values()}
    for rule in rules:
        read = read_of(rule)
        for target in rule.targets:
            if target not in chains:
                name = target.rpartition(" ")[2]
                message = f"chain {name} is not in this text: without it, nft loads 0 of its rules"
                place = of_place[read.place]
                lines = corrections.chained(place, place.hook, [read], empty=name)
                found.find("undefined-chain", Severity.ERROR, read.line, read.text, message, *lines)
        for step in rule.steps:
            if isinstance(step, Draw) and not step.hits:
                _never(found, step, read)
        for code in rule.remarks:
            _remark(found, code, rule, read, lost=is_lost(read))


def _never(found: Document, step: Draw, read: Rule) -> None:
    """A number that is never one of those that are asked for."""
    code = "probability-zero" if step.pick.kind is PickKind.DICE else "packet-out-of-range"
    message = "0 % of connections match: the number is never one of these"
    found.find(code, SEVERITIES[code], read.line, read.text, message, *corrections.reachable(read))


def _remark(found: Document, code: str, rule: ir.Rule, read: Rule, *, lost: bool) -> None:
    what, reason = rule.opaque or ("", "")
    lines: tuple[str, ...] = ()
    match code:
        case "unsupported-match" | "unsupported-target" if lost:
            message = f"{what}: {reason}; it may match anything from 0 % to 100 % of connections"
        case "family-mismatch" if lost:
            message = f"{reason}: {_REFUSED}"
        case "mixed-backends" if lost:
            message = "rules of iptables-nft among native ones: read its tables with iptables-nft-save"
        case "dnat-range" | "snat-pool":
            message = (
                f"{len(rule.to)} addresses: the kernel chooses by a hash of the addresses, and not in turn: "
            )
            message += "100 % of a client's connections get the same one"
            lines = corrections.in_turn(read, [to for to, _ in rule.to])
        case "port-range-target":
            message = (
                f"a range of ports: 100 % of connections go to {rule.to[0][0]}, the first one, but those "
            )
            message += "whose port lies in the range, which keep it"
            lines = corrections.random_port(read)
        case "packet-out-of-range":
            message = "the map has keys that the picked number never is: 0 % of connections get them"
            lines = corrections.larger(read)
        case _:
            return
    found.find(code, SEVERITIES[code], read.line, read.text, message, *lines)
