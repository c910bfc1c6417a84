"""What this host offers for iptables, found without touching the kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from lbctl.host import has_ipv6, reported_version
from lbctl.model import Family
from lbctl.spi import Driver, Probe
from lbctl_iptables import dialect, drivers, layout
from lbctl_iptables.drivers.found import DriverProbe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lbctl.host import Host
    from lbctl.model import Network

FIX = "install iptables (Debian: apt install iptables)"


def probe(host: Host, *, driver: str | None = None) -> Probe:  # noqa: ARG001 (versions say what is lacking)
    """See `lbctl.spi.Backend.probe`."""
    found = {name: driver.find(host) for name, driver in drivers.ALL.items()}
    offered = [
        Driver(
            name=name,
            store=drivers.ALL[name].store,
            usable=not each.reason,
            reason=each.reason or "usable",
            version=each.version,
            precedence=layout.PRECEDENCE,
        )
        for name, each in found.items()
    ]
    plain = host.which("iptables-restore")
    default = reported_version(host, plain) if plain else ""
    if "(nf_tables)" in default:
        # The host's own choice goes first: its other rules are most likely there.
        offered.sort(key=lambda d: d.name != "nf_tables")
    usable = [found[each.name] for each in offered if each.usable]
    # The first one is the one that is chosen, unless another is named.
    best = usable[0] if usable else DriverProbe()
    can = dialect.capabilities(best.lacks)
    here = frozenset(Family if has_ipv6(host) else {Family.IPV4})
    families = can.families & best.families & here
    facts = {"kernel": (host.read("/proc/sys/kernel/osrelease") or "").strip()}
    if note := _families_note(host, families):
        facts["families"] = note
    if best.lacks:
        facts["lacks"] = dialect.word(best.lacks)
    if best.note:
        facts["note"] = best.note
    return Probe(
        drivers=tuple(offered),
        capabilities=replace(can, families=families, networks=(*_networks4(host), *_networks6(host))),
        fix=FIX,
        facts=facts,
    )


def _families_note(host: Host, families: Collection[Family]) -> str:
    """Say why a host that has IPv6 gets rules for IPv4 alone; empty where that is not so."""
    if Family.IPV6 in families or not has_ipv6(host):
        return ""
    return "IPv4 only: no usable ip6tables-restore and ip6tables-save"


def _networks4(host: Host) -> Iterator[Network]:
    """Yield the IPv4 networks of this host's links: routes without a gateway.

    Numbers in host byte order, hex.
    """
    seen = set()
    for line in (host.read("/proc/thread-self/net/route") or "").splitlines()[1:]:
        device, target, gateway, _, _, _, _, mask, *_ = line.split()
        if device != "lo" and int(gateway, 16) == 0 and int(mask, 16):
            address = int.from_bytes(bytes.fromhex(target)[::-1], "big")
            prefix = int(mask, 16).bit_count()
            seen.add(IPv4Network((address, prefix)))
    yield from sorted(seen)


def _networks6(host: Host) -> Iterator[Network]:
    """Yield the IPv6 networks of this host's links: its global addresses with their prefixes."""
    seen = set()
    for line in (host.read("/proc/thread-self/net/if_inet6") or "").splitlines():
        address, _, prefix, scope, _, device = line.split()
        if device != "lo" and int(scope, 16) == 0:
            seen.add(IPv6Network((int(address, 16), int(prefix, 16)), strict=False))
    yield from sorted(seen)
