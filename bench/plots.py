"""Charts of the figures, as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from bars import balancing, column, power, rows_of
from layouts import ANONYMOUS, KUBE, LIST, OURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from proxies import CASES_BY_NAME, NEW

GREEN, GREY = "#0b6e4f", "#9aa5b1"
COLOURS = {OURS: GREEN, ANONYMOUS: "#5b5f97", KUBE: "#c98b2b", LIST: "#a63d40"}


def draw(results: dict[str, Any], folder: Path) -> None:
    """One file for each chart."""
    # Text stays text, and the same figures give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lbctl", "font.size": 9}):
        for name, figure in (
            ("connections", connections(results["parts"]["proxies"])),
            ("growth", growth(results["parts"]["growth"])),
        ):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def connections(part: dict[str, Any]) -> Figure:
    """New connections a second, and what balancing them costs; with our own backends only."""
    names = [name for name in part["cases"] if not CASES_BY_NAME[name].backend][::-1]
    rates = [statistics.median(column(part, name, NEW, "per_second")) for name in names]
    costs = [max(balancing(part, name, NEW) / 10, 0) for name in names]
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = [GREEN if name.startswith(OURS) else GREY for name in names]
    for axes, values, title, form in (
        (left, rates, "new connections a second", "{:,.0f}"),
        (right, costs, "processor's seconds to balance 100,000", "{:.2f}"),
    ):
        bars = axes.barh(names, values, color=colours)
        axes.bar_label(bars, labels=[form.format(value) for value in values], padding=3)
        axes.margins(x=0.2)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks([])
    return figure


def growth(part: dict[str, Any]) -> Figure:
    """Load and a new flow, by the number of services."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for at, backend in enumerate(("nftables", "iptables")):
        for layout in part["backends"][backend]["layouts"]:
            rows = rows_of(part, backend, layout)
            load = [(n, statistics.median(row["load"]["cpu"])) for n, row in rows.items()]
            flow = [(n, statistics.median(row["flow_ns"]) / 1000) for n, row in rows.items()]
            for chart, points in ((axes[0][at], load), (axes[1][at], flow)):
                line(chart, layout, points)
        label(axes[0][at], f"{backend}: load, processor's seconds")
        label(axes[1][at], f"{backend}: a new flow, µs")
        axes[1][at].set_xlabel("services of ten endpoints")
    return figure


def line(axes: Axes, name: str, points: Sequence[tuple[float, float]]) -> None:
    words = f"{name} {power(points)}"
    axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, color=COLOURS[name], label=words)


def label(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
