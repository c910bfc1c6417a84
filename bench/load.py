"""What it costs to load many services into nftables, held against nft alone and against the usual layout.

    python bench/load.py [SERVICES] [RUNS]          (as root; works in private network namespaces)

In turns, each in a fresh namespace, medians of RUNS:

- kernel part: from the text of our script to applied, through our driver;
- nft: `nft -f` of the very same text;
- anonymous maps: the same services with an anonymous map in each service's rule, as others write them;
- whole process: `lbctl apply --yes` from the intent file, with all its reading, checking and reading back;
- again: the same once more, where nothing is to be changed.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lbctl.config import load
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl_nftables import drivers
from lbctl_nftables.compile import compile_intent
from lbctl_nftables.probe import CAPABILITIES
from lbctl_nftables.script import render

ENDPOINTS = 10


def intent_text(services: int) -> str:
    lines = ["schema = 1"]
    for i in range(services):
        listen = f"10.{100 + i // 65536}.{i // 256 % 256}.{i % 256}:80/tcp"
        endpoints = ", ".join(f'"10.1.{i // 256 % 256}.{j + 1}:{8000 + i % 1000}"' for j in range(ENDPOINTS))
        lines += ["[[service]]", f'name = "s{i}"', f'listen = "{listen}"', f"endpoints = [{endpoints}]"]
    return "\n".join(lines) + "\n"


def anonymous(path: Path) -> str:
    """The services of an intent file, one anonymous map in the rule of each."""
    chains, elements = [], []
    for service in load(path).services:
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


def timed(*argv: str) -> float:
    start = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    host = LocalHost()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, ours, theirs = folder / "lbctl.toml", folder / "ours.nft", folder / "theirs.nft"
        file.write_text(intent_text(services))
        text = render(compile_intent(load(file), CAPABILITIES))
        ours.write_text(text)
        theirs.write_text(anonymous(file))
        apply = (
            sys.executable,
            "-m",
            "lbctl",
            "apply",
            "--yes",
            "--backend",
            "nftables",
            "--config",
            str(file),
        )
        for _ in range(runs):
            for what in ("kernel part", "nft", "anonymous maps", "whole process"):
                namespace = Namespace(host)
                with namespace.entered():
                    if what == "kernel part":
                        start = time.perf_counter()
                        drivers.load(host, "libnftables", text)
                        times.setdefault(what, []).append(time.perf_counter() - start)
                    elif what == "whole process":
                        times.setdefault(what, []).append(timed(*apply))
                        times.setdefault("again", []).append(timed(*apply))
                    else:
                        argv = ("nft", "-f", str(ours if what == "nft" else theirs))
                        times.setdefault(what, []).append(timed(*argv))
                namespace.close()
    medians = {what: statistics.median(values) for what, values in times.items()}
    base = medians["kernel part"]
    print(f"{services} services of {ENDPOINTS} endpoints, medians of {runs}")
    for what, value in medians.items():
        print(f"{what:16} {value:8.3f} s   {value / base:6.2f} of the kernel part")
    print(f"kernel part / nft: {base / medians['nft']:.2f}")
    print(f"anonymous maps / kernel part: {medians['anonymous maps'] / base:.1f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(f"peak memory of one process: {peak} MB")


if __name__ == "__main__":
    main()
