"""A trace as a graph, in languages of which a label is a text and never anything else.

Each endpoint hangs on the rules that send connections to it; unmatched traffic has a colour of its own; what
is the same in both families is drawn once.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from fractions import Fraction
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import brief
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from lbctl.engine.inspect.explain import Trace
    from lbctl.host import Host

#: Rules of one trace that are drawn.
_DRAWN = 24
#: What stands for a letter that cannot be shown.
_NO_LETTER = 0xFFFD
#: Letters in a line of a picture.
_WIDE = 60
_UNMATCHED_FILL, _UNMATCHED_LINE = "#ffdddd", "#cc0000"


class _Kind(Enum):
    """What a part of the graph shows."""

    RULE = "rule"
    #: Where connections begin, or an endpoint.
    END = "end"
    UNMATCHED = "unmatched"
    #: To the endpoint of the client that was asked for.
    CHOSEN = "chosen"


class _GraphNode(NamedTuple):
    name: str
    label: str
    kind: _Kind = _Kind.RULE


class _Edge(NamedTuple):
    begin: str
    end: str
    label: str
    kind: _Kind = _Kind.RULE


def mermaid(listener: str, ways: Sequence[Trace]) -> str:
    """Return a flow chart of mermaid."""
    lines = ["flowchart LR"]
    shapes = {_Kind.RULE: ("[", "]"), _Kind.END: ("([", "])"), _Kind.UNMATCHED: ("([", "]):::unmatched")}
    arrows = {_Kind.RULE: "-->", _Kind.CHOSEN: "==>", _Kind.UNMATCHED: "-.->"}
    unmatched: list[int] = []
    edges = 0
    for part in _parts(listener, ways):
        if isinstance(part, _GraphNode):
            left, right = shapes[part.kind]
            lines.append(f'    {part.name}{left}"{_label(part.label, "#")}"{right}')
            continue
        label = f'|"{_label(part.label, "#")}"|' if part.label else ""
        lines.append(f"    {part.begin} {arrows[part.kind]}{label} {part.end}")
        if part.kind is _Kind.UNMATCHED:
            unmatched.append(edges)
        edges += 1
    if unmatched:
        lines.append(f"    classDef unmatched fill:{_UNMATCHED_FILL},stroke:{_UNMATCHED_LINE}")
        # Edges have no names, only numbers.
        lines.append(f"    linkStyle {','.join(map(str, unmatched))} stroke:{_UNMATCHED_LINE}")
    return "\n".join(lines)


def dot(listener: str, ways: Sequence[Trace]) -> str:
    """Return the same graph for graphviz."""
    lines = ["digraph trace {", "    rankdir=LR; node [shape=box];"]
    red = f'color="{_UNMATCHED_LINE}"'
    nodes = {
        _Kind.RULE: "",
        _Kind.END: " shape=ellipse",
        _Kind.UNMATCHED: f' shape=ellipse style=filled fillcolor="{_UNMATCHED_FILL}" {red}',
    }
    edges = {_Kind.RULE: "style=solid", _Kind.CHOSEN: "style=bold", _Kind.UNMATCHED: f"style=dashed {red}"}
    for part in _parts(listener, ways):
        label = _lines(part.label)
        if isinstance(part, _GraphNode):
            lines.append(f'    {part.name} [label="{label}"{nodes[part.kind]}];')
        else:
            lines.append(f'    {part.begin} -> {part.end} [label="{label}" {edges[part.kind]}];')
    return "\n".join([*lines, "}", ""])


def svg(host: Host, listener: str, ways: Sequence[Trace]) -> str:
    """The graph as a picture, drawn by graphviz; raises `IntentError` where that is not installed."""
    from lbctl.errors import IntentError

    hint = "install graphviz (Debian: apt install graphviz), or take --graph mermaid"
    if host.which("dot") is None:
        raise IntentError("--graph svg needs the program dot of graphviz, which is not in PATH", hint=hint)
    done = host.run(["dot", "-Tsvg"], stdin=dot(listener, ways))
    begin = done.out.find("<svg")
    if done.code or begin < 0:
        raise IntentError(f"dot drew nothing: {done.err.strip() or f'exit code {done.code}'}", hint=hint)
    # Without the reference to a document elsewhere that stands before it.
    return done.out[begin:].rstrip()


def _parts(listener: str, ways: Sequence[Trace]) -> Iterator[_GraphNode | _Edge]:
    yield _GraphNode("listener", listener, _Kind.END)
    alike: dict[Hashable, list[Trace]] = {}
    for way in ways:
        alike.setdefault(_drawing(way), []).append(way)
    sources = {way.source for way in ways}
    for number, same in enumerate(alike.values()):
        of = ", ".join(dict.fromkeys(str(way.service.family) for way in same))
        yield from _trace(f"s{number}", same[0], f"{of} in {same[0].source}" if len(sources) > 1 else of)


def _drawing(way: Trace) -> Hashable:
    """What the graph of a trace shows but for the family: the shares, and where they are decided.

    The text of a rule is no part of it: it names the family in one syntax or the other.
    """
    service = way.service
    places = {step.line: place for place, step in enumerate(way.path)}
    return (
        way.source,
        service.selector[1:],
        way.open,
        way.chosen,
        tuple((step.share, step.taken) for step in way.path),
        tuple((places.get(each.line or 0), each.to, each.share) for each in service.outcomes),
    )


def _trace(prefix: str, way: Trace, families: str) -> Iterator[_GraphNode | _Edge]:
    """The rules of one trace in their order, and what leaves them."""
    ends = _Ends(prefix, way.chosen)
    outcomes = _by_rule(way)
    last, label = "listener", families
    for place, step in enumerate(way.path[:_DRAWN]):
        this = f"{prefix}r{place}"
        looked = f" → {step.element}" if step.element else ""
        yield _GraphNode(this, f"{step.where}: {step.rule}{looked}")
        arriving = "" if step.share is None else brief(step.share)
        yield _Edge(last, this, ": ".join(filter(None, (label, arriving))))
        yield from ends.of(this, outcomes.pop(place, {}))
        last, label = this, ""
    if len(way.path) > _DRAWN:
        this = f"{prefix}more"
        yield _GraphNode(this, f"and {len(way.path) - _DRAWN} more rules")
        yield _Edge(last, this, "")
        last = this
    # Of rules that are not drawn, too.
    for left in outcomes.values():
        yield from ends.of(last, left)


def _by_rule(way: Trace) -> dict[int | None, dict[str | None, Fraction]]:
    """Place in the path → endpoint, or None for unmatched traffic → its share there.

    Unmatched traffic that leaves between two rules leaves at the first of them. If connections return from
    other rules, that is unknown: then it stands under None.
    """
    path = way.path
    places = {step.line: place for place, step in reversed(list(enumerate(path)))}
    found: dict[int | None, dict[str | None, Fraction]] = {}
    for each in way.service.outcomes:
        parts = found.setdefault(places.get(each.line) if each.line is not None else None, {})
        parts[each.to] = parts.get(each.to, Fraction(0)) + each.share
    arriving = [step.share for step in path if step.share is not None]
    unmatched = found.get(None, {}).get(None)
    if unmatched is None or len(arriving) < len(path):
        return found
    leaving = [
        here - after - sum(found.get(place, {}).values())
        for place, (here, after) in enumerate(pairwise([*arriving, Fraction(0)]))
    ]
    if min(leaving, default=Fraction(-1)) < 0 or sum(leaving) != unmatched:
        return found
    del found[None][None]
    for place, share in enumerate(leaving):
        if share:
            parts = found.setdefault(place, {})
            parts[None] = parts.get(None, Fraction(0)) + share
    return found


@dataclass(slots=True)
class _Ends:
    """The endpoints of one trace, each drawn once, and its unmatched traffic."""

    prefix: str
    chosen: str | None
    names: dict[str | None, str] = field(default_factory=dict)

    def of(self, rule: str, parts: Mapping[str | None, Fraction]) -> Iterator[_GraphNode | _Edge]:
        """Yield what leaves a rule."""
        for to, share in parts.items():
            if to not in self.names:
                self.names[to] = f"{self.prefix}e{len(self.names)}"
                kind = _Kind.UNMATCHED if to is None else _Kind.END
                yield _GraphNode(self.names[to], "no endpoint" if to is None else to, kind)
            kind = _Kind.UNMATCHED if to is None else _Kind.CHOSEN if to == self.chosen else _Kind.RULE
            yield _Edge(rule, self.names[to], brief(share), kind)


def _lines(text: str) -> str:
    r"""A label for graphviz, in short lines. A backslash means something also where it is a number: `\N`."""
    return r"\n".join(_label(line.replace("\\", "\\\\"), "&#") for line in wrap(text, _WIDE))


def _label(text: str, code: str) -> str:
    """A text in which every letter that means something to whoever draws it is a number behind `code`."""
    return "".join(
        c
        if c.isascii() and (c.isalnum() or c in " .:/-@,_")
        else f"{code}{ord(c) if c.isprintable() else _NO_LETTER};"
        for c in text
    )
