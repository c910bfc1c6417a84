"""What every backend has to refuse: an intent that it cannot express, a plan that is out of date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import IntentError, Overtaken, Unsupported
from lbctl.model import Family, diff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lbctl.model import Hop, Intent, Plan, Program, Service
    from lbctl.spi.backend import Capabilities


def require(intent: Intent, capabilities: Capabilities, *, backend: str) -> None:
    """Raise `Unsupported` for the first feature of `intent` that `capabilities` lack."""
    require_offload(intent, capabilities, backend=backend)
    for service in intent.services:
        require_service(service, capabilities, backend=backend)


def require_offload(intent: Intent, capabilities: Capabilities, *, backend: str) -> None:
    """As `require`, for what an intent has offloaded."""
    if intent.services and intent.offload and not capabilities.offload:
        raise Unsupported(
            backend=backend,
            service=None,
            feature="offload",
            needs=capabilities.offload_refusal or "remove offload, or choose another backend",
        )


def require_service(service: Service, capabilities: Capabilities, *, backend: str) -> None:
    """As `require`, for one service."""
    for feature, needs in (*_lacking_kinds(service, capabilities), *_lacking_keys(service, capabilities)):
        raise Unsupported(backend=backend, service=service.name, feature=feature, needs=needs)


def _lacking_kinds(service: Service, capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield the values of keys that a backend cannot do, each with what it needs."""
    if service.scheduler not in capabilities.schedulers:
        yield (
            f"scheduler {service.scheduler}",
            f"schedulers of this backend: {_listed(capabilities.schedulers)}",
        )
    for listener in service.listeners:
        if listener.address and (family := Family.of(listener.address)) not in capabilities.families:
            yield f"{family} (listener {listener})", f"this host has no {family}, or no tool for it"
    for listener in service.listeners:
        if listener.protocol not in capabilities.protocols:
            yield f"protocol {listener.protocol}", f"protocols: {_listed(capabilities.protocols)}"
    for endpoint in service.endpoints:
        if endpoint.state not in capabilities.states:
            yield f"state {endpoint.state} (endpoint {endpoint.name})", "remove the endpoint, or its state"
    if service.forward not in capabilities.forwards:
        yield f"forward {service.forward}", f"this backend forwards by: {_listed(capabilities.forwards)}"
    if service.affinity is not None and not capabilities.affinity:
        yield "affinity", "remove affinity from the service, or choose another backend"
    # Connections to this host's own ports never need it, whatever the file says.
    if service.remote and service.source_nat not in capabilities.source_nat:
        known = _listed(capabilities.source_nat)
        yield f"source-nat {service.source_nat}", f"source-nat of this backend: {known}"


def _lacking_keys(service: Service, capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield the keys that a backend does not have, each with what it needs."""
    for key, used, known in (
        ("allow", service.allow, capabilities.allow),
        ("deny", service.deny, capabilities.deny),
        ("interfaces", service.interfaces, capabilities.interfaces),
        ("exclude", service.exclude, capabilities.exclude),
        ("takeover", service.takeover, capabilities.takeover),
    ):
        if used and not known:
            yield key, f"remove {key} from the service, or choose another backend"
    if not capabilities.port_ranges:
        for listener in service.listeners:
            if listener.is_range:
                yield f"a range of ports (listener {listener})", "name each port, or choose another backend"
    if not capabilities.kept_ports:
        for endpoint in service.endpoints:
            if endpoint.port is None:
                yield f"endpoints without a port (endpoint {endpoint.name})", "name the port of each endpoint"


def _listed(known: Iterable[str]) -> str:
    return ", ".join(sorted(known))


def next_hops(service: Service, family: Family) -> Mapping[str, Hop]:
    """Return `Endpoint.to` → the next hop, of all endpoints that have slots.

    Raises `IntentError` for an endpoint of which none is known.
    """
    known = {hop.address: hop for hop in service.hops}
    found: dict[str, Hop] = {}
    for endpoint in dict.fromkeys(service.slots(family)):
        hop = known.get(endpoint.address) if endpoint.address is not None else None
        if hop is None:
            raise IntentError(
                f'service "{service.name}": the MAC address of endpoint {endpoint.to} is unknown',
                hint="direct server return needs the host that forwards, with the endpoint on one of its "
                "links; `mac` fixes the address of an endpoint that does not answer",
            )
        found[endpoint.to] = hop
    return found


def ensure_fresh(plan: Plan, generation: str | None, observe: Callable[[], Program]) -> None:
    """Raise `Overtaken` where the kernel holds something else than what `plan` starts from.

    Reads the kernel with `observe` only where `generation`, the kernel's mark of now, is not the plan's.
    """
    if generation is not None and generation == plan.before.generation:
        return
    moved = diff(plan.before, observe())
    if moved:
        raise Overtaken(
            f"the rules in the kernel changed since the plan was made: {' '.join(moved[0].key)}",
            hint="run lbctl plan again",
        )
