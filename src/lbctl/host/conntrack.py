"""The kernel's connection table, through the `conntrack` command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from lbctl.model import Family, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from lbctl.host.host import Host
    from lbctl.model import StaleFlow

_LOCAL = re.compile(r"\|-- (\S+)\n +/32 host LOCAL")
_FIELD = re.compile(r"(src|dst|sport|dport)=(\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedConnection:
    """Where a connection was sent by its client, and who answers it."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int
    endpoint: IPv4Address | IPv6Address
    endpoint_port: int


def translated_connections(host: Host) -> tuple[TrackedConnection, ...] | None:
    """The established ones of both families; None where the host has no `conntrack` to list them."""
    path = host.which("conntrack")
    if path is None:
        return None
    found: list[TrackedConnection] = []
    for family in ("ipv4", "ipv6"):
        done = host.run([path, "-L", "-f", family, "--dst-nat"])
        if done.code:
            return None
        # A connection that is opening or closing, or a datagram without an answer, is not established.
        answered = (line for line in done.out.splitlines() if "[UNREPLIED]" not in line)
        found += _parse(x for x in answered if x.startswith("udp") or " ESTABLISHED " in x)
    return tuple(found)


def forget_flows(host: Host, flows: Collection[StaleFlow]) -> bool:
    """Delete precisely the entries of `flows`; False where there are some and the host has no `conntrack`."""
    path = host.which("conntrack") if flows else ""
    if path is None:
        return False
    for family in {flow.family for flow in flows}:
        by_port: dict[int, list[StaleFlow]] = {}
        for flow in flows:
            if flow.family is family:
                by_port.setdefault(flow.listener.port, []).append(flow)
        own = local_addresses(host, family)
        listed = host.run([path, "-L", "-f", family, "-p", Protocol.UDP]).out
        for entry in set(_parse(listed.splitlines())):
            if any(_is_of(entry, flow, own) for flow in by_port.get(entry.port, ())):
                asked = ["--orig-dst", str(entry.address), "--orig-port-dst", str(entry.port)]
                answer = ["--reply-src", str(entry.endpoint), "--reply-port-src", str(entry.endpoint_port)]
                host.run([path, "-D", "-f", family, "-p", Protocol.UDP, *asked, *answer])
    return True


def _is_of(entry: TrackedConnection, flow: StaleFlow, own: Collection[str]) -> bool:
    asked = flow.listener.address
    if str(entry.address) not in own if asked is None else entry.address != asked:
        return False
    if flow.to is None:
        return (entry.endpoint, entry.endpoint_port) == (entry.address, entry.port)
    address, _, port = flow.to.rpartition(":")
    there = str(entry.endpoint) == address.strip("[]") if address else str(entry.endpoint) in own
    return there and str(entry.endpoint_port) == port


def local_addresses(host: Host, family: Family) -> Collection[str]:
    """The addresses of this network namespace."""
    if family is Family.IPV4:
        return set(_LOCAL.findall(host.read("/proc/thread-self/net/fib_trie") or ""))
    lines = (host.read("/proc/thread-self/net/if_inet6") or "").splitlines()
    return [str(IPv6Address(int(line.split()[0], 16))) for line in lines]


def _parse(lines: Iterable[str]) -> Iterator[TrackedConnection]:
    for line in lines:
        protocol = line.split(" ", 1)[0]
        fields = _FIELD.findall(line)
        if len(fields) != 8:
            continue
        asked, answer = dict(fields[:4]), dict(fields[4:])
        yield TrackedConnection(
            protocol=protocol,
            address=ip_address(asked["dst"]),
            port=int(asked["dport"]),
            endpoint=ip_address(answer["src"]),
            endpoint_port=int(answer["sport"]),
        )
