"""What `status` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from lbctl.documents.backends import StoreDocument, stores
from lbctl.documents.history import InterruptedDocument, UnsettledDocument, interrupted, unsettled
from lbctl.documents.override import OverrideDocument, override, overrides
from lbctl.documents.shares import DriftServiceDocument, drifted_service, share
from lbctl.model import Health, time_of, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.engine import (
        Drift,
        EndpointStatus,
        FamilyStatus,
        HistoryEntry,
        ServiceStatus,
        Status,
        Unsettled,
    )
    from lbctl.model import Checked

#: Of several families, the worst is shown.
_WORST = (Health.DOWN, Health.UNKNOWN, Health.UP)


class CountedDocument(TypedDict):
    """Shares and counters.

    Shares are null if families disagree, `actual` of a family also before its first connection; `established`
    is null if connections cannot be counted.
    """

    wanted: str | None
    by_weight: str | None
    actual: str | None
    connections: int
    established: int | None
    packets: int
    bytes: int


class HealthDocument(TypedDict):
    """What checks found: `state` is `up`, `down` or `unknown`, `result` the last result, `since` in UTC.

    If families disagree, the worse one. `old` is true if no agent runs any more.
    """

    state: str
    result: str
    since: str
    old: bool


class StatusEndpointDocument(CountedDocument):
    """An endpoint, its shares and counters, and those of each family.

    `state` and `weight` are those in effect. `admin` is the state that the intent file gives it, `operator`
    what an operator decided by command, `source` the state that discovery gives it, and `health` what checks
    found; null for nothing. `reason` is one sentence for why the endpoint gets what it gets. `mark` says in a
    few words why its connections fail (`nothing listens`); null for no such problem.
    """

    name: str
    to: str
    state: str
    weight: int
    admin: str
    operator: OverrideDocument | None
    source: str | None
    health: HealthDocument | None
    reason: str
    mark: str | None
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
    """How the kernel differs from the intent; `elsewhere` are other stores with rules of the owner.

    `gone` is one sentence if all rules that were applied are gone, or those of one family; else null.
    """

    gone: str | None
    services: list[DriftServiceDocument]
    rules: list[DriftRuleDocument]
    elsewhere: list[str]


class OverlapDocument(TypedDict):
    """A listener of the intent that rules of another owner balance too: only one of the two acts."""

    owner: str
    listener: str
    service: str


class SourceDocument(TypedDict):
    """Where endpoints of a service come from, and how many there are by its last good answer.

    `age` is that of this answer in seconds, null for none so far. `error` is what has been wrong since, null
    for nothing: the last good answer is kept.
    """

    service: str
    kind: str
    name: str
    endpoints: int
    age: float | None
    error: str | None


class AgentSummaryDocument(TypedDict):
    """The agent at one moment; times are ISO 8601 in UTC.

    `ready` is true if the rules are in place and followed; `problems` lists what is wrong, also outside of
    the rules, e.g. in the intent file. `notice` is information: that the intent file differs from the intent
    that is followed. `failing` of `checked` endpoints, counted for each service and address family, fail
    their checks.
    """

    version: str
    owner: str
    host: str
    started: str
    now: str
    intent: str
    ready: bool
    problems: list[str]
    notice: str | None
    paused_until: str | None
    applies: int
    repairs: int
    failures: int
    apply_seconds: float | None
    checked: int
    failing: int
    sources: list[SourceDocument]


class RulesDocument(UnsettledDocument):
    """The rules of an intent, and how the kernel carries them out.

    `stores`, `services`, `waiting`, `overlaps` and `overrides` are missing with `--brief`. `waiting` are the
    services that are not in the rules, since their source of endpoints has not answered yet.

    `applied` is the number of the state in the history whose intent this is; null for that of an intent file.
    `rolled_back` is the last change if it is a rollback and the intent file differs. `left_out` has the
    endpoints that an agent that has ended found down, and that are not in rotation for that: then `in_sync`
    is about the others.
    """

    backend: str
    driver: str
    in_sync: bool
    applied: int | None
    rolled_back: InterruptedDocument | None
    drift: DriftDocument
    left_out: list[str]
    overlaps: NotRequired[list[OverlapDocument]]
    overrides: NotRequired[list[OverrideDocument]]
    stores: NotRequired[list[StoreDocument]]
    services: NotRequired[list[StatusServiceDocument]]
    waiting: NotRequired[list[str]]


class StatusDocument(RulesDocument):
    """What `status` prints. `agent` is what a running agent reports about itself; null if none answers."""

    agent: AgentSummaryDocument | None


def status(
    drift: Drift,
    counted: Status | None,
    left: Unsettled,
    applied: HistoryEntry | None = None,
    rolled_back: HistoryEntry | None = None,
) -> RulesDocument:
    """Return the document of a status without the agent; `counted` is None if nothing was counted.

    `applied` is the state whose intent it is about, None for an intent file's, and `rolled_back` the one that
    such a file contradicts.
    """
    pending = unsettled(left)
    document = RulesDocument(
        backend=drift.backend,
        driver=drift.driver,
        in_sync=drift.in_sync,
        applied=None if applied is None else applied.number,
        rolled_back=None if rolled_back is None else interrupted(rolled_back),
        drift=_drift(drift),
        left_out=list(drift.left_out or ()),
        interrupted=pending["interrupted"],
        trial=pending["trial"],
    )
    if counted is not None:
        document["overlaps"] = [
            OverlapDocument(owner=each.owner, listener=str(listener), service=service)
            for each in counted.overlaps
            for listener, service in each.listeners
        ]
        document["overrides"] = overrides(counted.effective)
        document["stores"] = stores(counted.stores)
        document["services"] = [_service(service) for service in counted.services]
        document["waiting"] = [service.name for service in counted.effective.waiting]
    return document


def _drift(drift: Drift) -> DriftDocument:
    return DriftDocument(
        gone=drift.gone,
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
                admin=str(each.reason.state),
                operator=None if each.reason.operator is None else override(each.reason.operator),
                source=None if each.reason.source is None else str(each.reason.source),
                health=_health(each.reason.checked),
                reason=str(each.reason),
                mark=each.mark or None,
                families={str(family): _counted(own) for family, own in each.families.items()},
                **_counted(each),
            )
            for each in service.endpoints
        ],
    )


def _health(checked: Sequence[Checked]) -> HealthDocument | None:
    if not checked:
        return None
    worst = min(checked, key=lambda each: _WORST.index(each.verdict.health))
    verdict = worst.verdict
    return HealthDocument(
        state=verdict.health, result=verdict.result, since=time_of(verdict.since), old=worst.old
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
