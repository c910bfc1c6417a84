"""What no backend owns and every service stands on: processes, routes, forwarding, the connection table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lbctl.host import (
    ModuleState,
    has_routes,
    kernel_module,
    links_back,
    links_in,
    listening,
    route_to,
)
from lbctl.model import Family, Protocol, Severity, SourceNat, State
from lbctl.spi import Passage, Problem, sole

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host, Listening, Route
    from lbctl.model import Address, Endpoint, Intent, Listener, Service

#: Addresses of endpoints whose way is asked for; each takes a program or two.
_MOST_ADDRESSES = 1000
#: Places that are told one by one.
_SHOWN = 4
#: Connections that a host should be able to remember: what kernels choose by themselves from 1 GiB of memory.
ENOUGH_CONNECTIONS = 65_536
#: The part of the connection table from which it is near its end.
_FULL = 0.9
_TRACKED = "/proc/sys/net/netfilter/nf_conntrack_"
_NET = "/proc/sys/net"
_FORWARDING = {
    Family.IPV4: ("net.ipv4.ip_forward", f"{_NET}/ipv4/ip_forward"),
    Family.IPV6: ("net.ipv6.conf.all.forwarding", f"{_NET}/ipv6/conf/all/forwarding"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NotExamined:
    """What could not be looked at, and why."""

    what: str
    reason: str


Seen: TypeAlias = Problem | NotExamined


def processes(host: Host, intent: Intent, addresses: Collection[Address]) -> Iterator[Seen]:
    """Endpoints on this host that nobody listens at, or not where connections from outside arrive.

    `addresses` are this host's own.
    """
    known: dict[Protocol, dict[int, list[Listening]] | None] = {}
    for service, endpoint in _taking(intent):
        address = endpoint.address
        if address is not None and not address.is_loopback and address not in addresses:
            continue
        for protocol in dict.fromkeys(listener.protocol for listener in service.listeners):
            if protocol not in known:
                known[protocol] = _by_port(listening(host, protocol))
                if known[protocol] is None:
                    yield NotExamined(
                        what=f"who listens for {protocol}", reason="the kernel has no list of it"
                    )
            sockets = known[protocol]
            if sockets is not None and endpoint.port is not None:
                yield from _process(host, service, endpoint, protocol, sockets.get(endpoint.port, []))


def _by_port(sockets: Iterable[Listening] | None) -> dict[int, list[Listening]] | None:
    if sockets is None:
        return None
    found: dict[int, list[Listening]] = {}
    for each in sockets:
        found.setdefault(each.port, []).append(each)
    return found


def _outside(service: Service, family: Family) -> list[Listener]:
    """Return the listeners that connections from outside can reach: none of a loopback address."""
    listeners = service.listeners_of(family)
    return [x for x in listeners if x.address is None or not x.address.is_loopback]


def _taking(intent: Intent) -> Iterator[tuple[Service, Endpoint]]:
    """Yield the endpoints that are to take new connections, sooner or later."""
    for service in intent.services:
        for endpoint in service.endpoints:
            if endpoint.state is not State.DRAIN:
                yield service, endpoint


def _process(
    host: Host, service: Service, endpoint: Endpoint, protocol: Protocol, here: Sequence[Listening]
) -> Iterator[Problem]:
    silent: list[Family] = []
    for family in service.families:
        if not endpoint.serves(family):
            continue
        if not any(x.protocol is protocol for x in service.listeners_of(family)):
            continue
        bound = [each for each in here if each.family is family and _reached(each, endpoint)]
        if not bound:
            silent.append(family)
        elif endpoint.address is None and not any(each.address.is_unspecified for each in bound):
            yield from _bound(service, endpoint, protocol, family, bound)
    if not silent:
        return
    served = len(silent) < sum(endpoint.serves(family) for family in service.families)
    # Of a listener on any address, a family that nobody outside can use is nothing to complain of.
    if served and not any(_wanted(host, service, family) for family in silent):
        return
    families = " and ".join(silent)
    where = ", ".join(map(str, here)) or "nothing"
    backup = endpoint.state is State.BACKUP
    yield Problem(
        code="not-listening",
        severity=Severity.WARNING if served or backup else Severity.ERROR,
        service=service.name,
        message=f"no process listens on {endpoint.to}/{protocol} ({families}): connections will be refused",
        evidence=f"listening on port {endpoint.port}/{protocol}: {where}",
        fix=f"start the process behind endpoint {endpoint.name}, or give the endpoint state drain",
    )


def _reached(socket: Listening, endpoint: Endpoint) -> bool:
    """Return True for a socket that connections to an endpoint's own address reach, where it has one."""
    return endpoint.address is None or socket.address.is_unspecified or socket.address == endpoint.address


def _wanted(host: Host, service: Service, family: Family) -> bool:
    """Return True if somebody may come by a family: a listener or this host has an address for it."""
    if family is Family.IPV4 or any(x.address is not None for x in service.listeners_of(family)):
        return True
    # The fourth column is the scope; 00 is global.
    lines = (host.read("/proc/thread-self/net/if_inet6") or "").splitlines()
    return any(line.split()[3] == "00" for line in lines)


def _bound(
    service: Service, endpoint: Endpoint, protocol: Protocol, family: Family, bound: Sequence[Listening]
) -> Iterator[Problem]:
    """A process that listens on some addresses only: connections arrive at that of the link they come by."""
    where = ", ".join(map(str, bound))
    loopback = [each for each in bound if each.address.is_loopback]
    only = len(loopback) == len(bound)
    if only and not _outside(service, family):
        return
    what = f"endpoint {endpoint.to}/{protocol} listens on {'the loopback address' if only else where} only"
    if only:
        bites = "connections from outside arrive at the address of the link that they come in by"
    elif service.local_clients and not loopback:
        bites = "this host's own connections arrive at the loopback address, others at that of their link"
    else:
        bites = "connections arrive at the address of the link that they come in by, which may be another"
    yield Problem(
        code="loopback-only" if only else "bound-to-address",
        severity=Severity.ERROR if only else Severity.WARNING,
        service=service.name,
        message=f"{what} ({family}): {bites}, and are refused",
        evidence=f"listening on port {endpoint.port}/{protocol}: {where}",
        fix="have the process listen on all addresses (0.0.0.0 or ::), and let a firewall close its port",
    )


def ways(host: Host, intent: Intent) -> tuple[tuple[Passage, ...], tuple[Seen, ...]]:
    """Return the ways of connections to all endpoints; those that lead nowhere, or back by another link."""
    endpoints = list(_taking(intent))
    addresses = list(dict.fromkeys(e.address for _, e in endpoints if e.address is not None))
    if not has_routes(host):
        return (), (NotExamined(what="links and routes", reason="there is no ip command in PATH"),)
    seen: list[Seen] = []
    if len(addresses) > _MOST_ADDRESSES:
        reason = f"only the first {_MOST_ADDRESSES} of {len(addresses)} addresses were asked for"
        seen.append(NotExamined(what="routes to endpoints", reason=reason))
    routes: dict[Address, Route] = {}
    for address in addresses[:_MOST_ADDRESSES]:
        routes[address] = route = route_to(host, address)
        if route.device is not None and not route.local:
            seen += _one_way(host, address, links_back(host, address))
    links = {family: links_in(host, family) for family in Family}
    passages: list[Passage] = []
    for service, endpoint in endpoints:
        way = routes.get(endpoint.address) if endpoint.address else None
        if way is not None and way.device is None:
            seen.append(_no_route(service, endpoint, way))
        elif endpoint.address is None or way is not None:
            outgoing = way.device if way and not way.local else None
            passages += _passages(service, endpoint, outgoing, links)
    return tuple(passages), (*seen, *_bypassed(intent, passages))


def _no_route(service: Service, endpoint: Endpoint, route: Route) -> Problem:
    return Problem(
        code="no-route",
        severity=Severity.ERROR,
        service=service.name,
        message=f"this host has no route to endpoint {endpoint.to}: connections to it fail",
        evidence=f"ip route get {endpoint.address}: {route.text}",
        fix="add a route to that network, or correct the endpoint's address",
    )


def _passages(
    service: Service,
    endpoint: Endpoint,
    outgoing: str | None,
    links: Mapping[Family, Mapping[Address | None, str]],
) -> Iterator[Passage]:
    for family in filter(endpoint.serves, service.families):
        outside = _outside(service, family)
        # Of a range one port stands for all.
        passing = [(x.protocol, endpoint.port or x.port, links[family].get(x.address)) for x in outside]
        for protocol, port, link in dict.fromkeys(passing):
            yield Passage(
                service=service.name,
                family=family,
                protocol=protocol,
                address=endpoint.address,
                port=port,
                outgoing=outgoing,
                incoming=link,
            )


def _one_way(host: Host, address: Address, links: Sequence[str]) -> Iterator[Problem]:
    """Replies that may come by another link than the one that the kernel would send by, and are dropped."""
    if address.version != 4:
        return
    strict = [(link, value) for link in links[1:] if (value := _strict(host, link)) is not None]
    if strict:
        yield Problem(
            code="rp-filter",
            severity=Severity.WARNING,
            message=f"replies of endpoint {address} that come in by {strict[0][0]} are dropped: this host "
            f"sends to it by {links[0]}, and reverse path filtering is strict",
            evidence=f"routes to {address} by {', '.join(links)}; {strict[0][1]}",
            fix=f"sysctl net.ipv4.conf.{strict[0][0]}.rp_filter=2 (loose), or one route only",
        )


def _strict(host: Host, link: str) -> str | None:
    """The setting by which a link drops what its sender would not be reached by; the larger of two counts."""
    values = {name: _number(host, f"{_NET}/ipv4/conf/{name}/rp_filter") or 0 for name in ("all", link)}
    name = max(values, key=lambda each: values[each])
    return f"net.ipv4.conf.{name}.rp_filter={values[name]}" if values[name] == 1 else None


def _bypassed(intent: Intent, passages: Sequence[Passage]) -> Iterator[Problem]:
    """Clients and endpoints on one link, and nothing that has replies come back through this host."""
    never = {s.name for s in intent.services if s.source_nat is SourceNat.NEVER}
    for service in sorted(never):
        found = [p for p in passages if p.service == service and p.outgoing and p.incoming == p.outgoing]
        if found:
            yield Problem(
                code="replies-bypass",
                severity=Severity.WARNING,
                service=service,
                message="clients on the endpoints' own link get replies past this host, from an address that "
                "they never asked, and drop them",
                evidence=f"source-nat is never; clients and endpoints are on {found[0].outgoing}",
                fix='source-nat = "hairpin"',
            )


def forwarding(host: Host, intent: Intent, passages: Sequence[Passage]) -> Iterator[Problem]:
    """Settings of the kernel that keep connections from reaching an endpoint by its address."""
    for family, (name, path) in _FORWARDING.items():
        services = list(dict.fromkeys(p.service for p in passages if p.outgoing and p.family is family))
        value = _number(host, path)
        if services and value == 0:
            yield Problem(
                code="forwarding-off",
                severity=Severity.ERROR,
                service=sole(services),
                message=f"this host does not forward {family}: connections from outside do not reach the "
                f"endpoints of {_names(services)} on other hosts",
                evidence=f"{name}={value}",
                fix=_set(name, 1),
            )
    for service, endpoint in _taking(intent):
        address = endpoint.address
        if address is not None and address.is_loopback and _outside(service, Family.of(address)):
            yield from _loopback(host, service, endpoint, address)


def _loopback(host: Host, service: Service, endpoint: Endpoint, address: Address) -> Iterator[Problem]:
    """Yield an endpoint on a loopback address: what comes from outside may not be sent there."""
    evidence = "the kernel has no such setting for IPv6"
    if address.version == 4:
        value = _number(host, f"{_NET}/ipv4/conf/all/route_localnet")
        if value == 1:
            return
        evidence = f"net.ipv4.conf.all.route_localnet={value}"
    yield Problem(
        code="route-localnet",
        severity=Severity.ERROR,
        service=service.name,
        message=f"endpoint {endpoint.to} is a loopback address: the kernel drops connections from outside "
        "that are sent there",
        evidence=evidence,
        fix=f'endpoints = ["{endpoint.port}"], a process that listens on all addresses, a firewall that '
        "closes its port; route_localnet=1 would open every loopback service to the network (CVE-2020-8558)",
    )


def connection_table(host: Host, intent: Intent | None) -> Iterator[Seen]:
    """Yield the table that remembers which endpoint a connection has: there, large enough, not full."""
    count, most = _number(host, f"{_TRACKED}count"), _number(host, f"{_TRACKED}max")
    if count is None or most is None:
        if kernel_module(host, "nf_conntrack") is ModuleState.MISSING:
            yield Problem(
                code="conntrack-absent",
                severity=Severity.ERROR,
                message="this kernel cannot track connections, without which no address is translated",
                evidence="no module nf_conntrack for this kernel",
                fix="install the kernel's modules, or boot a kernel with CONFIG_NF_CONNTRACK",
            )
        elif kernel_module(host, "nf_conntrack") is not ModuleState.LOADABLE:
            yield NotExamined(what="the connection table", reason=f"{_TRACKED}max cannot be read")
        return
    evidence = f"nf_conntrack_count={count}, nf_conntrack_max={most}"
    # 0 is no limit.
    if most and count >= most * _FULL:
        yield Problem(
            code="conntrack-full",
            severity=Severity.ERROR,
            message=f"the connection table is {count * 100 // most} % full: what is beyond is dropped",
            evidence=evidence,
            fix=_raise(max(2 * most, ENOUGH_CONNECTIONS)),
        )
    elif 0 < most < ENOUGH_CONNECTIONS:
        wait = _number(host, f"{_TRACKED}tcp_timeout_time_wait") or 120
        yield Problem(
            code="conntrack-small",
            severity=Severity.WARNING,
            message=f"the connection table has room for {most:,}: {most // wait} short connections a second "
            f"fill it, since each is remembered for {wait} s after its end",
            evidence=evidence,
            fix=_raise(ENOUGH_CONNECTIONS),
        )
    datagrams = [
        s.name
        for s in (intent.services if intent else ())
        if any(x.protocol is Protocol.UDP for x in s.listeners)
    ]
    if datagrams and host.which("conntrack") is None:
        yield Problem(
            code="conntrack-tool",
            severity=Severity.WARNING,
            service=sole(datagrams),
            message=f"UDP flows of {_names(datagrams)} stay with an endpoint that goes, while they send",
            evidence="no command conntrack in PATH",
            fix="install conntrack (Debian: apt install conntrack): lbctl then forgets those flows",
        )


def _raise(most: int) -> str:
    return _set("net.netfilter.nf_conntrack_max", most)


def _set(name: str, value: int) -> str:
    return f"sysctl -w {name}={value}, and {name} = {value} in a file of /etc/sysctl.d"


def _names(services: Sequence[str]) -> str:
    shown = ", ".join(services[:_SHOWN])
    return shown if len(services) <= _SHOWN else f"{shown} and {len(services) - _SHOWN} more"


def _number(host: Host, path: str) -> int | None:
    text = (host.read(path) or "").strip()
    return int(text) if text.isdecimal() else None
