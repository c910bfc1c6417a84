"""The grammar of one rule: which option belongs to which match or target.

A rule is read in written order, since matches act in that order; `!` belongs to the option behind it, as
today, or stands before the value, as it did before iptables 1.4.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import decimal
from lbctl_iptables.reading.options import (
    COMMANDS,
    FLAGS,
    LONG,
    MATCHES,
    PROTOCOLS,
    SAME,
    SHORT,
    TARGETS,
)
from lbctl_netfilter.log import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROTOCOL = re.compile(r"[a-z0-9.+-]+")

#: What iptables-save prints in place of options whose layout it does not know, since another release, or
#: another program, wrote the rule.
UNPRINTED = ("[unsupported", "revision]")
#: What is said of it.
UNPRINTED_REASON = (
    "another release of iptables wrote this rule, and the iptables-save of that one has to print it"
)


class Unparsable(ValueError):
    """A rule that is no rule of iptables."""


@dataclass(slots=True)
class Match:
    """One match with its options in written order: (name, inverted, words)."""

    name: str
    options: list[tuple[str, bool, tuple[str, ...]]] = field(default_factory=list)
    known: bool = True
    #: True where the text has `UNPRINTED` in place of the options.
    unprinted: bool = False


@dataclass(slots=True)
class Spec:
    """One command of iptables, read."""

    command: str = ""
    chain: str = ""
    #: The words behind the chain: a position, a policy, a new name.
    words: Sequence[str] = ()
    table: str | None = None
    family: str | None = None
    protocol: str = ""
    #: Option of the header → inverted.
    inverted: frozenset[str] = frozenset()
    source: str = ""
    destination: str = ""
    incoming: str = ""
    outgoing: str = ""
    fragment: bool = False
    matches: list[Match] = field(default_factory=list)
    target: str = ""
    goto: bool = False
    values: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    #: True where the text has `UNPRINTED` in place of the target's options.
    unprinted: bool = False
    #: Options with `!` before the value, as it no longer may stand.
    obsolete: tuple[str, ...] = ()
    #: The place of `-j` or `-g` among the words.
    comment: str | None = None


def parse(words: Sequence[str]) -> Spec:
    """The words of one command, without the name of the program. Raises `Unparsable`."""
    return _canonical(words) or _Parser(words).spec


#: Matches and targets as iptables-save writes them, by their words: large dumps repeat them endlessly.
_SEEN: dict[tuple[bool, tuple[str, ...]], Match | dict[str, list[tuple[str, ...]]]] = {}
_MOST_SEEN = 1 << 15
_HEADER = {
    "-d": "destination",
    "-s": "source",
    "-i": "incoming",
    "-o": "outgoing",
    "-p": "protocol",
}
_NAMES = {"-d": "destination", "-s": "source", "-i": "in-interface", "-o": "out-interface", "-p": "protocol"}


def _canonical(words: Sequence[str]) -> Spec | None:
    """A rule in the order and spelling of iptables-save; None for any other, which takes longer to read."""
    if words[0] != "-A" or len(words) < 3 or words[1][:1] in {"-", "!"}:
        return None
    spec = Spec(command="append", chain=words[1])
    i, count = 2, len(words)
    invert = False
    while i + 1 < count:
        word = words[i]
        name = _HEADER.get(word)
        if name is None:
            if word == "!" and not invert:
                invert = True
                i += 1
                continue
            break
        value = words[i + 1]
        if value[:1] == "!" or getattr(spec, name):
            return None
        if invert:
            spec.inverted |= {_NAMES[word]}
            invert = False
        setattr(spec, name, protocol(value) if name == "protocol" else value)
        i += 2
    if invert:
        return None
    while i < count:
        word = words[i]
        end = i + 2
        while end < count and words[end] not in _ENDS:
            end += 1
        if end > count:
            return None
        if word == "-m":
            if words[i + 1] == "comment":
                if end != i + 4 or words[i + 2] != "--comment":
                    return None
                spec.comment = words[i + 3] if spec.comment is None else spec.comment
            else:
                match = _part(tuple(words[i + 1 : end]), MATCHES)
                if match is None:
                    return None
                spec.matches.append(match)  # type: ignore[arg-type]
        elif (word == "-j" or word == "-g") and end == count:
            spec.target, spec.goto = words[i + 1], word == "-g"
            if end > i + 2:
                target = words[i + 1]
                # An address is in one rule alone, and not worth being remembered.
                if end == i + 4 and words[i + 2] == "--to-destination" and target == "DNAT":
                    spec.values = {"to-destination": [(words[i + 3],)]}
                else:
                    values = _part(tuple(words[i + 1 : end]), TARGETS)
                    if values is None:
                        return None
                    spec.values = values  # type: ignore[assignment]
        else:
            return None
        i = end
    return spec


_ENDS = frozenset({"-m", "-j", "-g"})


def _part(
    words: tuple[str, ...], table: Mapping[str, Mapping[str, int]]
) -> Match | dict[str, list[tuple[str, ...]]] | None:
    """A match or a target with its options, each spelled in full."""
    # A match and a target may have one name in texts that are none of iptables.
    found = _SEEN.get((table is TARGETS, words))
    if found is not None:
        return found
    known = table.get(words[0])
    if known is None:
        return None
    match = Match(words[0])
    i, invert = 1, False
    while i < len(words):
        word = words[i]
        if word == "!":
            if invert:
                return None
            invert = True
            i += 1
            continue
        arity = known.get(word[2:]) if word[:2] == "--" else None
        if arity is None or i + arity >= len(words) or (arity and words[i + 1] == "!"):
            return None
        name = word[2:]
        match.options.append((SAME.get(name, name), invert, words[i + 1 : i + 1 + arity]))
        invert = False
        i += 1 + arity
    if invert:
        return None
    made: Match | dict[str, list[tuple[str, ...]]] = match
    if table is TARGETS:
        values: dict[str, list[tuple[str, ...]]] = {}
        for name, inverted, each in match.options:
            if inverted:
                return None
            values.setdefault(name, []).append(each)
        made = values
    if len(_SEEN) < _MOST_SEEN:
        _SEEN[table is TARGETS, words] = made
    return made


class _Parser:
    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._at = 0
        self._invert = False
        self._deferred: list[tuple[str, bool]] = []
        self.spec = Spec()
        spec = self.spec
        count = len(words)
        while self._at < count:
            word = words[self._at]
            self._at += 1
            if word == "!":
                if self._invert:
                    raise Unparsable("two `!` in a row")
                self._invert = True
                continue
            if word[:2] == "--":
                self._long(word[2:])
            elif word[:1] == "-" and len(word) > 1:
                self._short(word)
            elif (word, *words[self._at : self._at + 1]) == UNPRINTED and not self._invert:
                self._unprinted()
            else:
                raise Unparsable(f"`{shown(word)}` belongs to no option")
        if self._invert:
            raise Unparsable("`!` with nothing behind it")
        spec.comment = _comment(spec)
        # It says nothing about connections.
        spec.matches = [match for match in spec.matches if match.name != "comment"]

    def _unprinted(self) -> None:
        """Options that are not in the text: those of the target, or of the match named last."""
        self._at += 1
        if self.spec.target:
            self.spec.unprinted = True
        elif self.spec.matches:
            self.spec.matches[-1].unprinted = True
        else:
            raise Unparsable(f"`{' '.join(UNPRINTED)}` belongs to no match and no target")

    def _long(self, word: str) -> None:
        name, glued, value = word.partition("=")
        given = [value] if glued else None
        if (own := self._own(name)) is not None:
            match, count = own
            self._option(match, name, count, given)
            return
        core = LONG.get(name)
        if core is None:
            core = self._guess(name)
            if core is None:
                return
            if core[:1] == "=":
                if (own := self._own(core[1:])) is not None:
                    match, count = own
                    self._option(match, core[1:], count, given)
                return
        self._core(core, given)

    def _short(self, word: str) -> None:
        core = SHORT.get(word[1])
        if core is None:
            raise Unparsable(f"`{shown(word)}` is no option")
        rest = word[2:]
        if rest and core in FLAGS:
            self._core(core, None)
            self._short("-" + rest)
            return
        self._core(core, [rest] if rest else None)

    def _own(self, name: str) -> tuple[Match | None, int] | None:
        """The match, or None for the target, among those that the rule has named, and its count of words."""
        for match in reversed(self.spec.matches):
            count = MATCHES[match.name].get(name) if match.known else None
            if count is not None:
                return match, count
            if not match.known and match is self.spec.matches[-1] and not self.spec.target:
                # Nobody knows how many words an option of an unknown match takes: those up to the next dash.
                if name in LONG:
                    return None
                return match, -1
        target = TARGETS.get(self.spec.target)
        if target is not None and name in target:
            return None, target[name]
        protocol = self.spec.protocol
        if protocol in MATCHES and "protocol" not in self.spec.inverted:
            count = MATCHES[protocol].get(name)
            if count is not None and not any(m.name == protocol for m in self.spec.matches):
                match = Match(protocol)
                self.spec.matches.append(match)
                return match, count
        return None

    def _guess(self, name: str) -> str | None:
        """The option that `name` begins: of the rule's own with `=`, else of the header."""
        own: set[str] = set()
        for match in self.spec.matches:
            own |= MATCHES.get(match.name, {}).keys()
        own |= TARGETS.get(self.spec.target, {}).keys()
        own |= MATCHES.get(self.spec.protocol, {}).keys()
        near = {SAME.get(option, option) for option in own if option.startswith(name)}
        core = {LONG[option] for option in LONG if option.startswith(name)}
        if name and len(near) + len(core) == 1:
            return f"={near.pop()}" if near else core.pop()
        if not near and not core:
            later = self._later(name)
            if later is not None:
                return None
            raise Unparsable(f"`--{shown(name)}` is an option of nothing that the rule names")
        raise Unparsable(f"`--{shown(name)}` could be several options")

    def _later(self, name: str) -> str | None:
        """Takes an option of a target that is named further on."""
        for i in range(self._at, len(self._words) - 1):
            if self._words[i] in {"-j", "--jump"} and name in TARGETS.get(self._words[i + 1], {}):
                self.spec.values.setdefault(name, []).append(
                    self._take(TARGETS[self._words[i + 1]][name], None)
                )
                return name
        return None

    def _option(self, match: Match | None, name: str, count: int, given: list[str] | None) -> None:
        inverted = self._invert
        self._invert = False
        if count > 0 and given is None and self._at < len(self._words):
            inverted |= self._old_negation(name)
        values = self._take(count, given)
        name = SAME.get(name, name)
        if match is None:
            self.spec.values.setdefault(name, []).append(values)
        else:
            match.options.append((name, inverted, values))

    def _old_negation(self, name: str) -> bool:
        """True after a `!` before the value."""
        word = self._words[self._at]
        if word == "!":
            self._at += 1
            self.spec.obsolete += (name,)
            return True
        return False

    def _take(self, count: int, given: list[str] | None) -> tuple[str, ...]:
        if count < 0:
            start = self._at
            while self._at < len(self._words) and self._words[self._at][:1] not in {"-", "!"}:
                self._at += 1
            return (*(given or ()), *self._words[start : self._at])
        taken = list(given or ())
        while len(taken) < count:
            if self._at >= len(self._words):
                raise Unparsable("an option without its value")
            taken.append(self._words[self._at])
            self._at += 1
        if len(taken) > count:
            raise Unparsable("an option with a value that it does not take")
        return tuple(taken)

    def _core(self, name: str, given: list[str] | None) -> None:
        spec = self.spec
        if name in COMMANDS:
            self._command(name, given)
            return
        if name in {"wait", "wait-interval"}:
            if not given and self._at < len(self._words) and decimal(self._words[self._at]) is not None:
                self._at += 1
            return
        if name in FLAGS:
            if name == "ipv4" or name == "ipv6":
                spec.family = name
            elif name == "fragment":
                spec.fragment = True
                self._flag(name)
            return
        if name == "modprobe":
            self._take(1, given)
            return
        if name == "set-counters":
            first = self._take(1, given)[0]
            if "," not in first:
                self._take(1, None)
            return
        if given is None and self._at < len(self._words) and self._old_negation(name):
            self._invert = True
        value = self._take(1, given)[0]
        if (
            value[:1] == "!"
            and len(value) > 1
            and name in {"protocol", "source", "destination", "in-interface", "out-interface"}
        ):
            self._invert, value = True, value[1:]
            spec.obsolete += (name,)
        match name:
            case "protocol":
                self._once(spec.protocol, name)
                spec.protocol = protocol(value)
                self._flag(name)
            case "source":
                self._once(spec.source, name)
                spec.source = value
                self._flag(name)
            case "destination":
                self._once(spec.destination, name)
                spec.destination = value
                self._flag(name)
            case "in-interface":
                self._once(spec.incoming, name)
                spec.incoming = value
                self._flag(name)
            case "out-interface":
                self._once(spec.outgoing, name)
                spec.outgoing = value
                self._flag(name)
            case "table":
                spec.table = value
            case "match":
                self._no_invert(name)
                spec.matches.append(Match(value, known=value in MATCHES))
            case _:
                self._no_invert(name)
                self._once(spec.target, "jump")
                spec.target, spec.goto = value, name == "goto"

    def _flag(self, name: str) -> None:
        if self._invert:
            self.spec.inverted |= {name}
            self._invert = False

    def _no_invert(self, name: str) -> None:
        if self._invert:
            raise Unparsable(f"`!` before --{name}")

    def _once(self, value: str, name: str) -> None:
        if value:
            raise Unparsable(f"--{name} twice")

    def _command(self, name: str, given: list[str] | None) -> None:
        spec = self.spec
        self._no_invert(name)
        if spec.command:
            raise Unparsable("two commands in one")
        spec.command = name
        words = list(given or ())
        most = {
            "append": 1,
            "new-chain": 1,
            "check": 1,
            "flush": 1,
            "delete-chain": 1,
            "version": 0,
            "help": 0,
        }
        while (
            len(words) < most.get(name, 2)
            and self._at < len(self._words)
            and (self._words[self._at][:1] not in {"-", "!"})
        ):
            words.append(self._words[self._at])
            self._at += 1
        if words:
            spec.chain = words[0]
            spec.words = words[1:]
        elif name in {"append", "insert", "replace", "delete", "new-chain", "policy", "rename-chain"}:
            raise Unparsable(f"--{name} without a chain")


@lru_cache(maxsize=256)
def protocol(text: str) -> str:
    """A protocol as this reader calls it; "" for all of them."""
    name = text.lower()
    if not _PROTOCOL.fullmatch(name):
        raise Unparsable(f"`{shown(text)}` is no protocol")
    name = PROTOCOLS.get(name, name)
    return "" if name == "all" else name


def _comment(spec: Spec) -> str | None:
    for match in spec.matches:
        if match.name == "comment":
            for _, _, values in match.options:
                return values[0]
    return None
