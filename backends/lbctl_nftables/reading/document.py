"""A text → tables, chains, sets and maps, with the rules parsed and all that is wrong with the text.

Blocks and command lines are taken alike: what a text does, one statement after the other, is what stays.
Nothing is run, resolved or opened: an `include` is reported, a variable is what the text itself says.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING

from lbctl.model import decimal
from lbctl.values import dataclass
from lbctl_netfilter.log import Log
from lbctl_nftables import layout, recognize
from lbctl_nftables.reading import script
from lbctl_nftables.reading.grammar import Grammar, seconds, unquoted
from lbctl_nftables.reading.syntax import UnsupportedSyntax
from lbctl_nftables.reading.words import WordSource, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lbctl_netfilter.log import Written
    from lbctl_nftables.reading import syntax
    from lbctl_nftables.reading.syntax import Element
    from lbctl_nftables.reading.words import Statement

FAMILIES = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_BLOCKS = frozenset(
    {"table", "chain", "set", "map", "flowtable", "counter", "quota", "limit", "secmark", "synproxy", "ct"}
)
#: What may stand in each block, too.
_ANYWHERE = frozenset({"define", "redefine", "undefine", "include"})
_MAKING = frozenset({"add", "create", "insert", "replace"})
_TAKING = frozenset({"delete", "destroy", "flush"})
_SHOWING = frozenset({"list", "monitor", "describe", "export", "get"})
_COMMAND = re.compile(r"^(?:(?:add|create|insert|replace)\s+)?(?:rule\s+)?")
_BY_HANDLE = "the text does not show which rule has this number"
#: Words that variables may bring in, in one text: a few lines could name more than a memory holds.
_EXPANDED = 2_000_000
#: What tables managed by lbctl have by their places in a packet → the same by names; words of a line each.
_FIELDS_BY_PLACE: Mapping[str, str] = {
    "\n".join(split(place)): "\n".join(split(name))
    for place, name in {
        **{place: f"{layout.WORD[family]} saddr" for family, place in layout.SOURCES.items()},
        layout.TCP_FLAGS: "tcp flags",
    }.items()
}


# Not frozen: a text may have a hundred thousand, and CPython takes twice as long to make a frozen one.
@dataclass(slots=True, eq=False)
class NftRule:
    """One rule, where it stands, and what it says."""

    statements: tuple[syntax.Statement, ...]
    line: int
    text: str
    #: The chain that it is in, as the engine has it.
    place: str
    comment: str = ""


@dataclass(slots=True)
class NftChain:
    """`hook` is empty for a chain that only others call. `declared` is False if only rules name it."""

    family: str
    table: str
    name: str
    line: int
    rules: list[NftRule] = field(default_factory=list)
    kind: str = ""
    hook: str = ""
    priority: int = 0
    policy: str = "accept"
    #: The interfaces at which the kernel calls it; () for all, or where its hook has none.
    devices: tuple[str, ...] = ()
    declared: bool = False
    #: Its family, table and name.
    place: str = ""

    def __post_init__(self) -> None:
        self.place = f"{self.family} {self.table} {self.name}"


@dataclass(slots=True)
class Members:
    """A declared set or map."""

    name: str
    elements: list[Element] = field(default_factory=list)
    timeout: int | None = None
    dynamic: bool = False


@dataclass(slots=True)
class NftTable:
    """What one table holds, by name."""

    family: str
    name: str
    chains: dict[str, NftChain] = field(default_factory=dict)
    members: dict[str, Members] = field(default_factory=dict)
    #: True if the kernel calls none of its chains.
    dormant: bool = False

    def chain(self, name: str, line: int) -> NftChain:
        """Return the chain of this name, made if it is new."""
        made = self.chains.get(name)
        if made is None:
            made = self.chains[name] = NftChain(self.family, self.name, name, line)
        return made

    def set_or_map(self, name: str) -> Members:
        """Return the set or map of this name, made if it is new."""
        return self.members.setdefault(name, Members(name))


@dataclass(slots=True)
class Document:
    """What a text says, and what it should not."""

    tables: dict[tuple[str, str], NftTable] = field(default_factory=dict)
    log: Log = field(default_factory=Log)
    grammar: Grammar = field(default_factory=Grammar)

    def table(self, family: str, name: str) -> NftTable:
        """Return the table of this name, made if it is new."""
        return self.tables.setdefault((family, name), NftTable(family, name))

    def rule(self, chain: NftChain, words: Sequence[str], line: int, text: str) -> NftRule:
        """Return a rule of a chain, by its words."""
        if chain.family == "netdev" and "@" in words and layout.owner_of(chain.family, chain.table):
            words = _with_names(words)
        statements, comment = self.grammar.rule(words)
        return NftRule(statements, line, text, chain.place, comment)


def _with_names(words: Sequence[str]) -> list[str]:
    """Return a rule of a table managed by lbctl with names for fields that it has by their places.

    Its listeners have asked for the protocols of these. Elsewhere, other packets have other fields there.
    """
    text = "\n".join(words)
    for place, name in _FIELDS_BY_PLACE.items():
        text = text.replace(place, name)
    return text.split("\n")


def read_text(source: str) -> Document:
    """Return the document of a text."""
    document = Document()
    is_script = recognize.is_script(source)
    text = WordSource(script.nft_text(source, document.log) if is_script else source)
    _Text(text, document, is_script=is_script).read()
    return document


class _Text:
    """Reads the statements of a text, a block within a block."""

    def __init__(self, source: WordSource, document: Document, *, is_script: bool) -> None:
        self._source = source
        self._document = document
        self._log = document.log
        self._defined: dict[str, list[str]] = {}
        self._expanded = 0
        self._is_script = is_script

    def read(self) -> None:
        """Read all of it."""
        for statement in self._source.statements(is_block=_is_block):
            self._try(self._top, statement)
        for place in self._source.unbalanced:
            self._unparsable(place, "an unmatched brace")

    def _try(
        self, read: Callable[..., None], statement: Statement, *inside: NftTable | NftChain | Members
    ) -> None:
        """Read a statement that stands inside of something, or note why that cannot be done."""
        try:
            read(statement, *inside)
        except UnsupportedSyntax as unsupported:
            self._unparsable(statement, f"{unsupported} is not expected here")

    def _unparsable(self, at: Written, why: str) -> None:
        self._log.refuse("unparsable-line", at, f"nft has no such statement: {why}")

    def _partial(self, statement: Statement, message: str) -> None:
        self._log.find("partial-dump", statement, message)

    def _expand(self, words: list[str], statement: Statement) -> list[str]:
        """Return words with what their variables stand for."""
        if "$" not in words:
            return words
        made: list[str] = []
        names = iter(words)
        for word in names:
            name = next(names, None) if word == "$" else None
            if name is None:
                made.append(word)
                continue
            value = self._defined.get(name)
            if value is None:
                message = f"${name} is not defined in this text"
                self._log.find("unexpanded-variable", statement, message)
                value = ["$", name]
            self._expanded += len(value)
            if self._expanded > _EXPANDED:
                raise UnsupportedSyntax(f"${name}: the variables of this text are too large together")
            made += value
        return made

    def _top(self, statement: Statement) -> None:
        head, *words = statement.words
        match head:
            case "define" | "redefine" if words[1:2] == ["="]:
                self._defined[words[0]] = self._expand(words[2:], statement)
            case "undefine":
                self._defined.pop("".join(words[:1]), None)
            case "include":
                self._partial(statement, "the included file is not read")
            case _ if head in _SHOWING:
                self._partial(statement, "what this command lists is not in the text")
            case _ if head in _TAKING:
                self._take_out(head, words, statement)
            case _ if head in _MAKING:
                self._put_in(head, words, statement)
            case "reset":
                # What is counted begins anew.
                return
            case "rename":
                self._partial(statement, "renaming is not supported: the chain keeps its first name")
            case _ if head in _BLOCKS or head in {"rule", "element"} or self._is_rule(statement.words):
                # `chain ip t c { … }` is short for `add chain …`.
                self._put_in("add", statement.words, statement)
            case _ if self._is_script:
                self._log.find("shell-construct", statement, script.NO_RULE)
            case _:
                self._unparsable(statement, f"{head[:40]!r} is not expected here")

    def _put_in(self, verb: str, words: list[str], statement: Statement) -> None:
        kind = words[0] if words else ""
        if kind == "rule" or (verb in {"add", "insert"} and self._is_rule(words)):
            # `add ip t c …`: the word `rule` may be left out.
            self._rule(verb, words[kind == "rule" :], statement)
            return
        if kind not in _BLOCKS and kind != "element":
            raise UnsupportedSyntax(kind[:40])
        if kind not in {"table", "chain", "set", "map", "element"}:
            return
        family, name, rest = _table_of(words[1:])
        table = self._document.table(family, name)
        match kind:
            case "table":
                for each in self._inside(rest, statement, blocks=True):
                    self._try(self._in_table, each, table)
            case "chain":
                self._chain(table, rest, statement)
            case "element":
                elements = self._document.grammar.elements(self._expand(rest[1:], statement))
                table.set_or_map(_name(rest)).elements += elements
            case _:
                self._set(table, rest, statement)

    def _is_rule(self, words: Sequence[str]) -> bool:
        """Return True for the table and chain of a rule that begins with no more than them."""
        family, *rest = words if words[:1] and words[0] in FAMILIES else ("ip", *words)
        table = self._document.tables.get((family, rest[0])) if len(rest) > 1 else None
        return table is not None and rest[1] in table.chains

    def _inside(self, words: list[str], block: Statement, *, blocks: bool = False) -> Iterator[Statement]:
        """Yield the statements of a block; raise `UnsupportedSyntax` for `words` ahead of it."""
        if words:
            raise UnsupportedSyntax(words[0][:40])
        if block.block is None:
            return iter(())
        return self._source.statements(*block.block, is_block=_is_block if blocks else None)

    def _in_table(self, statement: Statement, table: NftTable) -> None:
        head, *rest = statement.words
        if head == "chain":
            self._chain(table, rest, statement)
        elif head in {"set", "map"}:
            self._set(table, rest, statement)
        elif head in _ANYWHERE:
            self._top(statement)
        elif head == "flags":
            table.dormant |= "dormant" in rest
        elif head not in _BLOCKS and head != "comment":
            self._unparsable(statement, f"{head[:40]!r} is not an object of a table")

    def _chain(self, table: NftTable, words: list[str], statement: Statement) -> None:
        chain = table.chain(_name(words), statement.line)
        chain.declared = True
        for each in self._inside(words[1:], statement):
            self._try(self._in_chain, each, chain)

    def _in_chain(self, statement: Statement, chain: NftChain) -> None:
        if statement.words[0] in _ANYWHERE:
            self._top(statement)
            return
        words = self._expand(statement.words, statement)
        if words and not _declare(chain, words):
            chain.rules.append(self._document.rule(chain, words, statement.line, statement.text))

    def _set(self, table: NftTable, words: list[str], statement: Statement) -> None:
        members = table.set_or_map(_name(words))
        for each in self._inside(words[1:], statement):
            self._try(self._in_set, each, members)

    def _in_set(self, statement: Statement, members: Members) -> None:
        match statement.words:
            case [head, *_] if head in _ANYWHERE:
                self._top(statement)
            case ["elements", "=", *elements]:
                members.elements += self._document.grammar.elements(self._expand(elements, statement))
            case ["flags", *flags]:
                members.dynamic = members.dynamic or "dynamic" in flags
            case ["timeout", time, *_]:
                members.timeout = seconds(time)

    def _rule(self, verb: str, words: list[str], statement: Statement) -> None:
        family, name, rest = _table_of(words)
        chain = self._document.table(family, name).chain(_name(rest), statement.line)
        found = self._expand(rest[1:], statement)
        at = 0 if verb == "insert" else len(chain.rules)
        if found[:1] in (["position"], ["handle"], ["index"]):
            if found[0] != "index" or verb == "replace":
                self._log.cannot(statement, found[0], _BY_HANDLE)
                return
            index = decimal(found[1]) or 0 if found[1:] else 0
            at = index if verb == "insert" else index + 1
            found = found[2:]
        text = _COMMAND.sub("", statement.text, count=1)
        chain.rules.insert(at, self._document.rule(chain, found, statement.line, text))

    def _take_out(  # noqa: C901 (a case for each kind of object)
        self, verb: str, words: list[str], statement: Statement
    ) -> None:
        kind = words[0] if words else ""
        tables = self._document.tables
        if kind == "ruleset":
            tables.clear()
            return
        if kind not in _BLOCKS and kind not in {"rule", "element"}:
            raise UnsupportedSyntax(kind[:40])
        family, name, rest = _table_of(words[1:])
        table = tables.get((family, name))
        inner = _name(rest) if rest else ""
        if table is None:
            return
        chain, members = table.chains.get(inner), table.members.get(inner)
        match kind:
            case "table" if verb == "flush":
                for each in table.chains.values():
                    each.rules.clear()
            case "table":
                del tables[family, name]
            case "chain" if chain is not None:
                chain.rules.clear()
                if verb != "flush":
                    del table.chains[inner]
            case "set" | "map" if members is not None and verb == "flush":
                members.elements.clear()
            case "set" | "map":
                table.members.pop(inner, None)
            case "element" if members is not None:
                found = self._document.grammar.elements(self._expand(rest[1:], statement))
                gone = {each.key for each in found}
                members.elements[:] = [each for each in members.elements if each.key not in gone]
            case "rule":
                self._log.cannot(statement, verb, _BY_HANDLE)


def _is_block(words: Sequence[str]) -> bool:
    """Return True for `table …`, `add chain …` and their like."""
    match words:
        case [verb, kind, *_] if verb in _MAKING:
            return kind in _BLOCKS
        case [kind, *_]:
            return kind in _BLOCKS
        case _:
            return False


def _table_of(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """Return a table's family, `ip` if none is given, its name, and the words behind it."""
    family, rest = (
        (words[0], words[1:]) if words[0:1] and words[0] in FAMILIES and words[1:] else ("ip", words)
    )
    return family, _name(rest), list(rest[1:])


def _name(words: Sequence[str]) -> str:
    word = words[0] if words else ""
    if not word or not (word[0].isalnum() or word[0] in '"_.'):
        raise UnsupportedSyntax(word[:40] or "the end")
    return unquoted(word)


#: Words with which a chain says what it is.
_DECLARING = frozenset({"type", "policy", "comment", "flags", "devices"})


def _declare(chain: NftChain, words: Sequence[str]) -> bool:
    """Take `type … hook … priority …`, `policy …`, `comment …` or a device; return False for a rule."""
    if words[0] not in _DECLARING:
        return False
    match words:
        case ["type", kind, "hook", hook, *rest] if "priority" in rest:
            chain.kind, chain.hook = kind, hook
            chain.devices = _devices(rest[: rest.index("priority")])
            chain.priority = _priority(rest[rest.index("priority") + 1 :])
        case ["policy", ("accept" | "drop") as policy]:
            chain.policy = policy
        case ["comment", _] | ["flags", *_] | ["devices", *_]:
            pass
        case _:
            return False
    return True


def _devices(words: Sequence[str]) -> tuple[str, ...]:
    """Return the names of `device eth0` or `devices = { eth0, eth1 }`."""
    if words[:1] not in (["device"], ["devices"]):
        return ()
    return tuple([unquoted(word) for word in words[1:] if word not in {"=", "{", ",", "}"}])


def _priority(words: Sequence[str]) -> int:
    """Return the number of `-100`, `dstnat`, `filter + 7`; 0 for what is none."""
    base = next((_PRIORITIES[word] for word in words if word in _PRIORITIES), 0)
    number = next((found for word in words if (found := decimal(word)) is not None), 0)
    return base + (-number if "-" in words else number)
