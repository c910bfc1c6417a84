"""Measure what balancing costs on this machine, by lbctl and by other programs: `make bench`.

    python bench [--size full|quick|tiny] [--output FILE [--add]] [PART ...]

As root; works in private network namespaces, with all processes on the same two processors, so that ratios of
small and large machines can be compared. Writes one JSON document, from which report.py makes tables, charts
and the pages of docs/bench.

Parts of every run, at most twelve minutes in all:

- proxies: new connections and requests by lbctl, nftlb, HAProxy, nginx, Node's cluster, and not balanced;
- changes: exactness of shares, and connections lost while backends change;
- load: what lbctl takes to load many services into the kernel and to change them, beside nft and iptables;
- growth: layouts of rules, by the number of services: load, change, list, memory, a new flow.

Parts that are measured if they are named (`make bench PARTS="nat dsr"`; `PARTS=all` for those of both lists):

- nftlb: load, change and new flows, by NAT and by direct server return, beside nftlb (about five minutes);
- nat: what limits balancing by NAT: lbctl, the least rules that translate, tracking alone;
- dsr: direct server return: cost of a packet, shares, changes;
- least: least connections by dealt slots, compared with IPVS's definition by simulation;
- agent: what checking endpoints costs, and how soon rules follow a failure (about six minutes);
- fleet: how soon a change in etcd is in the kernels of three balancers;
- start-up: what commands take to start, compared with a trivial Typer program.

And alone, not in `all`:

- dialects: the layouts for each way in which this backend can write rules for the nft in PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import changes
import checking
import dialects
import direct
import growth
import least
import load
import machine
import nat
import peers
import proxies
import spread
import startup
from programs import Programs, compiled, use_unpacked
from report import as_text
from sizes import CORE, SIZES, Size

PARTS: dict[str, Callable[[Size, Programs, Path], dict[str, Any]]] = {
    "proxies": proxies.part,
    "changes": changes.part,
    "load": load.part,
    "growth": growth.part,
    "nftlb": peers.part,
    "nat": nat.part,
    "dsr": direct.part,
    "least": least.part,
    "agent": checking.part,
    "fleet": spread.part,
    "start-up": startup.part,
    "dialects": dialects.part,
}
#: This decides how lbctl writes rules; it is no figure of lbctl.
ALONE = {"dialects"}
ALL = "all"
FORMAT_VERSION = 2


def prepare(folder: Path) -> None:
    """Have this process, and all that it starts, use two processors, and keep to private places."""
    os.sched_setaffinity(0, machine.two_processors())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    use_unpacked()
    os.environ["LBCTL_STATE_DIR"] = str(folder / "state")
    # The lock of iptables guards the real host's tables.
    os.environ["XTABLES_LOCKFILE"] = str(folder / "xtables.lock")


def started(size: str, load_average: float) -> dict[str, Any]:
    """Return the results of a run that has measured nothing yet."""
    return {
        "format_version": FORMAT_VERSION,
        "size": size,
        "machine": machine.machine(),
        "versions": machine.versions(),
        "load_average": load_average,
        "seconds": {},
        "failed": {},
        "parts": {},
    }


def continued(fresh: dict[str, Any], text: str) -> dict[str, Any]:
    """Return earlier results, to which parts are added; ends the bench if they were measured elsewhere."""
    before: dict[str, Any] = json.loads(text or "{}")
    if not before:
        return fresh
    for what in ("format_version", "size", "machine", "versions"):
        if before.get(what) != fresh[what]:
            sys.exit(f"--add: {what} differs: {before.get(what)} in the file, {fresh[what]} now")
    return {**before, "load_average": max(before["load_average"], fresh["load_average"])}


def measure(name: str, results: dict[str, Any], programs: Programs, folder: Path) -> None:
    """Measure one part; a failure of it is noted and leaves the others alone."""
    start = time.monotonic()
    print(f"{name} ...", file=sys.stderr, flush=True)
    own = folder / name
    own.mkdir()
    for what in ("parts", "failed", "seconds"):
        results[what].pop(name, None)
    try:
        results["parts"][name] = PARTS[name](SIZES[results["size"]], programs, own)
    except SystemExit as stopped:
        results["failed"][name] = str(stopped.code)
    except Exception as error:  # noqa: BLE001 (one part of many)
        traceback.print_exc()
        results["failed"][name] = f"{type(error).__name__}: {error}"
    results["seconds"][name] = round(time.monotonic() - start)
    print(
        f"{name}: {results['failed'].get(name, '')} {results['seconds'][name]} s", file=sys.stderr, flush=True
    )


def parts(words: Sequence[str]) -> list[str]:
    """Return the parts to measure, in order."""
    wanted = set(PARTS) - ALONE | set(words) if ALL in words else set(words or CORE)
    return [name for name in PARTS if name in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="full", help="how much is measured")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the document, written after each part")
    parser.add_argument("--add", action="store_true", help="keep the other parts that FILE has")
    parser.add_argument("parts", metavar="PART", nargs="*", default=[], help=f"{', '.join(PARTS)}, or {ALL}")
    given = parser.parse_args()
    if unknown := set(given.parts) - {*PARTS, ALL}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.add and not given.output:
        parser.error("--add needs --output")
    if os.geteuid():
        parser.error("needs root, for network namespaces of its own")
    load_average = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        results = started(given.size, load_average)
        if given.add and given.output.exists():
            results = continued(results, given.output.read_text())
        programs = compiled(folder)
        for part in parts(given.parts):
            measure(part, results, programs, folder)
            if given.output:
                given.output.write_text(as_text(results))
    if not given.output:
        print(as_text(results), end="")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
