"""What is wrong with rules: the findings, each with what it means in numbers and how it would be right."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.model import Severity
from lbctl_nftables.reading.grammar import Lookup, Match, Nat, Pick, SetMark, Verdict, Vmap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl_nftables.reading.document import Chain, Document, Rule
    from lbctl_nftables.reading.follow import Hook
    from lbctl_nftables.reading.grammar import Operand
    from lbctl_nftables.reading.meaning import Drawn
    from lbctl_nftables.reading.read import Seen

#: What makes a selector undecided, and is a finding of its own.
CODES = {"family-mismatch", "chain-loop"}
_DESTINATION, _SOURCE = {"dnat", "redirect"}, {"snat", "masquerade"}
_RIGHT_HOOKS = {True: {"prerouting", "output"}, False: {"postrouting", "input"}}


def document(found: Document) -> None:
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
                        message = f"the same rule stands in line {seen[rule.text].line}"
                        found.find("duplicate-rules", Severity.WARNING, rule.line, rule.text, message)
                    seen.setdefault(rule.text, rule)


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
    if chain.kind != "nat":
        message = f"{nat.kind} in a chain of type {chain.kind}; the kernel takes it in type nat only"
        found.find("wrong-table", Severity.ERROR, rule.line, rule.text, message)
    elif chain.hook not in _RIGHT_HOOKS[nat.kind in _DESTINATION]:
        message = f"{nat.kind} at hook {chain.hook}; the kernel refuses that"
        found.find("wrong-table", Severity.ERROR, rule.line, rule.text, message)


def hook(found: Document, at: Hook) -> None:
    """What turned up while selectors were found."""
    for rule, target in at.undefined.values():
        message = f"chain {target} is not in this text"
        found.find("undefined-chain", Severity.ERROR, rule.line, rule.text, message)
    for rule, code, text in at.strange.values():
        foreign = text.split(" ")[0] == "xt"
        what = "xt" if foreign else text.split(" ")[0][:40]
        reason = (
            "it belongs to iptables-nft, whose own dump tells it"
            if foreign
            else f"not understood from here on: {text[:80]}"
        )
        found.skip(rule.line, rule.text, what, reason)
        found.find(code, Severity.WARNING, rule.line, rule.text, reason)
        if foreign:
            message = "rules of iptables-nft among native ones: read its tables with iptables-nft-save"
            found.find("mixed-backends", Severity.WARNING, rule.line, rule.text, message)


def services(found: Document, seen: Sequence[Seen], hooks: Sequence[Hook]) -> None:
    """What following showed."""
    told: set[int] = set()
    for each in seen:
        _ladders(found, each)
        _leak(found, each)
        _counters(found, each, told)
        _notes(found, each)
        _marks(found, each)
    _local(found, seen, hooks)


def picks(rule: Rule) -> bool:
    """True for a rule that picks a number."""
    return any(
        isinstance(s.key if isinstance(s, (Match, Vmap)) else None, Pick)
        or (isinstance(s, Nat) and any(_picked(each) for each in (s.address, s.port)))
        or (isinstance(s, SetMark) and _picked(s.value))
        for s in rule.statements
    )


def _picked(operand: Operand | None) -> bool:
    return isinstance(operand.key if isinstance(operand, Lookup) else operand, Pick)


def behind(found: Document, seen: Sequence[Seen], rules: Mapping[int, Rule]) -> None:
    """The rules to which no connection comes, since others have an endpoint for it before."""
    used = {number for each in seen for number in each.followed.used}
    skipped = {(each.line, each.rule) for each in found.unsupported}
    for number, rule in rules.items():
        if number not in used and (rule.line, rule.text[:400]) not in skipped:
            message = "no connection comes here: rules before it take all that it selects"
            found.find("unreachable-rule", Severity.WARNING, rule.line, rule.text, message)


def _percent(share: Fraction) -> str:
    return f"{float(share) * 100:.4g} %"


def _where(each: Seen) -> str:
    service = each.service
    return f"{service.dst} {service.proto} {service.dport}"


def _first(each: Seen) -> Rule:
    return each.found.rules[0]


def _ladders(found: Document, each: Seen) -> None:
    """The same chance on each of several lines that end: each line sees only what those before it left."""
    if each.hook.marking:
        return
    lines: dict[tuple[str, str, Fraction], list[tuple[Rule, Drawn]]] = {}
    for rule, chain, drawn in each.followed.drawn.values():
        if not any(isinstance(s, (Nat, Verdict)) for s in rule.statements):
            continue
        taken = sum(high - low + 1 for low, high in drawn.spans)
        if drawn.pick.kind in {"inc", "random"} and 0 < taken < drawn.pick.modulus:
            share = Fraction(taken, drawn.pick.modulus)
            lines.setdefault((chain.name, drawn.pick.kind, share), []).append((rule, drawn))
    for (_, kind, share), rules in lines.items():
        if len(rules) < 2:
            continue
        leak = each.service.leak
        apart = len({drawn.spans for _, drawn in rules}) == len(rules)
        if kind == "inc" and not (leak or apart):
            continue
        if kind == "random" and not (leak or (len(rules) + 1) * share == 1):
            continue
        code = "every-n-on-each-line" if kind == "inc" else "equal-probability-on-each-line"
        got = ", ".join(f"{b.to} {b.share}" for b in each.service.backends)
        message = f"each line sees only what the lines before it left: {got}; {leak} reach no endpoint"
        rule = rules[0][0]
        corrected = _corrected(each, kind)
        found.find(code, Severity.ERROR, rule.line, rule.text, message, *corrected)


def _corrected(each: Seen, kind: str) -> tuple[str, ...]:
    """One rule that gives every endpoint the same share."""
    service = each.service
    to = [backend.to for backend in service.backends]
    if service.action not in _DESTINATION or not to or service.proto in {"any"}:
        return ()
    word = "ip" if service.family.value == "ipv4" else "ip6"
    head = []
    if service.dst == "local":
        head.append("fib daddr type local")
    elif service.dst != "any":
        head.append(f"{word} daddr {service.dst}")
    ports = f"{{ {service.dport} }}" if "," in service.dport else service.dport
    head.append(
        f"{service.proto} dport {ports}" if service.dport != "any" else f"meta l4proto {service.proto}"
    )
    data = [_data(one) for one in to]
    pairs = ", ".join(f"{number} : {one}" for number, one in enumerate(data))
    statement = "redirect to :" if service.action == "redirect" else f"dnat {word} to "
    return (f"{' '.join(head)} {statement}numgen {kind} mod {len(to)} map {{ {pairs} }}",)


def _data(to: str) -> str:
    if to.isdecimal():
        return to
    address, colon, port = to.rpartition(":")
    if to.startswith("[") or (colon and "." in address):
        return f"{address.strip('[]')} . {port}"
    return to


def _leak(found: Document, each: Seen) -> None:
    leak = each.service.leak
    # No mark is a mark like another.
    if 0 < leak < 1 and not each.hook.marking:
        rule = _first(each)
        message = f"{_percent(leak)} of new connections to {_where(each)} reach no endpoint ({leak}): "
        message += str(each.service.leak_to)
        found.find("no-catch-all", Severity.ERROR, rule.line, rule.text, message)


def _counters(found: Document, each: Seen, told: set[int]) -> None:
    if each.service.depends_on is None:
        return
    for node in each.followed.nodes.values():
        pick = node.pick
        if pick is None or pick.kind != "inc" or pick.modulus == 1:
            continue
        early = each.hook.early.get(pick.ident)
        if early is not None:
            message = "the counter runs before the rest of the rule selects: shares depend on what else comes"
            found.find(
                "statistic-before-selector",
                Severity.WARNING,
                early.line,
                early.text,
                message,
                *_reordered(early),
            )
            return
    moved = [rule for by in each.hook.moved.values() if len(by) > 1 for rule in by.values()]
    picking = {id(rule) for rule in moved} & each.followed.used.keys()
    for rule in moved:
        if id(rule) in picking and id(rule) not in told:
            told.add(id(rule))
            message = f"one counter serves several listeners: the sequence of {_where(each)} depends on "
            message += str(each.service.depends_on)
            found.find("shared-counter", Severity.INFO, rule.line, rule.text, message)
            return


def _reordered(rule: Rule) -> tuple[str, ...]:
    """The rule with its counters behind all other conditions."""
    matches = [s for s in rule.statements if isinstance(s, Match)]
    if not all(each.text in rule.text for each in matches):
        return ()
    text = rule.text
    picks = [each.text for each in matches if isinstance(each.key, Pick)]
    others = [each.text for each in matches if not isinstance(each.key, Pick)]
    rest = text
    for each in matches:
        rest = rest.replace(each.text, "", 1)
    return (" ".join([*others, *picks, *rest.split()]),)


def _notes(found: Document, each: Seen) -> None:
    for (code, _), (rule, text) in each.followed.notes.items():
        message, severity = {
            "dnat-range": (
                f"{text}: the kernel chooses by a hash of the addresses, not in turn",
                Severity.WARNING,
            ),
            "snat-pool": (f"{text}: the kernel chooses the source by a hash of the addresses", Severity.INFO),
            "port-range-target": (
                f"{text}: every connection goes to the first port of the range",
                Severity.WARNING,
            ),
            "packet-out-of-range": (
                f"the map has keys that a number below {text} never is",
                Severity.WARNING,
            ),
        }[code]
        found.find(code, severity, rule.line, rule.text, message)
    for rule, _, drawn in each.followed.drawn.values():
        if not drawn.spans:
            random = drawn.pick.kind == "random"
            code = "probability-zero" if random else "packet-out-of-range"
            message = "no connection ever matches: the number is never one of these"
            found.find(code, Severity.ERROR, rule.line, rule.text, message)


def _marks(found: Document, each: Seen) -> None:
    if not each.hook.marking or each.service.mode in {"single", "none"}:
        return
    rule = _first(each)
    again = {end.over for end in each.ends if end.over}
    for later in (used for used in each.followed.used.values() if used.line in again):
        message = "a mark that was set before is set again, and the last one stays"
        found.find("last-mark-wins", Severity.WARNING, later.line, later.text, message)
    known = {what for what, _ in each.selector.fields}
    if not known & {"state", "connmark"} and each.service.action == "mark":
        message = "every packet is balanced anew, not every connection: select ct state new, "
        message += "and keep the mark in ct mark"
        found.find("per-packet-balancing", Severity.WARNING, rule.line, rule.text, message)


def _local(found: Document, seen: Iterable[Seen], hooks: Sequence[Hook]) -> None:
    """This host's own clients, where other services of the text think of them."""
    everywhere = [each for each in seen if not each.hook.marking and each.service.action in _DESTINATION]
    met: dict[object, set[str]] = {}
    for each in everywhere:
        met.setdefault((each.hook.family, each.selector), set()).add(each.hook.name)
    minded = Counter(each.hook.family for each in everywhere if each.hook.name == "output")
    done = set()
    for each in everywhere:
        key = each.hook.family, each.selector
        if met[key] == {"prerouting"} and minded[each.hook.family] and key not in done:
            done.add(key)
            if any(
                each.selector in at.found
                for at in hooks
                if at.name == "output" and at.family == each.hook.family
            ):
                # They come to the same rules, which leave them out.
                continue
            rule = _first(each)
            message = f"connections to {_where(each)} that this host makes itself are not balanced; "
            message += "those to others are"
            found.find("prerouting-only", Severity.WARNING, rule.line, rule.text, message)
