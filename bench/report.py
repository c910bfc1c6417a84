"""Figures as tables and charts: on the terminal, and in the documents of this project.

    python bench/report.py FILE             prints what is in a JSON document of the bench
    python bench/report.py FILE --publish   records it, and writes its figures into README.md and docs/bench
    python bench/report.py --check          exits with 1 if these pages differ from the recorded one

In README.md and docs/bench/README.md, this program writes what stands between `<!-- bench:NAME -->` and
`<!-- /bench:NAME -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import growth
import load
import nat
import peers
import proxies
import startup
from layouts import KUBE, LIST, OURS
from targets import IDLE, balancing, column, power, rows_of, targets
from timing import median_ratio

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/bench/results.json"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs/bench/README.md")
REGION = re.compile(r"(?s)(<!-- bench:([a-z-]+) -->\n).*?(<!-- /bench:\2 -->)")


@dataclass(frozen=True, slots=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|\n" for line in lines)

    def plain(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        return "".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            + "\n"
            for line in lines
        )


def number(value: float) -> str:
    """Two or three digits, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        digits = 10 ** (len(f"{abs(value):.0f}") - 3)
        return f"{round(value / digits) * digits:,.0f}"
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"


def seconds(value: float) -> str:
    if value >= 1:
        return f"{number(value)} s"
    return f"{number(value * 1e3)} ms" if value >= 1e-3 else f"{number(value * 1e6)} µs"


def microseconds(value: float) -> str:
    return f"{max(value, 0):.1f} µs"


def size(value: float) -> str:
    return f"{max(value, 0) / (1 << 20):.1f} MB"


def median(row: dict[str, Any], what: str) -> float:
    """Return the median CPU time, which other work on the machine changes less than wall-clock time."""
    values: list[float] = row[what]["cpu"]
    return statistics.median(values)


def ratio(value: float) -> str:
    return f"{value:.2f}" if value < 9.95 else f"{value:,.0f}"


def machine_words(results: dict[str, Any]) -> str:
    """Return on what machine, and with what, all of this was measured."""
    machine, versions = results["machine"], results["versions"]
    command = "make bench" if results["size"] == "full" else f"make bench BENCH={results['size']}"
    where = "a virtual machine with" if machine["virtual"] else "a machine with"
    processors = f"{machine['processors']} processors ({machine['cpu']})"
    used = f", of which the bench uses {machine['processors_used']}," if machine["processors"] > 2 else ""
    tools = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "lbctl")
    busy = results["load_average"] > IDLE
    work = (
        f" The machine did other work meanwhile (load average {results['load_average']:.1f})." if busy else ""
    )
    return (
        f"Measured by `{command}` on {where} {processors}{used} and {machine['memory_gb']} GB of memory: "
        f"{tools}.{work}\n"
    )


def proxies_table(part: dict[str, Any]) -> Table:
    rows = []
    for name in part["cases"]:
        base = proxies.CASES_BY_NAME[name].base.name
        rates = column(part, name, proxies.NEW, "per_second")
        costs = [
            microseconds(balancing(part, name, kind)) if name != base else "—"
            for kind in (proxies.NEW, proxies.KEEP)
        ]
        memory = statistics.median(one["memory"] for one in part["cases"][name]["rounds"])
        rows.append(
            [
                name,
                number(statistics.median(rates)),
                ratio(median_ratio(rates, column(part, base, proxies.NEW, "per_second"))),
                *costs,
                *(
                    seconds(statistics.median(column(part, name, proxies.PACED, what)) / 1e6)
                    for what in ("p50_us", "p99_us")
                ),
                number(statistics.median(column(part, name, proxies.KEEP, "per_second"))),
                size(memory) if name != base else "—",
            ]
        )
    rows += [[name, why, *[""] * 7] for name, why in part["absent"].items()]
    return Table(
        (
            "three backends on one host",
            "new connections/s",
            "relative to direct",
            "balancing: CPU time per new connection",
            "per keep-alive request",
            f"latency at {part['rate']:,}/s: median",
            "p99",
            "keep-alive requests/s",
            "memory",
        ),
        rows,
    )


def changes_table(part: dict[str, Any]) -> Table:
    rows = []
    for name, found in part["changes"].items():
        lost = sum(found["lost"].values())
        kinds = ", ".join(f"{count:,} {how}" for how, count in found["lost"].items())
        rows.append(
            [
                name,
                found["changed_by"],
                f"{found['connections']:,}",
                f"{lost:,}" + (f" ({kinds})" if lost else ""),
                f"{100 * found['deviation']:.2f} %",
            ]
        )
    some = next(iter(part["changes"].values()))
    return Table(
        (
            f"{some['changes']} changes at {part['rate']:,} new connections/s",
            "changed by",
            "connections",
            "lost",
            "max deviation from 1/3",
        ),
        rows,
    )


def shares_table(part: dict[str, Any]) -> Table:
    rows = []
    for name, found in part["shares"].items():
        answers = " ".join(f"{count:,}" for count in found["answers"].values())
        lost = sum(found["lost"].values())
        rows.append([name, answers, f"{lost:,}", f"{100 * found['deviation']:.2f} %"])
    some = next(iter(part["shares"].values()))
    return Table(
        (f"{some['connections']:,} connections over three", "answers", "lost", "max deviation from 1/3"),
        rows,
    )


def load_table(part: dict[str, Any]) -> Table:
    rows = []
    for words, what in (
        ("the tool alone loads the text (`nft -f`, `iptables-legacy-restore`)", load.TOOL),
        ("lbctl has the kernel load it", load.KERNEL),
        ("`lbctl apply`, all of it: read, check, compile, plan, load, verify", load.FIRST),
        ("the same with one endpoint changed", load.DELTA),
        ("the same with nothing changed", load.SAME),
        ("one endpoint changed through the Python API, session kept", load.IN_MEMORY),
    ):
        row = [words]
        for found in part["backends"].values():
            cells = ["", ""]
            if what in found:
                value, least = median(found, what), median(found, load.TOOL)
                cells = [seconds(value), ratio(value / least)]
            row += cells
        rows.append(row)
    head = f"{part['services']:,} services of {part['endpoints']} endpoints"
    return Table(
        (head, "nftables", "relative to the tool", "iptables (legacy)", "relative to the tool"), rows
    )


def flow_table(part: dict[str, Any]) -> Table:
    def against(backend: str, over: tuple[str, int], under: tuple[str, int]) -> str:
        rows = [rows_of(part, backend, what).get(services) for what, services in (over, under)]
        return ratio(median_ratio(*(row["flow_ns"] for row in rows if row))) if all(rows) else ""

    backends = ("nftables", "iptables")
    most = max(rows_of(part, "nftables", OURS))
    lines = [
        ("one service / tracking the connection alone", (OURS, 1), (growth.TRACKED, 0)),
        (f"{most:,} services / one", (OURS, most), (OURS, 1)),
        (
            f"flows scattered over all {most:,} / one service",
            (growth.SCATTERED, most),
            (OURS, 1),
        ),
        (f"a list of {most:,} services, as in blog posts / lbctl's of one", (LIST, most), (OURS, 1)),
        (f"kube-proxy's rules for {most:,} services / lbctl's of one", (KUBE, most), (OURS, 1)),
        ("a service of 64 endpoints / one of 4", (growth.MANY, 1), (growth.FEW, 1)),
    ]
    rows = [[words, *(against(backend, over, under) for backend in backends)] for words, over, under in lines]
    return Table(("CPU time of a new flow, ratio", "nftables", "iptables (legacy)"), rows)


def growth_table(part: dict[str, Any]) -> Table:
    """Each layout at the most services that were tried."""
    rows = []
    for backend, found in part["backends"].items():
        base = rows_of(part, backend, growth.TRACKED)[0]["flow_ns"]
        for layout in found["layouts"]:
            by_size = rows_of(part, backend, layout)
            most = max(by_size)
            row = by_size[most]
            cells = [f"{backend}: {layout}", f"{most:,}"]
            for what in ("load", "change", "list"):
                points = [(n, median(r, what)) for n, r in by_size.items()]
                cells.append(f"{seconds(median(row, what))} {power(points)}".rstrip())
            cells += [size(row["memory"]), seconds(statistics.median(row["flow_ns"]) / 1e9)]
            cells.append(ratio(median_ratio(row["flow_ns"], base)))
            rows.append(cells)
    head = ("layout", "services", "load", "change of one endpoint", "list", "memory of the kernel")
    return Table((*head, "a new flow", "relative to tracking alone"), rows)


def layouts_words(part: dict[str, Any]) -> str:
    """What the layouts are, and what was not measured."""
    lines = [
        f"- {backend}: {layout}: {about}."
        + (f" Not measured: {found['left_out'][layout]}." if layout in found["left_out"] else "")
        for backend, found in part["backends"].items()
        for layout, about in found["layouts"].items()
    ]
    if part["no_ipvs"]:
        lines.append(f"- IPVS: not measured: {part['no_ipvs']}.")
    return "\n".join(lines) + "\n"


def agent_table(part: dict[str, Any]) -> Table:
    """Both checkers, for each number of endpoints."""
    rows = [
        [
            f"{row['endpoints']:,} endpoints, {row['kind']} every {row['interval'] / 1000:g} s: {side}",
            f"{100 * statistics.median(found['cpu']):.1f} %",
            size(max(found["memory"])),
            number(statistics.median(found["checks_per_second"])),
        ]
        for row in part["checks"]
        for side, found in row["sides"].items()
    ]
    return Table(("checks", "CPU of a core", "memory", "checks/s"), rows)


def killed_table(part: dict[str, Any]) -> Table:
    """What a killed process costs behind both."""
    rows = [
        [
            side,
            seconds(found["detected"]),
            *(
                f"{sum(found[when]['lost'].values()):,} of {found[when]['connections']:,}"
                for when in ("until", "after")
            ),
        ]
        for side, found in part["killed"].items()
    ]
    head = f"one of three processes is killed at {part['rate']:,} new connections/s"
    return Table((head, "seen after", "lost until then", "lost after that"), rows)


def direct_table(part: dict[str, Any]) -> Table:
    """What a packet costs above receiving it."""
    rows = [
        [
            row["what"],
            row["protocol"],
            str(row["links"]),
            f"{row['services']:,}" if row["services"] else "",
            f"{statistics.median(row['packet_ns']):,.0f} ns",
            f"{row['above_floor_ns']:,} ns",
        ]
        for row in part["cost"]["rows"]
    ]
    head = ("a packet through the balancer", "protocol", "links", "services", "with sending it")
    return Table((*head, "above receiving it"), rows)


def nat_table(part: dict[str, Any]) -> Table:
    rows = []
    for case, kinds in part["cases"].items():
        row = [case]
        for kind in (proxies.NEW, proxies.KEEP):
            found = nat.ratios(part, case, kind)
            low, high = nat.spread(found)
            beside = f"{statistics.median(found):.3f} ({low:.3f} to {high:.3f})"
            row += [f"{statistics.median(kinds[kind]):.1f} µs", beside]
        profile = part["profiles"].get(case, {})
        row.append(", ".join(f"{owner} {100 * share:.1f} %" for owner, share in profile.items() if share))
        rows.append(row)
    other = "tracked / this"
    head = ("", "new connection", other, "request, keep-alive", other, "samples of new connections")
    return Table(head, rows)


def startup_table(part: dict[str, Any]) -> Table:
    rows = []
    for command, sides in part["commands"].items():
        mine, two = sides["lbctl"], sides[startup.TWO]
        rows.append(
            [
                command,
                *(seconds(statistics.median(side["cpu"])) for side in (mine, two)),
                *(ratio(median_ratio(mine[what], two[what])) for what in ("cpu", "wall")),
            ]
        )
    return Table(("", "lbctl, CPU time", "two commands", "ratio of CPU time", "of time that passes"), rows)


def least_table(part: dict[str, Any]) -> Table:
    names = list(part["cases"][0]["ways"])
    rows = [
        [row["case"], *(f"{each['mean']:.1f} ({each['p99']:.0f})" for each in row["ways"].values())]
        for row in part["cases"]
    ]
    return Table(("connections from the fair part: mean (p99)", *names), rows)


def nftlb_load_table(part: dict[str, Any]) -> Table:
    return sides_table(part["loads"], "load of all services, whole process: CPU time")


def nftlb_change_table(part: dict[str, Any]) -> Table:
    return sides_table(part["changes"], "change of one endpoint, program that keeps its state: CPU time")


def sides_table(rows: Sequence[dict[str, Any]], head: str) -> Table:
    """Return seconds of CPU time of each side."""
    sides = (peers.NFTLB, peers.NFTABLES, peers.IPTABLES)
    return Table(
        (head, "services", *sides),
        [
            [
                ", ".join(filter(None, [row["what"], row.get("change")])),
                f"{row['services']:,}",
                *(seconds(median(row["sides"], side)) if side in row["sides"] else "" for side in sides),
            ]
            for row in rows
        ],
    )


def nftlb_flow_table(part: dict[str, Any]) -> Table:
    above = peers.above_receiving(part)
    sides = (peers.NFTLB, peers.NFTABLES, peers.IPTABLES)

    def cell(*key: Any) -> str:
        return seconds(above[key] / 1e9) if key in above else ""

    rows = [[name, "", "", cell(name, "", 0), ""] for name in (peers.FORWARDING, peers.TRACKED)]
    rows += [
        [what, f"{services:,}", *(cell(what, side, services) for side in sides)]
        for what in (kind.name for kind in peers.KINDS)
        for services in sorted({row["services"] for row in part["loads"]})
    ]
    return Table(("a new flow beyond receiving its packet: CPU time", "services", *sides), rows)


def nftlb_modes_words(part: dict[str, Any]) -> str:
    """Return which of nftlb's modes this kernel takes."""
    works = [f"`{name}`" for name, why in part["modes"].items() if not why]
    lines = [f"Loaded by nftlb on this kernel: {', '.join(works)}."]
    lines += [
        f"Not loaded: `{name}` (`nftlb --config FILE --exit`): {why}."
        for name, why in part["modes"].items()
        if why
    ]
    return "\n".join(lines) + "\n"


def fleet_table(part: dict[str, Any]) -> Table:
    rows = [
        [
            {"published": "a published intent", "discovered": "an endpoint that a source finds"}[what],
            f"{found['changes']}",
            *(f"{found[which]:.0f} ms" for which in ("first_ms", "last_ms", "worst_ms")),
        ]
        for what, found in part.items()
    ]
    head = (
        "change in etcd, three balancers",
        "changes",
        "in the first kernel",
        "in the last: median",
        "maximum",
    )
    return Table(head, rows)


def targets_table(results: dict[str, Any]) -> Table:
    rows = [
        [each.title, ratio(each.value) + each.unit, each.words, each.verdict] for each in targets(results)
    ]
    return Table(("target", "measured", "wanted", ""), rows)


#: Name of a region → the part that it shows, and its text.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Table]]] = {
    "proxies": ("proxies", proxies_table),
    "changes": ("changes", changes_table),
    "shares": ("changes", shares_table),
    "load": ("load", load_table),
    "flow": ("growth", flow_table),
    "growth": ("growth", growth_table),
    "nftlb-load": ("nftlb", nftlb_load_table),
    "nftlb-change": ("nftlb", nftlb_change_table),
    "nftlb-flow": ("nftlb", nftlb_flow_table),
    "agent": ("agent", agent_table),
    "killed": ("agent", killed_table),
    "direct": ("dsr", direct_table),
    "nat": ("nat", nat_table),
    "least": ("least", least_table),
    "fleet": ("fleet", fleet_table),
    "start-up": ("start-up", startup_table),
}
WORDS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "layouts": ("growth", layouts_words),
    "nftlb-modes": ("nftlb", nftlb_modes_words),
}
REGIONS = {"machine", "targets", *TABLES, *WORDS}


def print_all(results: dict[str, Any]) -> None:
    print(machine_words(results))
    for name, (part, table) in TABLES.items():
        if part in results["parts"]:
            found = results["parts"][part]
            print(absence(name, results) or table(found).plain().replace("`", ""))
    for name, (part, words) in WORDS.items():
        if part in results["parts"]:
            print(absence(name, results) or words(results["parts"][part]))
    for part, why in results["failed"].items():
        print(f"{part} failed: {why}")
    print(targets_table(results).plain(), end="")


def absence(name: str, results: dict[str, Any]) -> str:
    """Return why a region has no figures; "" if it has."""
    part, _ = (TABLES | WORDS)[name]
    if part in results["failed"]:
        return f"The measurement failed: {results['failed'][part]}\n"
    if part not in results["parts"]:
        return f"Not measured in this run: `make bench PARTS={part}`.\n"
    why = results["parts"][part].get("absent")
    return f"Not measured: {why}.\n" if isinstance(why, str) else ""


def region(name: str, results: dict[str, Any]) -> str:
    """Return what stands in a region of a document."""
    if name == "machine":
        return machine_words(results)
    if name == "targets":
        return targets_table(results).markdown()
    if missing := absence(name, results):
        return missing
    part, _ = (TABLES | WORDS)[name]
    found = results["parts"][part]
    return TABLES[name][1](found).markdown() if name in TABLES else WORDS[name][1](found)


def written(text: str, results: dict[str, Any]) -> str:
    """Return a document with its regions as the results have them."""
    return REGION.sub(lambda found: f"{found[1]}{region(found[2], results)}{found[3]}", text)


def as_text(results: dict[str, Any]) -> str:
    """Return the document of a run: a line for each list of numbers."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    return (
        re.sub(
            r"\[[^\[\]{}]*\]",
            lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"),
            text,
        )
        + "\n"
    )


def publish(results: dict[str, Any]) -> None:
    """Record results, write them into the documents, and draw the charts."""
    RESULTS.write_text(as_text(results))
    for path in DOCUMENTS:
        path.write_text(written(path.read_text(), results))
    # Only here: matplotlib is not in every environment.
    from plots import draw

    draw(results, RESULTS.parent)


def check(file: Path) -> int:
    results = json.loads(file.read_text())
    stale = [path for path in DOCUMENTS if written(path.read_text(), results) != path.read_text()]
    for path in stale:
        print(f"{path.relative_to(ROOT)} differs from {file.name}: python bench/report.py --publish")
    return 1 if stale else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", default=RESULTS)
    parser.add_argument(
        "--publish", action="store_true", help="record FILE and write its figures into the documents"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if the documents differ from FILE")
    given = parser.parse_args()
    if given.check:
        return check(given.file)
    results = json.loads(given.file.read_text())
    print_all(results)
    if given.publish:
        publish(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
