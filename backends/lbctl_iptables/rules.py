"""Rules as values, and how a dump is read into them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Mapping

#: A chain's table and name.
Place: TypeAlias = tuple[str, str]

_RULE = re.compile(r"\[(\d+):(\d+)\] -A (\S+) ?(.*)\Z")
#: What needs no look at its tokens: it is spelled as we spell it.
_AS_OURS = re.compile(r"[A-Za-z0-9_./:,=@%+!\[\]-]+(?: [A-Za-z0-9_./:,=@%+!\[\]-]+)*\Z")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule with its counters. `text` is spelled as `compile` does; otherwise where it never would."""

    text: str
    packets: int = 0
    bytes: int = 0

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The words of the rule."""
        return tuple(layout.split(self.text))

    def option(self, *names: str) -> str | None:
        """The token behind the first of the options `names`."""
        for name, value in zip(self.tokens, self.tokens[1:], strict=False):
            if name in names:
                return value
        return None

    @property
    def endpoint(self) -> str | None:
        """Where the rule sends a connection, as `Endpoint.to`; None for a rule that sends nowhere."""
        return self.option("--to-ports", "--to-destination")


def rules_of(text: str) -> list[Rule]:
    """The rules of a chain's item."""
    return [Rule(text=line) for line in text.split("\n")] if text else []


@dataclass(frozen=True, slots=True)
class Dump:
    """What a dump of one family has of an owner: the chains, and the rules of hooks that enter them."""

    chains: Mapping[Place, list[Rule]]
    jumps: Mapping[Place, list[Rule]]


def parse(dump: str, owner: str) -> Dump:
    """A dump with counters → what it has of an owner."""
    chains: dict[Place, list[Rule]] = {}
    jumps: dict[Place, list[Rule]] = {}
    entering = f" {layout.prefix(owner)}"
    table = ""
    for line in dump.split("\n"):
        if line.startswith("*"):
            table = line[1:]
        elif table not in layout.TABLES:
            continue
        elif line.startswith(":"):
            chain = line[1:].partition(" ")[0]
            if layout.owns(owner, chain):
                chains[table, chain] = []
        elif found := _RULE.match(line):
            packets, size, chain, text = found.groups()
            own = layout.owns(owner, chain)
            if not own and (chain not in layout.HOOKS or entering not in text):
                continue
            rule = Rule(text=_spelled(text), packets=int(packets), bytes=int(size))
            if own:
                chains.setdefault((table, chain), []).append(rule)
            elif layout.owns(owner, rule.option("-j", "-g") or ""):
                jumps.setdefault((table, chain), []).append(rule)
    return Dump(chains, jumps)


def _spelled(text: str) -> str:
    if _AS_OURS.match(text):
        return text
    tokens = layout.split(text)
    try:
        return layout.join(tokens)
    except ValueError:
        return ascii(" ".join(tokens))
