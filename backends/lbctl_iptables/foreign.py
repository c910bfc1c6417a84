"""What the tables hold of everybody else: to prove that nothing of it changed."""

from __future__ import annotations

import re

from lbctl_iptables import layout, spelling

_COUNTERS = re.compile(r"^(:\S+ \S+) \[\d+:\d+\]$")

#: A chain that does not accept what no rule takes; one of people's own has no policy.
_POLICY = re.compile(r":\S+ (?!ACCEPT|-)")


def foreign_rules(text: str, owner: str) -> str:
    """See `lbctl.spi.Migrator`. Turns do not show in a dump."""
    bare = (_COUNTERS.sub(lambda found: found[1], line) for line in text.splitlines())
    return "".join(f"{x}\n" for x in bare if x and not x.startswith("#") and not _is_of(owner, x))


def rules_in(text: str) -> tuple[str, ...]:
    """See `lbctl.spi.Migrator`."""
    return tuple(line for line in text.splitlines() if line.startswith("-A ") or _POLICY.match(line))


def _is_of(owner: str, line: str) -> bool:
    if line.startswith(":"):
        return layout.owns(owner, line[1:].partition(" ")[0])
    # Most lines have nothing to do with us, and need not be taken apart.
    if not line.startswith("-A ") or layout.prefix(owner) not in line:
        return False
    _, chain, *tokens = spelling.split(line)
    return any(layout.owns(owner, name) for name in (chain, *layout.targets(tokens)))
