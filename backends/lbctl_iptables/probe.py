"""What this host offers for iptables, found without touching the kernel."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from lbctl.host import has_ipv6
from lbctl.model import Family, Protocol, Scheduler, SourceNat, State
from lbctl.spi import Capabilities, Driver, Probe
from lbctl_iptables import drivers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.model import Network

REMEDY = "install iptables (Debian: apt install iptables)"


def probe(host: Host) -> Probe:
    """See `lbctl.spi.Backend.probe`."""
    found = []
    for name, driver in drivers.ALL.items():
        version, reason = driver.find(host)
        found.append(
            Driver(
                name=name,
                store=driver.store,
                usable=not reason,
                reason=reason or "usable",
                version=version,
            )
        )
    plain = host.which("iptables-restore")
    default = host.run([plain, "--version"]).out if plain else ""
    if "(nf_tables)" in default:
        # The host's own choice goes first: its other rules are most likely there.
        found.sort(key=lambda d: d.name != "nf_tables")
    return Probe(
        drivers=tuple(found),
        capabilities=Capabilities(
            families=frozenset(Family) if _ipv6(host) else frozenset({Family.IPV4}),
            protocols=frozenset(Protocol),
            schedulers=frozenset(Scheduler) - {Scheduler.MAGLEV},
            states=frozenset(State),
            source_nat=frozenset(SourceNat),
            affinity=True,
            allow=True,
            networks=(*_networks4(host), *_networks6(host)),
        ),
        remedy=REMEDY,
        facts={"kernel": (host.read("/proc/sys/kernel/osrelease") or "").strip()},
    )


def _ipv6(host: Host) -> bool:
    """True where this host has IPv6 and the commands for it: some systems pack them apart."""
    words = [f"ip6tables{infix}-restore" for infix in ("", "-legacy", "-nft")]
    return has_ipv6(host) and any(map(host.which, words))


def _networks4(host: Host) -> Iterator[Network]:
    """The IPv4 networks of this host's links: routes without a gateway. Numbers in host byte order, hex."""
    seen = set()
    for line in (host.read("/proc/thread-self/net/route") or "").splitlines()[1:]:
        device, target, gateway, _, _, _, _, mask, *_ = line.split()
        if device != "lo" and int(gateway, 16) == 0 and int(mask, 16):
            address = int.from_bytes(bytes.fromhex(target)[::-1], "big")
            prefix = int(mask, 16).bit_count()
            seen.add(IPv4Network((address, prefix)))
    yield from sorted(seen)


def _networks6(host: Host) -> Iterator[Network]:
    """The IPv6 networks of this host's links: its global addresses with their prefixes."""
    seen = set()
    for line in (host.read("/proc/thread-self/net/if_inet6") or "").splitlines():
        address, _, prefix, scope, _, device = line.split()
        if device != "lo" and int(scope, 16) == 0:
            seen.add(IPv6Network((int(address, 16), int(prefix, 16)), strict=False))
    yield from sorted(seen)
