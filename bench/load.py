"""What it costs to bring many services into the kernel and to change them, held against its own tool alone.

    python bench/load.py [--backend nftables|iptables] [SERVICES] [RUNS]

As root; works in private network namespaces. In turns, each in a fresh one, medians of RUNS:

- kernel part: from the text of our script to applied, through our driver;
- tool: `nft -f`, or `iptables-legacy-restore`, of the very same text;
- anonymous maps: the same services with an anonymous map in each service's rule, as others write them for
  nftables;
- first apply: `lbctl apply --yes` from the intent file, with all its reading, checking and comparing;
- no change: the same once more, where nothing is to be changed;
- delta: the same with one endpoint's address changed in the file;
- reading: `nft -j list table`, or `iptables-legacy-save`, of what is there, which others need in order to see
  that nothing has changed;
- delta in memory: one endpoint's address changed through the Python API, by a process that keeps its session
  (nftables only: of iptables the rules must be read each time).

Beside the time of each process stand the processor's seconds in it and its children, which a busy machine
changes less. Exits with 1 where a ratio is beyond its bar, or where "no change" wrote something.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sides import ENDPOINTS, SIDES, Side, intent_text

from lbctl.config import load, loads
from lbctl.engine import apply, open_session, plan
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Endpoint
from lbctl_nftables import generation
from lbctl_nftables.script import transactions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lbctl.model import Intent

T = TypeVar("T")
KERNEL, TOOL, FIRST, SAME, DELTA, READING = (
    "kernel part",
    "tool",
    "first apply",
    "no change",
    "delta",
    "reading",
)
ANONYMOUS, IN_MEMORY = "anonymous maps", "delta in memory"


@dataclass(frozen=True, slots=True)
class Bar:
    """`over` takes at most so many times as long as `under`, or at least so many times."""

    over: str
    under: str
    limit: float
    at_least: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit}"


BARS = {
    "nftables": (
        Bar(KERNEL, TOOL, 1.3),
        Bar(ANONYMOUS, KERNEL, 10, at_least=True),
        Bar(FIRST, KERNEL, 3),
        Bar(DELTA, FIRST, 0.8),
        Bar(SAME, READING, 1),
    ),
    "iptables": (Bar(KERNEL, TOOL, 1.3), Bar(FIRST, TOOL, 4)),
}
IN_MEMORY_SECONDS = 0.040


@dataclass(slots=True)
class Row:
    """What was measured of one thing: seconds, seconds of the processor, and the highest peak in MB."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: int = 0

    def note(self, wall: float, cpu: float, peak: int = 0) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)
        self.peak = max(self.peak, peak)


def anonymous(intent: Intent) -> str:
    """The services of an intent, one anonymous map in the rule of each."""
    chains, elements = [], []
    for service in intent.services:
        [listener] = service.listeners
        slots = ", ".join(f"{i} : {e.address} . {e.port}" for i, e in enumerate(service.endpoints))
        chains.append(
            f"\tchain {service.name} {{\n\t\tmeta l4proto tcp dnat ip to numgen inc mod {ENDPOINTS} "
            f"map {{ {slots} }}\n\t}}"
        )
        elements.append(f"\t{listener.address} . tcp . {listener.port} : goto {service.name},")
    return "\n".join(
        [
            "table ip others {",
            "\tmap services {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t}",
            *chains,
            "\tchain prerouting {\n\t\ttype nat hook prerouting priority -100;",
            "\t\tip daddr . meta l4proto . th dport vmap @services\n\t}",
            "}",
            "add element ip others services {",
            *elements,
            "}\n",
        ]
    )


def run(row: Row, *argv: str, env: Mapping[str, str] | None = None) -> None:
    """Measure a whole process and its children."""
    start, before = time.perf_counter(), os.times()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    seconds, after = time.perf_counter() - start, os.times()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{argv} ended with {process.returncode}")
    row.note(seconds, children(after) - children(before), usage.ru_maxrss // 1024)


def children(times: os.times_result) -> float:
    return times.children_user + times.children_system


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call in this process, and the processor's in it and in the processes that it starts."""
    start, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    own = after.user + after.system - before.user - before.system
    return time.perf_counter() - start, own + children(after) - children(before)


def apart(work: Callable[[], T]) -> T:
    """The result of a call in a process of its own: a process has at least the peak of who started it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(work()))
    process.start()
    sender.close()
    result: T = receiver.recv()
    process.join()
    return result


def moved(intent: Intent, number: int) -> Intent:
    """The intent with another address for one endpoint of one service."""
    at = number * 7919 % len(intent.services)
    service = intent.services[at]
    there = Endpoint(address=IPv4Address(f"10.3.{number // 250}.{number % 250 + 1}"), port=8000)
    changed = replace(service, endpoints=(there, *service.endpoints[1:]))
    return replace(intent, services=(*intent.services[:at], changed, *intent.services[at + 1 :]))


def deltas(host: LocalHost, row: Row, intent: Intent, changes: int) -> None:
    """Some changes of one endpoint, with the session kept; each loads a few elements."""
    session = open_session(host, backend="nftables")
    apply(session, (plan(session, intent),))

    def change(wanted: Intent) -> None:
        made = plan(session, wanted)
        apply(session, (made,))
        text = "".join(transactions(wanted.owner, made.changes, made.after))
        if text.count(" : ") + text.count("delete element") > 4:
            sys.exit(f"more than four elements for one endpoint:\n{text}")

    for number in range(changes):
        intent = moved(intent, number)
        row.note(*timed(partial(change, intent)))


def refusing(folder: Path) -> Mapping[str, str]:
    """An environment in which iptables rules can be read and not written."""
    folder.mkdir()
    real, refuser = shutil.which("iptables-legacy-restore"), folder / "iptables-legacy-restore"
    refuser.write_text(f'#!/bin/sh\n[ "$*" = --version ] && exec {real} --version\nexit 1\n')
    refuser.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def prepare(side: Side, services: int, folder: Path) -> None:
    """Write what is loaded: the intent, the same with one endpoint elsewhere, our rules, and others'."""
    text = intent_text(services)
    (folder / "lbctl.toml").write_text(text)
    (folder / "other.toml").write_text(text.replace('"10.1.0.1:', '"10.2.0.1:', 1))
    intent = loads(text)
    (folder / "ours").write_text(side.script(LocalHost(), intent))
    (folder / "theirs").write_text(anonymous(intent))


def measure(side: Side, services: int, runs: int, folder: Path) -> Mapping[str, Row]:
    host = LocalHost()
    os.environ["LBCTL_STATE_DIR"] = str(folder)
    rows: defaultdict[str, Row] = defaultdict(Row)
    apart(lambda: prepare(side, services, folder))
    file, other, ours, theirs = (folder / name for name in ("lbctl.toml", "other.toml", "ours", "theirs"))

    def kernel_part() -> tuple[float, float]:
        text = ours.read_text()
        # By a host of its own: what the driver keeps for the next time is let go of in this time.
        return timed(lambda: side.load(LocalHost(), text))

    unwritable = refusing(folder / "refusing")
    lbctl = (sys.executable, "-m", "lbctl", "apply", "--yes", "--backend", side.backend.name)
    lbctl += ("--driver", side.driver, "--config")
    for _ in range(runs):
        with fresh(host):
            rows[KERNEL].note(*apart(kernel_part))
        with fresh(host):
            run(rows[TOOL], *side.tool, str(ours))
        if side.backend is SIDES["nftables"].backend:
            with fresh(host):
                run(rows[ANONYMOUS], *side.tool, str(theirs))
        with fresh(host):
            run(rows[FIRST], *lbctl, str(file))
            before = generation.read(host)
            run(rows[SAME], *lbctl, str(file), env=unwritable)
            if generation.read(host) != before:
                sys.exit("without a change, something was written")
            run(rows[DELTA], *lbctl, str(other))
            run(rows[READING], *side.reader)
    if side.backend is SIDES["nftables"].backend:
        with fresh(host):
            deltas(LocalHost(), rows[IN_MEMORY], load(file), max(9, runs))
    return rows


def report(rows: Mapping[str, Row], backend: str) -> bool:
    """Print all; True where all bars are met."""
    base = rows[TOOL]
    print(f"{'':16}{'seconds':>9}{'of tool':>9}{'processor':>11}{'of tool':>9}{'peak':>9}")
    for what, row in rows.items():
        wall, cpu = statistics.median(row.wall), statistics.median(row.cpu)
        cells = f"{what:16}{wall:9.3f}{wall / statistics.median(base.wall):9.2f}"
        cells += f"{cpu:11.3f}{cpu / statistics.median(base.cpu):9.2f}"
        print(f"{cells}{row.peak:6} MB" if row.peak else cells)
    every = True
    for bar in BARS[backend]:
        over, under = rows[bar.over], rows[bar.under]
        ratio = statistics.median(a / b for a, b in zip(over.wall, under.wall, strict=True))
        processor = statistics.median(a / b for a, b in zip(over.cpu, under.cpu, strict=True))
        met = bar.met(ratio)
        every &= met
        verdict = "met" if met else "MISSED"
        print(f"bar: {bar.over} / {bar.under}: {ratio:.2f} (processor {processor:.2f}), {bar}: {verdict}")
    if IN_MEMORY in rows:
        seconds = statistics.median(rows[IN_MEMORY].wall)
        met = seconds <= IN_MEMORY_SECONDS
        every &= met
        limit = f"<= {1000 * IN_MEMORY_SECONDS:.0f} ms"
        print(f"bar: {IN_MEMORY}: {1000 * seconds:.0f} ms, {limit}: {'met' if met else 'MISSED'}")
    return every


@contextmanager
def fresh(host: LocalHost) -> Iterator[None]:
    namespace = Namespace(host)
    try:
        with namespace.entered():
            yield
    finally:
        namespace.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", choices=SIDES, default="nftables")
    parser.add_argument("services", metavar="SERVICES", type=int, nargs="?", default=10_000)
    parser.add_argument("runs", metavar="RUNS", type=int, nargs="?", default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(SIDES[given.backend], given.services, given.runs, Path(name))
    print(
        f"{given.backend}: {given.services} services of {ENDPOINTS} endpoints, medians of {given.runs} runs"
    )
    return 0 if report(rows, given.backend) else 1


if __name__ == "__main__":
    sys.exit(main())
