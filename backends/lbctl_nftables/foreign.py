"""What other tables hold: to prove that nothing of it changed."""

from __future__ import annotations

import re

from lbctl_nftables import layout
from lbctl_nftables.retire import rules_of

_COUNTED = re.compile(r"\b(packets|bytes) \d+|\b(expires) \S+")
_TABLE = re.compile(r"^table (\S+) (\S+) \{.*?^\}\n", re.MULTILINE | re.DOTALL)
#: What packets add to a set comes and goes.
_DYNAMIC = re.compile(r"(flags [^\n]*\b(?:dynamic|timeout)\b[^}]*?)\n\s*elements = \{[^}]*\}")


def foreign_rules(text: str, owner: str) -> str:
    """See `lbctl.spi.Migrator`."""
    text = _TABLE.sub(lambda t: "" if layout.owner_of(t[1], t[2]) == owner else t[0], text)
    text = "\n".join(line for line in text.split("\n") if line.strip())
    return _COUNTED.sub(lambda found: found[1] or found[2], _DYNAMIC.sub(lambda found: found[1], text))


def rules_in(text: str) -> tuple[str, ...]:
    """See `lbctl.spi.Migrator`."""
    return tuple(rules_of(text))
