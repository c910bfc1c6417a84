"""The example for BGP with real exabgp, bird and agents: four balancers behind ECMP, of which two fail."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from support.agents import AgentProcess
from support.balancers import (
    SERVICE4,
    Balancer,
    Balancers,
    Process,
    apply_settings,
    seized,
    settings_in,
    until,
)
from support.network import Network

EXAMPLE = Path(__file__).parents[2] / "examples" / "bgp"
PYTHON = "/usr/bin/python3"
COUNT = 200


class Host:
    """A balancer with its agent and its exabgp."""

    def __init__(self, balancer: Balancer, servers: Path) -> None:
        self.balancer, self._servers = balancer, servers
        # exabgp finds its named pipes below its root.
        run = balancer.folder / "run"
        run.mkdir()
        for name in ("exabgp.in", "exabgp.out"):
            os.mkfifo(run / name)
        config = balancer.folder / "lbctl.toml"
        text = (EXAMPLE / "lbctl.toml").read_text()
        config.write_text(text.replace("/run/exabgp.in", str(run / "exabgp.in")))
        own = re.sub(
            r"\b(192\.0\.2|10\.0\.0)\.1;", rf"\1.{balancer.number};", (EXAMPLE / "exabgp.conf").read_text()
        )
        (balancer.folder / "exabgp.conf").write_text(own)
        apply_settings(balancer.host, settings_in((EXAMPLE.parent / "vrrp" / "90-lbctl.conf").read_text()))
        self.agent = AgentProcess(cast("Network", balancer), config=config)
        self.exabgp = Process(
            balancer,
            PYTHON,
            "-sP",
            servers / "usr/sbin/python3-exabgp",
            "--root",
            balancer.folder,
            balancer.folder / "exabgp.conf",
            environment={
                "PYTHONPATH": str(servers / "usr/lib/python3/dist-packages"),
                "PYTHONDONTWRITEBYTECODE": "1",
                "exabgp.daemon.user": "root",
                "exabgp.api.ack": "false",
            },
            log=balancer.folder / "exabgp.log",
        )

    def close(self) -> None:
        self.exabgp.close(signal.SIGKILL)
        self.agent.kill()


class Fabric:
    """Two routers and four balancers between clients and endpoints."""

    def __init__(self, folder: Path, servers: Path) -> None:
        self.network = Balancers(folder, 4)
        self._routers: list[Process] = []
        self.hosts: list[Host] = []
        try:
            for name, router in (("clients", self.network.clients), ("endpoints", self.network.endpoints)):
                text = (EXAMPLE / "README.md").read_text().partition(f"# the {name}' router")[2]
                apply_settings(router, settings_in(text.partition("\n\n")[0]))
                words = ["-f", "-c", EXAMPLE / f"bird-{name}.conf", "-s", folder / f"{name}.ctl"]
                log = folder / f"bird-{name}.log"
                self._routers.append(
                    Process(router, servers / "usr/sbin/bird", *words, libraries=servers, log=log)
                )
            self.hosts = [Host(balancer, servers) for balancer in self.network.hosts]
            for host in self.hosts:
                host.agent.ready()
        except BaseException:
            self.close()
            raise

    @property
    def ways(self) -> tuple[list[int], list[int]]:
        """The balancers that the routes to the service lead through, and those back to the clients."""
        there = self.network.clients.ip("route", "show", SERVICE4)
        back = self.network.endpoints.ip("route", "show", "198.51.100.0/24")
        return [int(n) for n in re.findall(r"via 192\.0\.2\.(\d+)", there)], [
            int(n) for n in re.findall(r"via 10\.0\.0\.(\d+)", back)
        ]

    def lead_through(self, *numbers: int) -> None:
        """Wait until the routes lead through these balancers, and no other."""
        until(lambda: self.ways == (list(numbers), list(numbers)), f"{numbers}, but {self.ways}")

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        for router in self._routers:
            router.close()
        self.network.close()


@pytest.fixture
def fabric(tmp_path: Path, servers: Path) -> Iterator[Fabric]:
    made = Fabric(tmp_path, servers)
    yield made
    made.close()


def connections_of(host: Host) -> int:
    with host.balancer.host.entered():
        listed = subprocess.run(
            ["conntrack", "-L", "-p", "tcp", "--orig-dst", SERVICE4],
            capture_output=True,
            text=True,
            check=True,
        )
    return listed.stdout.count("ESTABLISHED")


def test_no_connection_is_lost_while_balancers_fail(fabric: Fabric) -> None:
    fabric.lead_through(1, 2, 3, 4)
    processes = fabric.network.processes()
    made = fabric.network.connections(COUNT)
    made.say(b"a")
    assert made.lost(b"a") == 0
    shares = [connections_of(host) for host in fabric.hosts]
    assert sum(shares) == COUNT
    assert min(shares) > 0

    # A balancer crashes: its sessions time out on both routers.
    one, two, *_ = fabric.hosts
    for link in ("outside", "inside"):
        one.balancer.host.ip("link", "set", link, "down")
    fabric.lead_through(2, 3, 4)
    processes.say(b"b")
    made.say(b"c")
    assert made.lost(b"b", b"c") == 0

    # A balancer is not ready: another program owns its table.
    with seized(two.balancer):
        fabric.lead_through(3, 4)
        processes.say(b"d")
        made.say(b"e")
        assert made.lost(b"d", b"e") == 0

    # Ready again, it gets back its part of the clients, whose connections it has not seen for a while.
    fabric.lead_through(2, 3, 4)
    processes.say(b"f")
    made.say(b"g")
    assert made.lost(b"f", b"g") == 0
