"""Cheap checks of a host for an intent: they read a few files of /proc and no rules.

So `plan`, `apply` and `status` can afford them, and not only `doctor`. The kernel's lists of sockets and
addresses are read once, however many endpoints there are. `ip` is asked only about what seems to be wrong.
"""

from __future__ import annotations

from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

from lbctl.host import has_routes, listening, local_addresses, routes_to
from lbctl.model import Family, Forward, Protocol, Severity, State
from lbctl.spi import Problem, sole
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host, Listening, Route
    from lbctl.model import Address, Endpoint, Intent, Listener, Service

#: Services that a sentence names.
_SHOWN = 4
#: Addresses that `ip` is asked about; each takes a process.
_MOST_ROUTES = 16
_NET = "/proc/sys/net"
_FORWARDING = {
    Family.IPV4: ("net.ipv4.ip_forward", f"{_NET}/ipv4/ip_forward"),
    Family.IPV6: ("net.ipv6.conf.all.forwarding", f"{_NET}/ipv6/conf/all/forwarding"),
}


#: What is read for almost every intent.
_READ = (
    *(f"/proc/thread-self/net/{name}" for name in ("fib_trie", "if_inet6", "tcp", "tcp6")),
    f"{_NET}/ipv6/bindv6only",
    *(path for _, path in _FORWARDING.values()),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotExamined:
    """What could not be looked at, and why."""

    what: str
    reason: str


Seen: TypeAlias = Problem | NotExamined


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """What a host's own kernel says of sockets and addresses, read when it is first asked for, and once."""

    host: Host

    @cached_property
    def addresses(self) -> frozenset[Address]:
        """This host's own addresses."""
        texts = (text for family in Family for text in local_addresses(self.host, family))
        return frozenset(map(ip_address, texts))

    @cached_property
    def _sockets(self) -> dict[Protocol, Mapping[int, Sequence[Listening]] | None]:
        return {}

    def sockets(self, protocol: Protocol) -> Mapping[int, Sequence[Listening]] | None:
        """Return the sockets of a protocol that listen, by port; None if the kernel has no list of them."""
        if protocol not in self._sockets:
            self._sockets[protocol] = _by_port(listening(self.host, protocol))
        return self._sockets[protocol]

    def holds(self, address: Address) -> bool:
        """Return True if connections to an address stay on this host."""
        return address.is_loopback or address in self.addresses

    @cached_property
    def public_ipv6(self) -> bool:
        """True if this host has an IPv6 address of global scope."""
        # The fourth column is the scope; 00 is global.
        lines = (self.host.read("/proc/thread-self/net/if_inet6") or "").splitlines()
        return any(line.split()[3] == "00" for line in lines)


def cheap_checks(around: HostFacts, intent: Intent) -> Iterator[Seen]:
    """Yield what is wrong with the endpoints and listeners of an intent on this host."""
    around.host.expect(reads=_READ)
    yield from drained(intent)
    yield from processes(around, intent)
    yield from forwarding(around, intent)
    yield from foreign_listeners(around, intent)


def endpoint_marks(host: Host, intent: Intent) -> Mapping[tuple[str, str], str]:
    """Return a few words for each endpoint that does not get its connections, for a row of a table.

    By the name of the service and `Endpoint.to`: `("web", "8002")` → `nothing listens`. Of several problems
    the gravest is named.
    """
    seen = [each for each in cheap_checks(HostFacts(host=host), intent) if isinstance(each, Problem)]
    marks: dict[tuple[str, str], str] = {}
    for problem in sorted(seen, key=lambda each: list(Severity).index(each.severity)):
        for endpoint in problem.endpoints:
            marks.setdefault(endpoint, problem.mark)
    return marks


def service_marks(intent: Intent) -> Mapping[str, str]:
    """Return a few words for each service that no endpoint serves in some family, by its name."""
    marks: dict[str, str] = {}
    for problem in drained(intent):
        if problem.service is not None:
            marks.setdefault(problem.service, problem.mark)
    return marks


def taking(intent: Intent) -> Iterator[tuple[Service, Endpoint]]:
    """Yield the endpoints that are to take new connections, sooner or later."""
    for service in intent.services:
        for endpoint in service.endpoints:
            if endpoint.state is not State.DRAIN:
                yield service, endpoint


def outside(service: Service, family: Family) -> list[Listener]:
    """Return the listeners that connections from outside can reach: none of a loopback address."""
    listeners = service.listeners_of(family)
    return [x for x in listeners if x.address is None or not x.address.is_loopback]


def names(services: Sequence[str]) -> str:
    """Return the names of services for a sentence, a few of many."""
    shown = ", ".join(services[:_SHOWN])
    return shown if len(services) <= _SHOWN else f"{shown} and {len(services) - _SHOWN} more"


def number_in(host: Host, path: str) -> int | None:
    """Return the number in a file of /proc; None if there is none."""
    text = (host.read(path) or "").strip()
    return int(text) if text.isdecimal() else None


def setting(name: str, value: int) -> str:
    """Return how to set a parameter of the kernel, now and at every start."""
    return f"sysctl -w {name}={value}, and {name} = {value} in a file of /etc/sysctl.d"


# -- endpoints that take no connections


def drained(intent: Intent) -> Iterator[Problem]:
    """Yield the services that refuse connections: each endpoint of a family is drained."""
    for service in intent.services:
        if all(endpoint.state is not State.DRAIN for endpoint in service.endpoints):
            continue
        refused = [family for family in service.families if not service.ready(family)]
        if not refused:
            continue
        families = " and ".join(refused)
        whole = len(refused) == len(service.families)
        mark = f"all endpoints{'' if whole else f' of {families}'} are drained"
        yield Problem(
            code="all-drained",
            severity=Severity.ERROR,
            service=service.name,
            message=f"{mark}: new connections are refused",
            evidence=f"no endpoint serves {families} with state active or backup",
            fix="give an endpoint the state active",
            mark=mark,
        )


def processes(around: HostFacts, intent: Intent) -> Iterator[Seen]:
    """Yield endpoints on this host where no process listens, or not for connections from outside.

    Those that checks have taken out get no connection, and their check says why.
    """
    missing: set[Protocol] = set()
    for service in intent.services:
        out = _taken_out(service)
        ways = [(f, protocol) for f in service.families for protocol in service.protocols_of(f)]
        for protocol in dict.fromkeys(protocol for _, protocol in ways):
            sockets = around.sockets(protocol)
            families = [family for family, each in ways if each is protocol]
            for endpoint in service.endpoints:
                address = endpoint.address
                if endpoint.state is State.DRAIN or not (address is None or around.holds(address)):
                    continue
                if endpoint.port is None:
                    continue  # any port of a range may be served by a process of its own
                if sockets is not None:
                    here = sockets.get(endpoint.port, ())
                    every = [family for family in families if endpoint.serves(family)]
                    served = [family for family in every if (family, endpoint.to) not in out]
                    yield from _process(around, service, endpoint, protocol, every, served, here)
                elif protocol not in missing:
                    missing.add(protocol)
                    yield NotExamined(
                        what=f"who listens for {protocol}", reason="the kernel has no list of them"
                    )


def _taken_out(service: Service) -> set[tuple[Family, str]]:
    """Return the endpoints that get no connection of a family since they fail there."""
    limited = {(limit.family, limit.to) for limit in service.limits if not limit.part}
    served = {(family, e.to) for family in service.families if limited for e in service.ready(family)}
    return limited - served


def _by_port(sockets: Iterable[Listening] | None) -> dict[int, Sequence[Listening]] | None:
    if sockets is None:
        return None
    found: dict[int, list[Listening]] = {}
    for each in sockets:
        found.setdefault(each.port, []).append(each)
    return dict(found)


def _process(
    around: HostFacts,
    service: Service,
    endpoint: Endpoint,
    protocol: Protocol,
    every: Sequence[Family],
    served: Sequence[Family],
    here: Sequence[Listening],
) -> Iterator[Problem]:
    """Yield what is wrong with the process of an endpoint in the families that are `served`, of `every`."""
    silent: list[Family] = []
    for family in served:
        bound = [each for each in here if each.family is family and _reached(each, endpoint)]
        if not bound:
            silent.append(family)
        elif endpoint.address is None and not any(each.address.is_unspecified for each in bound):
            yield from _bound(service, endpoint, protocol, family, bound)
    if not silent:
        return
    partly = len(silent) < len(every)
    # Of a listener on any address, a family without an address outside is nothing to complain of.
    if partly and not any(is_expected(around, service, family) for family in silent):
        return
    about = f"{endpoint.to}/{protocol}"
    where = ", ".join(map(str, here)) or "nothing"
    yield Problem(
        code="not-listening",
        severity=Severity.WARNING if partly or endpoint.state is State.BACKUP else Severity.ERROR,
        service=service.name,
        message=f"no process listens on {about} ({' and '.join(silent)}): connections will be refused",
        evidence=f"listening on port {endpoint.port}/{protocol}: {where}",
        fix="start the process, or give the endpoint state drain",
        about=about,
        endpoints=((service.name, endpoint.to),),
        mark=f"nothing listens{f' ({silent[0]})' if partly else ''}",
    )


def _reached(socket: Listening, endpoint: Endpoint) -> bool:
    """Return True for a socket that connections to an endpoint's own address reach, if it has one."""
    return endpoint.address is None or socket.address.is_unspecified or socket.address == endpoint.address


def is_expected(around: HostFacts, service: Service, family: Family) -> bool:
    """Return True if clients may use a family: a listener or this host has an address for it."""
    if family is Family.IPV4 or any(x.address is not None for x in service.listeners_of(family)):
        return True
    return around.public_ipv6


def _bound(
    service: Service, endpoint: Endpoint, protocol: Protocol, family: Family, bound: Sequence[Listening]
) -> Iterator[Problem]:
    """Yield a process that listens on some addresses only: connections arrive at that of their link."""
    loopback = [each for each in bound if each.address.is_loopback]
    only = len(loopback) == len(bound)
    if only and not outside(service, family):
        return
    about = f"{endpoint.to}/{protocol}"
    where = ", ".join(dict.fromkeys(str(each.address) for each in bound))
    if only:
        why = "connections from outside arrive at the address of their incoming link"
    elif service.local_clients and not loopback:
        why = "local connections arrive at the loopback address, others at that of their link"
    else:
        why = "connections arrive at the address of their incoming link, which may be another"
    yield Problem(
        code="loopback-only" if only else "bound-to-address",
        severity=Severity.ERROR if only else Severity.WARNING,
        service=service.name,
        message=f"{about} listens on {'the loopback address' if only else where} only ({family}): {why}, "
        "and are refused",
        evidence=f"listening on port {endpoint.port}/{protocol}: {', '.join(map(str, bound))}",
        fix="have the process listen on all addresses (0.0.0.0 or ::), and let a firewall close its port",
        about=about,
        endpoints=((service.name, endpoint.to),),
        mark=f"listens on {'loopback' if only else where} only",
    )


# -- endpoints that connections are not sent to


def forwarding(around: HostFacts, intent: Intent) -> Iterator[Problem]:
    """Yield settings of the kernel that keep connections from reaching an endpoint by its address."""
    for family, (name, path) in _FORWARDING.items():
        if number_in(around.host, path) == 0:
            yield from _not_forwarded(around, intent, family, name)
    for service, endpoint in taking(intent):
        address = endpoint.address
        if address is not None and address.is_loopback and outside(service, Family.of(address)):
            yield from _loopback(around.host, service, endpoint, address)


def _not_forwarded(around: HostFacts, intent: Intent, family: Family, name: str) -> Iterator[Problem]:
    remote = [
        (service, endpoint)
        for service, endpoint in taking(intent)
        if endpoint.address is not None
        and service.forward is Forward.NAT
        and endpoint.serves(family)
        and not around.holds(endpoint.address)
        and outside(service, family)
    ]
    addresses = dict.fromkeys(endpoint.address for _, endpoint in remote if endpoint.address is not None)
    here = _not_sent(around.host, list(addresses)[:_MOST_ROUTES])
    remote = [each for each in remote if each[1].address not in here]
    services = list(dict.fromkeys(service.name for service, _ in remote))
    if services and has_routes(around.host):
        yield Problem(
            code="forwarding-off",
            severity=Severity.ERROR,
            service=sole(services),
            message=f"this host does not forward {family}: connections from outside do not reach the "
            f"endpoints of {names(services)} on other hosts",
            evidence=f"{name}=0",
            fix=setting(name, 1),
            endpoints=tuple((service.name, endpoint.to) for service, endpoint in remote),
            mark="forwarding is off",
        )


def _not_sent(host: Host, addresses: Iterable[Address]) -> set[Address]:
    """Return those of some addresses that need no forwarding: local by a route, or without a route."""
    if not has_routes(host):
        return set()
    routes = routes_to(host, addresses)
    return {address for address, route in routes.items() if route.local or route.device is None}


def _loopback(host: Host, service: Service, endpoint: Endpoint, address: Address) -> Iterator[Problem]:
    """Yield an endpoint on a loopback address: what comes from outside may not be sent there."""
    evidence = "the kernel has no such setting for IPv6"
    if address.version == 4:
        value = number_in(host, f"{_NET}/ipv4/conf/all/route_localnet")
        if value == 1:
            return
        evidence = f"net.ipv4.conf.all.route_localnet={value}"
    yield Problem(
        code="route-localnet",
        severity=Severity.ERROR,
        service=service.name,
        message=f"{endpoint.to} is on a loopback address: the kernel drops connections from outside that are "
        "sent there",
        evidence=evidence,
        fix='name the port alone as in endpoints = ["8001"], have the process listen on all addresses and a '
        "firewall close its port; route_localnet=1 would open every loopback service to the network "
        "(CVE-2020-8558)",
        about=endpoint.to,
        endpoints=((service.name, endpoint.to),),
        mark="loopback address: not reached from outside",
    )


# -- listeners that no connection arrives at


def foreign_listeners(around: HostFacts, intent: Intent) -> Iterator[Seen]:
    """Yield listeners on an address that this host does not have: it may only be routed through here."""
    concerned: dict[Address, list[tuple[Service, Listener]]] = {}
    for service in intent.services:
        for listener in service.listeners:
            if listener.address is not None and not around.holds(listener.address):
                concerned.setdefault(listener.address, []).append((service, listener))
    if not concerned or not has_routes(around.host):
        return
    for address, route in routes_to(around.host, list(concerned)[:_MOST_ROUTES]).items():
        if not route.local:
            for service, listener in concerned[address]:
                yield _foreign(service, listener, route)
    if (more := len(concerned) - _MOST_ROUTES) > 0:
        reason = f"{more} more addresses may be on no link of this host, and were not looked up"
        yield NotExamined(what="addresses of listeners", reason=reason)


def _foreign(service: Service, listener: Listener, route: Route) -> Problem:
    return Problem(
        code="address-missing",
        severity=Severity.WARNING,
        service=service.name,
        message=f"no link of this host has the address of {listener}: connections to it arrive only if they "
        "are routed through this host",
        evidence=f"ip route get {listener.address}: {route.text}",
        fix=f"ip address add {listener.address} to a link, or correct the listener; nothing on a gateway, or "
        "where another program moves the address to this host",
        about=str(listener),
    )
