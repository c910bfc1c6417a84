"""A client's namespace and a host's, joined by a veth pair, with backends there and real connections."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from programs import Programs, running
from timing import interrupts, processor

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace

#: The host's addresses, each on a link of its own, and the client's at its other end. Several, so that no run
#: needs the same pair of ports twice while its last use is remembered. Links apart, since a redirect leads to
#: the first address of a link: with all on one, a client's port meets the memory of its use with another
#: address, whose timestamps differ, and its first packet is dropped.
LINKS = {"192.0.2.1": "192.0.2.2", "192.0.2.5": "192.0.2.6", "192.0.2.9": "192.0.2.10"}
HOSTS = tuple(LINKS)
PORT = 80
BACKENDS = (8001, 8002, 8003)
#: Takes the place of the last one in changes.
SPARE = 8004
FAILURES = ("refused", "reset", "timeout", "closed", "hung")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients do; see client.c."""

    keep: bool = False
    concurrency: int = 64
    rate: int = 0
    requests: int = 1 << 40
    milliseconds: int = 3_600_000


@dataclass(slots=True)
class Traffic:
    """What clients saw."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Seconds.
    elapsed: float = 0.0
    #: Seconds of CPU time of all processes that took part; of these, the balancer's.
    cpu: float = 0.0
    balancer_cpu: float = 0.0

    def add(self, text: str) -> None:
        """Take in what one client printed."""
        for line in text.splitlines():
            what, _, number = line.rpartition(" ")
            self.counts[what] += int(number)
            if what == "elapsed":
                self.elapsed = max(self.elapsed, int(number) / 1e9)

    @property
    def lost(self) -> dict[str, int]:
        return {how: self.counts[how] for how in FAILURES if self.counts[how]}

    @property
    def answers(self) -> dict[str, int]:
        return {
            what.removeprefix("answer "): number
            for what, number in self.counts.items()
            if what.startswith("answer ")
        }

    def latency(self, part: float) -> float:
        """The seconds that so great a part of the answers took at most."""
        steps = sorted((int(w.split()[1]), n) for w, n in self.counts.items() if w.startswith("latency "))
        left = part * sum(number for _, number in steps)
        for nanoseconds, number in steps:
            left -= number
            if left <= 0:
                return nanoseconds / 1e9
        return 0.0


class Site:
    """The two namespaces. Use as a context manager."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self.programs = programs
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Site:
        host = LocalHost()
        self.host, self.client = Namespace(host), Namespace(host)
        for namespace in (self.host, self.client):
            self._stack.callback(namespace.close)
            # Proxies connect from here too; one that has only half of the ports waits for them.
            namespace.write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")
        for number, addresses in enumerate(LINKS.items()):
            self.host.connect(f"link{number}", self.client, f"link{number}")
            for namespace, address in zip((self.host, self.client), addresses, strict=True):
                namespace.address(f"link{number}", f"{address}/30")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def backends(self, ports: Sequence[int], *argv: str) -> Iterator[tuple[int, ...]]:
        """Have a process for each port, which comes last of its arguments. Yields the processes' numbers."""
        command = argv or (str(self.programs.server),)
        with ExitStack() as stack:
            yield tuple(stack.enter_context(running(self.host, [*command, str(port)])).pid for port in ports)

    def start(self, load: Load, targets: Sequence[str], clients: int = 1) -> Clients:
        """Start clients, which share the load."""
        words = [load.keep, load.concurrency, load.rate, load.requests, load.milliseconds]
        words = [int(words[0]), *(-(-word // clients) for word in words[1:4]), words[4]]
        with self.client.entered():
            return Clients(
                [
                    subprocess.Popen(
                        [str(word) for word in (self.programs.client, *words, *targets)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                    for _ in range(clients)
                ]
            )

    def run(
        self, load: Load, targets: Sequence[str], backends: Sequence[int] = (), balancer: Sequence[int] = ()
    ) -> Traffic:
        """All of a load, from as many clients as there are processors; the processes' time is taken."""
        before = processor(backends) + interrupts(), processor(balancer)
        clients = self.start(load, targets, len(os.sched_getaffinity(0)))
        traffic = clients.wait()
        own = processor(balancer) - before[1]
        traffic.cpu = processor(backends) + interrupts() - before[0] + own + traffic.counts["processor"] / 1e9
        traffic.balancer_cpu = own
        return traffic

    def opened(self, namespace: Namespace) -> int:
        """How many TCP connections the kernel of a namespace has opened so far."""
        with namespace.entered():
            lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, numbers = (line.split() for line in lines if line.startswith("Tcp:"))
        return int(numbers[names.index("ActiveOpens")])

    def tracked(self) -> int:
        """How many connections the host's kernel tracks."""
        with self.host.entered():
            return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())

    def forget(self) -> None:
        """Have the host's kernel forget all connections."""
        # What still closes would be tracked anew from its middle.
        self.host.write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0")
        self.host.run("conntrack", "--flush")


class Clients:
    """Clients at work."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def wait(self) -> Traffic:
        """What they saw, once they have done all."""
        return self._collected(lambda process: process.stdout.read() if process.stdout else "")

    def stop(self) -> Traffic:
        """What they saw; nothing new is begun."""
        return self._collected(lambda process: process.communicate()[0])

    def _collected(self, text_of: Callable[[subprocess.Popen[str]], str]) -> Traffic:
        traffic = Traffic()
        for process in self._processes:
            traffic.add(text_of(process))
            process.communicate()
            if process.returncode:
                sys.exit(f"{process.args!r} ended with {process.returncode}")
        return traffic


def targets(ports: Sequence[int] = (PORT,) * len(HOSTS)) -> tuple[str, ...]:
    """Each of the host's addresses, with a port."""
    return tuple(f"{address}:{port}" for address, port in zip(HOSTS, ports, strict=True))
