"""What a text says, in the words of a sentence about it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl_iptables.reading import where as w

if TYPE_CHECKING:
    from fractions import Fraction

    from lbctl.model import Family
    from lbctl_iptables.reading.where import Where


@lru_cache(maxsize=256)
def shown(text: str) -> str:
    """A name of the text for a sentence: printable, and cut."""
    made = text.encode("unicode_escape").decode("ascii")
    return made if len(made) <= 60 else made[:57] + "..."


def percent(share: Fraction) -> str:
    """A share for people: `29.6 %`."""
    return f"{float(share) * 100:.3g} %"


def words(where: Where, family: Family) -> str:
    """Connections in words."""
    parts = [f"{where.protocol} connections" if where.protocol else "connections"]
    if where.dst is not None:
        parts.append(f"to {w.show_net(where.dst, family)}")
    if where.dport is not None:
        parts.append(f"to port {w.show_ports(where.dport)}")
    parts += [f"with {name} {shown(value)}" for name, value in where.extra]
    return " ".join(parts)
