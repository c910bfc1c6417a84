"""The way of a new connection through rules: which services take it, by what rules, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl.model.jenkins import slot_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.model import Address, Listener, Reading, ReadService


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A service that takes connections to a listener, and what is known of one client's.

    `source` is where its rules are. `slot` is the client's number in a hash, `chosen` the endpoint that it
    gets: None where chance or turn decides, or where the connection leaks.
    """

    source: str
    service: ReadService
    slot: int | None = None
    chosen: str | None = None


def explain(
    listener: Listener, readings: Mapping[str, Reading], client: Address | None = None
) -> tuple[Way, ...]:
    """The ways of connections to a listener, those for fewer addresses first in each source."""
    ways: list[Way] = []
    for source, reading in readings.items():
        taking = [each for each in reading.services if _takes(each, listener, client)]
        ways += [_way(source, service, client) for service in sorted(taking, key=_breadth)]
    return tuple(ways)


def _way(source: str, service: ReadService, client: Address | None) -> Way:
    if client is None or (service.affinity is not None and service.affinity.kind != "hash"):
        return Way(source=source, service=service)
    if len(service.backends) == 1 and not service.leak:
        return Way(source=source, service=service, chosen=service.backends[0].to)
    hashed = service.mode == "hash" and service.affinity is not None and service.hash_seed is not None
    if not hashed or not service.slots or service.hash_seed is None:
        return Way(source=source, service=service)
    slot = slot_of(client, len(service.slots), service.hash_seed)
    return Way(source=source, service=service, slot=slot, chosen=service.slots[slot])


def _takes(service: ReadService, listener: Listener, client: Address | None) -> bool:
    """True where connections to a listener, of a client where one is named, may be a service's."""
    family, proto, dst, ports, _ = service.selector
    if client is not None and family != Family.of(client):
        return False
    if proto != "any" and listener.protocol not in proto.split(","):
        return False
    if ports != "any" and not any(_within(part, listener.port) for part in ports.split(",")):
        return False
    if listener.address is not None:
        if family != Family.of(listener.address):
            return False
        if dst not in {"local", "any"} and not _among(dst, listener.address):
            return False
    elif dst not in {"local", "any"}:
        return False
    sources = (service.when or {}).get("src")
    if client is None or sources is None:
        return True
    but = sources.startswith("!")
    return _among(sources.lstrip("!= "), client) is not but


def _within(part: str, port: int) -> bool:
    first, dash, last = part.partition("-")
    if not first.isdecimal() or not (last if dash else first).isdecimal():
        return False
    return int(first) <= port <= int(last if dash else first)


def _among(written: str, address: Address) -> bool:
    """True for an address in a list of addresses, networks and ranges; unknown ones hold for all."""
    for part in written.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            if dash:
                low, high = ip_address(first), ip_address(last)
                if low.version == address.version and int(low) <= int(address) <= int(high):
                    return True
            elif address in ip_network(first, strict=False):
                return True
        except ValueError:
            return True
    return False


def _breadth(service: ReadService) -> tuple[int, bool, int, str]:
    """How much a service takes: one address, a network, the host's, any; then ports and conditions."""
    dst = service.selector[2]
    wide = {"any": 3, "local": 2}.get(dst, 1 if set(dst) & {"/", ",", "-"} else 0)
    return wide, service.selector[3] == "any", -len(service.when or {}), service.family
