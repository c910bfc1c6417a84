"""Shares on two sides of a change or of a drift, folded if all families agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.model import agreed, written

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

    from lbctl.model import EndpointChange, FamilyListener, KeyChange, ServiceChange, Value


class FrontendDocument(TypedDict):
    """A listener in one family."""

    listen: str
    family: str


class ListenersDocument(TypedDict):
    """The listeners that get an endpoint on one side only."""

    added: list[FrontendDocument]
    removed: list[FrontendDocument]


class ChangedSharesDocument(TypedDict):
    """Shares before and after; null if families disagree."""

    before: str | None
    after: str | None


class ChangedEndpointDocument(ChangedSharesDocument):
    """An endpoint, its shares, and those of each family."""

    to: str
    families: dict[str, ChangedSharesDocument]


class KeyChangeDocument(TypedDict):
    """A key of the intent file with its values on both sides, null if it is not given there.

    `endpoint` is null for a key of the service itself.
    """

    key: str
    endpoint: str | None
    before: str | int | bool | list[str] | None
    after: str | int | bool | list[str] | None


class ChangedServiceDocument(TypedDict):
    """What a plan does to a service; `changes` are the keys that differ, as far as they are known."""

    name: str
    action: str
    changes: list[KeyChangeDocument]
    listen: list[str]
    listeners: ListenersDocument
    endpoints: list[ChangedEndpointDocument]


class DriftSharesDocument(TypedDict):
    """Shares that the kernel holds and that the intent wants; null if families disagree."""

    held: str | None
    wanted: str | None


class DriftEndpointDocument(DriftSharesDocument):
    """An endpoint, its shares, and those of each family."""

    to: str
    families: dict[str, DriftSharesDocument]


class DriftServiceDocument(TypedDict):
    """How a service in the kernel differs from the intent; `action` is what `apply` would do."""

    name: str
    action: str
    listen: list[str]
    listeners: ListenersDocument
    endpoints: list[DriftEndpointDocument]


def share(value: Fraction | None) -> str | None:
    """Return a share in lowest terms; None for one that is unknown, or not one for all."""
    return None if value is None else written(value)


def key_changes(changes: Iterable[KeyChange]) -> list[KeyChangeDocument]:
    """Return the documents of changed keys."""
    return [
        KeyChangeDocument(
            key=each.key, endpoint=each.endpoint, before=_plain(each.before), after=_plain(each.after)
        )
        for each in changes
    ]


def _plain(value: Value) -> str | int | bool | list[str] | None:
    return list(value) if isinstance(value, tuple) else value


def changed_service(service: ServiceChange) -> ChangedServiceDocument:
    """Return the document of a service in a plan."""
    return ChangedServiceDocument(
        name=service.name,
        action=str(service.action),
        changes=key_changes(service.changes),
        listen=list(service.listeners),
        listeners=_listeners(service),
        endpoints=[
            ChangedEndpointDocument(
                to=endpoint.to,
                before=whole[0],
                after=whole[1],
                families={
                    family: ChangedSharesDocument(before=before, after=after)
                    for family, (before, after) in each.items()
                },
            )
            for endpoint, whole, each in _endpoints(service)
        ],
    )


def drifted_service(service: ServiceChange) -> DriftServiceDocument:
    """Return the document of a service that the kernel does not hold as the intent says."""
    return DriftServiceDocument(
        name=service.name,
        action=str(service.action),
        listen=list(service.listeners),
        listeners=_listeners(service),
        endpoints=[
            DriftEndpointDocument(
                to=endpoint.to,
                held=whole[0],
                wanted=whole[1],
                families={
                    family: DriftSharesDocument(held=held, wanted=wanted)
                    for family, (held, wanted) in each.items()
                },
            )
            for endpoint, whole, each in _endpoints(service)
        ],
    )


_Sides = tuple[str | None, str | None]


def _endpoints(service: ServiceChange) -> Iterable[tuple[EndpointChange, _Sides, dict[str, _Sides]]]:
    """Each endpoint with its shares on both sides: of all families, and of each."""
    for endpoint in service.endpoints:
        both = {family: endpoint.in_family(family) for family in endpoint.families}
        one, other = (share(agreed(values)) for values in zip(*both.values(), strict=True))
        families = {str(family): (share(shares[0]), share(shares[1])) for family, shares in both.items()}
        yield endpoint, (one, other), families


def _listeners(service: ServiceChange) -> ListenersDocument:
    return ListenersDocument(
        added=_frontends(service.unbalanced_before), removed=_frontends(service.unbalanced_after)
    )


def _frontends(frontends: Iterable[FamilyListener]) -> list[FrontendDocument]:
    return [FrontendDocument(listen=str(each.listener), family=str(each.family)) for each in frontends]
