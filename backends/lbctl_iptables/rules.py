"""Rules as values, and how a dump is read into them."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.values import dataclass
from lbctl_iptables import layout, spelling

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: A chain's table and name.
Place: TypeAlias = tuple[str, str]

#: The counters of a rule that nothing has matched.
_IDLE = "[0:0]"
_NTH = " --mode nth "
#: What a dump has of a table: its name, a chain that it declares, rules of one chain behind one another.
_PIECE = re.compile(
    r"^(?:\*(?P<table>\S+)|:(?P<declared>\S+) .*"
    r"|\[\d+:\d+\] -A (?P<chain>\S+)(?: .*)?(?:\n\[\d+:\d+\] -A (?P=chain)(?: .*)?$)*)$",
    re.M,
)
#: The target is the last of a rule: what looks like one before, in a comment, ends with quotes.
_SENT = re.compile(r' -j (\S+) --to-(?:destination|ports) ([^ "]+)(?: [^"]*)?\Z')


class DumpedRule(NamedTuple):
    """One rule with its counters. `text` is spelled as `compile` does; otherwise where it never would."""

    text: str
    packets: int = 0
    bytes: int = 0

    def option(self, *names: str) -> str | None:
        """Return the token behind the first of the options `names`."""
        if '"' in self.text:
            return next((value for name, value in pairwise(spelling.split(self.text)) if name in names), None)
        # No token has a blank in it: the rule need not be taken apart.
        behind = max([f" {self.text}".partition(f" {name} ")[2] for name in names], key=len)
        return behind.partition(" ")[0] or None

    @property
    def takes_turns(self) -> bool:
        """True for a rule that picks the nth connection."""
        return _NTH in self.text and ("--mode", "nth") in pairwise(spelling.split(self.text))

    @property
    def sent(self) -> tuple[str, str] | None:
        """By which target the rule sends a connection, and where, as `Endpoint.to`; None for nowhere."""
        found = _SENT.search(f" {self.text}")
        return (found[1], found[2]) if found else None

    @property
    def endpoint(self) -> str | None:
        """Where the rule sends a connection, as `Endpoint.to`; None for a rule that sends nowhere."""
        return self.sent[1] if self.sent else None


class DumpedChain:
    """The rules of one chain: one text, until somebody asks for them one by one."""

    __slots__ = ("_counters", "text")

    def __init__(self, text: str, counters: Sequence[str] = ()) -> None:
        #: The rules, one a line.
        self.text = text
        #: Those of each rule as a dump has them; none where nothing has matched a rule.
        self._counters = counters

    @classmethod
    def of(cls, rules: Sequence[DumpedRule]) -> DumpedChain:
        """Return the chain of some rules."""
        counters = [f"[{rule.packets}:{rule.bytes}]" for rule in rules]
        return cls("\n".join([rule.text for rule in rules]), counters)

    @property
    def rules(self) -> list[DumpedRule]:
        """The rules."""
        rules = rules_of(self.text)
        if self._counters:
            counts = [map(int, counters[1:-1].split(":")) for counters in self._counters]
            rules = [DumpedRule(rule.text, *count) for rule, count in zip(rules, counts, strict=True)]
        return rules

    @property
    def counted(self) -> bool:
        """True where something has matched a rule."""
        return bool(self._counters)

    @property
    def turned(self) -> bool:
        """True where the turn of a ladder may be in its rules."""
        return self.text.count(" --packet ") > self.text.count(" --packet 0")

    def script(self, name: str) -> Iterable[str]:
        """Return the lines that write the rules, with their counters, into an empty chain."""
        if not self.text:
            return ()
        if not self._counters:
            begin = f"{_IDLE} -A {name} "
            return (begin + self.text.replace("\n", f"\n{begin}"),)
        texts = self.text.split("\n")
        return [f"{c} -A {name} {text}" for c, text in zip(self._counters, texts, strict=True)]


def rules_of(text: str) -> list[DumpedRule]:
    """Return the rules of a chain's item."""
    return [DumpedRule(text=line) for line in text.split("\n")] if text else []


@dataclass(frozen=True, slots=True)
class Dump:
    """What a dump of one family has of an owner: the chains, and the rules of hooks that enter them.

    `turns` is how many foreign rules in each table pick the nth connection.
    """

    chains: Mapping[Place, DumpedChain]
    jumps: Mapping[Place, list[DumpedRule]]
    turns: Mapping[str, int]


def parse(dump: str, owner: str) -> Dump:
    """Return a dump with counters → what it has of an owner."""
    found: dict[Place, list[str]] = {}
    jumps: dict[Place, list[DumpedRule]] = {}
    turns = dict.fromkeys(layout.TABLES, 0)
    entering = f" {layout.prefix(owner)}"
    table = ""
    for piece in _PIECE.finditer(dump):
        kind, name = piece.lastgroup, piece[piece.lastgroup or 0]
        if kind == "table":
            table = name
        elif table not in layout.TABLES:
            continue
        elif kind == "declared":
            if layout.owns(owner, name):
                found[table, name] = []
        elif (rules := found.get((table, name))) is not None:
            rules.append(piece[0])
        else:
            for _, text in _rows(name, piece[0]):
                if name in layout.HOOKS and entering in text:
                    rule = DumpedRule(_spelled(text))
                    if layout.owns(owner, rule.option("-j", "-g") or ""):
                        jumps.setdefault((table, name), []).append(rule)
                elif DumpedRule(text).takes_turns:
                    turns[table] += 1
    return Dump({place: _chain(place[1], "\n".join(rules)) for place, rules in found.items()}, jumps, turns)


def _rows(chain: str, lines: str) -> list[tuple[str, str]]:
    """Return the counters and the text of each rule."""
    rows = [line.partition(f" -A {chain}") for line in lines.split("\n")]
    return [(counters, text[1:]) for counters, _, text in rows]


# A change reads all chains three times, and few of them are another time: what is known is not read again.
@lru_cache(maxsize=1 << 15)
def _chain(name: str, lines: str) -> DumpedChain:
    if not lines:
        return DumpedChain("")
    begin, counters = f"\n{_IDLE} -A {name} ", ()
    text = f"\n{lines}"
    if text.count(begin) == text.count("\n"):
        # Nearly always: nothing has come since the rules were written, and no rule need be looked at alone.
        text = text.replace(begin, "\n")[1:]
    else:
        counters, texts = zip(*_rows(name, lines), strict=True)
        text = "\n".join(texts)
    plain = spelling.unquoted(text)
    if not spelling.is_plain(plain):
        plain = "\n".join(map(_spelled, text.split("\n")))
    return DumpedChain(plain, () if counters.count(_IDLE) == len(counters) else counters)


def _spelled(text: str) -> str:
    tokens = spelling.split(text)
    try:
        return spelling.join(tokens)
    except ValueError:
        return ascii(" ".join(tokens))
