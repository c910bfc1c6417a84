"""A text → tables, chains, sets and maps, with the rules parsed and all that is wrong with the text.

Blocks and command lines are taken alike: what a text does, one statement after the other, is what stays.
Nothing is run, resolved or opened: an `include` is reported, a variable is what the text itself says.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl.model import Finding, NotRead, Severity
from lbctl_nftables.reading import grammar
from lbctl_nftables.reading.grammar import Strange
from lbctl_nftables.reading.words import LIMIT, Words, split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_nftables.reading.grammar import Element, Statement

FAMILIES = {"ip", "ip6", "inet", "arp", "bridge", "netdev"}
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_BLOCKS = {
    "table",
    "chain",
    "set",
    "map",
    "flowtable",
    "counter",
    "quota",
    "limit",
    "secmark",
    "synproxy",
    "ct",
}
_MAKING = {"add", "create", "insert", "replace"}
_TAKING = {"delete", "destroy", "flush", "reset"}
_SHOWING = {"list", "monitor", "describe", "export"}
_SHELL_LINE = re.compile(
    r"(?m)^[ \t]*(?:[%$][ \t]+)?(?:(?:/[\w/]*/)?sudo[ \t]+)?(?:/[\w/]*/)?nft[ \t]+(?!-f\b|--file\b)(.+)"
)
_ASSIGNED = re.compile(r"\s*(?:(?:export|readonly|local)\s+)?(\w+)=([\"']?)([\w./:-]+)\2\s*\Z")
#: Words that variables may bring in, in one text: a few lines could name more than a memory holds.
_EXPANDED = 2_000_000
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, where it stands, and what it says."""

    statements: tuple[Statement, ...]
    line: int
    text: str
    comment: str = ""


@dataclass(slots=True)
class Chain:
    """`hook` is empty for a chain that only others call. `declared` is False where only rules name it."""

    family: str
    table: str
    name: str
    line: int
    rules: list[Rule] = field(default_factory=list)
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    declared: bool = False


@dataclass(slots=True)
class Members:
    """A declared set or map."""

    name: str
    elements: list[Element] = field(default_factory=list)
    timeout: int | None = None
    dynamic: bool = False


@dataclass(slots=True)
class Table:
    """What one table holds, by name."""

    family: str
    name: str
    chains: dict[str, Chain] = field(default_factory=dict)
    members: dict[str, Members] = field(default_factory=dict)


@dataclass(slots=True)
class Document:
    """What a text says, and what it should not."""

    tables: dict[tuple[str, str], Table] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unsupported: list[NotRead] = field(default_factory=list)
    accept: bool = True

    def find(
        self, code: str, severity: Severity, line: int, rule: str, message: str, *corrected: str
    ) -> None:
        """Note something that a person should know."""
        self.findings.append(
            Finding(
                code=code,
                severity=severity,
                line=line,
                rule=rule[:_LONGEST],
                message=message,
                corrected=corrected,
            )
        )

    def refuse(self, code: str, line: int, rule: str, message: str) -> None:
        """Note that the text as a whole is none to trust."""
        self.accept = False
        self.find(code, Severity.ERROR, line, rule, message)

    def skip(self, line: int, rule: str, what: str, reason: str) -> None:
        """Note a rule that would matter and is not understood."""
        self.unsupported.append(NotRead(line=line, rule=rule[:_LONGEST], what=what, reason=reason))

    def table(self, family: str, name: str) -> Table:
        """The table of this name, made where it is new."""
        return self.tables.setdefault((family, name), Table(family, name))

    def chain(self, table: Table, name: str, line: int) -> Chain:
        """The chain of this name in a table, made where it is new."""
        made = table.chains.get(name)
        if made is None:
            made = table.chains[name] = Chain(table.family, table.name, name, line)
        return made

    def place(self, chain: Chain, words: Sequence[str], line: int, text: str, at: int | None = None) -> None:
        """Put a rule into a chain, at its end or before the rule at a place."""
        statements, comment = grammar.rule(words)
        made = Rule(statements, line, text, comment)
        if at is None:
            chain.rules.append(made)
        else:
            chain.rules.insert(at, made)

    def declare(self, chain: Chain, words: Sequence[str]) -> bool:
        """Take `type … hook … priority …`, `policy …`, `comment …` or a device; False for anything else."""
        match list(words):
            case ["type", kind, "hook", hook, *rest]:
                if "priority" not in rest:
                    return False
                chain.kind, chain.hook = kind, hook
                chain.priority = priority(rest[rest.index("priority") + 1 :])
                return True
            case ["policy", ("accept" | "drop") as policy]:
                chain.policy = policy
                return True
            case ["comment", _] | ["flags", *_] | ["devices", *_]:
                return True
        return False


def priority(words: Sequence[str]) -> int:
    """`-100`, `dstnat`, `filter + 7`; 0 for what is none."""
    names = [word for word in words if word in _PRIORITIES]
    numbers = [word for word in words if word.isdecimal() and len(word) < 10]
    base = _PRIORITIES[names[0]] if names else 0
    return base + (int(numbers[0]) * (-1 if "-" in words else 1) if numbers else 0)


def read_text(source: str) -> Document:
    """The document of a text."""
    document = Document()
    source, shell = _without_shell(source, document)
    words = split(source)
    if len(words.words) > LIMIT:
        document.refuse("input-not-text", 1, "", f"more than {LIMIT} words")
        return document
    _Text(words, document, shell=shell).read()
    return document


def _without_shell(source: str, document: Document) -> tuple[str, bool]:
    """Lines that call nft become what they tell it; a shell would take their quotes away.

    The other lines of a script are no rules: plain assignments are variables, the rest is reported.
    """
    if "nft" not in source or not _SHELL_LINE.search(source):
        return source, False
    read: list[str] = []
    lines = source.split("\n")
    here_document = "<<" in source
    for number, line in enumerate(lines, 1):
        if len(read) >= number:
            # Read with the line that it continues.
            continue
        call = _SHELL_LINE.match(line)
        assigned = _ASSIGNED.match(line)
        if call is not None:
            more = number
            command = call[1]
            while command.endswith("\\") and more < len(lines):
                command = command[:-1] + lines[more]
                more += 1
            read.append(_told(command, number, document))
            read += [""] * (more - number)
        elif assigned is not None:
            read.append(f"define {assigned[1]} = {assigned[3]}")
        elif here_document or not line.strip() or line.lstrip().startswith("#"):
            read.append(line)
        else:
            message = "no rule: what a shell would do with this is not known"
            document.find("shell-construct", Severity.WARNING, number, line.strip(), message)
            read.append("")
    return "\n".join(read), True


def _told(command: str, line: int, document: Document) -> str:
    """What nft gets of the words behind its name, as a shell splits them."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    try:
        parts = list(lexer)
    except ValueError:
        document.refuse("shell-construct", line, command, "a quote without its other one")
        return ""
    return " ".join(part for part in parts if not re.fullmatch(r"-{1,2}[a-z-]+", part)).replace("\n", " ")


class _Text:
    """Reads the words of a text, a block within a block."""

    def __init__(self, words: Words, document: Document, *, shell: bool) -> None:
        self._words = words
        self._document = document
        self._defined: dict[str, list[str]] = {}
        self._expanded = 0
        self._shell = shell

    def read(self) -> None:
        """Read all of it."""
        for begin, end in self._statements(0, len(self._words.words)):
            try:
                self._top(begin, end)
            except Strange as strange:
                self._unparsable(begin, end, f"{strange} is not expected here")

    def _unparsable(self, begin: int, end: int, why: str) -> None:
        line = self._words.lines[begin]
        self._document.refuse(
            "unparsable-line", line, self._words.verbatim(begin, end), f"nft has no such statement: {why}"
        )

    def _statements(self, begin: int, end: int, *, blocks: bool = True) -> Iterator[tuple[int, int]]:
        """What stands between line ends and semicolons outside of braces; a block ends with its brace.

        In a chain or set there are no `blocks`: `counter tcp dport { 80, 81 } accept` is one rule.
        """
        words = self._words.words
        start, depth, place, block = begin, 0, begin, False
        while place < end:
            word = words[place]
            if word == "{":
                depth += 1
            elif word == "}":
                depth -= 1
                if depth < 0:
                    self._unparsable(place, place + 1, "a brace without its other one")
                    depth = 0
                    start = place + 1
                elif not depth and block:
                    yield start, place + 1
                    start = place + 1
            elif depth == 0 and word in {"\n", ";"}:
                if start < place:
                    yield start, place
                start = place + 1
            if place == start:
                ahead = words[place + 1] if place + 1 < end else ""
                block = blocks and (word in _BLOCKS or (word in _MAKING and ahead in _BLOCKS))
            place += 1
        if depth:
            self._unparsable(start, min(start + 8, end), "a brace without its other one")
        elif start < end:
            yield start, end

    def _leaf(self, begin: int, end: int) -> list[str]:
        """The words of a statement, with what its variables stand for."""
        words = [word for word in self._words.words[begin:end] if word != "\n"]
        if "$" not in words:
            return words
        made: list[str] = []
        place = 0
        while place < len(words):
            if words[place] != "$" or place + 1 == len(words):
                made.append(words[place])
                place += 1
                continue
            name = words[place + 1]
            value = self._defined.get(name)
            if value is None:
                text, line = self._words.verbatim(begin, end), self._words.lines[begin]
                self._document.find(
                    "unexpanded-variable", Severity.ERROR, line, text, f"${name} is not defined in this text"
                )
                made.append("$")
                made.append(name)
            else:
                self._expanded += len(value)
                if self._expanded > _EXPANDED:
                    raise Strange(f"${name}: the variables of this text are too large together")
                made += value
            place += 2
        return made

    def _top(self, begin: int, end: int) -> None:
        words = self._words.words
        head = words[begin]
        line = self._words.lines[begin]
        text = self._words.verbatim(begin, end)
        if head == "table":
            self._table(begin, end)
        elif head in {"define", "redefine"} and begin + 2 < end and words[begin + 2] == "=":
            self._defined[words[begin + 1]] = self._leaf(begin + 3, end)
        elif head == "undefine":
            self._defined.pop(words[begin + 1] if begin + 1 < end else "", None)
        elif head == "include":
            message = "what this file would bring is not read"
            self._document.find("partial-dump", Severity.WARNING, line, text, message)
        elif head in _SHOWING:
            message = "what this lists is not part of the text"
            self._document.find("partial-dump", Severity.WARNING, line, text, message)
        elif head in _MAKING or head in _TAKING:
            self._command(begin, end)
        elif head in _BLOCKS:
            # `chain ip t c { … }` is short for `add chain …`.
            self._object("add", begin, end)
        elif self._shell:
            message = "no rule: what a shell would do with this is not known"
            self._document.find("shell-construct", Severity.WARNING, line, text, message)
        else:
            self._unparsable(begin, end, f"{head[:40]!r} is not expected here")

    def _named(self, place: int, end: int) -> tuple[str, int]:
        """A table's family, `ip` where none is said, and the place behind it."""
        words = self._words.words
        if place < end and words[place] in FAMILIES and place + 1 < end and words[place + 1] not in "{;\n":
            return words[place], place + 1
        return "ip", place

    def _name(self, place: int, end: int) -> str:
        words = self._words.words
        if place >= end or not (words[place][0].isalnum() or words[place][0] in '"_.'):
            raise Strange(words[place][:40] if place < end else "the end")
        return grammar.unquoted(words[place])

    def _table(self, begin: int, end: int) -> None:
        family, place = self._named(begin + 1, end)
        table = self._document.table(family, self._name(place, end))
        inside = self._inside(place + 1, end)
        for first, last in self._statements(*inside) if inside else ():
            head = self._words.words[first]
            if head == "chain":
                self._chain(table, first + 1, last)
            elif head in {"set", "map"}:
                self._set(table, first + 1, last)
            elif head not in _BLOCKS | {"comment", "flags"}:
                self._unparsable(first, last, f"{head[:40]!r} is nothing that a table holds")

    def _inside(self, place: int, end: int) -> tuple[int, int] | None:
        """The words between the braces that begin here; None where there are none."""
        words = self._words.words
        while place < end and words[place] == "\n":
            place += 1
        if place >= end:
            return None
        if words[place] != "{" or words[end - 1] != "}":
            raise Strange(words[place][:40])
        return place + 1, end - 1

    def _chain(self, table: Table, place: int, end: int) -> None:
        chain = self._document.chain(table, self._name(place, end), self._words.lines[place])
        chain.declared = True
        inside = self._inside(place + 1, end)
        for begin, last in self._statements(*inside, blocks=False) if inside else ():
            words = self._leaf(begin, last)
            if words and not self._document.declare(chain, words):
                text = self._words.verbatim(begin, last)
                self._document.place(chain, words, self._words.lines[begin], text)

    def _set(self, table: Table, place: int, end: int) -> None:
        name = self._name(place, end)
        made = table.members.setdefault(name, Members(name))
        inside = self._inside(place + 1, end)
        for begin, last in self._statements(*inside, blocks=False) if inside else ():
            match self._words.words[begin : begin + 2]:
                case ["elements", "="]:
                    made.elements += grammar.elements(self._leaf(begin + 2, last))
                case ["flags", _]:
                    made.dynamic = made.dynamic or "dynamic" in self._words.words[begin:last]
                case ["timeout", time]:
                    made.timeout = grammar.seconds(time)

    def _command(self, begin: int, end: int) -> None:
        words = self._words.words
        verb = words[begin]
        kind = words[begin + 1] if begin + 1 < end else ""
        if verb in _TAKING:
            self._taking(verb, kind, begin + 2, end)
        elif kind in {"rule", "element"} or kind in _BLOCKS:
            self._object(verb, begin + 1, end)
        elif kind in FAMILIES and verb in {"add", "insert"}:
            # `add ip t c …`: the word `rule` may be left out.
            self._rule(verb, begin + 1, end)
        else:
            raise Strange(kind[:40])

    def _object(self, verb: str, begin: int, end: int) -> None:
        kind = self._words.words[begin]
        if kind == "table":
            self._table(begin, end)
        elif kind == "rule":
            self._rule(verb, begin + 1, end)
        elif kind in {"chain", "set", "map", "element"}:
            family, place = self._named(begin + 1, end)
            table = self._document.table(family, self._name(place, end))
            if kind == "chain":
                self._chain(table, place + 1, end)
            elif kind == "element":
                name = self._name(place + 1, end)
                made = table.members.setdefault(name, Members(name))
                made.elements += grammar.elements(self._leaf(place + 2, end))
            else:
                self._set(table, place + 1, end)

    def _rule(self, verb: str, begin: int, end: int) -> None:
        family, place = self._named(begin, end)
        table = self._document.table(family, self._name(place, end))
        name = self._name(place + 1, end)
        line, text = self._words.lines[begin], self._words.verbatim(begin, end)
        chain = self._document.chain(table, name, line)
        words = self._leaf(place + 2, end)
        at = 0 if verb == "insert" else None
        if words[:1] in (["position"], ["handle"], ["index"]):
            index = int(words[1]) if words[1:2] and words[1].isdecimal() and len(words[1]) < 9 else 0
            if words[0] != "index" or verb == "replace":
                self._document.skip(line, text, words[0], "which rule has this number is not in the text")
                return
            at = index if verb == "insert" else index + 1
            words = words[2:]
        self._document.place(chain, words, line, text, at)

    def _taking(self, verb: str, kind: str, place: int, end: int) -> None:
        tables = self._document.tables
        if kind == "ruleset":
            tables.clear()
            return
        if kind not in _BLOCKS | {"rule", "element"}:
            raise Strange(kind[:40])
        family, place = self._named(place, end)
        name = self._name(place, end)
        table = tables.get((family, name))
        inner = self._name(place + 1, end) if place + 1 < end else ""
        if table is None or verb == "reset":
            return
        chain = table.chains.get(inner)
        if kind == "table" and verb == "flush":
            for each in table.chains.values():
                each.rules.clear()
        elif kind == "table":
            del tables[family, name]
        elif kind == "chain" and chain is not None:
            chain.rules.clear()
            if verb != "flush":
                del table.chains[inner]
        elif kind in {"set", "map"} and verb == "flush" and inner in table.members:
            table.members[inner].elements.clear()
        elif kind in {"set", "map"}:
            table.members.pop(inner, None)
        elif kind == "element" and inner in table.members:
            gone = {each.key for each in grammar.elements(self._leaf(place + 2, end))}
            kept = [each for each in table.members[inner].elements if each.key not in gone]
            table.members[inner].elements[:] = kept
        elif kind == "rule":
            line, text = self._words.lines[place], self._words.verbatim(place, end)
            self._document.skip(line, text, verb, "which rule has this number is not in the text")
