"""Capabilities: what the kernel lets a thread do."""

from __future__ import annotations

from enum import IntEnum


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
