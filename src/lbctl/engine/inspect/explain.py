"""The way of a new connection through rules: which services take it, by what rules, and to whom.

Rules ask for more than the listener. What is known of the connection decides these conditions; one that
stays open is told with the way that depends on it. Of ways for which the same is changed, one for fewer
connections stands for itself, and a wider one for what it leaves: where a narrow one takes the connection in
any case, the wider ones are not its way.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from lbctl.model import Family, among, conditions, takes, within
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.model import Address, AnalysedService, Analysis, Condition, Listener, Step

#: The hook that connections of this host itself pass.
_OWN = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A new connection, as far as it is known. `own` is one that this host makes itself."""

    listener: Listener
    client: Address | None = None
    source_port: int | None = None
    interface: str | None = None
    own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A service that takes a connection, and what is known of its end.

    `source` is where its rules are; `open` are the conditions on which it depends whether the service takes
    the connection. `slot` is the client's number in a hash, `chosen` the endpoint that it gets: None where
    chance or turn decides, or where the connection leaks.
    """

    source: str
    service: AnalysedService
    path: tuple[Step, ...]
    open: tuple[tuple[str, str], ...] = ()
    slot: int | None = None
    chosen: str | None = None


def explain(connection: Connection, readings: Mapping[str, Analysis]) -> tuple[Trace, ...]:
    """Return the ways of a connection, those for fewer addresses first in each source."""
    ways: list[Trace] = []
    for source, reading in readings.items():
        sure: list[AnalysedService] = []
        for service in sorted(reading.services, key=_breadth):
            undecided = _open(service, connection)
            if undecided is None or any(stands_before(one, service) for one in sure):
                continue
            if not undecided:
                sure.append(service)
            ways.append(_way(source, service, undecided, connection))
    return tuple(ways)


def _way(
    source: str, service: AnalysedService, undecided: tuple[tuple[str, str], ...], connection: Connection
) -> Trace:
    slot, chosen = _chosen(service, connection.client)
    steps = service.path
    hooks = dict.fromkeys(step.hook for step in steps)
    wanted = next((hook for hook in hooks if (hook == _OWN) is connection.own), None)
    path = tuple(step for step in steps if wanted is None or step.hook == wanted)
    return Trace(source=source, service=service, path=path, open=undecided, slot=slot, chosen=chosen)


def _chosen(service: AnalysedService, client: Address | None) -> tuple[int | None, str | None]:
    """Return the slot and the endpoint of a client."""
    if service.affinity is not None and service.affinity.kind != "hash":
        return None, None
    if len(service.backends) == 1 and not service.leak:
        return None, service.backends[0].to
    placing, seed = service.placing, service.hash_seed
    if client is None or service.mode != "hash" or not service.slots or placing is None or seed is None:
        return None, None
    slot = placing(client, len(service.slots), seed)
    return slot, service.slots[slot]


def _open(service: AnalysedService, connection: Connection) -> tuple[tuple[str, str], ...] | None:
    """Return the conditions that are unknown; None where a connection is none of a service's."""
    if not _takes(service, connection):
        return None
    address = connection.listener.address
    undecided = [("dst", service.dst)] if service.dst == "local" and address is not None else []
    answers: dict[str, list[bool | None]] = {}
    for condition in conditions(service):
        answers.setdefault(condition.name, []).append(_holds(condition, connection))
    for name, found in answers.items():
        if False in found:
            return None
        if None in found:
            undecided.append((name, (service.when or {})[name]))
    return tuple(undecided)


def _takes(service: AnalysedService, connection: Connection) -> bool:
    """Return True if connections to a listener, of a client where one is named, may be a service's."""
    if connection.client is not None and service.family != Family.of(connection.client):
        return False
    if connection.own and _OWN not in service.hooks and service.changes != "source":
        return False
    if connection.interface is not None and service.hooks == (_OWN,):
        return False
    return takes(service, connection.listener)


def _holds(condition: Condition, connection: Connection) -> bool | None:
    """Return whether a condition holds for a connection; None where it is not known."""
    values = condition.values
    answer: bool | None = None
    match condition.name:
        case "src" if connection.client is not None:
            answer = among(",".join(values), connection.client)
        case "dst" if connection.listener.address is not None:
            answer = among(",".join(values), connection.listener.address)
        case "dport":
            answer = any(within(part, connection.listener.port) for part in values)
        case "sport" if connection.source_port is not None:
            answer = any(within(part, connection.source_port) for part in values)
        case "iif" if connection.own:
            # It does not arrive at all.
            answer = False
        case "iif" if connection.interface is not None:
            answer = any(_matches(part, connection.interface) for part in values)
        case "src-type" if connection.own and values == ("local",):
            answer = True
    return answer if answer is None or not condition.inverted else not answer


def _matches(written: str, interface: str) -> bool:
    """Return True if a name of an interface, or the beginning of one, is that of an interface."""
    written = written.strip().strip('"')
    return interface.startswith(written[:-1]) if written[-1:] in {"+", "*"} else interface == written


def stands_before(one: AnalysedService, other: AnalysedService) -> bool:
    """Return True if what a service takes is taken by another, narrower one, at all hooks of it."""
    family, proto, dst, ports, when = one.selector
    wide_family, wide_proto, wide_dst, wide_ports, wide_when = other.selector
    return (
        one.changes == other.changes
        and family == wide_family
        and set(other.hooks) <= set(one.hooks)
        and wide_proto in {proto, "any"}
        and wide_ports in {ports, "any"}
        and (wide_dst in {dst, "any"} or _in_network(dst, wide_dst))
        and set(wide_when) <= set(when)
    )


def _in_network(one: str, other: str) -> bool:
    try:
        return ip_network(one).subnet_of(ip_network(other))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _breadth(service: AnalysedService) -> tuple[int, bool, int, str]:
    """How much a service takes: one address, a network, the host's, any; then ports and conditions."""
    dst = service.selector[2]
    wide = {"any": 3, "local": 2}.get(dst, 1 if set(dst) & {"/", ",", "-"} else 0)
    return wide, service.selector[3] == "any", -len(service.when or {}), service.family
