"""Connections under way whose destination was translated, from the kernel's connection table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host.host import Host

_FIELD = re.compile(r"(src|dst|sport|dport)=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslatedConnection:
    """Where a connection was sent by its client, and which endpoint answers it."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int
    endpoint: IPv4Address | IPv6Address
    endpoint_port: int


def translated_connections(host: Host) -> tuple[TranslatedConnection, ...] | None:
    """The established ones of both families; None where the host has no `conntrack` to list them."""
    path = host.which("conntrack")
    if path is None:
        return None
    found: list[TranslatedConnection] = []
    for family in ("ipv4", "ipv6"):
        done = host.run([path, "-L", "-f", family, "--dst-nat"])
        if done.code:
            return None
        found += _parse(done.out)
    return tuple(found)


def _parse(text: str) -> Iterator[TranslatedConnection]:
    for line in text.splitlines():
        protocol = line.split(" ", 1)[0]
        # A TCP connection that is opening or closing, or a datagram without an answer, is not established.
        if "[UNREPLIED]" in line or (protocol == "tcp" and " ESTABLISHED " not in line):
            continue
        fields = _FIELD.findall(line)
        if len(fields) != 8:
            continue
        asked, answer = dict(fields[:4]), dict(fields[4:])
        yield TranslatedConnection(
            protocol=protocol,
            address=ip_address(asked["dst"]),
            port=int(asked["dport"]),
            endpoint=ip_address(answer["src"]),
            endpoint_port=int(answer["sport"]),
        )
