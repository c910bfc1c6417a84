"""Kernel → program: our chains, and the rules elsewhere that enter them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl.model import Item, Program
from lbctl_iptables import drivers, layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host

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
        """The rule as `compile` spells it."""
        return layout.join(self.tokens)

    def option(self, *names: str) -> str | None:
        """The token behind the first of the options `names`."""
        for name, value in zip(self.tokens, self.tokens[1:], strict=False):
            if name in names:
                return value
        return None


def observe(host: Host, driver: str, owner: str) -> Program:
    """See `lbctl.spi.Backend.observe`."""
    items: list[Item] = []
    for word in layout.WORD.values():
        items += _items(word, owner, drivers.save(host, driver, word))
    return Program(owner, tuple(items))


def _items(word: str, owner: str, dump: str) -> Iterator[Item]:
    chains, jumps = parse(dump, owner)
    for name, rules in chains.items():
        yield Item((word, "chain", name), "\n".join(rule.text for rule in rules), _service(rules))
    seen: dict[str, int] = {}
    for rule in jumps:
        # The first jump of a hook has the hook's name as its key; a second one is somebody's mistake.
        seen[rule.chain] = count = seen.get(rule.chain, 0) + 1
        extra = (str(count),) if count > 1 else ()
        yield Item((word, "jump", rule.chain, *extra), rule.text)


def parse(dump: str, owner: str) -> tuple[dict[str, list[Rule]], list[Rule]]:
    """A dump with counters → the rules of each chain of the owner, and the rules of hooks that enter them."""
    chains: dict[str, list[Rule]] = {}
    jumps: list[Rule] = []
    table = ""
    for line in dump.splitlines():
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


def _service(rules: list[Rule]) -> str | None:
    """The service that a chain's comments name, where it is one service's chain."""
    names = {comment.split("/")[0] for rule in rules if "/" in (comment := rule.option("--comment") or "")}
    return names.pop() if len(names) == 1 else None
