"""What work costs: seconds that pass, seconds of CPU time, memory."""

from __future__ import annotations

import gzip
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace

#: The clock of any process by its number, as clock_getcpuclockid makes it: exact to the nanosecond.
_SCHED_CLOCK = 2


@dataclass(slots=True)
class Spent:
    """What was measured of one thing, for each run: seconds that passed, and seconds of CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def note(self, wall: float, cpu: float) -> None:
        self.wall.append(wall)
        self.cpu.append(cpu)

    def as_json(self) -> dict[str, Any]:
        return {"wall": rounded(self.wall), "cpu": rounded(self.cpu)}


def rounded(values: Iterable[float]) -> list[float]:
    """As exact as any of this is: five digits."""
    return [float(f"{value:.5g}") for value in values]


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: a machine that is slower for a while is so for both."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def run(
    spent: Spent, *argv: str, env: Mapping[str, str] | None = None, stdin: Path = Path(os.devnull)
) -> None:
    """Measure a whole process and its children."""
    start = time.perf_counter()
    with stdin.open() as text:
        process = subprocess.Popen(
            argv, stdin=text, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
        )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{argv} ended with {process.returncode}")
    spent.note(seconds, usage.ru_utime + usage.ru_stime)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of a call, and seconds of CPU time of this process and of those that it starts."""
    start, before = time.perf_counter(), _used()
    work()
    return time.perf_counter() - start, _used() - before


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + usage.ru_utime + usage.ru_stime


def processor(pids: Iterable[int]) -> float:
    """Return seconds of CPU time that processes have used so far, all of their threads."""
    return sum(time.clock_gettime(~pid << 3 | _SCHED_CLOCK) for pid in pids)


def interrupts() -> float:
    """Return seconds of CPU time of the kernel's own work that no process is charged for.

    That is what threads named ksoftirqd do, and, on kernels that count interrupts apart, all of them
    (`IRQ_TIME_ACCOUNTING`): there a process that sends a packet is not charged for what that sets off.
    """
    total = processor(softirq_threads())
    if counted_apart():
        [line] = re.findall(r"(?m)^cpu .*$", Path("/proc/stat").read_text())
        total += sum(map(int, line.split()[6:8])) / os.sysconf("SC_CLK_TCK")
    return total


def kernel_config() -> str:
    """Return how the running kernel was built; "" if it does not show that."""
    boot = Path(f"/boot/config-{os.uname().release}")
    if boot.exists():
        return boot.read_text()
    here = Path("/proc/config.gz")
    if not here.exists():
        return ""
    return gzip.decompress(here.read_bytes()).decode()


@cache
def counted_apart() -> bool:
    """Return True if no process is charged for interrupts."""
    return "CONFIG_IRQ_TIME_ACCOUNTING=y" in kernel_config()


@cache
def softirq_threads() -> tuple[int, ...]:
    comms = Path("/proc").glob("[0-9]*/comm")
    return tuple(int(path.parent.name) for path in comms if _text(path).startswith("ksoftirqd/"))


def _text(path: Path) -> str:
    """Return the text of a file of a process; "" if the process has ended meanwhile."""
    try:
        return path.read_text()
    except OSError:
        return ""


def descendants(pid: int) -> tuple[int, ...]:
    """A process and all processes below it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        if rest := _text(path).rpartition(")")[2].split():
            parents.setdefault(int(rest[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return tuple(found)


def own_memory(pids: Iterable[int]) -> int:
    """Bytes of memory of processes, each shared page counted once."""
    text = "\n".join(_text(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids)
    return 1024 * sum(map(int, re.findall(r"(?m)^Pss: +(\d+)", text)))


def kernel_memory() -> int:
    """Bytes of the kernel's own memory, once it has settled: namespaces end a while after their use."""
    last = -1
    for _ in range(50):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        now = sum(sizes.get(name, 0) for name in ("Slab", "Percpu", "VmallocUsed")) * 1024
        if abs(now - last) < 1 << 16:
            break
        last = now
        time.sleep(0.05)
    return now


@contextmanager
def fresh(host: LocalHost) -> Iterator[Namespace]:
    """A network namespace of its own."""
    namespace = Namespace(host)
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.close()
