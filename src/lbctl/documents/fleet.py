"""What `publish` and `hosts` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.documents.history import ServiceKeysDocument
from lbctl.documents.override import OverrideDocument, override
from lbctl.documents.shares import key_changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.model import KeyChange, Override


class PublicationDocument(TypedDict):
    """A published intent.

    `hosts` try it as canaries, none if it is for all. `origin` is the revision whose intent it repeats, null
    for a new one. `overrides` are drains and weights of all hosts.
    """

    revision: int
    origin: int | None
    time: str
    author: str
    message: str
    hosts: list[str]
    overrides: list[OverrideDocument]


class PublishDocument(TypedDict):
    """What was published.

    `before` is the revision that was current, null for none; `stopped` says why a canary was stopped, null if
    it was not.
    """

    name: str
    before: int | None
    publication: PublicationDocument
    published: bool
    stopped: str | None
    services: list[ServiceKeysDocument]


class ServiceHealthDocument(TypedDict):
    """Endpoints that are checked, counted for each family."""

    name: str
    up: int
    down: int
    unknown: int


class HostDocument(TypedDict):
    """A host. `state` is `silent` if its agent no longer reports: then all else is null or empty.

    Else it is the first that applies of `refused`, `diverged` (another intent was applied on it),
    `out-of-sync`, `behind`, `problem`, `canary`, `in-sync`. `tables` has digests of the tables that have to
    be equal on all hosts.
    """

    host: str
    state: str
    revision: int | None
    refused: str | None
    problems: list[str]
    version: str | None
    started: str | None
    tables: dict[str, str]
    services: list[ServiceHealthDocument]


class HostsDocument(TypedDict):
    """The hosts that follow a published intent.

    `quorum` is false if the answer is that of a member of etcd without quorum, which may be outdated.
    `uneven` are services whose tables differ between hosts.
    """

    name: str
    quorum: bool
    current: PublicationDocument | None
    canary: PublicationDocument | None
    hosts: list[HostDocument]
    uneven: list[str]
    problems: list[str]


def overrides_of(found: Sequence[Override]) -> list[OverrideDocument]:
    """Return the documents of overrides."""
    return [override(each) for each in found]


def services_of(changes: Mapping[str, tuple[KeyChange, ...]]) -> list[ServiceKeysDocument]:
    """Return the documents of the services that change."""
    return [ServiceKeysDocument(name=name, changes=key_changes(each)) for name, each in changes.items()]
