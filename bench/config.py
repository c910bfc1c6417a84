"""What it costs to read and check a large intent file, held against tomllib alone, the least it can cost.

    python bench/config.py [SERVICES] [RUNS]

In turns, in one process, medians of RUNS; the collector of cycles is off, as in the program. Twice: as in
bench/load.py, where hosts serve many services, and with an address of its own for each endpoint. The peak
memory of each is that of a process which does nothing else, less that of one which only imports.
"""

from __future__ import annotations

import gc
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from itertools import count
from pathlib import Path

from sides import ENDPOINTS, intent_text

from lbctl.config import load

PEAK = """\
import gc, sys, tomllib
from pathlib import Path
from lbctl.config import load
gc.disable()
{what}
[line] = [x for x in open("/proc/self/status") if x.startswith("VmHWM:")]
print(line.split()[1])
"""
STEPS = {"tomllib": "tomllib.loads(Path(sys.argv[1]).read_text())", "load": "load(Path(sys.argv[1]))"}


def spread(text: str) -> str:
    """The intent, each of its endpoints with an address that no other has."""
    numbers = count(0x0B000001)
    return re.sub(
        r'"10\.1\.[0-9.]+:', lambda _: '"{}.{}.{}.{}:'.format(*next(numbers).to_bytes(4, "big")), text
    )


def peak(file: Path, what: str) -> int:
    """The most memory that a process has which does `what`, in KiB (getrusage would count its parent too)."""
    argv = (sys.executable, "-c", PEAK.format(what=what), str(file))
    return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    gc.disable()
    shared = intent_text(services)
    print(f"{services} services of {ENDPOINTS} endpoints, medians of {runs}")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "lbctl.toml"
        for what, text in (("hosts in common", shared), ("an address each", spread(shared))):
            file.write_text(text)
            times: dict[str, list[float]] = {step: [] for step in STEPS}
            for _ in range(runs):
                for step in STEPS:
                    start = time.perf_counter()
                    made = tomllib.loads(text) if step == "tomllib" else load(file)
                    times[step].append(time.perf_counter() - start)
                    del made
                    gc.collect()
            least, all_ = (statistics.median(times[step]) for step in STEPS)
            base = peak(file, "")
            memory = ", ".join(f"{step} {(peak(file, do) - base) // 1024} MB" for step, do in STEPS.items())
            print(f"{what}: tomllib {least:.3f} s, load {all_:.3f} s: {all_ / least:.2f}; memory: {memory}")


if __name__ == "__main__":
    main()
