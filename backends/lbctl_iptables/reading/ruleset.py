"""Commands → tables of chains: what is there when every command has been carried out in its order."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from lbctl.model import Family, decimal
from lbctl.values import dataclass
from lbctl_iptables.reading import corrections, grammar, lines
from lbctl_iptables.reading.lines import LineKind
from lbctl_iptables.reading.rule import IptRule, Store
from lbctl_iptables.reading.sequence import Rules
from lbctl_iptables.reading.values import family_of
from lbctl_netfilter.log import ERROR, INFO, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from lbctl_iptables.reading.grammar import Spec
    from lbctl_iptables.reading.lines import IptLine
    from lbctl_netfilter.log import Log

#: Table → the chains of the kernel itself.
BUILTIN: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
_ANYWHERE = frozenset(name for names in BUILTIN.values() for name in names)
_FAMILIES = {"iptables": Family.IPV4, "ip6tables": Family.IPV6}
#: Pairs of addresses of one rule; a text may make one more for so many bytes, as a list of addresses does.
_MOST_PAIRS, _PAIR = 4096, 8
#: Chains and rules that commands for whole tables go through, and for each byte of a text.
_MOST_VISITS, _VISITS = 2_000_000, 4
#: Lines of a table that are shown with its end.
_MOST_SHOWN = 64
_NAT_TARGETS = frozenset({"DNAT", "REDIRECT", "SNAT", "MASQUERADE", "NETMAP", "SAME", "BALANCE"})
_MARK_TARGETS = frozenset({"MARK", "CONNMARK"})
#: Commands that change no rule.
_IDLE = frozenset({"list", "list-rules", "zero", "check", "version", "help"})
#: Commands with a rule, and those of them that add one.
_WITH_RULE = frozenset({"append", "insert", "replace", "delete"})
_ADDING = frozenset({"append", "insert"})


@dataclass(slots=True)
class IptChain:
    """The rules of a chain; `policy` for one of the kernel's own."""

    name: str
    rules: Rules = field(default_factory=Rules)
    policy: str | None = None
    line: int = 0
    #: False for a chain that was only written to.
    declared: bool = True


@dataclass(slots=True)
class IptTable:
    """A table of one family."""

    name: str
    chains: dict[str, IptChain] = field(default_factory=dict)
    #: True if the text has the kernel's own chains: then nothing else leads into the others.
    whole: bool = False
    #: True if lines without a program's name made it: others may lead into its chains.
    fragment: bool = False


@dataclass(slots=True)
class Ruleset:
    """The tables of a text. `saved` is true for the form of iptables-save."""

    stores: dict[Store, dict[str, IptTable]] = field(default_factory=dict)
    saved: bool = False

    @property
    def chains(self) -> Iterable[IptChain]:
        """All chains."""
        return (
            chain
            for tables in self.stores.values()
            for table in tables.values()
            for chain in table.chains.values()
        )

    @property
    def count(self) -> int:
        """How many rules there are."""
        return sum(len(chain.rules) for chain in self.chains)

    def only(self, store: Store, name: str, rules: Mapping[str, Iterable[IptRule]]) -> Ruleset:
        """Return one of the tables alone, with other rules in some of its chains."""
        table = self.stores[store][name]
        chains = {
            key: replace(chain, rules=Rules(rules[key])) if key in rules else chain
            for key, chain in table.chains.items()
        }
        return Ruleset({store: {name: replace(table, chains=chains)}}, self.saved)


def read_tables(text: str, family: Family | None, log: Log) -> Ruleset:
    """Return the tables of a text. `family` is that of rules which do not say theirs."""
    commands = _Commands(log)
    for line in lines.read(text):
        commands.add(line)
    commands.end()
    pending = commands.pending
    if not pending and log.findings:
        # Words that a shell might know, and not one rule.
        log.accept = False
    default = (family,) if family is not None else _default_families(commands)
    bare = _inferred_table(pending)
    mixed = commands.note_flavours()
    run = _Run(log, len(text))
    stores = {(each, legacy): Store(each, legacy) for each in Family for legacy in (False, True)}
    for line, spec in pending:
        name = spec.table or (bare if line.program is None else "filter")
        if name not in BUILTIN:
            if not line.restored:
                _unparsable(log, line, f"there is no table {shown(name)}")
            continue
        families = default
        if spec.family is not None:
            families = (spec.family,)
        elif line.program is not None:
            families = (_FAMILIES[line.program],)
        for each in families:
            run.command(line, spec, stores[each, mixed and line.flavour == "legacy"], name)
    return Ruleset(run.stores, commands.saved)


def _unparsable(log: Log, line: IptLine, message: str) -> None:
    log.refuse("unparsable-line", line, message)
    log.cannot(line, "unparsable-line", message)


class _Commands:
    """The lines of a text as commands, and what is wrong with the text as a whole."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.pending: list[tuple[IptLine, Spec]] = []
        self.saved = self.both = False
        #: The line of the table that was begun and not committed.
        self._open: IptLine | None = None
        #: For iptables-legacy, and for the other flavour, the first line with a rule.
        self._flavours: dict[bool, IptLine] = {}

    def add(self, line: IptLine) -> None:
        """Take the next line."""
        match line.kind:
            case LineKind.RULE:
                self._rule(line)
            case LineKind.PROBLEM:
                self._problem(line)
            case LineKind.HEADER:
                self.both |= "both" in line.words
            case LineKind.TABLE:
                self.saved = True
                self.end()
                self._open = line
                if line.words[0] not in BUILTIN:
                    _unparsable(self._log, line, f"there is no table {shown(line.words[0])}")
            case LineKind.COMMIT:
                if self._open is None:
                    self._partial(line, "COMMIT without a table before it")
                self._open = None
            case LineKind.DECLARE:
                self._declare(line)

    def _rule(self, line: IptLine) -> None:
        try:
            spec = grammar.parse(line.words)
        except grammar.Unparsable as error:
            _unparsable(self._log, line, str(error))
            return
        if line.restored and self._open is not None:
            spec.table = self._open.words[0]
        self._flavours.setdefault(line.flavour == "legacy", line)
        self.pending.append((line, spec))

    def _declare(self, line: IptLine) -> None:
        if self._open is None:
            self._partial(line, "a chain of an unknown table: the beginning is missing")
        elif not line.words:
            _unparsable(self._log, line, "a chain without a name")
        else:
            name, *policy = line.words
            self.pending.append((line, grammar.Spec("declare", name, policy, self._open.words[0])))

    def end(self) -> None:
        """Report a table that is still open where the text ends, or another table begins."""
        begin, self._open = self._open, None
        if begin is None:
            return
        inside = [line.text for line, _ in self.pending if line.line > begin.line]
        self._log.accept = False
        self._log.find(
            "missing-commit",
            begin,
            f"table {shown(begin.words[0])} has no COMMIT: iptables-restore would load 0 of its "
            f"{len(inside)} lines, and the text may have been cut off",
            (begin.text, *inside, "COMMIT") if len(inside) <= _MOST_SHOWN else (),
        )

    def _problem(self, line: IptLine) -> None:
        severity = ERROR if line.lost else INFO if line.harmless else None
        self._log.find(line.code, line, line.message, severity=severity)
        if line.lost:
            self._log.accept = False
            self._log.cannot(line, line.code, line.message)

    def _partial(self, line: IptLine, message: str) -> None:
        self._log.find("partial-dump", line, message)

    def note_flavours(self) -> bool:
        """Return True for rules of both flavours, which is reported."""
        if len(self._flavours) < 2:
            return False
        line = max(self._flavours.values(), key=lambda line: line.line)
        self._log.find(
            "mixed-backends",
            line,
            "rules of iptables-legacy and of iptables-nft, which plain iptables usually is, in one text: the "
            "kernel runs both, and no text says which of them maps a connection first; import each alone",
            severity=ERROR,
        )
        return True


class _Run:
    """Carries out commands. `size` is that of the text, which bounds what they may take."""

    def __init__(self, log: Log, size: int) -> None:
        self._log = log
        self.stores: dict[Store, dict[str, IptTable]] = {}
        #: Chains and rules that commands for whole tables may go through, and pairs that lists may make.
        self._visits = _MOST_VISITS + _VISITS * size
        self._pairs = _MOST_PAIRS + size // _PAIR

    def command(self, line: IptLine, spec: Spec, store: Store, name: str) -> None:
        """Carry out a command on a table."""
        if spec.command in _IDLE:
            return
        if spec.command == "":
            _unparsable(self._log, line, "a rule without -A, -I, -R or -D")
            return
        table = self.stores[store].get(name) if store in self.stores else None
        if table is None:
            table = self.stores.setdefault(store, {})[name] = IptTable(name)
        table.fragment |= spec.command != "declare" and (line.restored or line.program is None)
        if spec.command in _WITH_RULE:
            self._with_rule(line, spec, store, table)
        else:
            self._with_chain(line, spec, table)

    def _with_chain(self, line: IptLine, spec: Spec, table: IptTable) -> None:
        match spec.command:
            case "declare":
                self._declare(line, spec, table)
            case "new-chain":
                self._new_chain(line, spec.chain, table)
            case "flush":
                for each in self._named(line, spec, table):
                    each.rules.clear()
            case "delete-chain":
                for each in self._named(line, spec, table):
                    if not each.rules and each.name not in BUILTIN[table.name]:
                        del table.chains[each.name]
            case "policy":
                _chain(table, line, spec.chain).policy = spec.words[0] if spec.words else "ACCEPT"
                table.whole |= line.program is None and not line.restored
            case "rename-chain" if spec.words and spec.chain in table.chains:
                self._rename(line, table.chains[spec.chain], spec.words[0], table)

    def _named(self, line: IptLine, spec: Spec, table: IptTable) -> Collection[IptChain]:
        """Return the chain that a command names, if it is there; all for a command that names none."""
        if spec.chain:
            return [table.chains[spec.chain]] if spec.chain in table.chains else []
        return list(table.chains.values()) if self._may_visit(len(table.chains), line) else []

    def _may_visit(self, count: int, line: IptLine) -> bool:
        """False if commands have gone through all chains of a table too many times."""
        self._visits -= count
        if self._visits < 0:
            _unparsable(self._log, line, "too many commands that go through all chains of a table")
        return self._visits >= 0

    # -- chains

    def _declare(self, line: IptLine, spec: Spec, table: IptTable) -> None:
        builtin = spec.chain in BUILTIN[table.name]
        chain = table.chains.get(spec.chain)
        if chain is None or not builtin:
            # Naming a chain empties it.
            chain = table.chains[spec.chain] = IptChain(spec.chain, line=line.line)
        if builtin:
            chain.policy = spec.words[0] if spec.words else "-"
            table.whole = True

    def _new_chain(self, line: IptLine, name: str, table: IptTable) -> None:
        if name not in table.chains or not table.chains[name].declared:
            table.chains[name] = IptChain(name, line=line.line)
        elif not line.restored:
            message = f"chain {shown(name)} is there already"
            self._log.find("duplicate-rules", line, message, severity=INFO)

    def _rename(self, line: IptLine, chain: IptChain, name: str, table: IptTable) -> None:
        count = sum(len(each.rules) for each in table.chains.values())
        if not self._may_visit(len(table.chains) + count, line):
            return
        old, chain.name = chain.name, name
        table.chains[name] = table.chains.pop(old)
        for other in table.chains.values():
            for rule in other.rules:
                if rule.spec.target == old:
                    rule.spec.target = name

    # -- rules

    def _with_rule(self, line: IptLine, spec: Spec, store: Store, table: IptTable) -> None:
        rules = self._rules(line, spec, store, table.name)
        for rule in rules:
            self._check_chain(table, line, rule)
        found = _chain(table, line, spec.chain).rules
        if spec.command == "delete" and spec.words:
            # Scripts delete what may not be there; the text alone cannot say.
            at = self._position(line, spec, len(found)) if found or decimal(spec.words[0]) is None else None
            if at is not None:
                found.delete(at)
            return
        for rule in rules:
            match spec.command:
                case "append":
                    found.append(rule)
                case "insert":
                    if (at := self._position(line, spec, len(found) + 1)) is not None:
                        found.insert(at, rule)
                case "replace":
                    if (at := self._position(line, spec, len(found))) is not None:
                        found.replace(at, rule)
                case _:
                    found.delete_like(rule)

    def _position(self, line: IptLine, spec: Spec, most: int) -> int | None:
        """Return the position of a command, from 0.

        None for none of those up to `most`, which is reported.
        """
        text = spec.words[0] if spec.words else "1" if spec.command == "insert" else ""
        position = decimal(text)
        if position is not None and 1 <= position <= most:
            return position - 1
        reason = "the position is not a number" if position is None else "there is no rule at that position"
        _unparsable(self._log, line, reason)
        return None

    def _rules(self, line: IptLine, spec: Spec, store: Store, table: str) -> Sequence[IptRule]:
        """One rule for each pair of the addresses that it lists, as iptables makes them."""
        program = None if line.restored else line.tool
        words = () if line.restored else tuple(line.words)
        source, destination = spec.get("source"), spec.get("destination")
        if "," not in source and "," not in destination:
            return [IptRule(line.line, line.text, words, spec, table, spec.chain, store, program)]
        sources, destinations = source.split(","), destination.split(",")
        pairs = len(sources) * len(destinations)
        self._pairs -= pairs
        if pairs > _MOST_PAIRS or self._pairs < 0:
            most = f"{_MOST_PAIRS} pairs" if pairs > _MOST_PAIRS else "pairs than the text is long, in all,"
            _unparsable(self._log, line, f"a rule for more than {most} of addresses")
            return ()
        headers = [{**spec.header, "source": s, "destination": d} for s in sources for d in destinations]
        return [
            IptRule(
                line.line, line.text, words, replace(spec, header=header), table, spec.chain, store, program
            )
            for header in headers
        ]

    def _check_chain(self, table: IptTable, line: IptLine, rule: IptRule) -> None:
        """Report a rule for a chain that is not there."""
        name = rule.chain
        if name in table.chains or name in BUILTIN[table.name]:
            return
        adds = rule.spec.command in _ADDING
        if name in _ANYWHERE:
            right_table = "mangle" if rule.spec.target in _MARK_TARGETS else "nat"
            self._log.find(
                "wrong-table",
                line,
                f"table {table.name} has no chain {name}, so that iptables refuses the rule and 0 % of "
                "connections match it; rules that rewrite addresses go with `-t nat`",
                corrections.elsewhere(rule, right_table, name)
                if adds and name in BUILTIN[right_table]
                else (),
            )
            return
        partial = line.program is None or line.restored
        self._log.find(
            "partial-dump" if partial else "undefined-chain",
            line,
            f"chain {shown(name)} of table {shown(table.name)} is not created in the text"
            + ("" if partial else ": iptables refuses the rule, and 0 % of connections match it"),
            corrections.declared(rule, name) if adds and not partial else (),
        )


def _chain(table: IptTable, line: IptLine, name: str) -> IptChain:
    """Return the chain that a command names; made if the text does not have it."""
    chain = table.chains.get(name)
    if chain is None:
        builtin = name in BUILTIN[table.name]
        policy = "ACCEPT" if builtin else None
        chain = table.chains[name] = IptChain(name, policy=policy, declared=builtin, line=line.line)
    return chain


def _default_families(commands: _Commands) -> tuple[Family, ...]:
    """The families of rules that do not say theirs: those of their addresses, or both for a text for both."""
    if commands.both:
        return tuple(Family)
    if any(line.program for line, _ in commands.pending):
        return (Family.IPV4,)
    found: set[Family | None] = set()
    for _, spec in commands.pending:
        values = (word for words in spec.values.values() for each in words for word in each)
        found |= {family_of(text) for text in (*spec.header.values(), *values) if spec.family is None}
        if Family.IPV4 in found:
            return (Family.IPV4,)
    if Family.IPV6 in found:
        return (Family.IPV6,)
    named = {spec.family for _, spec in commands.pending} - {None}
    return tuple(Family) if named else (Family.IPV4,)


def _inferred_table(pending: Iterable[tuple[IptLine, Spec]]) -> str:
    """Return the table that lines without one can only mean."""
    found = "filter"
    for line, spec in pending:
        if spec.table is not None or line.program is not None:
            continue
        if spec.target in _NAT_TARGETS:
            return "nat"
        if spec.target in _MARK_TARGETS:
            found = "mangle"
        elif spec.chain in {"PREROUTING", "POSTROUTING"} and found == "filter":
            found = "nat"
    return found
