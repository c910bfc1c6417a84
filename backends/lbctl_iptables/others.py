"""What the tables hold of everybody else: to prove that nothing of it changed."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from lbctl_iptables import drivers, layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host

_COUNTERS = re.compile(r"^(:\S+ \S+) \[\d+:\d+\]$|^\[\d+:\d+\] ")


def others(host: Host, driver: str, owner: str) -> str:
    """See `lbctl.spi.Moving`."""
    dumps = (drivers.save(host, driver, word) for word in layout.WORD.values())
    return "".join(f"{line}\n" for dump in dumps for line in lines(dump, owner))


def lines(dump: str, owner: str) -> Iterator[str]:
    """The lines of a dump that are not of an owner, without counters. Turns do not show in a dump."""
    for line in dump.splitlines():
        bare = _COUNTERS.sub(lambda found: found[1] or "", line)
        if bare and not bare.startswith("#") and not _is_of(owner, bare):
            yield bare


def _is_of(owner: str, line: str) -> bool:
    if line.startswith(":"):
        return layout.owns(owner, line[1:].partition(" ")[0])
    # Most lines have nothing to do with us, and need not be taken apart.
    if not line.startswith("-A ") or layout.prefix(owner) not in line:
        return False
    _, chain, *tokens = layout.split(line)
    targets = (value for option, value in pairwise(tokens) if option in {"-j", "-g"})
    return any(layout.owns(owner, name) for name in (chain, *targets))
