"""What is wrong with a service by itself, where that takes more than one value."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from lbctl.model import (
    MAX_SLOTS,
    DnsProbe,
    DsrObstacle,
    Endpoint,
    ExecProbe,
    Family,
    Forward,
    Obstacle,
    State,
    dsr_obstacles,
    slot_count,
    takeover_obstacles,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl.config.drafts import EndpointEntry, ProblemReport, ServiceDraft
    from lbctl.config.values import Place

_FAMILY = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
#: What makes `takeover` impossible → the key behind it, why, and what to write.
_OBSTACLES: Mapping[Obstacle, tuple[str, str, str]] = {
    Obstacle.SCHEDULER: (
        "scheduler",
        "only a hash of the client leads to the same endpoint on two hosts",
        'write `scheduler = "source-hash"` or "maglev", or leave `takeover` out',
    ),
    Obstacle.SOURCE_NAT: (
        "source-nat",
        'with `source-nat = "always"` endpoints reply to the host that a connection was opened through',
        'write `source-nat = "hairpin"` or "never", with replies routed through the active host',
    ),
    Obstacle.LOCAL_ENDPOINTS: (
        "endpoints",
        "processes of this host end with it",
        'give endpoints on other hosts, e.g. "10.0.0.11:8080", or leave `takeover` out',
    ),
    Obstacle.SCTP: (
        "listen",
        "the kernel tracks an SCTP association only from its handshake on",
        "listen for SCTP in a service of its own, without `takeover`",
    ),
}
#: What makes direct server return impossible, in the same way.
_DSR_OBSTACLES: Mapping[DsrObstacle, tuple[str, str, str]] = {
    DsrObstacle.ANY_ADDRESS: (
        "listen",
        "with direct server return endpoints have the listener's address, so that each listener needs one",
        'write the address, e.g. "192.0.2.21:80/tcp"',
    ),
    DsrObstacle.PROTOCOL: (
        "listen",
        "direct server return is for TCP and UDP",
        "listen for SCTP in a service of its own",
    ),
    DsrObstacle.LOCAL_ENDPOINTS: (
        "endpoints",
        "with direct server return endpoints are other hosts",
        'give their addresses, e.g. "10.0.0.31"',
    ),
    DsrObstacle.PORT: (
        "endpoints",
        "with direct server return packets keep their destination port",
        'leave the port of the endpoints out, e.g. "10.0.0.31"',
    ),
    DsrObstacle.LOCAL_CLIENTS: (
        "local-clients",
        "direct server return balances packets that arrive on an interface, and no local connections",
        "leave `local-clients` out",
    ),
    DsrObstacle.SOURCE_NAT: (
        "source-nat",
        "with direct server return the client's address stays",
        "leave `source-nat` out",
    ),
    DsrObstacle.AFFINITY: (
        "affinity",
        "direct server return has no affinity",
        'leave it out; `scheduler = "source-hash"` leads a client to one endpoint',
    ),
    DsrObstacle.SCHEDULER: (
        "scheduler",
        "with direct server return this host tracks no connections, and cannot count them",
        'write "round-robin", "random", "source-hash" or "maglev"',
    ),
    DsrObstacle.INTERFACE_PATTERN: (
        "interfaces",
        "direct server return is set up for each interface by itself",
        "write the whole name of each interface",
    ),
}


def check_service(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note what is wrong with a service by itself."""
    _check_exclude(draft, report)
    _check_interfaces(draft, report)
    _check_takeover(draft, report)
    _check_forward(draft, report)
    _read_health(draft, report)
    _read_discover(draft, report)
    made = draft.endpoints
    whole = not draft.damaged & {"endpoints", "endpoint"}
    discovers = draft.table.discover is not None
    if not made:
        if whole and not discovers:
            place = draft.at("endpoints") if "endpoints" in draft.table.model_fields_set else draft.at()
            report.about(
                draft,
                place,
                "there are no endpoints",
                'write `endpoints = ["8001", "8002"]`, or [[service.endpoint]] tables',
            )
        return
    tables = draft.tables()
    _check_named_ranges(draft, tables, report)
    # all others are named after where they lead
    if len({e.to for e in made}) < len(made) or (tables and len({e.name for e in made}) < len(made)):
        _report_repeated(draft, report)
    if len({(e.address is None, e.port is None) for e in made}) > 1:
        _report_mixed(draft, report)
        return
    if made[0].port is not None:
        _check_ranges(draft, report)
    if not whole:
        return
    if made[0].address is not None and "listen" not in draft.damaged and not discovers:
        _check_families(draft, report)
    if tables or len(made) > MAX_SLOTS:
        _check_slots(draft, tables, report)


def _check_exclude(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note addresses of `exclude` that contradict a listener, or that no listener would match."""
    networks = draft.table.exclude or ()
    if not networks:
        return
    if all(listener.address is not None for listener in draft.listeners) and "listen" not in draft.damaged:
        report.about(
            draft,
            draft.at("exclude"),
            "`exclude` has no effect: each listener has an address",
            "leave it out: a listener with an address matches no other one",
        )
        return
    for count, listener in enumerate(draft.listeners):
        if listener.address is not None and any(listener.address in network for network in networks):
            report.about(
                draft,
                draft.listener_place(count),
                f"listener {listener} is at an address that `exclude` leaves alone",
                "give this listener a service of its own, or take the address out of `exclude`",
            )


def _check_takeover(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note what keeps another host from taking over the connections of a service that asks for it."""
    table = draft.table
    if not table.takeover:
        return
    found = takeover_obstacles(table.scheduler, table.source_nat, draft.listeners, draft.endpoints)
    _report_obstacles(draft, "takeover", [_OBSTACLES[obstacle] for obstacle in dict.fromkeys(found)], report)


def _check_forward(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note what keeps a service from direct server return that asks for it, and keys that only it has."""
    table = draft.table
    match table.forward:
        case Forward.NAT:
            place = next((place for place, entry in draft.tables() if entry.mac), None)
            if place is not None:
                message = "`mac` has no effect: packets are routed to the endpoint"
                report.about(draft, (*place, "mac"), message, 'leave it out, or write `forward = "dsr"`')
            return
        case Forward.DSR:
            pass
        case _:
            assert_never(table.forward)
    found = dsr_obstacles(
        draft.listeners,
        draft.endpoints,
        local_clients=draft.local_clients,
        translates_source="source_nat" in table.model_fields_set,
        affinity=table.affinity is not None,
        scheduler=table.scheduler,
        interfaces=table.interfaces or (),
    )
    _report_obstacles(draft, "forward", [_DSR_OBSTACLES[obstacle] for obstacle in found], report)


def _report_obstacles(
    draft: ServiceDraft, wanted: str, obstacles: Iterable[tuple[str, str, str]], report: ProblemReport
) -> None:
    """Note what makes a key that is set impossible, each at the key that is in its way."""
    for key, reason, hint in obstacles:
        if key not in draft.damaged:
            set_here = key.replace("-", "_") in draft.table.model_fields_set
            report.about(draft, draft.at(key if set_here else wanted), f"`{wanted}`: {reason}", hint)


def _check_interfaces(draft: ServiceDraft, report: ProblemReport) -> None:
    seen: set[str] = set()
    for count, name in enumerate(draft.table.interfaces or ()):
        if name in seen:
            place = draft.at("interfaces") if "interfaces" in draft.damaged else draft.at("interfaces", count)
            message = f'interface "{name}" is given twice'
            report.about(draft, place, message, "give it once")
        seen.add(name)


def _check_named_ranges(draft: ServiceDraft, tables: Iterable[EndpointEntry], report: ProblemReport) -> None:
    """Note a name that several endpoints would have."""
    for place, table in tables:
        if table.name and isinstance(table.address, range):
            report.about(
                draft,
                (*place, "name"),
                f'"{table.name}" would be the name of {len(table.address)} endpoints',
                "leave the name out, or write a table for each endpoint",
            )


def _check_ranges(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note endpoints with a port behind a listener with a range of them."""
    listener = next((listener for listener in draft.listeners if listener.is_range), None)
    if listener is None:
        return
    place, _, endpoints = next(iter(draft.entries()))
    to = endpoints[0].to
    what = "is a port of this host" if endpoints[0].address is None else "has a port"
    report.about(
        draft,
        place,
        f"endpoint {to} {what}, but listener {listener} is a range of ports",
        'give addresses without a port, like "10.0.0.11": connections keep their destination port',
    )


def _kind(endpoint: Endpoint) -> tuple[bool, bool]:
    """Return what all endpoints of a service have in common: whether they have an address, and a port."""
    return endpoint.address is not None, endpoint.port is not None


def _read_health(draft: ServiceDraft, report: ProblemReport) -> None:
    """Read how a service is checked, and what failed checks do; note the mistakes."""
    said = draft.table.model_fields_set & {"check", "health"}
    if not said:
        return
    from lbctl.config import checks  # its models cost a start of every other file

    if "check" in said:
        with report.reading(draft.origin, draft.at("check"), f"{draft.label}: "):
            table = checks.read_check(draft.table.check)
            found = list(checks.problems(table))
            for key, message, hint in found:
                report.about(draft, draft.at("check", key), message, hint)
            draft.check = None if found else checks.check_of(table)
            _check_ports(draft, report)
    else:
        report.about(
            draft,
            draft.at("health"),
            "`health` without a check",
            'write how endpoints are checked: `check = "tcp"`',
        )
    if "health" in said:
        with report.reading(draft.origin, draft.at("health"), f"{draft.label}: "):
            draft.health = checks.policy_of(checks.HealthTable.model_validate(draft.table.health))


def _read_discover(draft: ServiceDraft, report: ProblemReport) -> None:
    """Read where more endpoints come from; note the mistakes."""
    if draft.table.discover is None:
        return
    from lbctl.config.discover import discovery_of  # as those of checks

    with report.reading(draft.origin, draft.at("discover"), f"{draft.label}: "):
        draft.discover = discovery_of(draft.table.discover)


def _check_ports(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note a check that does not say at which port."""
    check = draft.check
    if check is None or check.port is not None or isinstance(check.probe, (DnsProbe, ExecProbe)):
        return
    odd = next((e for e in draft.endpoints if e.port is None), None)
    if odd is not None:
        report.about(
            draft,
            draft.at("check"),
            f"the check has no port, and endpoint {odd.to} has none either",
            f'write which port is checked: `check = {{ kind = "{check.kind}", port = 8080 }}`',
        )


def _report_repeated(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note the endpoints that are given twice, and the names that two of them have."""
    seen: dict[str, Place] = {}
    names: dict[str, Place] = {}
    for place, name, endpoints in draft.entries():
        twice = next((e.to for e in endpoints if e.to in seen), None)
        if twice is not None:
            line = draft.origin.line(seen[twice])
            report.about(
                draft,
                place,
                f"endpoint {twice} is given twice, first on line {line}",
                "give it once, with a `weight` in its [[service.endpoint]] table",
            )
        made = [name or e.to for e in endpoints]
        same = next((x for x in made if x in names), None)
        if same is not None and (twice is None or name):
            line = draft.origin.line(names[same])
            report.about(
                draft,
                (*place, "name") if name else place,
                f'two endpoints are named "{same}", the first on line {line}',
                "give each endpoint of a service a name of its own",
            )
        for e in endpoints:
            seen.setdefault(e.to, place)
        for x in made:
            names.setdefault(x, place)


def _report_mixed(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note that a service has ports of this host and addresses: at the first of the second kind."""
    # the endpoints of one entry are of one kind
    entries = [(place, endpoints[0]) for place, _, endpoints in draft.entries()]
    first = entries[0][1]
    local = first.address is None
    place, odd = next((place, e) for place, e in entries if _kind(e) != _kind(first))
    if (odd.address is None) is local:
        bare, full = (odd, first) if odd.port is None else (first, odd)
        report.about(
            draft,
            place,
            f"endpoints of two kinds: {bare.to} has no port, but {full.to} has one",
            "give a port to all or to none: without one, connections keep their destination port",
        )
        return
    what = (
        f"an address, but {first.to} is a port"
        if local
        else f"a port of this host, but {first.to} is an address"
    )
    report.about(
        draft,
        place,
        f"endpoints of two kinds: {odd.to} is {what}{' of this host' if local else ''}",
        "give only ports or only addresses; a process on this host can be given by one of its addresses",
    )


def _check_families(draft: ServiceDraft, report: ProblemReport) -> None:
    """Note the listeners whose family no endpoint has. A listener on any address takes what there is."""
    have = {type(e.address) for e in draft.endpoints}
    for count, listener in enumerate(draft.listeners):
        if listener.address is None or type(listener.address) in have:
            continue
        family = _FAMILY[Family.of(listener.address)]
        report.about(
            draft,
            draft.listener_place(count),
            f"listener {listener} has no endpoint: none has an {family} address",
            f"add an endpoint with an {family} address, or take the listener out",
        )


def _check_slots(draft: ServiceDraft, tables: Sequence[EndpointEntry], report: ProblemReport) -> None:
    """Note a service whose weights need too many slots for exact shares."""
    for family in Family:
        able = [e for e in draft.endpoints if e.serves(family)]
        ready = [e.weight for e in able if e.state is State.ACTIVE]
        ready = ready or [e.weight for e in able if e.state is State.BACKUP]
        slots = slot_count(ready)
        if slots > MAX_SLOTS:
            heaviest = max(tables, key=lambda entry: entry[1].weight, default=None)
            place = (*heaviest[0], "weight") if heaviest else draft.at("endpoints")
            report.about(
                draft,
                place,
                f"exact shares of these weights need {slots} slots, more than {MAX_SLOTS}",
                "use smaller weights, or ones with a common divisor: 1000 and 2000 need just 3",
            )
            return
