"""A storm of connections around the three hosts: who serves, who knocks, and what came of it."""

import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lbctl.host.netns import Namespace
from lbctl.model import Family
from support import storm
from support.network import Network

#: Processes that knock at once.
KNOCKERS = 2
#: Connections of each storm in all, at the least, in place of a test's own number. The full size is 60000.
_SIZE = os.environ.get("LBCTL_STORM")


def size(usual: int) -> int:
    """How many connections a storm is to have where `usual` are enough for every day."""
    return int(_SIZE) if _SIZE else usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """One connection: the kernel chose its endpoint somewhere between `begin` and `end`."""

    begin: float
    end: float
    client: str
    port: int
    answer: str

    @property
    def family(self) -> Family:
        return family_of(self.client)

    @property
    def failed(self) -> bool:
        """True where no endpoint said its name, ADDRESS:PORT."""
        return ":" not in self.answer


def family_of(address: str) -> Family:
    return Family.IPV6 if ":" in address else Family.IPV4


def reported(reports: list[dict[str, Any]]) -> list[Knock]:
    """The connections of all knockers."""
    return [
        Knock(begin=begin, end=end, client=client, port=int(target.rpartition(":")[2]), answer=answer)
        for report in reports
        for begin, end, client, target, answer in report["connections"]
    ]


class Storm:
    """Processes that serve at places in namespaces, and processes that knock at targets on the host.

    Each knocker is so many `clients` of each family.
    """

    def __init__(
        self,
        network: Network,
        serving: Sequence[tuple[Namespace, Sequence[str]]],
        targets: Sequence[str],
        *,
        clients: int,
    ) -> None:
        self._network = network
        self._targets = targets
        self._clients = clients
        self._processes: list[subprocess.Popen[str]] = []
        self._knockers: list[subprocess.Popen[str]] = []
        self._counted: list[mmap.mmap] = []
        for namespace, places in serving:
            server = self._start(namespace, "serve", *places)
            assert server.stdout
            assert server.stdout.readline() == "ready\n"

    def _start(self, namespace: Namespace, *words: str) -> subprocess.Popen[str]:
        with namespace.entered():
            process = subprocess.Popen(
                [sys.executable, storm.__file__, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._processes.append(process)
        return process

    def begin(self) -> None:
        """Have the knockers begin."""
        for number in range(KNOCKERS):
            numbers = range(100 + number * self._clients, 100 + (number + 1) * self._clients)
            for client in numbers:
                self._network.client.address("uplink", f"192.0.2.{client}/24", f"2001:db8:1::{client}/64")
            sources = [a for n in numbers for a in (f"192.0.2.{n}", f"2001:db8:1::{n}")]
            self.knock(self._network.client, self._network.folder, sources)

    def knock(self, namespace: Namespace, folder: Path, sources: Iterable[str]) -> None:
        """Have one knocker begin in a namespace, by these addresses of it."""
        path = folder / f"knocker-{len(self._knockers)}"
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._counted.append(mmap.mmap(file.fileno(), 8))
        self._knockers.append(self._start(namespace, "knock", str(path), ",".join(sources), *self._targets))

    def count(self) -> int:
        """The connections so far."""
        assert all(process.poll() is None for process in self._processes)
        return sum(int.from_bytes(counted[:], sys.byteorder) for counted in self._counted)

    def wait(self, count: int) -> None:
        """Until there were so many connections."""
        while self.count() < count:
            time.sleep(0.002)

    def end(self) -> list[dict[str, Any]]:
        """What each knocker reports."""
        reports = [json.loads(p.communicate(timeout=60)[0]) for p in self._knockers]
        self.close()
        return reports

    def close(self) -> None:
        """End all of them."""
        for process in self._processes:
            if process.poll() is None:
                process.communicate(timeout=60)
