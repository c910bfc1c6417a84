"""The value behind the table `follow`: which published intent a host follows, and within which bounds."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from lbctl.model.check import check_file
from lbctl.values import dataclass

_Network: TypeAlias = IPv4Network | IPv6Network

#: The name of a published intent: a part of keys in etcd.
INTENT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
#: The name under which a host reports: as host names are, and a part of keys too.
REPORT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
#: Services and endpoints of a published intent by default, and what a host may allow.
DEFAULT_SERVICES, DEFAULT_ENDPOINTS, MOST_SERVICES, MOST_ENDPOINTS = 256, 4096, 10_000, 100_000
MAX_REVISION = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """A published intent, and what this host accepts of it.

    `listen_within` are networks that the addresses of listeners lie in; a listener on any address of this
    host needs the network of all addresses. `endpoints_within` are those of endpoints; a process on this host
    needs the network of 127.0.0.1 or ::1.
    """

    intent: str
    listen_within: tuple[_Network, ...]
    endpoints_within: tuple[_Network, ...]
    max_services: int = DEFAULT_SERVICES
    max_endpoints: int = DEFAULT_ENDPOINTS
    #: A publication with a lower number is refused, as is one below the last that was accepted.
    least_revision: int = 1
    #: A file of allowed signers, as ssh-keygen reads it: one of them must have signed the publication.
    signed_by: str | None = None
    #: The name under which this host reports; None for its host name.
    host: str | None = None

    def __post_init__(self) -> None:
        check_intent_name(self.intent)
        if not self.listen_within or not self.endpoints_within:
            raise ValueError("listen-within and endpoints-within name at least one network each")
        bounds = (
            ("max-services", self.max_services, MOST_SERVICES),
            ("max-endpoints", self.max_endpoints, MOST_ENDPOINTS),
            ("least-revision", self.least_revision, MAX_REVISION),
        )
        for key, number, most in bounds:
            if not 1 <= number <= most:
                raise ValueError(f"{key} {number} is not between 1 and {most}")
        if self.signed_by is not None:
            check_file(self.signed_by)
        if self.host is not None:
            check_report_name(self.host)


def check_intent_name(name: str) -> str:
    """Return `name`, or raise ValueError if no published intent can have it."""
    if not INTENT_NAME.match(name):
        raise ValueError(f"{name!r} is not the name of a published intent")
    return name


def check_report_name(name: str) -> str:
    """Return `name`, or raise ValueError if no host can report under it."""
    if not REPORT_NAME.match(name):
        raise ValueError(f"{name!r} is not the name of a host")
    return name
