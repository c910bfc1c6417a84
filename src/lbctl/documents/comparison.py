"""What `compare` prints: both sides, and service by service how they relate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.documents.reading import ReadingDocument, document
from lbctl.model import written

if TYPE_CHECKING:
    from fractions import Fraction

    from lbctl.engine.inspect.compare import Comparison, Pair
    from lbctl.model import AnalysedService, Analysis


class SidesDocument(TypedDict):
    """A share on both sides."""

    a: str
    b: str


class ComparedShareDocument(SidesDocument):
    """An endpoint, and its share on both sides."""

    to: str


class SelectorDocument(TypedDict):
    """The connections that a service is about."""

    family: str
    proto: str
    dst: str
    dport: str
    when: dict[str, str] | None
    hooks: list[str]


class PairDocument(SelectorDocument):
    """A service on both sides."""

    verdict: str
    equal: bool
    backends: list[ComparedShareDocument]
    leak: SidesDocument
    notes: list[str]


class ComparisonDocument(TypedDict):
    """Both sides, each as `import` prints it, and how their services relate."""

    equal: bool
    doubts: list[str]
    services: list[PairDocument]
    a: ReadingDocument
    b: ReadingDocument


def selector(service: AnalysedService, hooks: tuple[str, ...]) -> SelectorDocument:
    """Return what a service selects at some hooks."""
    return SelectorDocument(
        family=str(service.family),
        proto=service.proto,
        dst=service.dst,
        dport=service.dport,
        when=dict(service.when) if service.when else None,
        hooks=list(hooks),
    )


def comparison(found: Comparison, a: Analysis, b: Analysis) -> ComparisonDocument:
    """Return the document of a comparison of two readings."""
    return ComparisonDocument(
        equal=found.equal,
        doubts=list(found.doubts),
        services=[_pair(pair) for pair in found.pairs],
        a=document(a),
        b=document(b),
    )


def _pair(pair: Pair) -> PairDocument:
    return PairDocument(
        **selector(pair.service, pair.hooks),
        verdict=str(pair.verdict),
        equal=pair.verdict.equal,
        backends=[
            ComparedShareDocument(to=to, **_sides(mine, theirs)) for to, (mine, theirs) in pair.shares.items()
        ],
        leak=_sides(*pair.leak),
        notes=list(pair.notes),
    )


def _sides(a: Fraction, b: Fraction) -> SidesDocument:
    return SidesDocument(a=written(a), b=written(b))
