"""What a driver found on a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl_iptables.dialect import Feature


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverProbe:
    """Whether a driver can be used, and what the iptables behind it is able to do."""

    #: Why the driver cannot be used; empty where it can.
    reason: str = ""
    version: str | None = None
    #: What this iptables lacks.
    lacks: frozenset[Feature] = frozenset()
    #: The families that there is a tool for.
    families: frozenset[Family] = frozenset(Family)
    #: What a user should know of a driver that can be used.
    note: str = ""
