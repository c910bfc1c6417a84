"""Rules as values, and how a dump is read into them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lbctl_iptables import layout

_CHAIN = re.compile(r":(?P<chain>\S+) \S+ \[\d+:\d+\]\Z")
_RULE = re.compile(r"\[(?P<packets>\d+):(?P<bytes>\d+)\] -A (?P<chain>\S+) ?(?P<rule>.*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a dump, with its tokens and counters."""

    chain: str
    tokens: tuple[str, ...]
    packets: int
    bytes: int

    @property
    def text(self) -> str:
        """The rule as `compile` spells it; something else for what `compile` would never write."""
        try:
            return layout.join(self.tokens)
        except ValueError:
            return ascii(" ".join(self.tokens))

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


def rules_of(chain: str, text: str) -> list[Rule]:
    """The rules of a chain's item."""
    lines = text.split("\n") if text else []
    return [Rule(chain=chain, tokens=tuple(layout.split(line)), packets=0, bytes=0) for line in lines]


def parse(dump: str, owner: str) -> tuple[dict[str, list[Rule]], list[Rule]]:
    """A dump with counters → the rules of each chain of the owner, and the rules of hooks that enter them."""
    chains: dict[str, list[Rule]] = {}
    jumps: list[Rule] = []
    table = ""
    for line in dump.split("\n"):
        if line.startswith("*"):
            table = line[1:]
        elif table != "nat":
            continue
        elif found := _CHAIN.match(line):
            if layout.owns(owner, found["chain"]):
                chains[found["chain"]] = []
        elif found := _RULE.match(line):
            own = layout.owns(owner, found["chain"])
            if not own and (found["chain"] not in layout.HOOKS or layout.prefix(owner) not in line):
                continue
            rule = Rule(
                chain=found["chain"],
                tokens=tuple(layout.split(found["rule"])),
                packets=int(found["packets"]),
                bytes=int(found["bytes"]),
            )
            if own:
                chains.setdefault(rule.chain, []).append(rule)
            elif layout.owns(owner, rule.option("-j", "-g") or ""):
                jumps.append(rule)
    return chains, jumps
