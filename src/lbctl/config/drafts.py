"""Services as far as they could be read, and the mistakes found in them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from lbctl.config.schema import EndpointTable
from lbctl.config.values import InvalidValue, expand
from lbctl.errors import ConfigProblem, IntentError
from lbctl.model import DEFAULT_POLICY, Endpoint, Forward
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.config.documents import SourceText
    from lbctl.config.schema import ServiceTable
    from lbctl.config.values import Place, Target
    from lbctl.model import Check, Discovery, HealthPolicy, Listener

    #: A table among the entries that give endpoints, and its place.
    EndpointEntry: TypeAlias = tuple[Place, EndpointTable]


class ProblemReport:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []

    def add(self, origin: SourceText, place: Place, message: str, hint: str) -> None:
        """Note a mistake at a place of a document."""
        problem = ConfigProblem(file=origin.file, line=origin.line(place), message=message, hint=hint)
        self.problems.append(problem)

    def about(self, draft: ServiceDraft, place: Place, message: str, hint: str) -> None:
        """Note a mistake of a service at a place of its document."""
        self.add(draft.origin, place, f"{draft.label}: {message}", hint)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note the problems of an IntentError that is raised inside, and let it go no further."""
        try:
            yield
        except IntentError as error:
            self.problems.extend(error.problems)

    @contextmanager
    def reading(self, origin: SourceText, table: Place, label: str = "") -> Iterator[None]:
        """Note the mistakes of the table that is read inside; messages begin with `label`."""
        try:
            yield
        except InvalidValue as error:
            self.add(origin, table, f"{label}{error.message}", error.hint)
        except ValidationError as error:
            from lbctl.config.explain import explain

            for details in error.errors(include_url=False):
                details["loc"] = place = (*table, *details["loc"])
                message, hint = explain(details)
                self.add(origin, place, f"{label}{message}", hint)


@dataclass(slots=True)
class ServiceDraft:
    """A service as far as it could be read. `damaged` are the keys that lost something to a mistake."""

    origin: SourceText
    index: int
    label: str
    table: ServiceTable
    damaged: frozenset[str] = frozenset()
    endpoints: tuple[Endpoint, ...] = ()
    check: Check | None = None
    health: HealthPolicy = DEFAULT_POLICY
    discover: Discovery | None = None

    @property
    def listeners(self) -> list[Listener]:
        listeners: list[Listener] = self.table.listen
        return listeners

    def at(self, *place: str | int) -> Place:
        """Return the place of something in this service."""
        return ("service", self.index, *place)

    def listener_place(self, count: int) -> Place:
        """Return the place of a listener.

        Counts are off where a listener is missing; then the key's own place.
        """
        return self.at("listen") if "listen" in self.damaged else self.at("listen", count)

    @property
    def local_clients(self) -> bool:
        """Whether local connections are balanced; by default, where `forward` can."""
        table = self.table
        return (
            table.local_clients if "local_clients" in table.model_fields_set else table.forward is Forward.NAT
        )

    def fill(self) -> None:
        """Make the endpoints."""
        entries: tuple[Any, ...] = (*self.table.endpoints, *self.table.endpoint)
        # An intent may have a hundred thousand that are texts.
        plain = not self.table.endpoint and not any(isinstance(entry, EndpointTable) for entry in entries)
        each = (endpoint for entry in entries for endpoint in _endpoints(entry))
        self.endpoints = expand(entries) if plain else tuple(each)

    def entries(self) -> Iterator[tuple[Place, str, tuple[Endpoint, ...]]]:
        """Yield each entry that gives endpoints: its place, its name if it has one, what it stands for."""
        for place, entry in self._entries():
            yield place, entry.name if isinstance(entry, EndpointTable) else "", _endpoints(entry)

    def tables(self) -> list[EndpointEntry]:
        """Return the tables among the entries, each with its place."""
        return [(place, entry) for place, entry in self._entries() if isinstance(entry, EndpointTable)]

    def _entries(self) -> Iterator[tuple[Place, Target | EndpointTable]]:
        for key, listed in (("endpoints", self.table.endpoints), ("endpoint", self.table.endpoint)):
            for i, entry in enumerate(listed):
                yield self._entry_place(key, i), entry

    def _entry_place(self, key: str, count: int) -> Place:
        return self.at(key) if key in self.damaged else self.at(key, count)


def _endpoints(entry: Target | EndpointTable) -> tuple[Endpoint, ...]:
    """Return the endpoints that an entry stands for. Those of a range are named after their ports."""
    if not isinstance(entry, EndpointTable):
        return expand((entry,))
    each = expand((entry.address,))
    return tuple(
        Endpoint(
            port=endpoint.port,
            address=endpoint.address,
            name=entry.name if len(each) == 1 else "",
            weight=entry.weight,
            state=entry.state,
            mac=entry.mac,
        )
        for endpoint in each
    )


def on_line(here: ServiceDraft, there: ServiceDraft, place: Place) -> str:
    line = there.origin.line(place)
    return f"on line {line}" if here.origin is there.origin else f"at {there.origin.file}:{line}"
