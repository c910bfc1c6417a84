"""What `plan`, `apply`, `rollback`, `remove` and `confirm` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from lbctl.documents.history import InterruptedDocument, UnsettledDocument
from lbctl.documents.migration import MigrationDocument
from lbctl.documents.override import OverrideDocument, override, overrides
from lbctl.documents.shares import ChangedServiceDocument, changed_service

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.engine import Operated
    from lbctl.model import Plan, ServiceChange


class FlowDocument(TypedDict):
    """UDP flows that end with a change; `to` is null for flows that reached the listener itself."""

    listen: str
    family: str
    to: str | None


class RuleChangesDocument(TypedDict):
    """The rules on both sides."""

    before: str
    after: str


class ChangeDocument(TypedDict):
    """What a plan changes: all services of both sides, and what to know before agreeing."""

    backend: str
    driver: str
    changed: bool
    services: list[ChangedServiceDocument]
    forget: list[FlowDocument]
    notes: list[str]
    overrides: list[OverrideDocument]
    rules: RuleChangesDocument


class PlanDocument(ChangeDocument, UnsettledDocument):
    """What `plan` prints; `rolled_back` is the last change if it is a rollback and the intent differs."""

    rolled_back: InterruptedDocument | None


class ApplyDocument(ChangeDocument):
    """What `apply` prints; `trial` is confirmed, reverted or failed, and null without `--trial`."""

    applied: bool
    trial: str | None


class RollbackDocument(TypedDict):
    """What `rollback` prints: a change, or a migration if the rules were in another store.

    `to` is the number of the state that it returns to; 0 is the host before the first apply.
    """

    backend: NotRequired[str]
    driver: NotRequired[str]
    changed: bool
    services: NotRequired[list[ChangedServiceDocument]]
    forget: NotRequired[list[FlowDocument]]
    notes: NotRequired[list[str]]
    overrides: NotRequired[list[OverrideDocument]]
    rules: NotRequired[RuleChangesDocument]
    migration: NotRequired[MigrationDocument]
    applied: bool
    to: int


class RemoveDocument(TypedDict):
    """What `remove` prints: one plan for each store that holds rules of the owner."""

    owner: str
    changed: bool
    removed: bool
    plans: list[ChangeDocument]


class TargetDocument(TypedDict):
    """An endpoint that a command was about, and its override on both sides; null for none.

    `to` and `state`, which is that of the applied intent, are null if the endpoint is no longer applied.
    """

    service: str
    endpoint: str
    to: str | None
    state: str | None
    before: OverrideDocument | None
    after: OverrideDocument | None


class OperationDocument(ChangeDocument):
    """What `drain`, `activate` and `weight` print.

    `established` is the number of established connections of the endpoints at the end; null without `--wait`.
    """

    applied: bool
    endpoints: list[TargetDocument]
    established: int | None


class ConfirmDocument(TypedDict):
    """What `confirm` prints; `left` are the seconds that the trial still had."""

    owner: str
    confirmed: bool
    left: float


def change(plan: Plan, services: Iterable[ServiceChange], rules: tuple[str, str]) -> ChangeDocument:
    """Return the document of a plan with all its services, and its rules on both sides."""
    return ChangeDocument(
        backend=plan.backend,
        driver=plan.driver,
        changed=plan.changed,
        services=[changed_service(service) for service in services],
        forget=[
            FlowDocument(listen=str(flow.listener), family=str(flow.family), to=flow.to)
            for flow in plan.stale
        ],
        notes=list(plan.notes),
        overrides=overrides(plan.effective),
        rules=RuleChangesDocument(before=rules[0], after=rules[1]),
    )


def target(of: Operated) -> TargetDocument:
    """Return the document of an endpoint that a command was about."""
    return TargetDocument(
        service=of.service,
        endpoint=of.name,
        to=of.endpoint.to if of.endpoint is not None else None,
        state=str(of.endpoint.state) if of.endpoint is not None else None,
        before=override(of.before) if of.before is not None else None,
        after=override(of.after) if of.after is not None else None,
    )
