"""What is wrong with rules by themselves, whichever connections match them, and the corrections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_netfilter.ir import Draw, PickKind
from lbctl_nftables.reading import corrections
from lbctl_nftables.reading.corrections import read_of
from lbctl_nftables.reading.lower import HOOKS_OF
from lbctl_nftables.reading.syntax import MarkStatement, Nat, NumberExpression, Relational, Unknown, picks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lbctl_netfilter import ir
    from lbctl_nftables.reading.document import Document, NftChain, NftRule

_DESTINATION = {"dnat", "redirect"}
#: What becomes of connections by a rule that nft refuses.
_REFUSED = "the kernel refuses the rule, so that 0 % of connections match it"


def of_document(found: Document) -> None:
    """Report what can be seen without following connections."""
    for chain in _chains(found):
        seen: dict[str, NftRule] = {}
        #: The rule before, if it gives an endpoint, and the turn that it waits for.
        before: tuple[NftRule, NumberExpression | None] | None = None
        for rule in chain.rules:
            nat, marks = None, False
            for statement in rule.statements:
                if isinstance(statement, Nat):
                    nat = nat or statement
                else:
                    marks |= isinstance(statement, MarkStatement)
            if nat is not None and chain.hook:
                _place_of(found, chain, rule, nat)
            turn = _turn(rule) if nat is not None else None
            if turn is not None and before is not None and before[1] is not None:
                _differs(found, (before[0], before[1]), (rule, turn))
            before = (rule, turn) if nat is not None else None
            if nat is not None or marks:
                first = seen.setdefault(rule.text, rule)
                if first is not rule:
                    message = f"the same rule as in line {first.line}: 2 rules where 1 is meant"
                    found.log.find("duplicate-rules", rule, message, [rule.text])


def of_others(found: Document) -> None:
    """Report what tables of other families pick: they are not followed."""
    for chain in _chains(found):
        if chain.family in {"ip", "ip6", "inet", "netdev"}:
            continue
        for rule in chain.rules:
            if any(isinstance(each, Unknown) or picks(each) for each in rule.statements):
                found.log.cannot(rule, chain.family, f"rules of family {chain.family} are not followed")


def _chains(found: Document) -> Iterator[NftChain]:
    return (chain for table in found.tables.values() for chain in table.chains.values())


def _differs(
    found: Document, upper: tuple[NftRule, NumberExpression], lower: tuple[NftRule, NumberExpression]
) -> None:
    """Report the next rung of a ladder if it asks for something else."""
    (before, above), (rule, here) = upper, lower
    if above.modulus != here.modulus + 1:
        return
    wide, narrow = _asked(before), _asked(rule)
    if wide != narrow:
        message = f"one of {here.modulus} behind one of {above.modulus} in line {before.line}, but it asks "
        message += f"for {' '.join(narrow) or 'everything'} where line {before.line} asks for "
        message += f"{' '.join(wide) or 'everything'}: they share nothing"
        found.log.find("selectors-differ", rule, message)


def _turn(rule: NftRule) -> NumberExpression | None:
    """Return the turn that a rule of a ladder waits for."""
    keys = [each.key for each in rule.statements if isinstance(each, Relational)]
    turns = [key for key in keys if isinstance(key, NumberExpression) and key.kind == "inc"]
    return turns[0] if len(turns) == 1 else None


def _asked(rule: NftRule) -> list[str]:
    """Return what a rule asks beside a turn."""
    return [
        each.text
        for each in rule.statements
        if isinstance(each, Relational) and not isinstance(each.key, NumberExpression)
    ]


def _place_of(found: Document, chain: NftChain, rule: NftRule, nat: Nat) -> None:
    places = HOOKS_OF[nat.kind in _DESTINATION]
    if chain.kind != "nat":
        message = f"{nat.kind} in a chain of type {chain.kind}, and not nat: {_REFUSED}"
    elif chain.hook not in places:
        message = f"{nat.kind} at hook {chain.hook}: {_REFUSED}"
    else:
        return
    place = chain.hook if chain.hook in places else places[0]
    found.log.find("wrong-table", rule, message, corrections.chained(chain, place, [rule]))


def of_rules(
    found: Document,
    rules: Iterable[ir.Rule],
    chains: Mapping[str, ir.Chain],
    is_lost: Callable[[NftRule], bool],
) -> None:
    """What turned up while rules were lowered and followed."""
    of_place = {chain.place: chain for chain in _chains(found)}
    for rule in rules:
        read = read_of(rule)
        for target in rule.targets:
            if target not in chains:
                name = target.rpartition(" ")[2]
                message = f"chain {name} is not in this text: without it, nft loads 0 of its rules"
                place = of_place[read.place]
                lines = corrections.chained(place, place.hook, [read], empty=name)
                found.log.find("undefined-chain", read, message, lines)
        for step in rule.steps:
            if isinstance(step, Draw) and not step.hits:
                _never(found, step, read)
        for code in rule.remarks:
            _remark(found, code, rule, read, lost=is_lost(read))


def _never(found: Document, step: Draw, read: NftRule) -> None:
    """A number that is never one of those that are asked for."""
    code = "probability-zero" if step.pick.kind is PickKind.DICE else "packet-out-of-range"
    message = "0 % of connections match: the picked number is never one of these"
    found.log.find(code, read, message, corrections.reachable(read))


def _remark(found: Document, code: str, rule: ir.Rule, read: NftRule, *, lost: bool) -> None:
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
                f"{len(rule.to)} addresses: the kernel chooses by a hash of the addresses, not round robin: "
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
    found.log.find(code, read, message, lines)
