"""What `status` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from lbctl.documents.backends import StoreDocument, stores
from lbctl.documents.history import UnsettledDocument, unsettled
from lbctl.documents.shares import DriftServiceDocument, drifted_service, share
from lbctl.model import written

if TYPE_CHECKING:
    from lbctl.engine import Drift, EndpointStatus, FamilyStatus, ServiceStatus, Status, Unsettled


class CountedDocument(TypedDict):
    """Shares and counters.

    Shares are null if families disagree, `actual` of a family also before its first connection; `established`
    is null if the host has no `conntrack` command.
    """

    wanted: str | None
    by_weight: str | None
    actual: str | None
    connections: int
    established: int | None
    packets: int
    bytes: int


class StatusEndpointDocument(CountedDocument):
    """An endpoint, its shares and counters, and those of each family."""

    name: str
    to: str
    state: str
    weight: int
    families: dict[str, CountedDocument]


class StatusServiceDocument(TypedDict):
    """A service; `deviation` is the largest distance of a share from its weight (maglev).

    `since` is when the service last changed, from when on `actual` counts; null if its endpoints count since
    their rules were loaded.
    """

    name: str
    listen: list[str]
    scheduler: str
    deviation: str
    since: str | None
    connections: int
    endpoints: list[StatusEndpointDocument]


class DriftRuleDocument(TypedDict):
    """A rule that differs; `service` is null if it belongs to none."""

    service: str | None
    rule: str


class DriftDocument(TypedDict):
    """How the kernel differs from the intent; `elsewhere` are other stores with rules of the owner."""

    services: list[DriftServiceDocument]
    rules: list[DriftRuleDocument]
    elsewhere: list[str]


class StatusDocument(UnsettledDocument):
    """What `status` prints; `stores` and `services` are missing with `--brief`."""

    backend: str
    driver: str
    in_sync: bool
    drift: DriftDocument
    stores: NotRequired[list[StoreDocument]]
    services: NotRequired[list[StatusServiceDocument]]


def status(drift: Drift, counted: Status | None, left: Unsettled) -> StatusDocument:
    """Return the document of a status; `counted` is None if nothing was counted."""
    pending = unsettled(left)
    document = StatusDocument(
        backend=drift.backend,
        driver=drift.driver,
        in_sync=drift.in_sync,
        drift=_drift(drift),
        interrupted=pending["interrupted"],
        trial=pending["trial"],
    )
    if counted is not None:
        document["stores"] = stores(counted.stores)
        document["services"] = [_service(service) for service in counted.services]
    return document


def _drift(drift: Drift) -> DriftDocument:
    return DriftDocument(
        services=[drifted_service(service) for service in drift.services],
        rules=[
            DriftRuleDocument(service=name, rule=rule)
            for name, rules in drift.rules.items()
            for rule in rules
        ],
        elsewhere=list(drift.elsewhere),
    )


def _service(service: ServiceStatus) -> StatusServiceDocument:
    return StatusServiceDocument(
        name=service.name,
        listen=list(service.listen),
        scheduler=service.scheduler,
        deviation=written(service.deviation),
        since=service.since,
        connections=service.connections,
        endpoints=[
            StatusEndpointDocument(
                name=each.name,
                to=each.to,
                state=str(each.state),
                weight=each.weight,
                families={str(family): _counted(own) for family, own in each.families.items()},
                **_counted(each),
            )
            for each in service.endpoints
        ],
    )


def _counted(of: EndpointStatus | FamilyStatus) -> CountedDocument:
    return CountedDocument(
        wanted=share(of.wanted),
        by_weight=share(of.by_weight),
        actual=share(of.actual),
        connections=of.connections,
        established=of.established,
        packets=of.packets,
        bytes=of.bytes,
    )
