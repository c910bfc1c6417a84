"""The examples of the repository, and hosts that are as they take for granted."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from lbctl.conformance.network import HOST4, HOST6
from lbctl.model import Family, Intent, Listener
from support.network import Network

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Those of several hosts with other programs, which `make test-servers` runs.
FLEETS = ("bgp", "vrrp")
#: Of servers on a switch: see `support.segment`.
SEGMENT = EXAMPLES / "dsr"
_APART = (*FLEETS, SEGMENT.name)
_HOST = {Family.IPV4: HOST4, Family.IPV6: HOST6}
FILES = sorted(file for file in EXAMPLES.glob("*/lbctl.toml") if file.parent.name not in _APART)


def furnish(network: Network, intent: Intent) -> None:
    """Give the hosts the addresses that an example listens on, and start its endpoints."""
    here, there = network.responder(network.host), network.responder(network.server)
    listeners = [listener for service in intent.services for listener in service.listeners]
    for address in dict.fromkeys(listener.address for listener in listeners):
        if address is not None:
            network.host.address("outside", f"{address}/{24 if address.version == 4 else 64}")
    for service in intent.services:
        kinds = dict.fromkeys(listener.protocol for listener in service.listeners)
        for endpoint, kind in product(service.endpoints, kinds):
            where = there if endpoint.address else here
            address = str(endpoint.address or "")
            for port in [endpoint.port] if endpoint.port else ports(service.listeners):
                where.listen(port, address=address, kind=kind, name=endpoint.to)
    here.start()
    there.start()


def ways_in(intent: Intent) -> list[tuple[str, int, str, list[str]]]:
    """Each address, port and protocol that clients may connect to, with one period of who answers."""
    return [
        (
            str(listener.address or _HOST[family]),
            port,
            listener.protocol,
            [endpoint.to for endpoint in service.slots(family)],
        )
        for service in intent.services
        for family in service.families
        for listener in service.listeners_of(family)
        for port in ports([listener])
    ]


def ports(listeners: Iterable[Listener]) -> list[int]:
    """The ports at which listeners are tried: the ends of ranges."""
    return sorted({port for listener in listeners for port in (listener.port, listener.last_port)})
