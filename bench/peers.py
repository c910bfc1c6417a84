"""lbctl beside nftlb, which also writes nftables rules: load, change, and what a new flow costs.

Services of three endpoints on port 80/udp, 1, 100 and 1,000 of them, translated (NAT) and by direct server
return (DSR), on a router between a client and the endpoints; nftlb has farms of the same. It cannot have many
more: it has 4,095 marks for backends, and looks for a free one by comparing each mark with those of all.

- load: whole processes, `nftlb --exit` and `lbctl apply`, in turns;
- change: the weight, and the address, of one endpoint, by programs that keep their state: nftlb takes the
  change over HTTP, lbctl by its Python API, with plan and verification; in turns. CPU time is that of the
  process which writes the rules;
- flow: UDP packets, each a flow of its own, through all rule sets in turns, as in `growth`, in CPU time: the
  sender, the router and the counting at the end run on one processor. Receiving a packet and dropping it at
  ingress is a row of its own, and subtracted from the others. Learned flows are those that a map of
  connections remembers, as TCP needs for round robin without tracking (nftlb: persistence by address and
  port);
- modes: each of nftlb's modes, and its flow offload, tried once, with the error if one fails.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import layouts
import nftlb
from direct import DROP, DROPPED, FORWARDING
from growth import NOBODY, Road, Row, build, measure
from programs import Programs, absent
from sides import SIDES, Side
from timing import Spent, processor, rounded, run, timed

from lbctl.config import loads
from lbctl.engine import apply, open_session, plan
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace, PrivateHost
from lbctl.model import Endpoint, Forward

if TYPE_CHECKING:
    from sizes import Size

    from lbctl.model import Intent

ENDPOINTS = 3
#: Endpoints behind a router, and on the segment of the balancer; the address of a changed one.
BEHIND = [IPv4Address("10.1.0.1") + n for n in range(ENDPOINTS)]
BESIDE = [IPv4Address("10.8.0.11") + n for n in range(ENDPOINTS)]
ELSEWHERE = {Forward.NAT: IPv4Address("10.1.9.9"), Forward.DSR: IPv4Address("10.8.0.99")}
WEIGHT, ADDRESS = "weight", "address"
NFTLB, NFTABLES, IPTABLES = "nftlb", "lbctl, nftables", "lbctl, iptables"
BACKENDS = {NFTABLES: SIDES["nftables"], IPTABLES: SIDES["iptables"]}
DSR_LINES = 'forward = "dsr"\nlocal-clients = false\ninterfaces = ["in"]\n'
TRACKED = "tracking alone"
RUNS_OF_A_LOAD = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How services are balanced, in the words of both programs."""

    name: str
    forward: Forward
    #: Lines of each service in lbctl's file, and settings of each farm.
    lines: str
    settings: Mapping[str, str]
    #: True when a map remembers connections.
    learned: bool = False

    @property
    def backends(self) -> Sequence[IPv4Address]:
        return BEHIND if self.forward is Forward.NAT else BESIDE

    @property
    def sides(self) -> tuple[str, ...]:
        return (NFTLB, NFTABLES, IPTABLES) if self.forward is Forward.NAT else (NFTLB, NFTABLES)


NAT = Kind(name="NAT, round robin", forward=Forward.NAT, lines="", settings={"mode": "dnat"})
HASH = Kind(
    name="DSR, source hash",
    forward=Forward.DSR,
    lines=DSR_LINES + 'scheduler = "source-hash"\n',
    settings={"mode": "dsr", "scheduler": "hash", "sched-param": "srcip"},
)
LEARNED = Kind(
    name="DSR, round robin, learned",
    forward=Forward.DSR,
    lines=DSR_LINES,
    settings={"mode": "dsr", "persistence": "srcip srcport"},
    learned=True,
)
KINDS = (NAT, HASH, LEARNED)
#: Those whose loads and changes are measured.
LOADED = (NAT, HASH)


def intent_text(kind: Kind, services: int) -> str:
    """Return an intent file for lbctl."""
    port = ":8000" if kind.forward is Forward.NAT else ""
    endpoints = ", ".join(f'"{each}{port}"' for each in kind.backends)
    lines = ["schema = 1"]
    for number in range(services):
        lines += ["[[service]]", f'name = "s{number}"', f'listen = "{layouts.address(number)}:80/udp"']
        lines += [kind.lines, f"endpoints = [{endpoints}]"]
    return "\n".join(lines) + "\n"


def farms(kind: Kind, services: int) -> list[nftlb.Farm]:
    ports = [8000] * ENDPOINTS if kind.forward is Forward.NAT else []
    return [
        nftlb.farm(
            f"s{number}",
            [layouts.address(number)],
            kind.backends,
            protocol="udp",
            ports=ports,
            **kind.settings,
        )
        for number in range(services)
    ]


def changed(intent: Intent, *, weight: int = 1, address: IPv4Address | None = None) -> Intent:
    """Return the intent with another weight or address of the first endpoint of the first service."""
    service = intent.services[0]
    first = service.endpoints[0]
    endpoint = Endpoint(address=address or first.address, port=first.port, weight=weight)
    service = replace(service, endpoints=(endpoint, *service.endpoints[1:]))
    return replace(intent, services=(service, *intent.services[1:]))


def prepare(router: Namespace, kind: Kind, services: int) -> None:
    """Give a router what DSR needs: the addresses of all services, and endpoints with MAC addresses."""
    if kind.forward is Forward.DSR:
        router.address("in", *(f"{layouts.address(number)}/32" for number in range(services)))
        lines = [
            f"neighbour replace {each} lladdr {NOBODY[:-2]}{number:02x} dev out nud permanent\n"
            for number, each in enumerate([*BESIDE, ELSEWHERE[Forward.DSR]])
        ]
        router.run("ip", "-batch", "-", stdin="".join(lines))


@dataclass(slots=True, kw_only=True)
class Flow:
    """A row of the result: new flows through one rule set."""

    what: str
    side: str
    services: int
    row: Row
    #: The map that remembers flows, emptied before each run, as words for nft.
    emptied: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        runs = rounded(self.row.runs)
        return {"what": self.what, "side": self.side, "services": self.services, "flow_ns": runs}


@dataclass(slots=True, kw_only=True)
class Bench:
    """All of the measurements, and the rule sets that are there meanwhile."""

    size: Size
    sender: Path
    folder: Path
    host: LocalHost = field(default_factory=LocalHost)
    flows: list[Flow] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self) -> dict[str, Any]:
        """Return the JSON of the part."""
        self._plain_flows()
        found = {
            "loads": [
                row for kind in KINDS for services in self.size.farms for row in self._load(kind, services)
            ],
            "changes": [
                row for kind in LOADED for services in self.size.farms for row in self._change(kind, services)
            ],
            "modes": self._modes(),
        }
        for _ in range(self.size.flow_runs):
            for flow in random.sample(self.flows, len(self.flows)):
                self._send(flow)
        return {**found, "flows": [flow.as_json() for flow in self.flows]}

    def _road(self, load: Callable[[], None] = lambda: None) -> Road:
        road = build(self.host, load)
        self._stack.callback(road.close)
        return road

    def _plain_flows(self) -> None:
        """Add the rows without balancing."""
        nft = SIDES["nftables"].load
        texts = {DROPPED: DROP, FORWARDING: "", TRACKED: layouts.TRACKING["nftables"]}
        for what, text in texts.items():
            road = self._road(partial(nft, self.host, text) if text else lambda: None)
            row = Row(what=what, services=0, road=road, destination=layouts.ENDPOINT, tracked=what == TRACKED)
            if what == DROPPED:
                with road.router.entered():
                    counters = os.open("/proc/thread-self/net/dev", os.O_RDONLY)
                self._stack.callback(os.close, counters)
                row.road, row.arrival = replace(road, counters=counters), "in"
            self.flows.append(Flow(what=what, side="", services=0, row=row))

    def _load(self, kind: Kind, services: int) -> Iterator[dict[str, Any]]:
        """Load services by all sides in turns, keep a rule set of each for flows, and yield a row."""
        spent = {side: Spent() for side in kind.sides}
        for number in range(RUNS_OF_A_LOAD):
            for side in random.sample(kind.sides, len(kind.sides)):
                took = spent[side]
                if number and (kind not in LOADED or sum(took.wall) > self.size.load_enough):
                    continue
                road = self._loaded(kind, services, side, took)
                if number == 0:
                    self._add_flow(kind, services, side, road)
        if kind in LOADED:
            sides = {side: took.as_json() for side, took in spent.items()}
            yield {"what": kind.name, "services": services, "sides": sides}

    def _loaded(self, kind: Kind, services: int, side: str, spent: Spent) -> Road:
        """Return a road whose router has been loaded by a whole process of one side."""
        road = self._road()
        prepare(road.router, kind, services)
        file = self.folder / "file"
        with road.router.entered():
            if side == NFTLB:
                file.write_text(nftlb.document(farms(kind, services)))
                run(spent, *nftlb.loading(file))
            else:
                file.write_text(intent_text(kind, services))
                with tempfile.TemporaryDirectory(dir=self.folder) as state:
                    options = ("--backend", BACKENDS[side].backend.name, "--driver", BACKENDS[side].driver)
                    argv = (sys.executable, "-m", "lbctl", "apply", "--yes", *options, "--config", str(file))
                    run(spent, *argv, env={**os.environ, "LBCTL_STATE_DIR": state})
        if side == NFTLB:
            # Its exit code is 0 also if it did not load a farm.
            found = road.router.run("nft", "list", "ruleset").count(" : goto ")
            if found != services * (2 if kind.forward is Forward.NAT else 1):
                sys.exit(f"nftlb, {kind.name}: {found} elements for {services} farms")
        return road

    def _add_flow(self, kind: Kind, services: int, side: str, road: Road) -> None:
        at = services // 2
        row = Row(
            what=f"{kind.name}, {side}",
            services=services,
            road=road,
            destination=layouts.address(at),
            tracked=kind.forward is Forward.NAT,
        )
        flow = Flow(what=kind.name, side=side, services=services, row=row)
        if kind.learned:
            flow.emptied = ("nftlb", f"persist-s{at}") if side == NFTLB else ("lbctl.ip", f"flows-udp-s{at}")
        self.flows.append(flow)

    def _change(self, kind: Kind, services: int) -> Iterator[dict[str, Any]]:
        """Change one endpoint by all sides in turns; yield a row for each kind of change."""
        with ExitStack() as stack:
            changers: dict[str, Callable[[str, int], tuple[float, float]]] = {}
            for side in kind.sides:
                road = build(self.host, lambda: None)
                stack.callback(road.close)
                prepare(road.router, kind, services)
                if side == NFTLB:
                    daemon = nftlb.daemon(road.router, self.folder, farms(kind, services))
                    changers[side] = partial(by_nftlb, stack.enter_context(daemon), kind)
                else:
                    changers[side] = by_lbctl(road.router, BACKENDS[side], kind, services)
            for what in (WEIGHT, ADDRESS):
                spent = {side: Spent() for side in changers}
                for number in range(self.size.peer_changes):
                    for side in random.sample(kind.sides, len(kind.sides)):
                        spent[side].note(*changers[side](what, number))
                sides = {side: took.as_json() for side, took in spent.items()}
                yield {"what": kind.name, "change": what, "services": services, "sides": sides}

    def _modes(self) -> dict[str, str]:
        """Return the error of each of nftlb's modes, "" if its rules are loaded."""
        tried = {mode: {"mode": mode} for mode in nftlb.MODES}
        tried["dnat, flow offload"] = {"mode": "dnat", "flow-offload": "on"}
        found = {}
        for name, settings in tried.items():
            road = self._road()
            prepare(road.router, HASH, 1)
            farm = farms(replace(HASH, settings=settings), 1)
            file = self.folder / "file"
            file.write_text(nftlb.document(farm))
            with road.router.entered():
                # What nftlb 1.0.7 logs is not always UTF-8.
                done = subprocess.run(nftlb.loading(file), capture_output=True, text=True, errors="replace")
            loaded = " : goto " in road.router.run("nft", "list", "ruleset")
            found[name] = "" if loaded else nftlb.complaint(done.stderr)
        return found

    def _send(self, flow: Flow) -> None:
        if flow.emptied:
            flow.row.road.router.run("nft", "flush", "map", "netdev", *flow.emptied)
        flow.row.runs.append(measure(flow.row, self.sender, self.size))


def by_nftlb(daemon: nftlb.Daemon, kind: Kind, what: str, number: int) -> tuple[float, float]:
    """Have nftlb change something; return seconds that passed, and seconds of its CPU time."""
    first = kind.backends[0] if number % 2 else ELSEWHERE[kind.forward]
    settings = {"weight": str(2 - number % 2)} if what == WEIGHT else {"ip-addr": str(first)}
    listing = ("nft", "list", "table", "ip" if kind.forward is Forward.NAT else "netdev", "nftlb")
    before = daemon.namespace.run(*listing)
    start, used = time.perf_counter(), processor([daemon.process.pid])
    daemon.post([nftlb.change("s0", 0, settings)])
    took = time.perf_counter() - start, processor([daemon.process.pid]) - used
    if daemon.namespace.run(*listing) == before:
        sys.exit(f"nftlb, {kind.name}: {settings} changed nothing")
    return took


def by_lbctl(
    router: Namespace, side: Side, kind: Kind, services: int
) -> Callable[[str, int], tuple[float, float]]:
    """Apply services, and return what changes one endpoint."""
    base = loads(intent_text(kind, services))
    with router.entered():
        session = open_session(PrivateHost(), backend=side.backend.name, driver=side.driver)
        apply(session, (plan(session, base),))

    def change(what: str, number: int) -> tuple[float, float]:
        first = kind.backends[0] if number % 2 else ELSEWHERE[kind.forward]
        intent = changed(base, weight=2 - number % 2) if what == WEIGHT else changed(base, address=first)
        with router.entered():
            return timed(lambda: apply(session, (plan(session, intent),)))

    return change


def above_receiving(part: dict[str, Any]) -> dict[tuple[str, str, int], float]:
    """Return nanoseconds of a new flow beyond receiving its packet, by kind, side and number of services."""
    runs = {(flow["what"], flow["side"], flow["services"]): flow["flow_ns"] for flow in part["flows"]}
    floor = runs[DROPPED, "", 0]
    return {
        key: statistics.median(a - b for a, b in zip(each, floor, strict=True))
        for key, each in runs.items()
        if key[0] != DROPPED
    }


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    """Loads, changes and flows; or why nftlb is missing."""
    missing = absent(nftlb.PROGRAM)
    if missing:
        return {"absent": missing}
    with Bench(size=size, sender=programs.sender, folder=folder) as bench:
        return {"endpoints": ENDPOINTS, **bench.measure()}
