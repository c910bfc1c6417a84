"""What the iptables of a release understands: each option that some release in use lacks, recorded as data.

The drivers ask here what they may say to the command in front of them, and `lbctl render --for` what a host
that it cannot look at will accept. A release that is older than a feature's first one lacks it; where a
distribution carried a feature back, only the command itself can say so (see `drivers.restore`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import Family, Protocol, Scheduler, SourceNat, State
from lbctl.spi import Capabilities
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Version: TypeAlias = tuple[int, ...]


class Flavour(StrEnum):
    """Which interface of the kernel the commands use. Before 1.8 there was only the older one."""

    LEGACY = "legacy"
    NF_TABLES = "nf_tables"


class Feature(StrEnum):
    """What some release lacks, spelled as its manual does."""

    RESTORE_VERSION = "iptables-restore --version"
    WAIT = "iptables-restore --wait"
    FAMILY_LINES = "lines that begin with -4 or -6"
    RANDOM_FULLY = "MASQUERADE --random-fully"
    RECENT_MASK = "recent --mask"
    BYTECODE = "bpf --bytecode"
    IPV6_NAT = "ip6tables --table nat"


#: The oldest release that lbctl writes rules for: `cluster`, and `!` in front of an option, are of 1.4.4.
OLDEST: Version = (1, 4, 4)
#: The first release of the flavour that stores its rules in nf_tables.
FIRST_NF_TABLES: Version = (1, 8, 0)
_ALWAYS: Version = (0,)

#: Feature → the first release of each flavour that has it. From upstream's history; 1.4.21, 1.6.1, 1.8.2 and
#: every later 1.8 were run.
SINCE: Mapping[Feature, Mapping[Flavour, Version]] = {
    feature: {Flavour.LEGACY: legacy, Flavour.NF_TABLES: nf_tables}
    for feature, legacy, nf_tables in (
        # Commits 9cd3adbe and 999eaa24 of 2017.
        (Feature.RESTORE_VERSION, (1, 6, 2), _ALWAYS),
        (Feature.WAIT, (1, 6, 2), _ALWAYS),
        # Legacy has it since some 1.4, and 1.4.21 is the oldest that was run; commit d76475ce of 2019.
        (Feature.FAMILY_LINES, (1, 4, 21), (1, 8, 4)),
        # Commit 8b0da213 of 2017.
        (Feature.RANDOM_FULLY, (1, 6, 2), _ALWAYS),
        (Feature.RECENT_MASK, (1, 4, 15), _ALWAYS),
        (Feature.BYTECODE, (1, 4, 19), _ALWAYS),
        # The targets are of 1.4.17; 1.4.18 is the first that reads an IPv6 address with a port right.
        (Feature.IPV6_NAT, (1, 4, 18), _ALWAYS),
    )
}

_NUMBER = re.compile(r"\d+(?:\.\d+)+\Z")
#: Of the program itself: an iptables-save that does not know the question prints its tables.
_ANSWER = re.compile(r"[\w-]+ v(?P<version>\d+(?:\.\d+)+)(?: \((?P<flavour>legacy|nf_tables)\))?")
_SEPARATOR = "; "


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The iptables that answered, or that was named: its flavour and version."""

    flavour: Flavour
    version: Version

    @classmethod
    def answering(cls, text: str) -> Release | None:
        """Read the answer to `--version`; None where it is none. Without a flavour it is older than 1.8."""
        found = _ANSWER.match(text)
        if found is None:
            return None
        return cls(flavour=Flavour(found["flavour"] or Flavour.LEGACY), version=numbers(found["version"]))

    @property
    def text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    @property
    def lacks(self) -> frozenset[Feature]:
        """What this release does not have."""
        return frozenset(f for f, since in SINCE.items() if self.version < since[self.flavour])


def numbers(version: str) -> Version:
    """Return `1.8.9` as numbers; raise `ValueError` for what is no version."""
    if not _NUMBER.match(version):
        raise ValueError(f'"{version}" is not a version such as 1.8.9')
    return tuple(map(int, version.split(".")))


def since(feature: Feature) -> str:
    """Return the first release of the older flavour that has a feature."""
    return ".".join(map(str, SINCE[feature][Flavour.LEGACY]))


def word(lacks: Collection[Feature]) -> str:
    """Return what is lacking as the text of `Capabilities.dialect`: empty for an iptables of today."""
    return _SEPARATOR.join(sorted(lacks))


def lacking(dialect: str) -> frozenset[Feature]:
    """Return what a text of `word` says is lacking."""
    return frozenset(map(Feature, dialect.split(_SEPARATOR))) if dialect else frozenset()


def capabilities(lacks: Collection[Feature]) -> Capabilities:
    """Return what can be expressed for an iptables that lacks these."""
    return Capabilities(
        families=frozenset({Family.IPV4} if Feature.IPV6_NAT in lacks else Family),
        # By name: what this backend does not know yet is refused, and never rendered as something else.
        protocols=frozenset({Protocol.TCP, Protocol.UDP, Protocol.SCTP}),
        schedulers=frozenset(
            {Scheduler.ROUND_ROBIN, Scheduler.RANDOM, Scheduler.SOURCE_HASH, Scheduler.LEAST_CONNECTIONS}
        ),
        states=frozenset({State.ACTIVE, State.DRAIN, State.BACKUP}),
        source_nat=frozenset({SourceNat.HAIRPIN, SourceNat.ALWAYS, SourceNat.NEVER}),
        needs_networks=True,
        affinity=Feature.RECENT_MASK not in lacks,
        allow=True,
        deny=True,
        interfaces=True,
        exclude=True,
        port_ranges=True,
        kept_ports=True,
        takeover=True,
        dialect=word(lacks),
    )
