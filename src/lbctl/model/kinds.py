"""The words of an intent that stand for one of a few."""

from __future__ import annotations

from enum import StrEnum


class Protocol(StrEnum):
    """A transport with ports."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Scheduler(StrEnum):
    """How a slot is picked for a new connection."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    SOURCE_HASH = "source-hash"
    MAGLEV = "maglev"
    LEAST_CONNECTIONS = "least-connections"


class State(StrEnum):
    """Whether an endpoint takes new connections."""

    ACTIVE = "active"
    DRAIN = "drain"
    BACKUP = "backup"


class SourceNat(StrEnum):
    """When the client's address is replaced by this host's, so that replies come back through this host."""

    HAIRPIN = "hairpin"
    ALWAYS = "always"
    NEVER = "never"
