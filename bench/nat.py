"""What limits balancing by NAT: lbctl beside the least rules that translate, and beside tracking alone.

All cases are there at the same time, each on a host of its own, and take turns of some 20 ms, each time in
another order: whatever else the machine does hits all of them. A round has ten turns of each, and its figure
is their sum. Figures are CPU time of clients, servers and kernel for a new connection with a request, and for
a request over a connection that stays. The cases:

- tracked: clients ask the servers themselves; a rule asks for the state of each packet, as any firewall does;
- idle NAT: clients ask the servers themselves, beside a NAT rule that matches none of them. What this takes
  more than tracking is what the kernel does for each connection and packet once it has a NAT rule;
- least NAT: one rule for each address of the host, which sends all to one server; no choice, no counters.
  What this takes more than tracking is the kernel's translation, which no balancing by NAT is without;
- lbctl: one service of three servers, applied by lbctl.

Where `perf` is there, the share of all samples that the functions of each of these have in a run of lbctl.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import statistics
import subprocess
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxies import KEEP, NEW, TRACKED
from timing import rounded
from traffic import BACKENDS, HOSTS, PORT, Load, Site, Traffic, targets
from ways import LBCTL_IPTABLES, LBCTL_NFTABLES, Way, clear_iptables, rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from programs import Programs
    from sizes import Size

    from lbctl.host.netns import Namespace

#: Requests over connections that stay, for each new connection that is measured; and how many of these there
#: are at once in each client. Few: opening them is in the figure too.
REQUESTS, STAYING = 10, 16
#: Turns of each case in a round, and connections in one at least.
TURNS, SHORTEST = 10, 50
#: Whose a function of the kernel is, by how its name begins.
OWNERS = (
    ("rules of nftables", r"nft_|nf_tables|__nft"),
    ("rules of iptables", r"ipt_do_table|xt_|.*_(mt|tg)(_v\d)?$|redirect_tg|statistic_mt|comment_mt"),
    ("translation", r"nf_nat|__nf_nat|nf_xfrm_me_harder|inet_proto_csum"),
    (
        "tracking",
        r"nf_conntrack|__nf_conntrack|nf_ct_|__nf_ct|hash_conntrack|get_l4proto|resolve_normal_ct|early_drop",
    ),
)


def load_nft(host: Namespace, rules: Sequence[str]) -> None:
    lines = ["type nat hook prerouting priority -100", *rules]
    host.run(
        "nft", "-f", "-", stdin="\n".join(["table ip least {", "chain prerouting {", *lines, "}", "}", ""])
    )


def least_nft(host: Namespace, ports: Sequence[int]) -> None:
    pairs = zip(HOSTS, ports, strict=True)
    load_nft(host, [f"ip daddr {address} tcp dport {PORT} redirect to :{port}" for address, port in pairs])


def least_iptables(host: Namespace, ports: Sequence[int]) -> None:
    lines = [
        f"-A PREROUTING -d {address} -p tcp --dport {PORT} -j REDIRECT --to-ports {port}"
        for address, port in zip(HOSTS, ports, strict=True)
    ]
    host.run("iptables-legacy-restore", stdin="\n".join(["*nat", *lines, "COMMIT", ""]))


def idle(host: Namespace, ports: Sequence[int]) -> None:
    load_nft(host, [f"tcp dport {PORT} redirect to :{ports[0]}"])


IDLE = rules("idle NAT", "", idle, lambda host: host.run("nft", "flush", "ruleset"))
LEAST_NFT = rules("least NAT, nftables", "", least_nft, lambda host: host.run("nft", "flush", "ruleset"))
LEAST_IPTABLES = rules("least NAT, iptables", "", least_iptables, clear_iptables)
CASES: tuple[Way, ...] = (TRACKED, IDLE, LEAST_NFT, LBCTL_NFTABLES, LEAST_IPTABLES, LBCTL_IPTABLES)


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    """Case → kind of traffic → microseconds of CPU time in each round, and whose they are."""
    turns = max(1, min(TURNS, size.nat_connections // SHORTEST))
    connections = size.nat_connections // turns
    loads = {
        NEW: Load(requests=connections),
        KEEP: Load(requests=REQUESTS * connections, keep=True, concurrency=STAYING),
    }
    found: dict[str, dict[str, list[float]]] = {way.name: {kind: [] for kind in loads} for way in CASES}
    with ExitStack() as stack:
        live = {}
        for way in CASES:
            # Each host has a state of its own.
            os.environ["LBCTL_STATE_DIR"] = str(folder / way.name.replace(" ", ""))
            site = stack.enter_context(Site(programs, folder))
            serving = stack.enter_context(site.backends(BACKENDS))
            stack.enter_context(way.start(site, BACKENDS))
            live[way.name] = site, serving, targets(BACKENDS) if way in (TRACKED, IDLE) else targets()
        for _, (kind, load) in product(range(size.nat_rounds), loads.items()):
            spent = {way.name: Traffic() for way in CASES}
            for _ in range(turns):
                for way in random.sample(CASES, len(CASES)):
                    site, serving, asked = live[way.name]
                    site.forget()
                    traffic = site.run(load, asked, serving)
                    spent[way.name].cpu += traffic.cpu
                    spent[way.name].counts += traffic.counts
            for name, all_turns in spent.items():
                found[name][kind].append(all_turns.cpu / all_turns.counts["completed"] * 1e6)
        profiles = {
            way.name: profile(folder, site, serving, asked, size)
            for way in (LBCTL_NFTABLES, LBCTL_IPTABLES)
            if shutil.which("perf")
            for site, serving, asked in [live[way.name]]
        }
    cases = {name: {kind: rounded(each) for kind, each in kinds.items()} for name, kinds in found.items()}
    return {"cases": cases, "profiles": profiles}


def profile(
    folder: Path, site: Site, serving: Sequence[int], asked: Sequence[str], size: Size
) -> dict[str, float]:
    """Return whose functions the samples of new connections are in: parts of all that are not idle."""
    file = folder / "perf.data"
    recorder = subprocess.Popen(
        ["perf", "record", "--quiet", "-e", "cpu-clock", "-a", "-o", str(file), "--", "sleep", "600"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while recorder.poll() is None and not (file.exists() and file.stat().st_size):
        time.sleep(0.05)
    for _ in range(5):
        site.forget()
        site.run(Load(requests=size.nat_connections), asked, serving)
    recorder.terminate()
    recorder.wait()
    # Of the processes of the bench alone: others have no part in it.
    report = subprocess.run(
        [
            "perf",
            "report",
            "--stdio",
            "--no-children",
            "--comms",
            "client,server",
            "--sort",
            "symbol",
            "-i",
            str(file),
        ],
        capture_output=True,
        text=True,
    )
    lines = re.findall(r"(?m)^ +([\d.]+)% +\[[k.]\] (\S+)", report.stdout)
    total = sum(float(share) for share, _ in lines) or 1.0
    return {
        owner: round(sum(float(share) for share, name in lines if re.match(names, name)) / total, 4)
        for owner, names in OWNERS
    }


def ratios(part: dict[str, Any], case: str, kind: str, base: str = TRACKED.name) -> list[float]:
    """Return, for each round, the CPU time of a base in parts of a case's: 0.98 is 2 % more CPU time."""
    return [b / c for b, c in zip(part["cases"][base][kind], part["cases"][case][kind], strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the quartiles."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return low, high
