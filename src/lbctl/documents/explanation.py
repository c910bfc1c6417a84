"""What `explain` prints: the rules that a new connection meets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.documents.reading import ServiceDocument, service_document
from lbctl.model import written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.engine.inspect.explain import Connection, Trace
    from lbctl.model import Step


class StepDocument(TypedDict):
    """A rule on the path.

    `element` is what a look-up by fields has; `share` and `taken` are the parts of the connections that come
    to the rule and that it takes, null if they were not worked out.
    """

    where: str
    hook: str
    line: int
    rule: str
    element: str | None
    share: str | None
    taken: str | None


class TracedServiceDocument(ServiceDocument):
    """A service that takes the connection.

    `open` are conditions that are not decided; `slot` of `slots` is a client's place in a hash, and `chosen`
    its endpoint.
    """

    source: str
    path: list[StepDocument]
    open: dict[str, str]
    slot: int | None
    slots: int | None
    chosen: str | None


#: Its key `in` is a word of Python's.
ExplanationDocument = TypedDict(
    "ExplanationDocument",
    {
        "listener": str,
        "client": "str | None",
        "source_port": "int | None",
        "in": "str | None",
        "local": bool,
        "services": list[TracedServiceDocument],
    },
)


def explanation(connection: Connection, ways: Sequence[Trace]) -> ExplanationDocument:
    """Return the document of a connection and the services that take it."""
    return {
        "listener": str(connection.listener),
        "client": str(connection.client) if connection.client else None,
        "source_port": connection.source_port,
        "in": connection.interface,
        "local": connection.own,
        "services": [_service(way) for way in ways],
    }


def _service(way: Trace) -> TracedServiceDocument:
    return TracedServiceDocument(
        **service_document(way.service),
        source=way.source,
        path=[_step(step) for step in way.path],
        open=dict(way.open),
        slot=way.slot,
        slots=len(way.service.slots) if way.service.mode == "hash" else None,
        chosen=way.chosen,
    )


def _step(step: Step) -> StepDocument:
    return StepDocument(
        where=step.where,
        hook=step.hook,
        line=step.line,
        rule=step.rule,
        element=step.element,
        share=None if step.share is None else written(step.share),
        taken=None if step.taken is None else written(step.taken),
    )
