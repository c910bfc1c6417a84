"""Charts of the figures, as SVG: what is compared stands on one axis."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import peers
from layouts import ANONYMOUS, KUBE, LIST, OURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from proxies import CASES_BY_NAME, KEEP, NEW
from targets import balancing, column, power, rows_of

GREEN, LIGHT_GREEN, GREY, BLUE = "#0b6e4f", "#63b995", "#9aa5b1", "#5b5f97"
COLOURS = {OURS: GREEN, ANONYMOUS: BLUE, KUBE: "#c98b2b", LIST: "#a63d40"}
#: Backend → how its lines are drawn.
STROKES = {"nftables": "-", "iptables": "--", "ipvs": ":"}
SIDES = {peers.NFTABLES: GREEN, peers.IPTABLES: LIGHT_GREEN, peers.NFTLB: BLUE, "": GREY}


def draw(results: dict[str, Any], folder: Path) -> None:
    """Write one file for each chart whose part was measured."""
    charts = {
        "connections": ("proxies", connections),
        "growth": ("growth", growth),
        "flows": ("nftlb", flows),
    }
    # Text stays text, and the same figures give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lbctl", "font.size": 9}):
        for name, (part, chart) in charts.items():
            found = results["parts"].get(part)
            if found and not isinstance(found.get("absent"), str):
                figure = chart(found)
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def connections(part: dict[str, Any]) -> Figure:
    """New connections a second, and what balancing them costs; with our own backends only."""
    names = [name for name in part["cases"] if not CASES_BY_NAME[name].backend][::-1]
    rates = [statistics.median(column(part, name, NEW, "per_second")) for name in names]
    costs = {kind: [max(balancing(part, name, kind), 0) for name in names] for kind in (NEW, KEEP)}
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    charts = figure.subplots(1, 3)
    colours = [GREEN if name.startswith(OURS) else GREY for name in names]
    for axes, values, title, form in (
        (charts[0], rates, "new connections/s", "{:,.0f}"),
        (charts[1], costs[NEW], "CPU time to balance\na new connection, µs", "{:.1f}"),
        (charts[2], costs[KEEP], "CPU time to balance\na keep-alive request, µs", "{:.1f}"),
    ):
        bars(axes, names if axes is charts[0] else [""] * len(names), values, colours, form)
        axes.set_title(title)
    return figure


def bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str], form: str
) -> None:
    places = range(len(values))
    drawn = axes.barh(places, values, color=colours)
    axes.set_yticks(places, names)
    axes.bar_label(drawn, labels=[form.format(value) for value in values], padding=3)
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks([])


def growth(part: dict[str, Any]) -> Figure:
    """Load and a new flow, by the number of services: nftables and iptables on one axis."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    load_axes, flow_axes = figure.subplots(1, 2)
    for backend, found in part["backends"].items():
        for layout in found["layouts"]:
            rows = rows_of(part, backend, layout)
            load = [(n, statistics.median(row["load"]["cpu"])) for n, row in rows.items()]
            flow = [(n, statistics.median(row["flow_ns"]) / 1000) for n, row in rows.items()]
            for axes, points in ((load_axes, load), (flow_axes, flow)):
                line(axes, backend, layout, points)
    for axes, title in ((load_axes, "CPU time of a load, s"), (flow_axes, "CPU time of a new flow, µs")):
        axes.set_title(title)
        axes.set_xlabel("services of ten endpoints")
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        place = {"loc": "upper left", "bbox_to_anchor": (-0.2, -0.15), "ncol": 2}
        axes.legend(frameon=False, fontsize=7, columnspacing=0.8, handlelength=1.6, **place)
    return figure


def line(axes: Axes, backend: str, layout: str, points: Sequence[tuple[float, float]]) -> None:
    words = f"{backend}: {layout} {power(points)}"
    style = {"color": COLOURS.get(layout, GREY), "linestyle": STROKES[backend]}
    axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=words, **style)


def flows(part: dict[str, Any]) -> Figure:
    """A new flow by NAT and by direct server return: lbctl on both backends, and nftlb."""
    above = peers.above_receiving(part)
    sides = (peers.NFTABLES, peers.IPTABLES, peers.NFTLB)
    rows = [(name, "", above[name, "", 0]) for name in (peers.FORWARDING, peers.TRACKED)]
    rows += [
        (f"{kind.name}: {side}", side, above[kind.name, side, 1])
        for kind in peers.KINDS
        for side in sides
        if (kind.name, side, 1) in above
    ]
    rows.reverse()
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    names, owners, values = zip(*rows, strict=True)
    bars(axes, names, [value / 1000 for value in values], [SIDES[side] for side in owners], "{:.2f}")
    axes.set_title("CPU time of a new flow beyond receiving its packet, µs")
    return figure
