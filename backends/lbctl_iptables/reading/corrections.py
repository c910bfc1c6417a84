"""The rules that would be right: rules that were read, changed in one thing, in iptables-save's spelling.

They have the form of the rule itself: lines for iptables-restore, or commands. Lines that belong into another
table come with `*table` and `COMMIT`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.model import Family, decimal
from lbctl_iptables import layout, spelling
from lbctl_iptables.reading.grammar import UNPRINTED, ParsedMatch
from lbctl_iptables.reading.options import HEADER
from lbctl_iptables.reading.values import family_of
from lbctl_netfilter.conditions import BITS, Words, is_negative, name_of, spans_rest, spelled, top_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.model import AnalysedService
    from lbctl_iptables.reading.grammar import Spec
    from lbctl_iptables.reading.rule import IptRule
    from lbctl_netfilter import ir
    from lbctl_netfilter.conditions import Selector, Values
    from lbctl_netfilter.corrections import Lines

#: Rules that are spelled for one finding: a longer list helps no reader.
_MOST = 64
_PICKING = frozenset({"statistic", "nth", "random"})
_STATES = frozenset({"state", "conntrack"})
_NEW = ParsedMatch("conntrack", (("ctstate", False, ("NEW",)),))
_LOCAL = ParsedMatch("addrtype", (("dst-type", False, ("LOCAL",)),))
#: Chains that know no interface of one side, by the option that they refuse.
_REFUSING = {"in-interface": {"OUTPUT", "POSTROUTING"}, "out-interface": {"PREROUTING", "INPUT"}}
#: Field of the engine → the option of the header that asks for it.
_ASKED_BY = {
    "proto": "protocol", "dst": "destination", "src": "source", "iif": "in-interface", "oif": "out-interface",
}  # fmt: skip
#: The smallest chance that is not none: one of 2^31.
SMALLEST = "0.00000000047"


def read_of(rule: ir.Rule) -> IptRule:
    """Return the rule of the text that a rule of the engine comes from."""
    return rule.origin  # type: ignore[return-value]


# -- spelling


def lines(rules: Iterable[tuple[IptRule, Spec]], table: str | None = None) -> Lines:
    """Rules, each changed to a spec; none if there are too many, or one cannot be quoted."""
    pairs = list(rules)
    if len(pairs) > _MOST:
        return ()
    try:
        return tuple(_line(rule, ["-A", rule.chain, *_words(spec)], table) for rule, spec in pairs)
    except ValueError:
        return ()


def own(rules: Iterable[IptRule]) -> Lines:
    """Rules as they are."""
    return lines([(rule, rule.spec) for rule in rules])


def _line(rule: IptRule, words: Sequence[str], table: str | None = None) -> str:
    """Words in one line, as the rule is called. Raise ValueError for what cannot be quoted."""
    head = [rule.program, "-t", table or rule.table] if rule.program else []
    return spelling.join([*head, *words])


def _words(spec: Spec) -> list[str]:
    words: list[str] = []
    for option, short in HEADER.items():
        if value := spec.get(option):
            words += [*(["!"] if option in spec.inverted else []), short, value]
    if "fragment" in spec.header:
        words += [*(["!"] if "fragment" in spec.inverted else []), "-f"]
    for match in spec.matches:
        words += ["-m", match.name]
        for name, inverted, values in match.options:
            words += [*(["!"] if inverted else []), f"--{name}", *values]
        # Nobody shall load a rule that has lost its options.
        words += UNPRINTED if match.unprinted else ()
    if spec.comment is not None:
        words += ["-m", "comment", "--comment", spec.comment]
    if spec.target:
        words += ["-g" if spec.goto else "-j", spec.target]
    for name, given in spec.values.items():
        for values in given:
            words += [f"--{name}", *values]
    return [*words, *(UNPRINTED if spec.unprinted else ())]


# -- changing one thing


def _parted(spec: Spec) -> tuple[list[ParsedMatch], list[ParsedMatch]]:
    """Return the matches that pick, and the others."""
    picking = [match for match in spec.matches if match.name in _PICKING]
    return picking, [match for match in spec.matches if match.name not in _PICKING]


def _picked(spec: Spec, *conditions: ParsedMatch) -> Spec:
    """With other conditions that pick, asked last."""
    return replace(spec, matches=[*_parted(spec)[1], *conditions])


def _statistic(**options: str) -> ParsedMatch:
    return ParsedMatch("statistic", tuple((name, False, (value,)) for name, value in options.items()))


def nth(every: int, packet: int = 0) -> ParsedMatch:
    """One of `every`."""
    return _statistic(mode="nth", every=str(every), packet=str(packet))


def chance(probability: str) -> ParsedMatch:
    """Some of all, by chance."""
    return _statistic(mode="random", probability=probability)


def _ladder(rules: Sequence[tuple[IptRule, Spec]], *, by_chance: bool = False) -> Lines:
    """Rules that take equal parts, each of what those before it left, and the last one all of it."""
    made = []
    for left, (rule, spec) in zip(range(len(rules), 0, -1), rules, strict=True):
        one = chance(f"{1 / left:.11f}") if by_chance else nth(left)
        made.append((rule, _picked(spec, one) if left > 1 else _picked(spec)))
    return lines(made)


def restated(rule: IptRule, option: str, value: str) -> Lines:
    """With another value of an option of match statistic, which may lack it."""
    matches = []
    for match in rule.spec.matches:
        if match.name == "statistic":
            kept = [each for each in match.options if each[0] != option]
            inverted = any(inverted for name, inverted, _ in match.options if name == option)
            match = ParsedMatch(match.name, (*kept, (option, inverted, (value,))))
        matches.append(match)
    return lines([(rule, replace(rule.spec, matches=matches))])


def for_new(rule: IptRule) -> Lines:
    """For new connections, whatever states it asks for; nothing if it asks for none."""
    rest = [match for match in rule.spec.matches if match.name not in _STATES]
    if len(rest) == len(rule.spec.matches):
        return ()
    return lines([(rule, replace(rule.spec, matches=[_NEW, *rest]))])


def alike(rules: Sequence[IptRule]) -> Lines:
    """Return all rules with what the first one asks for; each picks and does what it did."""
    asked = _parted(rules[0].spec)[1]
    return lines(
        [(rule, _with(rules[0].spec, rule.spec, [*asked, *_parted(rule.spec)[0]])) for rule in rules]
    )


def _with(asking: Spec, doing: Spec, matches: list[ParsedMatch]) -> Spec:
    """Return a rule that does what one does, and asks for what another one asks for, with these matches."""
    return replace(doing, header=dict(asking.header), inverted=asking.inverted, matches=matches)


def each_in_turn(rule: IptRule, option: str, values: Sequence[str]) -> Lines:
    """One rule for each value of the target's option, round robin."""
    return _ladder([(rule, replace(rule.spec, values={option: ((value,),)})) for value in values])


def random_port(rule: IptRule) -> Lines:
    """With any port of a range, and not the first free one."""
    return lines([(rule, replace(rule.spec, values={**rule.spec.values, "random": ((),)}))])


def elsewhere(rule: IptRule, table: str, chain: str) -> Lines:
    """Return a rule in the chain, and the table, where its target may stand."""
    header = {name: value for name, value in rule.spec.header.items() if chain not in _REFUSING.get(name, ())}
    line = lines([(replace(rule, chain=chain), replace(rule.spec, header=header))], table)
    if not line:
        return ()
    if rule.program or rule.table == table:
        return (*_declared(rule, chain, table), *line)
    return (f"*{table}", *_declared(rule, chain, table), *line, "COMMIT")


def declared(rule: IptRule, chain: str) -> Lines:
    """Return a chain that a rule leads to or stands in, and the rule."""
    found = own([rule])
    return (*_declared(rule, chain, rule.table), *found) if found else ()


def _declared(rule: IptRule, chain: str, table: str) -> Lines:
    if chain in layout.HOOKS:
        return ()
    try:
        return (_line(rule, ["-N", chain], table) if rule.program else f":{spelling.quote(chain)} - [0:0]",)
    except ValueError:
        return ()


def other_family(rule: IptRule) -> Lines:
    """Return the command of the other family, if all addresses are of that one."""
    other = Family.IPV6 if rule.family is Family.IPV4 else Family.IPV4
    spec = rule.spec
    given = [*spec.header.values(), *(v for many in spec.values.values() for each in many for v in each)]
    families = {family for text in given if (family := family_of(text)) is not None}
    if rule.program is None or families != {other}:
        return ()
    return own([replace(rule, program=rule.program.replace(layout.WORD[rule.family], layout.WORD[other], 1))])


def without_old_matches(group: Sequence[IptRule], rule: IptRule) -> Lines:
    """Return a rule with what came in the place of a match that is gone.

    `group` are those of its `counter`.
    """
    spec = rule.spec
    old = next((match for match in spec.matches if match.name in {"nth", "random", "mport", "unclean"}), None)
    if old is None:
        return ()
    given = {name: values[0] for name, _, values in old.options if values}
    rest = [match for match in spec.matches if match is not old]
    match old.name:
        case "nth":
            every, packet = decimal(given.get("every", "")) or 0, given.get("packet")
            if packet and 1 < len(group) <= every <= _MOST and _is_apart(group):
                # Rules of one counter took turns; since each has its own, they are rungs.
                rungs = [[nth(every - i)] if i + 1 < every else [] for i in range(len(group))]
                return lines([(r, _picked(r.spec, *rung)) for r, rung in zip(group, rungs, strict=True)])
            changed = _picked(spec, nth(every, decimal(packet or "0") or 0)) if every else None
        case "random":
            percent = decimal(given.get("average", ""), 3) or 0
            changed = _picked(spec, chance(f"{percent / 100:.11f}")) if 0 < percent <= 100 else None
        case "mport":
            several = old._replace(name="multiport")
            changed = replace(spec, matches=[several if m is old else m for m in spec.matches])
        case _:
            changed = replace(spec, matches=rest)
    return lines([(rule, changed)]) if changed is not None else ()


def _nth_options(rule: IptRule) -> dict[str, str]:
    found = next((match for match in rule.spec.matches if match.name == "nth"), ParsedMatch("nth"))
    return {option: values[0] for option, _, values in found.options if values}


def _is_apart(group: Sequence[IptRule]) -> bool:
    return len({_nth_options(each).get("packet") for each in group}) == len(group)


def counter(rule: IptRule) -> object:
    """Return what rules of the old match nth that share a counter have in common."""
    given = _nth_options(rule)
    return (rule.store, rule.table, rule.chain, given.get("counter"), given.get("every")) if given else None


# -- what the engine asks for


class IptCorrections:
    """See `lbctl_netfilter.corrections.IptCorrections`."""

    def own(self, rules: Sequence[ir.Rule]) -> Lines:
        """Return the rules as they are."""
        return own(map(read_of, rules))

    def equal(self, rules: Sequence[ir.Rule], service: AnalysedService | None, *, by_chance: bool) -> Lines:
        """Return the rules as a ladder of equal parts."""
        del service
        return _ladder([(rule, rule.spec) for rule in map(read_of, rules)], by_chance=by_chance)

    def caught(self, rules: Sequence[ir.Rule], service: AnalysedService, *, by_chance: bool) -> Lines:
        """Return the rules of a ladder, the last one without its pick."""
        del service, by_chance
        *first, last = map(read_of, rules)
        return lines([*((rule, rule.spec) for rule in first), (last, _picked(last.spec))])

    def alike(self, rules: Sequence[ir.Rule]) -> Lines:
        """Return the rules with what the first one asks for."""
        return alike(list(map(read_of, rules)))

    def behind(self, rule: ir.Rule) -> Lines:
        """Return the rule with its pick behind all other conditions."""
        read = read_of(rule)
        return lines([(read, _picked(read.spec, *_parted(read.spec)[0]))])

    def apart(
        self,
        rules: Sequence[ir.Rule],
        listeners: Sequence[Selector],
        hook: str,
        services: Sequence[AnalysedService],
    ) -> Lines:
        """Return the rules of a shared ladder for each listener; nothing if a condition cannot be spelled."""
        del services
        made = []
        for listener in listeners:
            for rule in map(read_of, rules):
                asked = _asked(listener, rule)
                if asked is None:
                    return ()
                picking = _parted(rule.spec)[0]
                changed = replace(asked, matches=[*asked.matches, *picking])
                made.append((replace(rule, chain=hook.upper()), changed))
        return lines(made)

    def unmarked(self, before: Sequence[ir.Rule], rule: ir.Rule) -> Lines:
        """Rules that mark, and one behind them for what none of them has marked."""
        marking = next(rule.markings, None)
        if marking is None:
            return ()
        name = "connmark" if marking.connection else "mark"
        guard = ParsedMatch(name, (("mark", False, (f"0x0/{marking.written:#x}",)),))
        last = read_of(rule)
        guarded = (last, replace(last.spec, matches=[guard, *last.spec.matches]))
        return lines([*((each, each.spec) for each in map(read_of, before)), guarded])

    def remembered(self, rules: Sequence[ir.Rule]) -> Lines:
        """Rules that mark new connections alone, between those that restore a mark and save it."""
        first = read_of(rules[0])
        restore, save = (
            replace(_bare(first.spec), target="CONNMARK", goto=False, values={f"{verb}-mark": ((),)})
            for verb in ("restore", "save")
        )
        new = [(rule, replace(rule.spec, matches=[_NEW, *rule.spec.matches])) for rule in map(read_of, rules)]
        return lines([(first, restore), *new, (first, save)])

    def outward(self, rules: Sequence[ir.Rule]) -> Lines:
        """Rules of PREROUTING, and the same for the connections that this host makes to itself."""
        read = list(map(read_of, rules))
        made = [(rule, rule.spec) for rule in read]
        for rule in read:
            spec, matches = rule.spec, rule.spec.matches
            if not spec.get("destination") and all(match.name != "addrtype" for match in matches):
                # Without it, all that leaves for this port of any host would be caught.
                matches = [_LOCAL, *matches]
            header = {name: value for name, value in spec.header.items() if name != "in-interface"}
            made.append((replace(rule, chain="OUTPUT"), replace(spec, header=header, matches=matches)))
        return lines(made)


def _bare(spec: Spec) -> Spec:
    """Return a rule that asks for nothing, with the same target."""
    return replace(spec, header={}, inverted=frozenset(), matches=[], comment=None)


def _asked(listener: Selector, rule: IptRule) -> Spec | None:
    """Return a rule's target for connections to a listener; None if a condition cannot be spelled."""
    spec = _bare(rule.spec)
    for field, values in listener.conditions:
        if not _ask(spec, field, values, rule.family):
            return None
    return spec


def _ask(spec: Spec, field: str, values: Values, family: Family) -> bool:
    """Add a condition to a rule; False if it cannot be spelled."""
    bits, name = BITS[family], name_of(field)
    inverted = is_negative(field, values, bits)
    positive: Values = values
    if inverted:
        positive = Words(values.but) if isinstance(values, Words) else spans_rest(values, top_of(field, bits))
    text = spelled(field, positive, bits)
    option = _ASKED_BY.get(name)
    if option is not None and "," not in text and "-" not in text:
        value = f"{text[:-1]}+" if text.endswith("*") else text
        spec.header = {**spec.header, option: value}
        spec.inverted |= {option} if inverted else frozenset()
    elif name in {"dport", "sport"} and spec.get("protocol") and "protocol" not in spec.inverted:
        ports = text.replace("-", ":")
        several = ParsedMatch("multiport", ((f"{name}s", inverted, (ports,)),))
        one = ParsedMatch(spec.get("protocol"), ((name, inverted, (ports,)),))
        spec.matches.append(several if "," in ports else one)
    elif name in {"dst-type", "src-type"}:
        spec.matches.append(ParsedMatch("addrtype", ((name, inverted, (text.upper(),)),)))
    else:
        return False
    return True
