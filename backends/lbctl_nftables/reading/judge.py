"""What is wrong with rules: the findings, each with what it means in numbers and how it would be right."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from typing import TYPE_CHECKING

from lbctl.model import Severity, brief
from lbctl_nftables.reading import right
from lbctl_nftables.reading.grammar import Lookup, Match, Nat, Pick, SetMark, Verdict, Vmap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl_nftables.reading.document import Chain, Document, Rule
    from lbctl_nftables.reading.grammar import Computed, Operand
    from lbctl_nftables.reading.hook import Hook
    from lbctl_nftables.reading.meaning import Drawn
    from lbctl_nftables.reading.read import Seen

#: What makes a selector undecided, and is a finding of its own.
CODES = {"family-mismatch", "chain-loop"}
_DESTINATION, _SOURCE = {"dnat", "redirect"}, {"snat", "masquerade"}
_RIGHT_HOOKS = {True: ("prerouting", "output"), False: ("postrouting", "input")}
#: What becomes of connections by a rule that nft refuses.
_REFUSED = "the kernel refuses the rule, so that 0 % of connections meet it"


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
                        message = f"the same rule as in line {seen[rule.text].line}: 2 rules where 1 is meant"
                        found.find(
                            "duplicate-rules", Severity.WARNING, rule.line, rule.text, message, rule.text
                        )
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
    places = _RIGHT_HOOKS[nat.kind in _DESTINATION]
    if chain.kind != "nat":
        message = f"{nat.kind} in a chain of type {chain.kind}, and not nat: {_REFUSED}"
    elif chain.hook not in places:
        message = f"{nat.kind} at hook {chain.hook}: {_REFUSED}"
    else:
        return
    place = chain.hook if chain.hook in places else places[0]
    corrected = right.chained(chain, place, [rule])
    found.find("wrong-table", Severity.ERROR, rule.line, rule.text, message, *corrected)


def hook(found: Document, at: Hook) -> None:
    """What turned up while selectors were found."""
    for chain, rule, target in at.undefined.values():
        message = f"chain {target} is not in this text: without it, nft loads 0 of its rules"
        corrected = right.chained(chain, chain.hook, [rule], empty=target)
        found.find("undefined-chain", Severity.ERROR, rule.line, rule.text, message, *corrected)
    for rule, code, text in at.strange.values():
        foreign = text.split(" ")[0] == "xt"
        what = "xt" if foreign else text.split(" ")[0][:40]
        reason = (
            "it belongs to iptables-nft, whose own dump tells it"
            if foreign
            else f"not understood from here on: {text[:80]}"
        )
        found.skip(rule.line, rule.text, what, reason)
        message = f"{reason}; it may take anything from 0 % to 100 % of connections"
        found.find(code, Severity.WARNING, rule.line, rule.text, message)
        if foreign:
            message = "rules of iptables-nft among native ones: read its tables with iptables-nft-save"
            found.find("mixed-backends", Severity.WARNING, rule.line, rule.text, message)


def services(
    found: Document, seen: Sequence[Seen], hooks: Sequence[Hook], chains: Mapping[int, Chain]
) -> None:
    """What following showed. `chains` has the chain of each rule, by its identity."""
    told: set[int] = set()
    for each in seen:
        _ladders(found, each)
        _leak(found, each)
        _counters(found, each, seen, told)
        _notes(found, each)
        _marks(found, each)
    _local(found, seen, hooks, chains)


def picks(rule: Rule) -> bool:
    """True for a rule that picks a number."""
    return any(
        isinstance(s.key if isinstance(s, (Match, Vmap)) else None, Pick)
        or (isinstance(s, Nat) and any(_picked(each) for each in (s.address, s.port)))
        or (isinstance(s, SetMark) and _picked(s.value))
        for s in rule.statements
    )


def translates(rule: Rule) -> bool:
    """True for a rule that rewrites an address or a port."""
    return any(isinstance(s, Nat) for s in rule.statements)


def _picked(operand: Operand | Computed | None) -> bool:
    return isinstance(operand.key if isinstance(operand, Lookup) else operand, Pick)


def behind(found: Document, seen: Sequence[Seen], rules: Mapping[int, tuple[Rule, Sequence[Rule]]]) -> None:
    """The rules to which no connection comes, since others have an endpoint for it before."""
    used = {number for each in seen for number in each.followed.used}
    skipped = {(each.line, each.rule) for each in found.unsupported}
    # What rules ask → those that ask it, each of a text once.
    alike: dict[object, dict[str, Rule]] = defaultdict(dict)
    for rule, _ in rules.values():
        alike[right.conditions(rule)].setdefault(rule.text, rule)
    for number, (rule, taking) in rules.items():
        if number not in used and (rule.line, rule.text[:400]) not in skipped:
            message = "0 % of connections come here: rules before it take all that it selects"
            corrected = _reached(rule, taking, alike[right.conditions(rule)])
            found.find("unreachable-rule", Severity.WARNING, rule.line, rule.text, message, *corrected)


def _reached(rule: Rule, taking: Sequence[Rule], alike: Mapping[str, Rule]) -> tuple[str, ...]:
    """A rule so that connections come to it: a rung as the others are, or ahead of a rule for more."""
    if not taking:
        return ()
    asked = right.conditions(rule)
    if right.conditions(taking[-1]) != asked:
        return right.own([rule, taking[-1]])
    if len(taking) + len(alike) > right.MOST:
        return ()
    rungs = {each.text: each for each in taking if right.conditions(each) == asked}
    return right.ladder(list((rungs | dict(alike)).values()))


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
    sorts = Counter(name for name, _, _ in lines)
    for (name, kind, share), rules in lines.items():
        if len(rules) < 2:
            continue
        # Where others pick too, equal ones among them may come from weights.
        alone = sorts[name] == 1
        leak = each.service.leak
        apart = len({drawn.spans for _, drawn in rules}) == len(rules)
        if kind == "inc" and not (leak or apart):
            continue
        if kind == "random" and not (leak or (alone and (len(rules) + 1) * share == 1)):
            continue
        code = "every-n-on-each-line" if kind == "inc" else "equal-probability-on-each-line"
        got = ", ".join(f"{b.to} {_percent(b.share)}" for b in each.service.backends)
        message = f"each line sees only what the lines before it left: {got}; "
        message += f"{_percent(leak)} ({brief(leak)}) reach no endpoint"
        rule = rules[0][0]
        corrected = right.one_rule(each.service, kind, equal=True)
        found.find(code, Severity.ERROR, rule.line, rule.text, message, *corrected)


def _leak(found: Document, each: Seen) -> None:
    leak = each.service.leak
    # No mark is a mark like another.
    if 0 < leak < 1 and not each.hook.marking:
        rule = _first(each)
        message = f"{_percent(leak)} of new connections to {_where(each)} reach no endpoint ({brief(leak)}): "
        message += str(each.service.leak_to)
        corrected = right.one_rule(each.service, right.kind_of(each.service))
        found.find("no-catch-all", Severity.ERROR, rule.line, rule.text, message, *corrected)


def _counters(found: Document, each: Seen, seen: Sequence[Seen], told: set[int]) -> None:
    if each.service.depends_on is None:
        return
    for node in each.followed.nodes.values():
        pick = node.pick
        if pick is None or pick.kind != "inc" or pick.modulus == 1:
            continue
        early = each.hook.early.get(pick.ident)
        if early is not None:
            message = "the counter runs before the rest of the rule selects: "
            message += "by what else comes, shares may be anything from 0 % to 100 %"
            found.find(
                "statistic-before-selector",
                Severity.WARNING,
                early.line,
                early.text,
                message,
                *right.behind(early),
            )
            return
    moved = [rule for by in each.hook.moved.values() if len(by) > 1 for rule in by.values()]
    picking = {id(rule) for rule in moved} & each.followed.used.keys()
    for rule in moved:
        if id(rule) in picking and id(rule) not in told:
            told.add(id(rule))
            message = f"one counter serves several listeners: the sequence of {_where(each)} depends on "
            message += f"{each.service.depends_on}, and may give anything from 0 % to 100 %"
            corrected = _apart(each, rule, seen)
            found.find("shared-counter", Severity.INFO, rule.line, rule.text, message, *corrected)
            return


def _apart(each: Seen, rule: Rule, seen: Sequence[Seen]) -> tuple[str, ...]:
    """One rule for each service that shares the counters of this one; nothing where one has no words."""
    sharing = [other for other in seen if other.hook is each.hook and id(rule) in other.followed.used]
    made = [right.one_rule(other.service, right.kind_of(other.service)) for other in sharing]
    return tuple(line for lines in made for line in lines) if all(made) else ()


def _notes(found: Document, each: Seen) -> None:
    alone = len(each.followed.nodes) == 1
    for (code, _), (rule, text) in each.followed.notes.items():
        severity, corrected = Severity.WARNING, tuple[str, ...]()
        match code:
            case "dnat-range" | "snat-pool":
                severity = Severity.WARNING if code == "dnat-range" else Severity.INFO
                message = f"{text}: the kernel chooses by a hash of the addresses, and not in turn: "
                message += "100 % of a client's connections get the same one"
                corrected = right.one_rule(each.service, "inc") if alone else ()
            case "port-range-target":
                message = f"{text}: 100 % of connections go to the first port of the range"
                corrected = right.random_port(rule)
            case _:
                message = f"the map has keys that a number below {text} never is: 0 % of connections get them"
                corrected = right.larger(rule)
        found.find(code, severity, rule.line, rule.text, message, *corrected)
    for rule, _, drawn in each.followed.drawn.values():
        if not drawn.spans:
            random = drawn.pick.kind == "random"
            code = "probability-zero" if random else "packet-out-of-range"
            message = "0 % of connections match: the number is never one of these"
            found.find(code, Severity.ERROR, rule.line, rule.text, message, *right.reachable(rule))


def _marks(found: Document, each: Seen) -> None:
    if not each.hook.marking or each.service.mode == "none":
        return
    rule = _first(each)
    again = {end.over for end in each.ends if end.over}
    marking = [
        each for each in each.followed.used.values() if any(isinstance(s, SetMark) for s in each.statements)
    ]
    for later in (used for used in marking if used.line in again):
        share = sum((part for end, part in each.ends.items() if end.over == later.line), start=Fraction(0))
        message = f"{_percent(share)} of connections have a mark by then, and get this one instead: "
        message += "the last one stays"
        before = marking[: marking.index(later)]
        if not any(map(picks, before)):
            # A mark for all, and another one for some of them.
            continue
        corrected = right.unmarked(before, later)
        found.find("last-mark-wins", Severity.WARNING, later.line, later.text, message, *corrected)
    known = {what for what, _ in each.selector.fields}
    anew = each.again & {node.pick.ident for node in each.followed.nodes.values() if node.pick is not None}
    if anew and each.service.mode != "single" and "connmark" not in known and each.service.action == "mark":
        got = ", ".join(f"{b.to} {_percent(b.share)}" for b in each.service.backends[:8])
        message = (
            "every packet is balanced anew, and not every connection, so that 100 % of connections have "
        )
        message += f"their packets spread ({got}): select ct state new, and keep the mark in ct mark"
        corrected = right.remembered(marking)
        found.find("per-packet-balancing", Severity.WARNING, rule.line, rule.text, message, *corrected)


def _local(found: Document, seen: Iterable[Seen], hooks: Sequence[Hook], chains: Mapping[int, Chain]) -> None:
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
            message = f"of the connections to {_where(each)} that this host makes itself, 0 % are balanced; "
            message += "those to others are"
            used = each.followed.used
            # Rules of several chains are not told in one.
            together = len({id(chains[number]) for number in used}) == 1
            rules = list(used.values()) if together else []
            corrected = right.chained(chains[id(rule)], "output", rules, local=True)
            found.find("prerouting-only", Severity.WARNING, rule.line, rule.text, message, *corrected)
