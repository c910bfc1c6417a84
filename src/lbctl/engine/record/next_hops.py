"""Where packets for endpoints go that are reached by MAC address: asked of the kernel's neighbour table.

For direct server return a backend writes the interface and the MAC addresses of both ends into rules. The
kernel knows them of hosts on its own links. An endpoint that is not in the table is asked for, by the kernel
(`ip neigh replace … use`, which sends nothing but ARP or neighbour solicitations); one that does not answer
keeps the address that it had when the rules were written last.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, TypeAlias

from lbctl.engine.record import hops as recorded_hops
from lbctl.engine.record.hops import RecordedHops
from lbctl.errors import IntentError
from lbctl.host import links, neighbours, routes_to
from lbctl.model import Facts, Family, Forward, Hop, effective
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host, Link, Route
    from lbctl.model import Address, Discovered, Effective, Endpoint, Intent, Service

#: Seconds that endpoints have to answer, between two looks, and before one that did not answer is asked
#: again.
_PATIENCE, _PAUSE, _AGAIN = 1.0, 0.02, 10.0
#: Seconds between two times that all are asked for, by what runs for long: packets that are sent on at
#: ingress keep no entry of the neighbour table alive.
_REFRESH = 30.0
#: Endpoints that are asked for at once: the kernel keeps at least 128 entries of neighbours (gc_thresh1).
_AT_ONCE = 128

_Problems: TypeAlias = dict[tuple[str, str], str]


@dataclass(slots=True)
class NextHops:
    """What is known of the next hops of one owner, kept by a session."""

    #: By service, the same object where nothing changed.
    found: Mapping[str, frozenset[Hop]] = field(default_factory=dict)
    #: Why an endpoint has none, by service and `Endpoint.to`.
    problems: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: Those that were asked for and did not answer, and the link of each.
    unanswered: Mapping[Address, str] = field(default_factory=dict)
    #: True if an interface is another one than when the rules were written. The kernel takes the rules' hooks
    #: away with the old one, and marks no change of the rules.
    replaced: bool = False
    #: When endpoints were asked for that did not answer.
    silent: dict[Address, float] = field(default_factory=dict)
    #: When all endpoints were asked for last.
    asked: float = 0.0
    #: The services of an intent that need next hops.
    of: tuple[Intent, tuple[Service, ...]] | None = None

    @property
    def unreachable(self) -> Mapping[str, Mapping[str, str]]:
        """Return `problems` by service."""
        found: dict[str, dict[str, str]] = {}
        for (service, to), reason in self.problems.items():
            found.setdefault(service, {})[to] = reason
        return found

    def services(self, intent: Intent) -> tuple[Service, ...]:
        """Return the services of an intent that need next hops."""
        if self.of is None or self.of[0] is not intent:
            needing = tuple([each for each in intent.services if each.forward is Forward.DSR])
            self.of = intent, needing
        return self.of[1]

    def resolve(self, host: Host, intent: Intent, answers: Mapping[str, Discovered]) -> None:
        """Find the next hops of an intent; `answers` are those of sources."""
        services = self.services(intent)
        by_service = {service.name: tuple(_endpoints(service, answers)) for service in services}
        recorded = recorded_hops.read(host, intent.owner)
        segment = _Segment(host, recorded.hops, self.silent)
        self.replaced = any(segment.index(name) != index for name, index in recorded.links.items())
        segment.look(endpoint for endpoints in by_service.values() for endpoint in endpoints)
        problems: _Problems = {}
        found: dict[str, frozenset[Hop]] = {}
        for name, endpoints in by_service.items():
            mine = frozenset(_on_one_link(name, endpoints, segment, problems))
            was = self.found.get(name)
            found[name] = was if was == mine else mine
        same = self.found == found
        self.found, self.problems = self.found if same else found, problems
        self.unanswered = segment.unanswered

    def look(self, host: Host) -> object:
        """Return what changes when a next hop does; ask for endpoints now and then. Cheap, for a long run."""
        if self.of is None or not self.of[1]:
            return None
        now = host.clock()
        hops = {hop for mine in self.found.values() for hop in mine}
        if now - self.asked >= _REFRESH and host.may_change_network():
            self.asked = now
            solicit(host, [*((hop.address, hop.device) for hop in hops), *self.unanswered.items()])
        wanted, names = {*self.unanswered, *(hop.address for hop in hops)}, _interfaces(self.of[1], hops)
        cards = {place: card for place, card in neighbours(host).items() if place[1] in wanted}
        return cards, [link for link in links(host) if link.name in names]

    def note(self, host: Host, owner: str, effective: Effective | None) -> None:
        """Record the next hops that rules were written with; None for rules that were removed."""
        services = self.services(effective.file) if effective is not None else ()
        if effective is None or not services:
            recorded_hops.write(host, owner, RecordedHops())
            return
        hops = frozenset(hop for service in effective.intent.services for hop in service.hops)
        names = _interfaces(services, hops)
        indexes = {link.name: link.index for link in links(host) if link.name in names}
        recorded_hops.write(host, owner, RecordedHops(hops=hops, links=indexes))

    def require(self, intent: Intent) -> None:
        """Raise `IntentError` for endpoints that take packets of an effective intent and have no next hop."""
        missing = [
            f'service "{service.name}": endpoint {endpoint.to}: '
            + self.problems.get((service.name, endpoint.to), "its MAC address is unknown")
            for service in intent.services
            if service.forward is Forward.DSR
            for family in service.families
            for endpoint in dict.fromkeys(service.slots(family))
            if endpoint.address not in {hop.address for hop in service.hops}
        ]
        if missing:
            raise IntentError(
                "; ".join(missing),
                hint="direct server return needs endpoints on a link of this host that answer ARP or "
                'neighbour discovery. `mac = "…"` fixes the address of one that does not answer, and '
                '`state = "drain"` leaves one out',
            )


def with_next_hops(host: Host, intent: Intent) -> Intent:
    """Return an intent with the next hops to its endpoints, as this host knows them.

    For rules that are only shown. Raises `IntentError` for endpoints without one.
    """
    known = NextHops()
    if not known.services(intent):
        return intent
    known.resolve(host, intent, {})
    found = effective(intent, Facts(hops=known.found)).intent
    known.require(found)
    return found


def _interfaces(services: Iterable[Service], hops: Iterable[Hop]) -> frozenset[str]:
    """Return the interfaces that packets arrive at or leave by."""
    return frozenset((*(hop.device for hop in hops), *(n for each in services for n in each.interfaces)))


def _endpoints(service: Service, answers: Mapping[str, Discovered]) -> Iterator[Endpoint]:
    yield from service.endpoints
    if service.discover is not None and (answer := answers.get(service.name)) is not None:
        yield from (each for each in answer.endpoints if each.address is not None)


class _Segment:
    """The links of a host, and who is known there."""

    def __init__(self, host: Host, recorded: frozenset[Hop], silent: dict[Address, float]) -> None:
        self._host = host
        self._links = {link.index: link for link in links(host)}
        self._recorded = {hop.address: hop for hop in recorded}
        self._silent = silent
        self._hops: dict[Address, Hop] = {}
        self._reasons: dict[Address, str] = {}
        #: Those that do not answer, and were not known before; and the link of each.
        self.unanswered: dict[Address, str] = {}

    def index(self, name: str) -> int | None:
        """Return the kernel's number of a link; None if there is none of that name."""
        return next((link.index for link in self._links.values() if link.name == name), None)

    def look(self, endpoints: Iterable[Endpoint]) -> None:
        """Find the next hops of endpoints: in the neighbour table, by asking, or on record."""
        wanted = {each.address: each.mac for each in endpoints if each.address is not None}
        self._take(wanted)
        routes = routes_to(self._host, [address for address in wanted if address not in self._hops])
        asked = {
            address: device
            for address, route in routes.items()
            if (device := self._device(address, route)) is not None
        }
        now = self._host.clock()
        for address, device in asked.items():
            if wanted[address]:
                self._add(address, device, wanted[address])
        silent = [address for address in asked if address not in self._hops]
        due = [address for address in silent if now - self._silent.get(address, -_AGAIN) >= _AGAIN]
        if due and self._host.may_change_network():
            self._ask({address: asked[address].name for address in due}, wanted)
        for address in silent:
            if address not in self._hops:
                self._fall_back(address, asked[address])

    def hop(self, address: Address) -> Hop | None:
        """Return the next hop to an address; None if none is known."""
        return self._hops.get(address)

    def reason(self, address: Address) -> str:
        """Return why none is known."""
        return self._reasons.get(address, "its MAC address is unknown")

    def _take(self, wanted: Mapping[Address, str]) -> None:
        for (index, address), mac in neighbours(self._host).items():
            if address in wanted and index in self._links:
                self._add(address, self._links[index], wanted[address] or mac)

    def _add(self, address: Address, link: Link, mac: str) -> None:
        if not link.mac:
            self._reasons[address] = f"link {link.name} has no MAC addresses"
            return
        self._hops[address] = Hop(address=address, device=link.name, source=link.mac, mac=mac)
        self._silent.pop(address, None)

    def _device(self, address: Address, route: Route) -> Link | None:
        """Return the link that an address is on; None, with a reason, if it is on none."""
        link = next((each for each in self._links.values() if each.name == route.device), None)
        if route.local:
            self._reasons[address] = "it is an address of this host"
        elif " via " in route.text:
            self._reasons[address] = f"it is not on a link of this host, but behind a router: {route.text}"
        elif link is None:
            self._reasons[address] = f"no link of this host leads there: {route.text}"
        else:
            return link
        return None

    def _ask(self, devices: Mapping[Address, str], wanted: Mapping[Address, str]) -> None:
        left = dict(list(devices.items())[:_AT_ONCE])
        solicit(self._host, left.items())
        until = self._host.clock() + _PATIENCE
        while left and self._host.clock() < until:
            self._host.sleep(_PAUSE)
            self._take({address: wanted[address] for address in left})
            left = {address: device for address, device in left.items() if address not in self._hops}
        self._silent.update(dict.fromkeys(left, self._host.clock()))

    def _fall_back(self, address: Address, link: Link) -> None:
        known = self._recorded.get(address)
        if known is not None and known.device == link.name and link.mac:
            self._hops[address] = replace(known, source=link.mac)
        else:
            self.unanswered[address] = link.name
            self._reasons[address] = f"it does not answer on {link.name}, so that its MAC address is unknown"


def solicit(host: Host, places: Iterable[tuple[Address, str]]) -> None:
    """Have the kernel ask for the MAC addresses of neighbours: addresses and their links."""
    ip = host.which("ip")
    if ip is not None:
        for address, device in places:
            host.run([ip, "neigh", "replace", str(address), "dev", device, "use"])


def _on_one_link(
    service: str, endpoints: Sequence[Endpoint], segment: _Segment, problems: _Problems
) -> Iterator[Hop]:
    """Yield the next hops of a service: of each family, those on the link of the first endpoint."""
    devices: dict[Family, str] = {}
    for endpoint in endpoints:
        if endpoint.address is None:
            continue
        hop = segment.hop(endpoint.address)
        if hop is None:
            problems[service, endpoint.to] = segment.reason(endpoint.address)
            continue
        device = devices.setdefault(Family.of(endpoint.address), hop.device)
        if device == hop.device:
            yield hop
        else:
            problems[service, endpoint.to] = f"it is on link {hop.device}, and others are on {device}"
