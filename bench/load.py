"""What it costs to bring many services into nftables and to change them, held against nft alone.

    python bench/load.py [SERVICES] [RUNS]          (as root; works in private network namespaces)

In turns, each in a fresh namespace, medians of RUNS:

- kernel part: from the text of our script to applied, through our driver;
- nft: `nft -f` of the very same text;
- anonymous maps: the same services with an anonymous map in each service's rule, as others write them;
- first apply: `lbctl apply --yes` from the intent file, with all its reading, checking and comparing;
- no change: the same once more, where nothing is to be changed;
- delta: the same with one endpoint's address changed in the file;
- reading: `nft -j list table` of what is there, which others need in order to see that nothing has changed;
- delta in memory: one endpoint's address changed through the Python API, by a process that keeps its session.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.config import load
from lbctl.engine import apply, open_session, plan
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Endpoint
from lbctl_nftables import drivers
from lbctl_nftables.compile import compile_intent
from lbctl_nftables.probe import CAPABILITIES
from lbctl_nftables.script import render, transactions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import Intent

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


def timed(*argv: str) -> tuple[float, int]:
    """Seconds of a whole process, and its peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{argv} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss // 1024


def moved(intent: Intent, number: int) -> Intent:
    """The intent with another address for one endpoint of one service."""
    at = number * 7919 % len(intent.services)
    service = intent.services[at]
    there = Endpoint(address=IPv4Address(f"10.3.{number // 250}.{number % 250 + 1}"), port=8000)
    changed = replace(service, endpoints=(there, *service.endpoints[1:]))
    return replace(intent, services=(*intent.services[:at], changed, *intent.services[at + 1 :]))


def deltas(host: LocalHost, intent: Intent, changes: int) -> list[float]:
    """Seconds of each of some changes of one endpoint, with the session kept; and what each loads."""
    session = open_session(host, backend="nftables")
    apply(session, (plan(session, intent),))
    times = []
    for number in range(changes):
        start = time.perf_counter()
        intent = moved(intent, number)
        made = plan(session, intent)
        apply(session, (made,))
        times.append(time.perf_counter() - start)
        text = "".join(transactions(intent.owner, made.changes, made.after))
        if text.count(" : ") + text.count("delete element") > 4:
            raise SystemExit(f"more than four elements for one endpoint:\n{text}")
    return times


def main() -> None:
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    host = LocalHost()
    times: dict[str, list[float]] = {}
    memory: dict[str, int] = {}

    def note(what: str, seconds: float, peak: int = 0) -> None:
        times.setdefault(what, []).append(seconds)
        memory[what] = max(memory.get(what, 0), peak)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LBCTL_STATE_DIR"] = name
        file, other = folder / "lbctl.toml", folder / "other.toml"
        ours, theirs = folder / "ours.nft", folder / "theirs.nft"
        file.write_text(intent_text(services))
        other.write_text(intent_text(services).replace('"10.1.0.1:', '"10.2.0.1:', 1))
        intent = load(file)
        text = render(compile_intent(intent, CAPABILITIES))
        ours.write_text(text)
        theirs.write_text(anonymous(file))
        lbctl = (sys.executable, "-m", "lbctl", "apply", "--yes", "--backend", "nftables", "--config")
        for _ in range(runs):
            with fresh(host):
                start = time.perf_counter()
                # By a host of its own: what the driver keeps for the next time is let go of in this time.
                drivers.load(LocalHost(), "libnftables", text)
                note("kernel part", time.perf_counter() - start)
            with fresh(host):
                note("nft", *timed("nft", "-f", str(ours)))
            with fresh(host):
                note("anonymous maps", *timed("nft", "-f", str(theirs)))
            with fresh(host):
                note("first apply", *timed(*lbctl, str(file)))
                note("no change", *timed(*lbctl, str(file)))
                note("delta", *timed(*lbctl, str(other)))
                note("reading", *timed("nft", "-j", "list", "table", "ip", "lbctl"))
        with fresh(host):
            for seconds in deltas(LocalHost(), intent, max(9, runs)):
                note("delta in memory", seconds)
    report(services, times, memory)


def report(services: int, times: Mapping[str, Sequence[float]], memory: Mapping[str, int]) -> None:
    medians = {what: statistics.median(values) for what, values in times.items()}
    base = medians["kernel part"]
    print(f"{services} services of {ENDPOINTS} endpoints, medians of {len(times['nft'])}")
    for what, value in medians.items():
        peak = f"{memory[what]:6} MB" if memory[what] else ""
        print(f"{what:16} {value:8.3f} s   {value / base:6.3f} of the kernel part {peak}")
    for over, under, target in (
        ("kernel part", "nft", "<= 1.3"),
        ("anonymous maps", "kernel part", ">= 10"),
        ("first apply", "kernel part", "<= 3"),
        ("delta", "first apply", "<= 0.8"),
        ("no change", "reading", "<= 1"),
    ):
        print(f"{over} / {under}: {medians[over] / medians[under]:.2f} ({target})")
    print(f"delta in memory: {1000 * medians['delta in memory']:.0f} ms (<= 40 ms)")


@contextmanager
def fresh(host: LocalHost) -> Iterator[None]:
    namespace = Namespace(host)
    try:
        with namespace.entered():
            yield
    finally:
        namespace.close()


if __name__ == "__main__":
    main()
