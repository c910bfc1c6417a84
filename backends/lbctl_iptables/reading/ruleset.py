"""Commands → tables of chains: what is there when every command has been carried out in its order."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lbctl.model import Family, Severity, decimal
from lbctl_iptables.reading import corrections, grammar, lines
from lbctl_iptables.reading.lines import Kind
from lbctl_iptables.reading.sequence import Rules
from lbctl_iptables.reading.values import family_of
from lbctl_netfilter.log import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl_iptables.reading.grammar import Spec
    from lbctl_iptables.reading.lines import Line
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


@dataclass(slots=True, eq=False)
class Rule:
    """One rule of a chain."""

    line: int
    #: Verbatim, as the text has it.
    text: str
    words: tuple[str, ...]
    spec: Spec
    table: str
    chain: str
    family: Family
    #: `iptables` or `ip6tables` for a command; None for a line of iptables-restore.
    program: str | None = None

    @property
    def place(self) -> str:
        """The chain that it is in, as the engine has it."""
        return f"{self.table} {self.chain}"

    @property
    def comment(self) -> str | None:
        """What a person called it."""
        return self.spec.comment

    def key(self) -> object:
        """What a rule must have in common with another to be deleted in its stead."""
        spec = self.spec
        return (
            spec.destination,
            spec.source,
            spec.protocol,
            spec.incoming,
            spec.outgoing,
            spec.target,
            spec.goto,
            spec.inverted,
            tuple((match.name, match.unprinted, tuple(match.options)) for match in spec.matches),
            spec.unprinted,
            tuple(sorted((name, tuple(given)) for name, given in spec.values.items())),
        )


@dataclass(slots=True)
class Chain:
    """The rules of a chain; `policy` for one of the kernel's own."""

    name: str
    rules: Rules = field(default_factory=Rules)
    policy: str | None = None
    line: int = 0
    #: False for a chain that was only written to.
    declared: bool = True


@dataclass(slots=True)
class Table:
    """A table of one family."""

    name: str
    chains: dict[str, Chain] = field(default_factory=dict)
    #: True where the text has the kernel's own chains: then nothing else leads into the others.
    whole: bool = False
    #: True where lines without a program's name made it: others may lead into its chains.
    fragment: bool = False


class Ruleset:
    """The tables of a text."""

    def __init__(self, text: str, family: Family | None, log: Log) -> None:
        self.log = log
        self.tables: dict[tuple[Family, str], Table] = {}
        self.saved = False
        self._family = family
        self._open: tuple[str, int, str] | None = None
        self._flavours: dict[str, int] = {}
        self._both = False
        self._mixed = False
        #: Chains and rules that commands for whole tables may go through, and pairs that lists may make.
        self._visits = _MOST_VISITS + _VISITS * len(text)
        self._pairs = _MOST_PAIRS + len(text) // _PAIR
        pending: list[tuple[Line, Spec]] = []
        for line in lines.read(text):
            self._line(line, pending)
        self._end(pending)
        if not pending and log.findings:
            # Words that a shell might know, and not one rule.
            log.accept = False
        self._fragments(pending)
        self.rules = sum(
            len(chain.rules) for table in self.tables.values() for chain in table.chains.values()
        )

    def only(self, family: Family, name: str, rules: Mapping[str, Iterable[Rule]]) -> Ruleset:
        """Return a view of one of the tables alone, with other rules in some of its chains."""
        view = copy(self)
        table = self.tables[family, name]
        chains = {
            key: replace(chain, rules=Rules(rules[key])) if key in rules else chain
            for key, chain in table.chains.items()
        }
        view.tables = {(family, name): replace(table, chains=chains)}
        return view

    # -- lines

    def _end(self, pending: Sequence[tuple[Line, Spec]]) -> None:
        """A table that is still open where the text ends, or another table begins."""
        if self._open is not None:
            self._missing_commit(pending)

    def _line(self, line: Line, pending: list[tuple[Line, Spec]]) -> None:
        if line.flavour:
            self._flavour(line)
        match line.kind:
            case Kind.RULE:
                self._rule(line, pending)
            case Kind.PROBLEM:
                self._problem(line)
            case Kind.HEADER:
                self._both |= "both" in line.words
            case Kind.TABLE:
                self.saved = True
                self._end(pending)
                name = line.words[0]
                self._open = (name, line.number, line.text)
                if name not in BUILTIN:
                    self._unparsable(line, f"there is no table {name[:40]}")
            case Kind.COMMIT:
                if self._open is None:
                    self._partial(line, "COMMIT without a table before it")
                self._open = None
            case Kind.DECLARE:
                if self._open is None:
                    self._partial(line, "a chain of an unknown table: the beginning is missing")
                elif not line.words:
                    self._unparsable(line, "a chain without a name")
                else:
                    pending.append((line, grammar.Spec(table=self._open[0])))

    def _rule(self, line: Line, pending: list[tuple[Line, Spec]]) -> None:
        try:
            spec = grammar.parse(line.words)
        except grammar.Unparsable as error:
            self._unparsable(line, str(error))
            return
        if spec.family and line.restored:
            self._both = True
        if line.restored and self._open is not None:
            spec.table = self._open[0]
        pending.append((line, spec))

    def _declare(self, line: Line, table: Table) -> None:
        name, policy = line.words[0], line.words[1] if len(line.words) > 1 else "-"
        chain = table.chains.get(name)
        builtin = name in BUILTIN[table.name]
        if chain is None or not builtin:
            # Naming a chain empties it.
            table.chains[name] = chain = Chain(name, line=line.number)
        if builtin:
            chain.policy = policy
            table.whole = True

    def _missing_commit(self, pending: Sequence[tuple[Line, Spec]]) -> None:
        name, number, text = self._open or ("", 0, "")
        inside = [line.text for line, _ in pending if line.number > number]
        self.log.accept = False
        self.log.find(
            "missing-commit",
            Severity.ERROR,
            number,
            text,
            f"table {shown(name)} has no COMMIT: iptables-restore would load 0 of its {len(inside)} lines, "
            "and the text may have been cut off",
            (text, *inside, "COMMIT") if len(inside) <= _MOST_SHOWN else (),
        )
        self._open = None

    def _problem(self, line: Line) -> None:
        severity = Severity.ERROR if line.lost or line.code == "unparsable-line" else Severity.WARNING
        if line.code == "shell-construct" and "is no rule" in line.message:
            severity = Severity.INFO
        self.log.find(line.code, severity, line.number, line.text, line.message)
        if line.lost:
            self.log.accept = False
            self.log.cannot(line.number, line.text, line.code, line.message)

    def _unparsable(self, line: Line, message: str) -> None:
        self.log.accept = False
        self.log.find("unparsable-line", Severity.ERROR, line.number, line.text, message)
        self.log.cannot(line.number, line.text, "unparsable-line", message)

    def _partial(self, line: Line, message: str) -> None:
        self.log.find("partial-dump", Severity.WARNING, line.number, line.text, message)

    def _flavour(self, line: Line) -> None:
        self._flavours.setdefault(line.flavour or "", line.number)
        if len(self._flavours) > 1 and not self._mixed:
            self._mixed = True
            self.log.find(
                "mixed-backends",
                Severity.ERROR,
                line.number,
                line.text,
                "rules of iptables-legacy and of iptables-nft in one text: the kernel runs both, and the "
                "first NAT rule that maps a connection wins, in no order that a text tells; import each "
                "alone",
            )

    # -- rules

    def _families(self, line: Line, spec: Spec | None) -> tuple[Family, ...]:
        if spec is not None and spec.family is not None:
            wanted = Family.IPV4 if spec.family == "ipv4" else Family.IPV6
            return (wanted,)
        if line.program is not None:
            return (_FAMILIES[line.program],)
        if self._family is not None:
            return (self._family,)
        return self._default

    _default: tuple[Family, ...] = (Family.IPV4,)

    def _fragments(self, pending: list[tuple[Line, Spec]]) -> None:
        """Carry out the commands: what a line leaves open is known when all have been read."""
        if self._both:
            self._default = tuple(Family)
        elif self._family is None and not any(line.program for line, _ in pending):
            self._default = (_inferred(pending),)
        bare = _inferred_table(pending)
        for line, spec in pending:
            table_name = spec.table or (bare if line.program is None else "filter")
            if table_name not in BUILTIN:
                if not line.restored:
                    self._unparsable(line, f"there is no table {shown(table_name)}")
                continue
            for family in self._families(line, spec):
                if line.kind is Kind.DECLARE:
                    self._declare(line, self._table(family, table_name))
                else:
                    self._run(line, spec, family, table_name)

    def _table(self, family: Family, name: str) -> Table:
        table = self.tables.get((family, name))
        if table is None:
            table = self.tables[family, name] = Table(name)
        return table

    def _chain(self, table: Table, line: Line, name: str) -> Chain:
        """The chain that a command names; made where the text does not have it."""
        chain = table.chains.get(name)
        if chain is not None:
            return chain
        builtin = name in BUILTIN.get(table.name, ())
        chain = table.chains[name] = Chain(name, declared=builtin, line=line.number)
        if builtin:
            chain.policy = "ACCEPT"
        return chain

    def _check_chain(self, table: Table, line: Line, rule: Rule) -> None:
        """Say where a rule goes into a chain that is not there."""
        name = rule.chain
        if name in table.chains or name in BUILTIN[table.name]:
            return
        adds = rule.spec.command in {"append", "insert"}
        if name in _ANYWHERE:
            right_table = "mangle" if rule.spec.target in {"MARK", "CONNMARK"} else "nat"
            self.log.find(
                "wrong-table",
                Severity.ERROR,
                line.number,
                line.text,
                f"table {table.name} has no chain {name}, so that iptables refuses the rule and 0 % of "
                "connections meet it; rules that rewrite addresses go with `-t nat`",
                corrections.elsewhere(rule, right_table, name)
                if adds and name in BUILTIN[right_table]
                else (),
            )
            return
        partial = line.program is None or line.restored
        self.log.find(
            "partial-dump" if partial else "undefined-chain",
            Severity.WARNING if partial else Severity.ERROR,
            line.number,
            line.text,
            f"chain {shown(name)} of table {shown(table.name)} is made nowhere in the text"
            + ("" if partial else ": iptables refuses the rule, and 0 % of connections meet it"),
            corrections.declared(rule, name) if adds and not partial else (),
        )

    def _run(self, line: Line, spec: Spec, family: Family, table_name: str) -> None:
        command = spec.command
        if command in {"list", "list-rules", "zero", "check", "version", "help"}:
            return
        if command == "":
            self._unparsable(line, "a rule without -A, -I, -R or -D")
            return
        table = self._table(family, table_name)
        table.fragment |= line.restored or line.program is None
        name = spec.chain
        if command in {"append", "insert", "replace", "delete"}:
            rules = self._expanded(line, spec, family, table_name, name)
            for rule in rules:
                self._check_chain(table, line, rule)
            chain = self._chain(table, line, name)
            if command == "delete" and spec.words:
                self._delete_at(chain, spec, line)
                return
            for rule in rules:
                self._place(chain, rule, spec, line)
        elif command == "new-chain":
            if name in table.chains and table.chains[name].declared:
                if not line.restored:
                    self.log.find(
                        "duplicate-rules",
                        Severity.INFO,
                        line.number,
                        line.text,
                        f"chain {shown(name)} is there already",
                    )
            else:
                table.chains[name] = Chain(name, line=line.number)
        elif command == "flush":
            chains = [table.chains[name]] if name in table.chains else [] if name else table.chains.values()
            if name or self._may_visit(len(chains), line):
                for chain in chains:
                    chain.rules.clear()
        elif command == "delete-chain" and (name or self._may_visit(len(table.chains), line)):
            gone = [name] if name else [n for n, c in table.chains.items() if not c.rules]
            for each in gone:
                chain_gone = table.chains.get(each)
                if chain_gone is not None and not chain_gone.rules and each not in BUILTIN[table_name]:
                    del table.chains[each]
        elif command == "policy":
            chain = self._chain(table, line, name)
            chain.policy = spec.words[0] if spec.words else "ACCEPT"
            table.whole |= line.program is None and not line.restored
        elif command == "rename-chain" and spec.words and name in table.chains:
            count = sum(len(chain.rules) for chain in table.chains.values())
            if self._may_visit(len(table.chains) + count, line):
                chain = table.chains.pop(name)
                chain.name = spec.words[0]
                table.chains[chain.name] = chain
                for other in table.chains.values():
                    for rule in other.rules:
                        if rule.spec.target == name:
                            rule.spec.target = chain.name

    def _may_visit(self, count: int, line: Line) -> bool:
        """False where commands have gone through all chains of a table too many times."""
        self._visits -= count
        if self._visits < 0:
            self._unparsable(line, "too many commands that go through all chains of a table")
        return self._visits >= 0

    def _expanded(self, line: Line, spec: Spec, family: Family, table: str, chain: str) -> tuple[Rule, ...]:
        """One rule for each pair of the addresses that it lists, as iptables makes them."""
        program = None if line.restored else line.tool
        if "," not in spec.destination and "," not in spec.source:
            return (Rule(line.number, line.text, tuple(line.words), spec, table, chain, family, program),)
        from dataclasses import replace

        words = tuple(line.words)
        sources, destinations = spec.source.split(","), spec.destination.split(",")
        pairs = len(sources) * len(destinations)
        if pairs > _MOST_PAIRS:
            self._unparsable(line, f"a rule for more than {_MOST_PAIRS} pairs of addresses")
            return ()
        self._pairs -= pairs
        if self._pairs < 0:
            self._unparsable(line, "more pairs of addresses in all than a text of this length may make")
            return ()
        return tuple(
            Rule(
                line.number,
                line.text,
                words,
                replace(spec, source=source, destination=destination),
                table,
                chain,
                family,
                program,
            )
            for source in sources
            for destination in destinations
        )

    def _place(self, chain: Chain, rule: Rule, spec: Spec, line: Line) -> None:
        position = 1
        if spec.words:
            found = decimal(spec.words[0])
            if found is None:
                self._unparsable(line, "the position is no number")
                return
            position = found
        match spec.command:
            case "append":
                chain.rules.append(rule)
            case "insert":
                if not 1 <= position <= len(chain.rules) + 1:
                    self._unparsable(line, f"position {position} is beyond the end of the chain")
                    return
                chain.rules.insert(position - 1, rule)
            case "replace":
                if not spec.words or not 1 <= position <= len(chain.rules):
                    self._unparsable(line, "there is no rule at that position")
                    return
                chain.rules.replace(position - 1, rule)
            case _:
                # Scripts delete what may not be there; the text alone cannot tell.
                chain.rules.delete_like(rule)

    def _delete_at(self, chain: Chain, spec: Spec, line: Line) -> None:
        position = decimal(spec.words[0])
        if position is None or not 1 <= position <= len(chain.rules):
            if chain.rules or position is None:
                self._unparsable(line, "there is no rule at that position")
            return
        chain.rules.delete(position - 1)


def _inferred(pending: Iterable[tuple[Line, Spec]]) -> Family:
    """The family of a text that does not say its own: IPv6 where all addresses are."""
    six = False
    for _, spec in pending:
        values = (word for words in spec.values.values() for each in words for word in each)
        for text in (spec.source, spec.destination, *values):
            family = family_of(text)
            if family is Family.IPV4:
                return Family.IPV4
            six |= family is Family.IPV6
    return Family.IPV6 if six else Family.IPV4


def _inferred_table(pending: Iterable[tuple[Line, Spec]]) -> str:
    """The table that lines without one can only mean."""
    found = "filter"
    for line, spec in pending:
        if spec.table is not None or line.program is not None:
            continue
        if spec.target in _NAT_TARGETS:
            return "nat"
        if spec.target in {"MARK", "CONNMARK"}:
            found = "mangle"
        elif spec.chain in {"PREROUTING", "POSTROUTING"} and found == "filter":
            found = "nat"
    return found
