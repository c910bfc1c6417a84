"""Capabilities: CAP_NET_ADMIN is needed even to see rules, others to run programs as other users."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from lbctl.errors import PermissionDenied

if TYPE_CHECKING:
    from lbctl.host.host import Host

#: Why nothing is known of the rules of a host.
UNPRIVILEGED = "the kernel shows and changes rules only for processes with CAP_NET_ADMIN"


class Capability(IntEnum):
    """Capabilities that lbctl asks for, by their numbers in linux/capability.h."""

    CAP_KILL = 5
    CAP_SETGID = 6
    CAP_SETUID = 7
    CAP_NET_ADMIN = 12


def capabilities(status: str) -> frozenset[Capability] | None:
    """Return what a thread may do by its /proc/…/status; None if that does not say."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(each for each in Capability if bits >> each & 1)
    return None


def need_privilege(host: Host, *, otherwise: str = "give it the capability CAP_NET_ADMIN") -> None:
    """Raise `PermissionDenied` where rules are neither shown nor changed; `otherwise` goes without root."""
    if not host.may_change_network():
        raise PermissionDenied(UNPRIVILEGED, hint=f"run lbctl as root (sudo), or {otherwise}")
