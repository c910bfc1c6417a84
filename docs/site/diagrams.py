"""Draw the flow charts of pages as SVG: the site loads no script of another server, as mermaid would be.

Forges draw the same text by themselves. What is understood of mermaid's language: nodes `a[text]`,
`a["text"]` and `a[(text)]`, edges `a --> b` and `a -->|text| b`; groups are not drawn. Nodes stand in layers
from top to bottom, each below all that lead to it; an edge over several layers passes between the nodes of
each. Parts that no edge links are pictures of their own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

_FENCE = re.compile(r"(?ms)^```mermaid\n(.*?)^```$")
_END = r'(\w+)(?:\[\(?"?([^\]")]+)"?\)?\])?'
_EDGE = re.compile(rf"{_END} -->(?:\|([^|]+)\|)? {_END}")
_NODE = re.compile(_END)
#: Pixels: a letter, the height of a node, the space between nodes and between layers, and around all.
_LETTER, _HEIGHT, _BESIDE, _BELOW, _AROUND = 6.6, 28, 22, 46, 8
#: Rounds in which nodes are placed nearer to those that they are linked with.
_ROUNDS = 24
_HEAD = """\
<div class="diagram"><svg viewBox="0 0 {width} {height}" width="{width}" role="img">
<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z"/></marker></defs>"""


@dataclass(slots=True)
class _Chart:
    """Nodes by their names with their texts, and edges with theirs, in the order of the page."""

    nodes: dict[str, str] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Place:
    """A node in its layer, or where an edge passes a layer; `x` is the middle of it."""

    text: str
    width: float
    x: float = 0.0


def drawn(text: str) -> str:
    """Return a page with each flow chart as a picture."""
    return _FENCE.sub(lambda match: "\n".join(map(_svg, _parts(_parsed(match[1])))), text)


def _parsed(text: str) -> _Chart:
    """Return the chart of a text; raises `ValueError` for a line that is not understood."""
    chart = _Chart()
    for line in text.splitlines()[1:]:
        bare = line.strip()
        if not bare or bare == "end" or bare.startswith("subgraph "):
            continue
        if edge := _EDGE.fullmatch(bare):
            begin, begin_text, label, end, end_text = edge.groups()
            ends = [(begin, begin_text), (end, end_text)]
            chart.edges.append((begin, end, label or ""))
        elif node := _NODE.fullmatch(bare):
            ends = [(node[1], node[2])]
        else:
            raise ValueError(f"a diagram has a line that is not understood: {bare}")
        for name, own in ends:
            if own or name not in chart.nodes:
                chart.nodes[name] = own or name
    return chart


def _parts(chart: _Chart) -> list[_Chart]:
    """Return the parts of a chart that no edge links, each as one of its own: they stand below each other."""
    group = {name: {name} for name in chart.nodes}
    for begin, end, _ in chart.edges:
        joined = group[begin] | group[end]
        group |= dict.fromkeys(joined, joined)
    found = {frozenset(names): None for names in group.values()}
    return [
        _Chart(
            nodes={name: text for name, text in chart.nodes.items() if name in names},
            edges=[edge for edge in chart.edges if edge[0] in names],
        )
        for names in found
    ]


def _layers(chart: _Chart) -> dict[str, int]:
    """Return the layer of each node, below all that lead to it; the last edge of a circle leads back."""
    after: dict[str, list[str]] = defaultdict(list)
    for begin, end, _ in chart.edges:
        after[begin].append(end)
    found: dict[str, int] = {}

    def visit(name: str, layer: int, path: tuple[str, ...]) -> None:
        if name in path or found.get(name, -1) >= layer:
            return
        found[name] = layer
        for other in after[name]:
            visit(other, layer + 1, (*path, name))

    ends = {end for _, end, _ in chart.edges}
    for name in [*(each for each in chart.nodes if each not in ends), *chart.nodes]:
        if name not in found:
            visit(name, 0, ())
    # What nothing leads to stands right above the first node that it leads to.
    for name in chart.nodes:
        if name not in ends and after[name]:
            found[name] = min(found[other] for other in after[name]) - 1
    return found


def _svg(chart: _Chart) -> str:
    layer = _layers(chart)
    rows: list[list[_Place]] = [[] for _ in range(max(layer.values()) + 1)]
    places = {}
    for name, text in chart.nodes.items():
        places[name] = _Place(text=text, width=len(text) * _LETTER + 20)
        rows[layer[name]].append(places[name])
    routes = []
    for begin, end, label in chart.edges:
        step = 1 if layer[end] >= layer[begin] else -1
        route = [(places[begin], layer[begin])]
        for row in range(layer[begin] + step, layer[end], step):
            route.append((_Place(text="", width=_LETTER), row))
            rows[row].append(route[-1][0])
        routes.append(([*route, (places[end], layer[end])], label))
    linked: dict[int, list[_Place]] = defaultdict(list)
    for route, _ in routes:
        for (one, _), (other, _) in pairwise(route):
            linked[id(one)].append(other)
            linked[id(other)].append(one)
    _arrange(rows, linked)
    width = max(place.x + place.width / 2 for row in rows for place in row) + _AROUND
    height = len(rows) * (_HEIGHT + _BELOW) - _BELOW + 2 * _AROUND
    parts = [_HEAD.format(width=round(width), height=height)]
    parts += [_edge(route, label) for route, label in routes]
    for name, place in places.items():
        x, y = place.x - place.width / 2, _top(layer[name])
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="{place.width:.1f}" height="{_HEIGHT}" rx="5"/>')
        parts.append(f'<text x="{place.x:.1f}" y="{y + 18}">{escape(place.text)}</text>')
    return "\n".join([*parts, "</svg></div>"])


def _arrange(rows: list[list[_Place]], linked: dict[int, list[_Place]]) -> None:
    """Place all nodes of each layer beside each other, near to those that they are linked with."""
    for row in rows:
        _spread(row)
    for turn in range(_ROUNDS):
        for row in rows if turn % 2 else reversed(rows):
            for place in row:
                others = linked[id(place)]
                if others:
                    place.x = sum(other.x for other in others) / len(others)
            row.sort(key=lambda place: place.x)
            _spread(row)
    left = min(place.x - place.width / 2 for row in rows for place in row) - _AROUND
    for row in rows:
        for place in row:
            place.x -= left


def _spread(row: list[_Place]) -> None:
    """Move the nodes of a layer apart where they overlap, and keep their middle."""
    if not row:
        return
    middle = sum(place.x for place in row) / len(row)
    for one, other in pairwise(row):
        other.x = max(other.x, one.x + (one.width + other.width) / 2 + _BESIDE)
    shift = sum(place.x for place in row) / len(row) - middle
    for place in row:
        place.x -= shift


def _top(layer: int) -> int:
    return _AROUND + layer * (_HEIGHT + _BELOW)


def _edge(route: list[tuple[_Place, int]], label: str) -> str:
    """Return a line through all places of a route, with its text in the middle of the first part."""
    down = route[-1][1] >= route[0][1]
    points = []
    for number, (place, layer) in enumerate(route):
        top, bottom = _top(layer), _top(layer) + _HEIGHT
        if number:
            points.append((place.x, top if down else bottom))
        if number < len(route) - 1:
            points.append((place.x, bottom if down else top))
    path = f"M{points[0][0]:.1f} {points[0][1]}"
    for number, ((x, y), (to_x, to_y)) in enumerate(pairwise(points)):
        middle = (y + to_y) / 2
        bend = "" if number % 2 else f"C{x:.1f} {middle} {to_x:.1f} {middle} "
        path += f"{bend or 'L'}{to_x:.1f} {to_y}"
    line = f'<path class="edge" d="{path}" marker-end="url(#arrow)"/>'
    if not label:
        return line
    (x, y), (to_x, to_y) = points[:2]
    place = f'x="{(x + to_x) / 2:.1f}" y="{(y + to_y) / 2 + 4:.0f}"'
    return f'{line}<text class="label" {place}>{escape(label)}</text>'
