"""Kernel → program: our chains, and the rules elsewhere that enter them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Item, Program
from lbctl_iptables import drivers, layout
from lbctl_iptables.carry import at_start
from lbctl_iptables.rules import parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.host import Host
    from lbctl_iptables.rules import Rule


def observe(host: Host, driver: str, owner: str) -> Program:
    """See `lbctl.spi.Backend.observe`."""
    return program(owner, dumps(host, driver))


def generation(host: Host, driver: str) -> str | None:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Backend.generation`. A legacy table has no mark, so its rules are read each time."""
    return None


def dumps(host: Host, driver: str) -> dict[str, str]:
    """Family's word → its nat table as a dump."""
    return {word: drivers.save(host, driver, word) for word in layout.WORD.values()}


def program(owner: str, dumps: Mapping[str, str]) -> Program:
    """What dumps hold of an owner."""
    return Program(owner, tuple(item for word, dump in dumps.items() for item in _items(word, owner, dump)))


def _items(word: str, owner: str, dump: str) -> Iterator[Item]:
    chains, jumps = parse(dump, owner)
    for name, rules in chains.items():
        # Whose turn it is is no part of what was asked for.
        texts = [rule.text for rule in at_start(rules)]
        yield Item((word, "chain", name), "\n".join(texts), _service(rules))
    seen: dict[str, int] = {}
    for rule in jumps:
        # The first jump of a hook has the hook's name as its key; a second one is somebody's mistake.
        seen[rule.chain] = count = seen.get(rule.chain, 0) + 1
        extra = (str(count),) if count > 1 else ()
        yield Item((word, "jump", rule.chain, *extra), rule.text)


def _service(rules: list[Rule]) -> str | None:
    """The service that a chain's comments name, where it is one service's chain."""
    names = {comment.split("/")[0] for rule in rules if "/" in (comment := rule.option("--comment") or "")}
    return names.pop() if len(names) == 1 else None
