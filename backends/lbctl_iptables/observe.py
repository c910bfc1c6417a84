"""Kernel → program: our chains, and the rules elsewhere that enter them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.host import rules_generation
from lbctl.model import Item, Program
from lbctl_iptables import drivers, layout
from lbctl_iptables.counters import at_start
from lbctl_iptables.rules import Dump, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.host import Host

_PLAIN = " ".join(layout.PLAIN_MASQUERADING)
_FULLY = " ".join(layout.MASQUERADING).removeprefix(_PLAIN)


def observe(host: Host, driver: str, owner: str) -> Program:
    """See `lbctl.spi.Backend.observe`."""
    return program(owner, dumps(host, driver, owner))


def generation(host: Host, driver: str) -> str | None:
    """See `lbctl.spi.Backend.generation`. A legacy table has no mark, so its rules are read each time."""
    if not drivers.ALL[driver].counted:
        return None
    namespace, number = host.namespace(), rules_generation(host)
    return None if namespace is None or number is None else f"{namespace}/{number}"


def dumps(host: Host, driver: str, owner: str) -> dict[str, Dump]:
    """Family's word → what its tables hold of an owner."""
    return {
        word: parse(text, owner)
        for word, text in drivers.save_each(host, driver, layout.WORD.values()).items()
    }


def program(owner: str, dumps: Mapping[str, Dump]) -> Program:
    """Return what dumps hold of an owner."""
    return Program(
        owner,
        tuple(item for word, dump in dumps.items() for item in _items(word, owner, dump)),
        reading=dumps,
        beside={(word, table): count for word, dump in dumps.items() for table, count in dump.turns.items()},
    )


def _items(word: str, owner: str, dump: Dump) -> Iterator[Item]:
    masquerading = layout.chain(owner, layout.MASQUERADE)
    for (table, name), chain in dump.chains.items():
        text = chain.text
        if chain.turned and table == layout.NAT:
            # Whose turn it is is no part of what was asked for.
            text = "\n".join([rule.text for rule in at_start(chain.rules)])
        if name == masquerading:
            # Older releases cannot write the option, or print it. A host whose iptables is upgraded, or that
            # loaded a text which was rendered for an older one, is not out of date for that.
            text = re.sub(rf"{_PLAIN}$", f"{_PLAIN}{_FULLY}", text, flags=re.M)
        yield Item((word, "chain", table, name), text, layout.service_of(owner, name, text))
    for (table, hook), jumps in dump.jumps.items():
        for number, rule in enumerate(jumps, 1):
            # The first jump of a hook has the hook's name as its key; a second one is somebody's mistake.
            extra = (str(number),) if number > 1 else ()
            yield Item((word, "jump", table, hook, *extra), rule.text)
