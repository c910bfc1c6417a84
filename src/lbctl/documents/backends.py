"""What `backends` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.spi import Candidate, RuleCounts, Selection


class StoreDocument(TypedDict):
    """How many rules a store holds: those managed by lbctl for any owner, and others; null if unknown."""

    store: str
    ours: int | None
    others: int | None


class DriverDocument(TypedDict):
    """A driver, and whether this host offers it."""

    name: str
    usable: bool
    reason: str
    version: str | None
    store: str


class CapabilitiesDocument(TypedDict):
    """What a backend can express here."""

    schedulers: list[str]
    protocols: list[str]
    states: list[str]
    source_nat: list[str]
    forwards: list[str]
    affinity: bool
    allow: bool
    deny: bool
    interfaces: bool
    exclude: bool
    port_ranges: bool
    kept_ports: bool
    takeover: bool
    offload: bool


class BackendDocument(TypedDict):
    """A backend, and what it found."""

    name: str
    usable: bool
    reason: str
    remedy: str | None
    drivers: list[DriverDocument]
    stores: list[StoreDocument]
    facts: dict[str, str]
    capabilities: CapabilitiesDocument


class BackendsDocument(TypedDict):
    """All backends, and which one is chosen."""

    chosen: str | None
    driver: str | None
    reason: str
    backends: list[BackendDocument]


def stores(counts: Iterable[RuleCounts]) -> list[StoreDocument]:
    """Return the counts of stores."""
    return [StoreDocument(store=each.store, ours=each.managed, others=each.foreign) for each in counts]


def backends(
    candidates: Iterable[Candidate], counts: Sequence[RuleCounts], choice: Selection | None, failure: str
) -> BackendsDocument:
    """Return the document of what was found; `failure` says why no backend was chosen."""
    return BackendsDocument(
        chosen=choice.backend.name if choice else None,
        driver=choice.driver.name if choice else None,
        reason=choice.reason if choice else failure,
        backends=[_backend(candidate, counts) for candidate in candidates],
    )


def _backend(candidate: Candidate, counts: Sequence[RuleCounts]) -> BackendDocument:
    probe = candidate.probe
    can = probe.capabilities
    return BackendDocument(
        name=candidate.backend.name,
        usable=bool(probe.usable),
        reason="usable" if probe.usable else "; ".join(f"{d.name}: {d.reason}" for d in probe.drivers),
        remedy=None if probe.usable else probe.fix,
        drivers=[
            DriverDocument(name=d.name, usable=d.usable, reason=d.reason, version=d.version, store=d.store)
            for d in probe.drivers
        ],
        stores=stores(candidate.own(counts)),
        facts=dict(probe.facts),
        capabilities=CapabilitiesDocument(
            schedulers=sorted(can.schedulers),
            protocols=sorted(can.protocols),
            states=sorted(can.states),
            source_nat=sorted(can.source_nat),
            forwards=sorted(can.forwards),
            affinity=can.affinity,
            allow=can.allow,
            deny=can.deny,
            interfaces=can.interfaces,
            exclude=can.exclude,
            port_ranges=can.port_ranges,
            kept_ports=can.kept_ports,
            takeover=can.takeover,
            offload=can.offload,
        ),
    )
