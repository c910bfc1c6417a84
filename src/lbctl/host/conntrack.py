"""The kernel's connection table, through the `conntrack` command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from lbctl.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.host.host import Host
    from lbctl.model import StaleFlow

_LOCAL = re.compile(r"\|-- (\S+)\n +/32 host LOCAL")
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


def forget_flows(host: Host, flows: Iterable[StaleFlow]) -> bool:
    """Delete precisely the entries of `flows`; False where there are some and the host has no `conntrack`."""
    path: str | None = None
    for flow in flows:
        path = path or host.which("conntrack")
        if path is None:
            return False
        asked = flow.listener.address
        for address in [str(asked)] if asked else _local_addresses(host, flow.family):
            to, _, port = (flow.to or f"{address}:{flow.listener.port}").rpartition(":")
            options = ["--orig-dst", address, "--orig-port-dst", str(flow.listener.port)]
            options += ["--reply-port-src", port, *(["--reply-src", to.strip("[]")] if to else [])]
            # Exit code 1 says that there was none.
            host.run([path, "-D", "-f", flow.family, "-p", flow.listener.protocol, *options])
    return True


def _local_addresses(host: Host, family: Family) -> list[str]:
    """The addresses of this network namespace."""
    if family is Family.IPV4:
        return sorted(set(_LOCAL.findall(host.read("/proc/thread-self/net/fib_trie") or "")))
    lines = (host.read("/proc/thread-self/net/if_inet6") or "").splitlines()
    return [str(IPv6Address(int(line.split()[0], 16))) for line in lines]


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
