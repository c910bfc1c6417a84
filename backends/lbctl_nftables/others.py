"""What other tables hold: to prove that nothing of it changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl_nftables import layout
from lbctl_nftables.reading import dump

if TYPE_CHECKING:
    from lbctl.host import Host

_COUNTED = re.compile(r"\b(packets|bytes) \d+|\b(expires) \S+")
_TABLE = re.compile(r"^table (\S+) (\S+) \{.*?^\}\n", re.MULTILINE | re.DOTALL)
#: What packets add to a set comes and goes.
_DYNAMIC = re.compile(r"(flags [^\n]*\b(?:dynamic|timeout)\b[^}]*?)\n\s*elements = \{[^}]*\}")


def others(host: Host, driver: str, owner: str) -> str:
    """See `lbctl.spi.Moving`."""
    ours = layout.table(owner), layout.WORD.values()
    text = _TABLE.sub(
        lambda found: "" if found[2] == ours[0] and found[1] in ours[1] else found[0], dump(host, driver)
    )
    return _COUNTED.sub(lambda found: found[1] or found[2], _DYNAMIC.sub(lambda found: found[1], text))
