"""The kernel's connection table, through the `conntrack` command."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from lbctl.model import Family, split

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lbctl.host.host import Host
    from lbctl.model import Protocol, StaleFlow

_LOCAL = re.compile(r"\|-- (\S+)\n +/32 host LOCAL")
#: What a line tells of an entry: the protocol, where its client sent it, and who answers. Its ports, if any.
_ENTRY = re.compile(r"^(\S+) .*? dst=(\S+) sport=\d+ dport=(\d+) .*?src=(\S+) dst=\S+ sport=(\d+) ", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedConnection:
    """Where connections were sent by their clients, and who answers them."""

    protocol: str
    address: IPv4Address | IPv6Address
    port: int
    endpoint: IPv4Address | IPv6Address
    endpoint_port: int


def translated_connections(host: Host) -> Mapping[TrackedConnection, int] | None:
    """Return how many are established, of both families.

    None where the host has no `conntrack` to list them.
    """
    path = host.which("conntrack")
    if path is None:
        return None
    found: Counter[TrackedConnection] = Counter()
    listings = [[path, "-L", "-f", family, "--dst-nat"] for family in Family]
    host.expect(runs=listings)
    for listing in listings:
        done = host.run(listing)
        if done.code:
            return None
        # A connection that is opening or closing, or a datagram without an answer, is not established.
        answered = [line for line in done.out.splitlines() if "[UNREPLIED]" not in line]
        found += _parse("\n".join([x for x in answered if x.startswith("udp") or " ESTABLISHED " in x]))
    return found


def forget_flows(host: Host, flows: Collection[StaleFlow]) -> bool:
    """Delete precisely the entries of `flows`; False where there are some and the host has no `conntrack`."""
    path = host.which("conntrack") if flows else ""
    if path is None:
        return False
    kinds: dict[tuple[Family, Protocol], list[StaleFlow]] = {}
    for flow in flows:
        kinds.setdefault((flow.family, flow.listener.protocol), []).append(flow)
    for (family, protocol), concerned in kinds.items():
        by_port: dict[int, list[StaleFlow]] = {}
        ranges = [flow for flow in concerned if flow.listener.is_range]
        for flow in concerned:
            if not flow.listener.is_range:
                by_port.setdefault(flow.listener.port, []).append(flow)
        own = local_addresses(host, family)
        listed = host.run([path, "-L", "-f", family, "-p", protocol]).out
        for entry in _parse(listed):
            if any(_is_of(entry, flow, own) for flow in (*by_port.get(entry.port, ()), *ranges)):
                asked = ["--orig-dst", str(entry.address), "--orig-port-dst", str(entry.port)]
                answer = ["--reply-src", str(entry.endpoint), "--reply-port-src", str(entry.endpoint_port)]
                host.run([path, "-D", "-f", family, "-p", protocol, *asked, *answer])
    return True


def _is_of(entry: TrackedConnection, flow: StaleFlow, own: Collection[str]) -> bool:
    listener = flow.listener
    if not listener.matches(entry.port, entry.address):
        return False
    if listener.address is None and str(entry.address) not in own:
        return False
    if flow.to is None:
        return (entry.endpoint, entry.endpoint_port) == (entry.address, entry.port)
    address, port = split(flow.to)
    there = str(entry.endpoint) == address if address else str(entry.endpoint) in own
    return there and entry.endpoint_port == (int(port) if port else entry.port)


def local_addresses(host: Host, family: Family) -> Collection[str]:
    """Return the addresses of this network namespace."""
    if family is Family.IPV4:
        return set(_LOCAL.findall(host.read("/proc/thread-self/net/fib_trie") or ""))
    lines = (host.read("/proc/thread-self/net/if_inet6") or "").splitlines()
    return [str(IPv6Address(int(line.split()[0], 16))) for line in lines]


def _parse(listed: str) -> Counter[TrackedConnection]:
    """The entries of a list, and how many there are of each: they are few, however many clients they have."""
    found = Counter(_ENTRY.findall(listed))
    return Counter(
        {
            TrackedConnection(
                protocol=protocol,
                address=ip_address(address),
                port=int(port),
                endpoint=ip_address(endpoint),
                endpoint_port=int(endpoint_port),
            ): count
            for (protocol, address, port, endpoint, endpoint_port), count in found.items()
        }
    )
