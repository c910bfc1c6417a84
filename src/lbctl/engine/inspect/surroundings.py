"""What no backend owns and every connection needs: routes and the connection table. `checks` has the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.inspect.checks import NotExamined, names, number_in, outside, setting, taking
from lbctl.host import ModuleState, has_routes, kernel_module, links_back, links_in, routes_to
from lbctl.model import Family, Protocol, Severity, SourceNat
from lbctl.spi import Passage, Problem, sole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.engine.inspect.checks import Seen
    from lbctl.host import Host, Route
    from lbctl.model import Address, Endpoint, Intent, Service

#: Addresses of endpoints whose routes are asked for; each takes a program or two.
_MOST_ADDRESSES = 1000
#: Connections that a host should be able to remember: what kernels choose by themselves from 1 GiB of memory.
ENOUGH_CONNECTIONS = 65_536
#: The part of the connection table from which it is near its end.
_FULL = 0.9
_TRACKED = "/proc/sys/net/netfilter/nf_conntrack_"
_NET = "/proc/sys/net"


def ways(host: Host, intent: Intent) -> tuple[tuple[Passage, ...], tuple[Seen, ...]]:
    """Return the ways of connections to all endpoints; those that lead nowhere, or back by another link."""
    endpoints = list(taking(intent))
    addresses = list(dict.fromkeys(e.address for _, e in endpoints if e.address is not None))
    if not has_routes(host):
        return (), (NotExamined(what="links and routes", reason="there is no ip command in PATH"),)
    seen: list[Seen] = []
    if len(addresses) > _MOST_ADDRESSES:
        reason = f"only the first {_MOST_ADDRESSES} of {len(addresses)} addresses were looked up"
        seen.append(NotExamined(what="routes to endpoints", reason=reason))
    routes = routes_to(host, addresses[:_MOST_ADDRESSES])
    for address, route in routes.items():
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
        message=f"this host has no route to {endpoint.to}: connections to it fail",
        evidence=f"ip route get {endpoint.address}: {route.text}",
        fix="add a route to that network, or correct the endpoint's address",
        about=endpoint.to,
        endpoints=((service.name, endpoint.to),),
        mark="no route",
    )


def _passages(
    service: Service,
    endpoint: Endpoint,
    outgoing: str | None,
    links: Mapping[Family, Mapping[Address | None, str]],
) -> Iterator[Passage]:
    for family in filter(endpoint.serves, service.families):
        # Of a range one port stands for all.
        passing = [
            (x.protocol, endpoint.port or x.port, links[family].get(x.address))
            for x in outside(service, family)
        ]
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
            message=f"replies of endpoint {address} that arrive by {strict[0][0]} are dropped: this host "
            f"sends to it by {links[0]}, and reverse path filtering is strict",
            evidence=f"routes to {address} by {', '.join(links)}; {strict[0][1]}",
            fix=f"sysctl net.ipv4.conf.{strict[0][0]}.rp_filter=2 (loose), or one route only",
        )


def _strict(host: Host, link: str) -> str | None:
    """The setting by which a link drops what its sender would not be reached by; the larger of two counts."""
    values = {name: number_in(host, f"{_NET}/ipv4/conf/{name}/rp_filter") or 0 for name in ("all", link)}
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
                message="clients on the endpoints' own link get replies that bypass this host, from an "
                "address that they did not connect to, and drop them",
                evidence=f"source-nat is never; clients and endpoints are on {found[0].outgoing}",
                fix='source-nat = "hairpin"',
            )


def takeover_settings(host: Host, intent: Intent) -> Iterator[Problem]:
    """Yield settings of the kernel by which this host cannot go on with connections of another one."""
    services = [
        service.name
        for service in intent.services
        if service.takeover and any(listener.protocol is Protocol.TCP for listener in service.listeners)
    ]
    if not services:
        return
    if number_in(host, f"{_TRACKED}tcp_loose") == 0:
        yield Problem(
            code="takeover-loose",
            severity=Severity.ERROR,
            service=sole(services),
            message=f"connections of {names(services)} end when they move to this host: the kernel tracks "
            "only those whose beginning it sees",
            evidence="net.netfilter.nf_conntrack_tcp_loose=0",
            fix=setting("net.netfilter.nf_conntrack_tcp_loose", 1),
        )
    if number_in(host, f"{_TRACKED}tcp_be_liberal") == 0:
        yield Problem(
            code="takeover-liberal",
            severity=Severity.WARNING,
            service=sole(services),
            message=f"connections of {names(services)} end when they return to this host: packets that do "
            "not follow those that the kernel has seen count as invalid",
            evidence="net.netfilter.nf_conntrack_tcp_be_liberal=0",
            fix=setting("net.netfilter.nf_conntrack_tcp_be_liberal", 1),
        )


def connection_table(host: Host, intent: Intent | None) -> Iterator[Seen]:
    """Yield the table that remembers which endpoint a connection has: there, large enough, not full."""
    count, most = number_in(host, f"{_TRACKED}count"), number_in(host, f"{_TRACKED}max")
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
            message=f"the connection table is {count * 100 // most} % full: further connections are dropped",
            evidence=evidence,
            fix=_raise(max(2 * most, ENOUGH_CONNECTIONS)),
        )
    elif 0 < most < ENOUGH_CONNECTIONS:
        wait = number_in(host, f"{_TRACKED}tcp_timeout_time_wait") or 120
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
            message=f"UDP flows of {names(datagrams)} stay with a removed endpoint as long as they send",
            evidence="no command conntrack in PATH",
            fix="install conntrack (Debian: apt install conntrack): lbctl then deletes those flows",
        )


def _raise(most: int) -> str:
    return setting("net.netfilter.nf_conntrack_max", most)
