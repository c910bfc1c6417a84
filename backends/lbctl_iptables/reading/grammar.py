"""The grammar of one rule: which option belongs to which match or target.

Matches keep their written order, since the kernel asks them in that order. `!` belongs to the option behind
it, or stands before the value, as it did before iptables 1.4.3.
"""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import Family, decimal
from lbctl.values import dataclass
from lbctl_iptables.reading.options import (
    COMMANDS,
    FLAGS,
    HEADER,
    LONG,
    MATCHES,
    OWN,
    PROTOCOLS,
    SAME,
    TARGETS,
)
from lbctl_netfilter.log import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROTOCOL = re.compile(r"[a-z0-9.+-]+")
#: What iptables-save prints in place of options whose layout it does not know, since another release, or
#: another program, wrote the rule.
UNPRINTED = ("[unsupported", "revision]")
UNPRINTED_REASON = (
    "another release of iptables wrote this rule, and the iptables-save of that one has to print it"
)
#: Name, true behind `!`, and the words behind it.
Option: TypeAlias = "tuple[str, bool, tuple[str, ...]]"
#: Options of a target by name; some may be given several times.
Values: TypeAlias = "dict[str, tuple[tuple[str, ...], ...]]"


class Unparsable(ValueError):
    """A rule that is no rule of iptables."""


class ParsedMatch(NamedTuple):
    """One match with its options in written order."""

    name: str
    options: tuple[Option, ...] = ()
    #: True where the text has `UNPRINTED` in place of the options.
    unprinted: bool = False


@dataclass(slots=True)
class Spec:
    """One command of iptables, parsed."""

    command: str = ""
    chain: str = ""
    #: The words behind the chain: a position, a policy, a new name.
    words: Sequence[str] = ()
    table: str | None = None
    family: Family | None = None
    #: Options of `HEADER`, and `fragment`, with their values.
    header: Mapping[str, str] = field(default_factory=dict)
    #: Those of them behind `!`.
    inverted: frozenset[str] = frozenset()
    matches: list[ParsedMatch] = field(default_factory=list)
    target: str = ""
    goto: bool = False
    values: Values = field(default_factory=dict)
    #: True where the text has `UNPRINTED` in place of the target's options.
    unprinted: bool = False
    #: Options with `!` before the value, which iptables refuses since 1.4.3.
    obsolete: tuple[str, ...] = ()
    comment: str | None = None

    def get(self, option: str) -> str:
        """Return the value of an option of the header; "" for one that is not given."""
        return self.header.get(option, "")


def parse(words: Sequence[str]) -> Spec:
    """Return the words of one command, without the name of the program. Raise `Unparsable`."""
    words = tuple(words)
    return _saved(words) or _Parser(words).parsed()


@lru_cache(maxsize=256)
def protocol(text: str) -> str:
    """Return a protocol by its one name; "" for all of them. Raise `Unparsable`."""
    name = text.lower()
    if not _PROTOCOL.fullmatch(name):
        raise Unparsable(f"`{shown(text)}` is not a protocol")
    name = PROTOCOLS.get(name, name)
    return "" if name == "all" else name


# -- as iptables-save writes it


_SAVED = {short: option for option, short in HEADER.items()}
_PARTS = frozenset({"-m", "-j", "-g"})
#: Matches and targets by their words: large dumps repeat them endlessly, and values are never changed.
_SEEN: dict[tuple[str, ...], ParsedMatch] = {}
_MOST_SEEN = 1 << 15


def _saved(words: tuple[str, ...]) -> Spec | None:
    """Return a rule in the order and spelling of iptables-save; None for any other.

    Large texts have no others, and this takes less than half of what the general parser takes.
    """
    if words[0] != "-A" or len(words) < 3 or words[1][:1] in {"-", "!"}:
        return None
    spec = Spec("append", words[1])
    at = _saved_header(spec, words)
    return spec if at is not None and _saved_parts(spec, words, at) else None


def _saved_header(spec: Spec, words: tuple[str, ...]) -> int | None:
    """Take the options of iptables itself, and return the place behind them; None for any others."""
    end = next((at for at, word in enumerate(words) if word in _PARTS), len(words))
    found = _header_of(words[2:end])
    if found is None:
        return None
    spec.header, spec.inverted = found
    return end


@lru_cache(maxsize=1 << 8)
def _header_of(words: tuple[str, ...]) -> tuple[dict[str, str], frozenset[str]] | None:
    """Return the options of iptables itself, and which are inverted; the rungs of a ladder share them."""
    header: dict[str, str] = {}
    inverted_ones: list[str] = []
    at, count = 0, len(words)
    while at < count:
        inverted = words[at] == "!"
        behind = at + inverted + 1
        if behind >= count or (option := _SAVED.get(words[behind - 1])) is None:
            return None
        value, at = words[behind], behind + 1
        if value[:1] == "!" or option in header:
            return None
        header[option] = protocol(value) if option == "protocol" else value
        if inverted:
            inverted_ones.append(option)
    return header, frozenset(inverted_ones)


def _saved_parts(spec: Spec, words: tuple[str, ...], at: int) -> bool:
    """Take the matches and the target; return False for words that are neither."""
    count = len(words)
    while at < count:
        begin, at = at, at + 2
        while at < count and words[at] not in _PARTS:
            at += 1
        kind, part = words[begin], words[begin:at]
        if kind == "-m" and at == begin + 4 and words[begin + 1 : begin + 3] == _COMMENT:
            spec.comment = words[begin + 3] if spec.comment is None else spec.comment
        elif kind not in _PARTS or at > count or (found := _part(part)) is None:
            return False
        elif kind == "-m":
            spec.matches.append(found)
        elif at < count:
            return False
        else:
            spec.target, spec.goto = found.name, kind == "-g"
            for name, _, values in found.options:
                spec.values[name] = (*spec.values.get(name, ()), values)
    return True


_COMMENT = ("comment", "--comment")


def _part(words: tuple[str, ...]) -> ParsedMatch | None:
    """Return a match or target with its options, each spelled in full; None for any other."""
    known = _SEEN.get(words)
    if known is not None:
        return known
    table = (MATCHES if words[0] == "-m" else TARGETS).get(words[1])
    if table is None:
        # A chain, or another target without options.
        return ParsedMatch(words[1]) if words[0] != "-m" and len(words) == 2 else None
    options: list[Option] = []
    at, inverted = 2, False
    while at < len(words):
        word = words[at]
        if word == "!" and not inverted:
            inverted, at = True, at + 1
            continue
        count = table.get(word[2:]) if word[:2] == "--" else None
        if count is None or at + count >= len(words) or (count and words[at + 1] == "!"):
            return None
        options.append((SAME.get(word[2:], word[2:]), inverted, words[at + 1 : at + 1 + count]))
        inverted, at = False, at + 1 + count
    if inverted or (words[0] != "-m" and any(inverted for _, inverted, _ in options)):
        return None
    made = ParsedMatch(words[1], tuple(options))
    # An address is in one rule alone, and not worth being remembered.
    if len(_SEEN) < _MOST_SEEN and words[1] != "DNAT":
        _SEEN[words] = made
    return made


# -- as people write it


class _Parser:
    """A place in the words of a command, and what they say up to there."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._count = len(words)
        self._at = 0
        self._invert = False
        self._spec = Spec()
        #: How many matches were named before the target, and whether comments are among them.
        self._before = 0
        self._commented = False

    def parsed(self) -> Spec:
        words, spec = self._words, self._spec
        while self._at < self._count:
            word = words[self._at]
            self._at += 1
            if word == "!":
                if self._invert:
                    raise Unparsable("two `!` in a row")
                self._invert = True
            elif (option := OWN.get(word)) is not None:
                self._own(option, None)
            elif word[:2] == "--":
                self._long(word[2:])
            elif word[:1] == "-" and len(word) > 1:
                self._short(word)
            elif (word, *words[self._at : self._at + 1]) == UNPRINTED and not self._invert:
                self._unprinted()
            else:
                raise Unparsable(f"`{shown(word)}` does not belong to an option")
        if self._invert:
            raise Unparsable("`!` with nothing after it")
        if self._commented:
            self._take_comments()
        return spec

    # -- whose option it is

    def _lead(self, target: str, *, goto: bool) -> None:
        spec = self._spec
        if spec.target:
            raise Unparsable("--jump twice")
        spec.target, spec.goto, self._before = target, goto, len(spec.matches)

    def _unprinted(self) -> None:
        """Options that are not in the text: those of the target, or of the match named last."""
        self._at += 1
        if self._spec.target:
            self._spec.unprinted = True
        elif self._spec.matches:
            self._spec.matches[-1] = self._spec.matches[-1]._replace(unprinted=True)
        else:
            raise Unparsable(f"`{' '.join(UNPRINTED)}` belongs to no match or target")

    def _long(self, word: str) -> None:
        name, glued, value = word.partition("=")
        given = [value] if glued else None
        if self._of_part(name, given):
            return
        name = LONG.get(name) or self._completed(name)
        if not self._of_part(name, given):
            self._own(LONG[name], given)

    def _short(self, word: str) -> None:
        """An option with its value glued to it, or several that take none."""
        option, rest = OWN.get(word[:2]), word[2:]
        if option is None:
            raise Unparsable(f"`{shown(word)}` is not an option")
        if option in FLAGS:
            self._own(option, None)
            if rest:
                self._short("-" + rest)
        else:
            self._own(option, [rest] if rest else None)

    def _of_part(self, name: str, given: list[str] | None) -> bool:
        """Take an option of a match or the target, of the one named last; False for an option of none."""
        spec = self._spec
        if self._of_match(name, given, range(self._before, len(spec.matches))):
            return True
        if name in (known := TARGETS.get(spec.target, {})):
            option, _, values = self._option(name, known[name], given)
            spec.values[option] = (*spec.values.get(option, ()), values)
            return True
        if self._of_match(name, given, range(self._before)):
            return True
        brought = spec.get("protocol") if "protocol" not in spec.inverted else ""
        known = MATCHES.get(brought, {})
        if name in known and all(match.name != brought for match in spec.matches):
            spec.matches.append(self._with(ParsedMatch(brought), name, known[name], given))
            return True
        return False

    def _of_match(self, name: str, given: list[str] | None, numbers: range) -> bool:
        matches = self._spec.matches
        for number in reversed(numbers):
            match = matches[number]
            known = MATCHES.get(match.name)
            if known is None and number == len(matches) - 1 and not self._spec.target and name not in LONG:
                # How many words an option of an unknown match takes is not known: those up to the next dash.
                known = {name: -1}
            if known is not None and name in known:
                matches[number] = self._with(match, name, known[name], given)
                return True
        return False

    def _completed(self, name: str) -> str:
        """Return the only option that begins with `name`, of those that the rule may have."""
        spec = self._spec
        known = {option for match in spec.matches for option in MATCHES.get(match.name, ())}
        known |= {*TARGETS.get(spec.target, ()), *MATCHES.get(spec.get("protocol"), ())}
        near = {SAME.get(option, option) for option in known if option.startswith(name)}
        near |= {LONG[option] for option in LONG if option.startswith(name)}
        if not name or not near:
            raise Unparsable(f"`--{shown(name)}` is not an option of any match or target of the rule")
        if len(near) > 1:
            raise Unparsable(f"`--{shown(name)}` is ambiguous")
        return near.pop()

    # -- options and their words

    def _with(self, match: ParsedMatch, name: str, count: int, given: list[str] | None) -> ParsedMatch:
        return match._replace(options=(*match.options, self._option(name, count, given)))

    def _option(self, name: str, count: int, given: list[str] | None) -> Option:
        inverted, self._invert = self._invert, False
        if count > 0 and given is None:
            inverted |= self._old_negation(name)
        return SAME.get(name, name), inverted, self._take(count, given)

    def _old_negation(self, name: str) -> bool:
        """Return True after a `!` before the value."""
        if self._words[self._at : self._at + 1] != ("!",):
            return False
        self._at += 1
        self._spec.obsolete += (name,)
        return True

    def _take(self, count: int, given: list[str] | None) -> tuple[str, ...]:
        """So many words; with -1 those up to the next option."""
        begin, end = self._at, self._at + count - len(given or ())
        if count < 0:
            end = begin
            while end < self._count and self._words[end][:1] not in {"-", "!"}:
                end += 1
        if end > self._count:
            raise Unparsable("an option without its value")
        if end < begin:
            raise Unparsable("a value for an option that takes none")
        self._at = end
        return (*(given or ()), *self._words[begin:end])

    # -- the options of iptables itself

    def _own(self, name: str, given: list[str] | None) -> None:
        spec = self._spec
        if name in COMMANDS:
            self._command(name, given)
        elif name in HEADER:
            self._header(name, given)
        elif name == "match":
            self._no_invert(name)
            spec.matches.append(ParsedMatch(self._take(1, given)[0]))
            self._commented |= spec.matches[-1].name == "comment"
        elif name == "jump" or name == "goto":
            self._no_invert(name)
            self._lead(self._take(1, given)[0], goto=name == "goto")
        elif name == "table":
            spec.table = self._take(1, given)[0]
        elif name == "fragment":
            self._ask(name, "")
        elif name == "ipv4" or name == "ipv6":
            spec.family = Family(name)
        elif name == "set-counters":
            if "," not in self._take(1, given)[0]:
                self._take(1, None)
        elif name == "modprobe":
            self._take(1, given)
        elif name not in FLAGS and not given:
            # How long to wait, which may be left out.
            self._at += any(decimal(word) is not None for word in self._words[self._at : self._at + 1])

    def _header(self, name: str, given: list[str] | None) -> None:
        if given is None and self._old_negation(name):
            self._invert = True
        [value] = self._take(1, given)
        if value[:1] == "!" and len(value) > 1:
            self._invert, value = True, value[1:]
            self._spec.obsolete += (name,)
        if self._spec.get(name):
            raise Unparsable(f"--{name} twice")
        self._ask(name, protocol(value) if name == "protocol" else value)

    def _ask(self, name: str, value: str) -> None:
        self._spec.header = {**self._spec.header, name: value}
        if self._invert:
            self._spec.inverted |= {name}
            self._invert = False

    def _no_invert(self, name: str) -> None:
        if self._invert:
            raise Unparsable(f"`!` before --{name}")

    def _command(self, name: str, given: list[str] | None) -> None:
        spec = self._spec
        self._no_invert(name)
        if spec.command:
            raise Unparsable("two commands in one line")
        spec.command = name
        words = list(given or ())
        while len(words) < COMMANDS[name] and self._at < self._count:
            if self._words[self._at][:1] in {"-", "!"}:
                break
            words.append(self._words[self._at])
            self._at += 1
        if words:
            spec.chain, *spec.words = words
        elif name in _NEED_CHAIN:
            raise Unparsable(f"--{name} without a chain")

    def _take_comments(self) -> None:
        """Comments ask nothing of packets: the first one is the rule's own."""
        spec = self._spec
        texts = [
            values[0] for match in spec.matches if match.name == "comment" for _, _, values in match.options
        ]
        spec.comment = texts[0] if texts and spec.comment is None else spec.comment
        spec.matches = [match for match in spec.matches if match.name != "comment"]


_NEED_CHAIN = frozenset({"append", "insert", "replace", "delete", "new-chain", "policy", "rename-chain"})
