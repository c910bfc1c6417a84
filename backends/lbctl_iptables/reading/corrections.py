"""The rules that would be right: rules that were read, changed in one thing, in iptables-save's spelling.

They have the form of the rule itself: lines for iptables-restore, or commands. Lines that belong into another
table come with `*table` and `COMMIT`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.model import Family, decimal
from lbctl_iptables import layout
from lbctl_iptables.reading.grammar import UNPRINTED, Match
from lbctl_iptables.reading.values import family_of
from lbctl_netfilter.conditions import BITS, Words, is_negative, name_of, spans_rest, spelled, top_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.model import ReadService
    from lbctl_iptables.reading.grammar import Spec
    from lbctl_iptables.reading.ruleset import Rule
    from lbctl_netfilter import ir
    from lbctl_netfilter.conditions import Selector, Values

#: Rules that are spelled for one finding: a longer list helps no reader.
_MOST = 64
_PICKING = frozenset({"statistic", "nth", "random"})
_STATES = frozenset({"state", "conntrack"})
#: Chains that know no interface of one side, by the option that they refuse.
_NO_INCOMING = frozenset({"OUTPUT", "POSTROUTING"})
_NO_OUTGOING = frozenset({"PREROUTING", "INPUT"})
#: The smallest chance that is not none: one of 2^31.
SMALLEST = "0.00000000047"

Lines = tuple[str, ...]


# -- spelling


def line_of(rule: Rule, spec: Spec | None = None, *, table: str | None = None) -> str:
    """A rule, changed to `spec`, in one line. Raises ValueError for what cannot be quoted."""
    return _line(rule, ["-A", rule.chain, *_words(spec or rule.spec)], table)


def lines(rules: Iterable[tuple[Rule, Spec]]) -> Lines:
    """Rules, each changed to a spec; none where there are too many, or one cannot be quoted."""
    pairs = list(rules)
    if len(pairs) > _MOST:
        return ()
    try:
        return tuple(line_of(rule, spec) for rule, spec in pairs)
    except ValueError:
        return ()


def _line(rule: Rule, words: Sequence[str], table: str | None = None) -> str:
    head = [rule.program, "-t", table or rule.table] if rule.program else []
    return layout.join([*head, *words])


def _words(spec: Spec) -> list[str]:
    words: list[str] = []
    for option, key, value in (
        ("-s", "source", spec.source),
        ("-d", "destination", spec.destination),
        ("-i", "in-interface", spec.incoming),
        ("-o", "out-interface", spec.outgoing),
        ("-p", "protocol", spec.protocol),
    ):
        if value:
            words += [*(["!"] if key in spec.inverted else []), option, value]
    if spec.fragment:
        words += [*(["!"] if "fragment" in spec.inverted else []), "-f"]
    for match in spec.matches:
        words += ["-m", match.name]
        for option, inverted, values in match.options:
            words += [*(["!"] if inverted else []), f"--{option}", *values]
        # So that nobody loads a rule that has lost its options.
        words += UNPRINTED if match.unprinted else ()
    if spec.comment is not None:
        words += ["-m", "comment", "--comment", spec.comment]
    if spec.target:
        words += ["-g" if spec.goto else "-j", spec.target]
    for option, given in spec.values.items():
        for values in given:
            words += [f"--{option}", *values]
    return [*words, *(UNPRINTED if spec.unprinted else ())]


# -- changing one thing


def picked(spec: Spec, condition: Match | None) -> Spec:
    """With another condition that picks, asked last; None for none."""
    kept = [match for match in spec.matches if match.name not in _PICKING]
    return replace(spec, matches=[*kept, condition] if condition is not None else kept)


def nth(every: int, packet: int = 0) -> Match:
    """One of `every`."""
    options = [("mode", "nth"), ("every", str(every)), ("packet", str(packet))]
    return Match("statistic", [(name, False, (value,)) for name, value in options])


def chance(probability: str) -> Match:
    """Some of all, by chance."""
    options = [("mode", "random"), ("probability", probability)]
    return Match("statistic", [(name, False, (value,)) for name, value in options])


def ladder(rules: Sequence[tuple[Rule, Spec]], *, by_chance: bool = False) -> Lines:
    """Rules that take equal parts, each of what those before it left, and the last one all of it."""
    made = []
    for i, (rule, spec) in enumerate(rules):
        left = len(rules) - i
        condition = None if left == 1 else chance(f"{1 / left:.11f}") if by_chance else nth(left)
        made.append((rule, picked(spec, condition)))
    return lines(made)


def own(rules: Iterable[Rule]) -> list[tuple[Rule, Spec]]:
    """Rules as they are."""
    return [(rule, rule.spec) for rule in rules]


def behind(rule: Rule) -> Lines:
    """The statistic behind all other matches."""
    picking = [match for match in rule.spec.matches if match.name in _PICKING]
    rest = [match for match in rule.spec.matches if match.name not in _PICKING]
    return lines([(rule, replace(rule.spec, matches=[*rest, *picking]))])


def restated(rule: Rule, option: str, value: str) -> Lines:
    """With another value of an option of match statistic, which may lack it."""
    matches = []
    for match in rule.spec.matches:
        if match.name == "statistic":
            kept = [each for each in match.options if each[0] != option]
            inverted = next((inverted for name, inverted, _ in match.options if name == option), False)
            match = Match(match.name, [*kept, (option, inverted, (value,))])
        matches.append(match)
    return lines([(rule, replace(rule.spec, matches=matches))])


def for_new(rule: Rule) -> Lines:
    """For new connections, whatever states it asks for; nothing where it asks for none."""
    rest = [match for match in rule.spec.matches if match.name not in _STATES]
    if len(rest) == len(rule.spec.matches):
        return ()
    return lines([(rule, replace(rule.spec, matches=[_new(), *rest]))])


def _new() -> Match:
    return Match("conntrack", [("ctstate", False, ("NEW",))])


def alike(rules: Sequence[Rule]) -> Lines:
    """All rules with what the first one asks for; each picks and does what it did."""
    first = rules[0].spec
    asked = [match for match in first.matches if match.name not in _PICKING]
    made = []
    for rule in rules:
        picking = [match for match in rule.spec.matches if match.name in _PICKING]
        spec = replace(
            first,
            matches=[*asked, *picking],
            comment=rule.spec.comment,
            target=rule.spec.target,
            goto=rule.spec.goto,
            values=rule.spec.values,
        )
        made.append((rule, spec))
    return lines(made)


def each_in_turn(rule: Rule, option: str, values: Sequence[str]) -> Lines:
    """One rule for each value of the target's option, in turn."""
    spec = rule.spec
    return ladder([(rule, replace(spec, values={option: [(value,)]})) for value in values])


def random_port(rule: Rule) -> Lines:
    """With any port of a range, and not the first free one."""
    return lines([(rule, replace(rule.spec, values={**rule.spec.values, "random": [()]}))])


def unmarked(first: Sequence[Rule], rule: Rule, mask: int, *, connection: bool) -> Lines:
    """A rule behind others that mark, for what none of them has marked."""
    guard = Match("connmark" if connection else "mark", [("mark", False, (f"0x0/{mask:#x}",))])
    return lines([*own(first), (rule, replace(rule.spec, matches=[guard, *rule.spec.matches]))])


def remembered(rules: Sequence[Rule]) -> Lines:
    """Rules that mark new connections alone, between those that fetch a connection's mark and keep it."""
    first = rules[0]
    restore, save = (
        replace(_bare(first.spec), target="CONNMARK", values={f"{verb}-mark": [()]})
        for verb in ("restore", "save")
    )
    new = [(rule, replace(rule.spec, matches=[_new(), *rule.spec.matches])) for rule in rules]
    return lines([(first, restore), *new, (first, save)])


def _bare(spec: Spec) -> Spec:
    return replace(
        spec, source="", destination="", incoming="", outgoing="", protocol="", fragment=False,
        inverted=frozenset(), matches=[], comment=None, goto=False, values={},
    )  # fmt: skip


def outward(rules: Sequence[Rule]) -> Lines:
    """Rules of PREROUTING, and the same for the connections that this host makes to itself."""
    made = own(rules)
    for rule in rules:
        spec, matches = rule.spec, rule.spec.matches
        types = any(match.name == "addrtype" for match in matches)
        if not spec.destination and not types:
            # Without it, all that leaves for anybody's port would be caught.
            matches = [Match("addrtype", [("dst-type", False, ("LOCAL",))]), *matches]
        inverted = spec.inverted - {"in-interface"}
        made.append(
            (replace(rule, chain="OUTPUT"), replace(spec, incoming="", inverted=inverted, matches=matches))
        )
    return lines(made)


def apart(rules: Sequence[Rule], listeners: Sequence[Selector], chain: str) -> Lines:
    """The rules of a shared ladder for each listener anew; nothing where a condition cannot be spelled."""
    made = []
    for listener in listeners:
        for rule in rules:
            asked = _asked(listener, rule)
            if asked is None:
                return ()
            picking = [match for match in rule.spec.matches if match.name in _PICKING]
            made.append((replace(rule, chain=chain), replace(asked, matches=[*asked.matches, *picking])))
    return lines(made)


def _asked(listener: Selector, rule: Rule) -> Spec | None:
    """A rule's target for connections to a listener."""
    spec = _bare(rule.spec)
    spec.target, spec.goto, spec.values = rule.spec.target, rule.spec.goto, rule.spec.values
    for field, values in listener.conditions:
        if not _ask(spec, field, values, rule.family):
            return None
    return spec


def _ask(spec: Spec, field: str, values: Values, family: Family) -> bool:
    """Have a rule ask for a condition; False where that cannot be spelled."""
    bits = BITS[family]
    inverted = is_negative(field, values, bits)
    positive: Values = values
    if inverted:
        positive = Words(values.but) if isinstance(values, Words) else spans_rest(values, top_of(field, bits))
    text = spelled(field, positive, bits)
    name = name_of(field)
    header = {
        "proto": "protocol",
        "dst": "destination",
        "src": "source",
        "iif": "incoming",
        "oif": "outgoing",
    }
    option = {**header, "iif": "in-interface", "oif": "out-interface"}
    if name in header and "," not in text and "-" not in text:
        setattr(spec, header[name], f"{text[:-1]}+" if text.endswith("*") else text)
        spec.inverted |= {option[name]} if inverted else frozenset()
    elif name in {"dport", "sport"} and spec.protocol and "protocol" not in spec.inverted:
        ports = text.replace("-", ":")
        several = Match("multiport", [(f"{name}s", inverted, (ports,))])
        spec.matches.append(several if "," in ports else Match(spec.protocol, [(name, inverted, (ports,))]))
    elif name in {"dst-type", "src-type"}:
        spec.matches.append(Match("addrtype", [(name, inverted, (text.upper(),))]))
    else:
        return False
    return True


def elsewhere(rule: Rule, table: str, chain: str) -> Lines:
    """A rule in the chain, and the table, where its target may stand."""
    spec = replace(
        rule.spec,
        incoming="" if chain in _NO_INCOMING else rule.spec.incoming,
        outgoing="" if chain in _NO_OUTGOING else rule.spec.outgoing,
    )
    try:
        line = line_of(replace(rule, chain=chain), spec, table=table)
    except ValueError:
        return ()
    if rule.program or rule.table == table:
        return (*_declared(rule, chain, table), line)
    return (f"*{table}", *_declared(rule, chain, table), line, "COMMIT")


def declared(rule: Rule, chain: str) -> Lines:
    """A chain that a rule leads to or stands in, and the rule."""
    found = lines(own([rule]))
    return (*_declared(rule, chain, rule.table), *found) if found else ()


def _declared(rule: Rule, chain: str, table: str) -> Lines:
    if chain in layout.HOOKS:
        return ()
    try:
        return (_line(rule, ["-N", chain], table) if rule.program else f":{layout.quote(chain)} - [0:0]",)
    except ValueError:
        return ()


def other_family(rule: Rule) -> Lines:
    """The command of the other family, where all addresses are of that one."""
    other = Family.IPV6 if rule.family is Family.IPV4 else Family.IPV4
    spec = rule.spec
    given = [
        spec.source,
        spec.destination,
        *(v for many in spec.values.values() for each in many for v in each),
    ]
    families = {family for text in given if (family := family_of(text)) is not None}
    if rule.program is None or families != {other}:
        return ()
    program = rule.program.replace(layout.WORD[rule.family], layout.WORD[other], 1)
    return lines([(replace(rule, family=other, program=program), spec)])


def without_old_matches(group: Sequence[Rule], rule: Rule) -> Lines:
    """A rule with what came in the place of a match that is gone. `group` are those of its `counter`."""
    spec = rule.spec
    old = next((match for match in spec.matches if match.name in {"nth", "random", "mport", "unclean"}), None)
    if old is None:
        return ()
    given = {name: values[0] for name, _, values in old.options if values}
    match old.name:
        case "nth":
            every = decimal(given.get("every", "")) or 0
            if "packet" in given and 1 < len(group) <= every <= _MOST and _is_apart(group):
                # Rules of one counter took turns; since each has its own, they are rungs.
                turns = [
                    (each, picked(each.spec, nth(every - i) if i + 1 < every else None))
                    for i, each in enumerate(group)
                ]
                return lines(turns)
            if not every:
                return ()
            condition = nth(every, decimal(given.get("packet", "0")) or 0)
            return lines([(rule, picked(spec, condition))])
        case "random":
            percent = decimal(given.get("average", ""), 3)
            if percent is None or not 0 < percent <= 100:
                return ()
            return lines([(rule, picked(spec, chance(f"{percent / 100:.11f}")))])
        case "mport":
            matches = [Match("multiport", match.options) if match is old else match for match in spec.matches]
            return lines([(rule, replace(spec, matches=matches))])
        case _:
            return lines(
                [(rule, replace(spec, matches=[match for match in spec.matches if match is not old]))]
            )


def _options(rule: Rule, name: str) -> dict[str, str]:
    found = next((match for match in rule.spec.matches if match.name == name), None)
    return {option: values[0] for option, _, values in found.options if values} if found else {}


def _is_apart(group: Sequence[Rule]) -> bool:
    return len({_options(each, "nth").get("packet") for each in group}) == len(group)


def counter(rule: Rule) -> object:
    """What rules of the old match nth that share a counter have in common."""
    given = _options(rule, "nth")
    return (rule.family, rule.table, rule.chain, given.get("counter"), given.get("every")) if given else None


class Corrections:
    """See `lbctl_netfilter.corrections.Corrections`."""

    def own(self, rules: Sequence[ir.Rule]) -> Lines:
        """The rules as they are."""
        return lines(own(map(read_of, rules)))

    def equal(self, rules: Sequence[ir.Rule], service: ReadService | None, *, by_chance: bool) -> Lines:
        """The rules as a ladder of equal parts."""
        del service
        return ladder(own(map(read_of, rules)), by_chance=by_chance)

    def caught(self, rules: Sequence[ir.Rule], service: ReadService, *, by_chance: bool) -> Lines:
        """The rules of a ladder, the last one without its pick."""
        del service, by_chance
        *first, last = own(map(read_of, rules))
        return lines([*first, (last[0], picked(last[1], None))])

    def alike(self, rules: Sequence[ir.Rule]) -> Lines:
        """The rules with what the first one asks for."""
        return alike([read_of(rule) for rule in rules])

    def behind(self, rule: ir.Rule) -> Lines:
        """The rule with its pick behind all other conditions."""
        return behind(read_of(rule))

    def apart(
        self,
        rules: Sequence[ir.Rule],
        listeners: Sequence[Selector],
        hook: str,
        services: Sequence[ReadService],
    ) -> Lines:
        """A ladder for each of the listeners that share one."""
        del services
        return apart([read_of(rule) for rule in rules], listeners, hook.upper())

    def unmarked(self, before: Sequence[ir.Rule], rule: ir.Rule) -> Lines:
        """Rules that mark, and one behind them for what none of them has marked."""
        marking = next(rule.markings, None)
        if marking is None:
            return ()
        first = [read_of(each) for each in before]
        return unmarked(first, read_of(rule), marking.written, connection=marking.connection)

    def remembered(self, rules: Sequence[ir.Rule]) -> Lines:
        """Rules that mark new connections alone, between those that restore a mark and save it."""
        return remembered([read_of(rule) for rule in rules])

    def outward(self, rules: Sequence[ir.Rule]) -> Lines:
        """Rules for what comes in, and the same for connections that this host makes to itself."""
        return outward([read_of(rule) for rule in rules])


def read_of(rule: ir.Rule) -> Rule:
    """The rule of the text that a rule of the engine comes from."""
    return rule.origin  # type: ignore[return-value]
