"""Measure what balancing costs, ours and others', on this machine: `make bench`.

    python bench [--size full|quick|tiny] [--output FILE] [PART ...]

As root; works in private network namespaces, with all processes on the same two processors, so that figures
of small and large machines can be compared. Writes one JSON document, from which report.py makes all else.

- proxies: new connections and requests by lbctl, HAProxy, nginx, Node's cluster, and without balancing;
- changes: exactness of shares, and connections lost while backends change;
- load: what lbctl takes to bring many services into the kernel and to change them;
- growth: layouts of rules, by the number of services: load, change, list, memory, a new flow;
- agent: what checking endpoints costs, and how soon rules follow a failure;
- fleet (only if named): how soon a change in etcd is in the kernels of three balancers;
- nat (only if named): what limits balancing by NAT: lbctl, the least rules that translate, tracking alone;
- least (only if named): least connections by dealt slots, held against IPVS's definition by simulation;
- start-up (only if named): what commands take to start, held against a trivial Typer program;
- dsr (only if named): direct server return, per packet and under changes;
- dialects (only if named): the same for each way in which this backend can write rules for the nft in PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
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
from sizes import SIZES, Size

PARTS: dict[str, Callable[[Size, Programs, Path], dict[str, Any]]] = {
    "proxies": proxies.part,
    "changes": changes.part,
    "load": load.part,
    "growth": growth.part,
    "nftlb": peers.part,
    "agent": checking.part,
    "fleet": spread.part,
    "dsr": direct.part,
    "nat": nat.part,
    "least": least.part,
    "start-up": startup.part,
    "dialects": dialects.part,
}
#: Measured only if they are named: they decide something once, and are no figures of lbctl.
ON_REQUEST = {"dialects", "dsr", "fleet", "least", "nat", "start-up"}


def prepare(folder: Path) -> None:
    """Have this process, and all that it starts, use two processors, and keep to private places."""
    os.sched_setaffinity(0, machine.two_processors())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    use_unpacked()
    os.environ["LBCTL_STATE_DIR"] = str(folder / "state")
    # The lock of iptables guards the real host's tables.
    os.environ["XTABLES_LOCKFILE"] = str(folder / "xtables.lock")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--output", type=Path)
    parser.add_argument("parts", metavar="PART", nargs="*", default=[], help=", ".join(PARTS))
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if os.geteuid():
        parser.error("needs root, for network namespaces of its own")
    results: dict[str, Any] = {"format_version": 1, "size": given.size}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        results |= {"machine": machine.machine(), "versions": machine.versions(), "parts": {}}
        programs = compiled(folder)
        for part in given.parts or [name for name in PARTS if name not in ON_REQUEST]:
            start = time.monotonic()
            print(f"{part} ...", file=sys.stderr, flush=True)
            own = folder / part
            own.mkdir()
            results["parts"][part] = PARTS[part](SIZES[given.size], programs, own)
            print(f"{part}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    if given.output:
        given.output.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
