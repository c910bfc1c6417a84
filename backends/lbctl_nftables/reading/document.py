"""A text → tables, chains, sets and maps, with the rules parsed and all that is wrong with the text.

Blocks and command lines are taken alike: what a text does, one statement after the other, is what stays.
Nothing is run, resolved or opened: an `include` is reported, a variable is what the text itself says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbctl.model import Severity, decimal
from lbctl_netfilter.log import Log
from lbctl_nftables.reading import grammar
from lbctl_nftables.reading.grammar import Strange
from lbctl_nftables.reading.words import LIMIT, Words, split
from lbctl_rules.shell import HARMLESS, Script, Trouble, program_at, without_redirections

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl_nftables.reading.grammar import Element, Statement
    from lbctl_rules.shell import Command, Here

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
#: What may stand in each block, too.
_ANYWHERE = {"define", "redefine", "undefine", "include"}
_MAKING = {"add", "create", "insert", "replace"}
_TAKING = {"delete", "destroy", "flush", "reset"}
_SHOWING = {"list", "monitor", "describe", "export"}
#: A command of a shell that calls nft, or names it for later: no line of nft's own language is like that.
_SCRIPT = re.compile(
    r"(?m)(?:^[ \t]*(?:[%$][ \t]+)?|[|;&][ \t]*)"
    r"(?:(?:(?:/[\w/]*/)?(?:sudo|doas)|ip[ \t]+netns[ \t]+exec[ \t]+\S+)[ \t]+(?:-\S+[ \t]+){0,4})?"
    r"(?:/[\w/]*/)?nft[ \t]"
    r"|^[ \t]*(?:\w+[ \t]+)?\w+=[\"']?(?:sudo[ \t]+)?(?:/[\w/]*/)?nft[\"']?[ \t]*$"
)
_NO_RULE = "no rule: what a shell would do with this is not known"
_PROGRAM = re.compile("nft")
#: Options of nft with a value of their own.
_VALUED = {"-f", "--file", "-D", "--define", "-I", "--includepath"}
#: Words that variables may bring in, in one text: a few lines could name more than a memory holds.
_EXPANDED = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule, where it stands, and what it says."""

    statements: tuple[Statement, ...]
    line: int
    text: str
    #: The chain that it is in, as the engine has it.
    place: str
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

    @property
    def place(self) -> str:
        """Its family, table and name."""
        return f"{self.family} {self.table} {self.name}"


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
    log: Log = field(default_factory=Log)

    def find(
        self, code: str, severity: Severity, line: int, rule: str, message: str, *corrected: str
    ) -> None:
        """Note something that a person should know."""
        self.log.find(code, severity, line, rule, message, corrected)

    def refuse(self, code: str, line: int, rule: str, message: str) -> None:
        """Note that the text as a whole is none to trust."""
        self.log.refuse(code, line, rule, message)

    def skip(self, line: int, rule: str, what: str, reason: str) -> None:
        """Note a rule that would matter and is not understood."""
        self.log.cannot(line, rule, what, reason)

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
        made = Rule(statements, line, text, chain.place, comment)
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
    numbers = [found for word in words if (found := decimal(word)) is not None]
    base = _PRIORITIES[names[0]] if names else 0
    return base + (numbers[0] * (-1 if "-" in words else 1) if numbers else 0)


def read_text(source: str) -> Document:
    """The document of a text."""
    document = Document()
    if shell := is_script(source):
        source = _without_shell(source, document)
    words = split(source)
    if len(words.words) > LIMIT:
        document.refuse("input-not-text", 1, "", f"more than {LIMIT} words")
        return document
    _Text(words, document, shell=shell).read()
    return document


def is_script(source: str) -> bool:
    """True for a shell's script that calls nft."""
    return "nft" in source and _SCRIPT.search(source) is not None


def _without_shell(source: str, document: Document) -> str:
    """What the commands of a script tell nft, each in its line; what they tell others is reported."""
    script = Script(source)
    read: list[str] = []
    here: Here | None = None
    told = True
    while (line := script.take()) is not None:
        if here is not None:
            ends = here.ends(line)
            read.append(script.replaced(line, here) if told and not ends else "")
            here = None if ends else here
            continue
        said = []
        for each in script.commands(line) if line.strip() else ():
            if isinstance(each, Trouble):
                _trouble(each, document)
                continue
            said.append(_told(each, document))
            if each.here is not None:
                here, told = each.here, each.inside is None
        read += "; ".join(filter(None, said)).split("\n")
        # What goes on over several lines is told in the first one.
        read += [""] * (script.number - len(read))
    for each in script.unclosed():
        _trouble(each, document)
    return "\n".join(read)


def _told(command: Command, document: Document) -> str:
    """What nft gets of a command's words; nothing where another program gets them."""
    words, number, text = command.words, command.number, command.text
    at = program_at(words, _PROGRAM.fullmatch)
    lost = ""
    if command.missing is not None and (at is not None or "nft" in text):
        document.find(
            "unexpanded-variable", Severity.ERROR, number, text, f"`{command.missing}` is set nowhere"
        )
        document.skip(number, text, command.missing, "what a variable stands for is not in the text")
        return ""
    if at is None:
        name = words[0].rpartition("/")[2]
        if name in HARMLESS:
            lost = f"`{name}` is no rule"
        elif command.here is None:
            lost = _NO_RULE
    elif command.inside is not None:
        word, opened = command.inside
        lost = f"a rule inside `{word}` of line {opened}, which only a shell can follow"
        document.skip(number, text, word, "which rules a shell would make of it is not known")
    else:
        options, told = _options(without_redirections(words[at + 1 :]))
        if told or command.here is not None:
            return " ".join(told)
        if options:
            lost = (
                f"rules {'that another command writes' if command.piped else 'of another file'} are not read"
            )
    if lost:
        document.find("shell-construct", Severity.WARNING, number, text, lost)
    return ""


def _options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of nft, with the file that it is to read, and what else it is told."""
    at = 0
    while at < len(words) and words[at][:1] == "-":
        at += 2 if words[at] in _VALUED else 1
    return list(words[:at]), list(words[at:])


def _trouble(found: Trouble, document: Document) -> None:
    if found.code == "unparsable-line":
        document.refuse(found.code, found.number, found.text, found.message)
    else:
        document.find(found.code, Severity.WARNING, found.number, found.text, found.message)


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
            self._document.find("shell-construct", Severity.WARNING, line, text, _NO_RULE)
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
            elif head in _ANYWHERE:
                self._top(first, last)
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
            if self._words.words[begin] in _ANYWHERE:
                self._top(begin, last)
                continue
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
                case [head, _] if head in _ANYWHERE:
                    self._top(begin, last)
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
            index = decimal(words[1]) or 0 if words[1:2] else 0
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
