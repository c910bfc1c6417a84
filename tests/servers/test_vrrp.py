"""The example for VRRP with real keepalived and agents: an address moves, and its connections live on."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from support.agents import AgentProcess
from support.balancers import Balancer, Balancers, Process, apply_settings, seized, settings_in, until
from support.network import Network

EXAMPLE = Path(__file__).parents[2] / "examples" / "vrrp"
ADDRESS, GATEWAY = "192.0.2.100", "10.0.0.100"
COUNT = 100


class Host:
    """A balancer with its agent and its keepalived."""

    def __init__(self, balancer: Balancer, name: str, servers: Path) -> None:
        self.balancer, self._name, self._servers = balancer, name, servers
        ready = balancer.folder / "ready"
        config = balancer.folder / "lbctl.toml"
        config.write_text((EXAMPLE / "lbctl.toml").read_text().replace("/run/lbctl/ready", str(ready)))
        apply_settings(balancer.host, settings_in((EXAMPLE / "90-lbctl.conf").read_text()))
        self.agent = AgentProcess(cast("Network", balancer), config=config)
        # Three advertisements that come late on a busy machine would move the addresses.
        keepalived = (EXAMPLE / "keepalived.conf").read_text().replace("advert_int 0.2", "advert_int 1")
        (balancer.folder / "keepalived.conf").write_text(keepalived.replace("/run/lbctl/ready", str(ready)))
        self.keepalived: Process | None = None

    def start_keepalived(self) -> None:
        folder, path = self.balancer.folder, self._servers / "usr/sbin/keepalived"
        words = ["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--config-id", self._name]
        files = ["-f", folder / "keepalived.conf", "-p", folder / "pid", "-r", folder / "vrrp.pid"]
        self.keepalived = Process(
            self.balancer, path, *words, *files, libraries=self._servers, log=folder / "keepalived.log"
        )

    @property
    def addresses(self) -> set[str]:
        """The addresses that VRRP moves, as far as they are here."""
        shown = self.balancer.host.ip("-4", "address", "show")
        return {address for address in (ADDRESS, GATEWAY) if f"inet {address}/" in shown}

    def close(self) -> None:
        if self.keepalived is not None:
            self.keepalived.close()
        self.agent.kill()


@pytest.fixture
def hosts(tmp_path: Path, servers: Path) -> Iterator[tuple[Balancers, list[Host]]]:
    balancers = Balancers(tmp_path, 2)
    balancers.endpoints.ip("route", "add", "default", "via", GATEWAY)
    made = [Host(b, name, servers) for b, name in zip(balancers.hosts, ("one", "two"), strict=True)]
    try:
        for host in made:
            host.agent.ready()
        yield balancers, made
    finally:
        for host in made:
            host.close()
        balancers.close()


def active(hosts: list[Host]) -> Host | None:
    """Return the host that has both addresses while no other has one; None while it is not so."""
    having = [host for host in hosts if host.addresses]
    return having[0] if len(having) == 1 and having[0].addresses == {ADDRESS, GATEWAY} else None


def test_an_address_moves_with_its_connections(hosts: tuple[Balancers, list[Host]]) -> None:
    balancers, (one, two) = hosts
    both = [one, two]
    # Who has the addresses keeps them. On a busy machine, the second could be the first to miss the other.
    one.start_keepalived()
    until(lambda: active(both) is one, "the first host takes the addresses")
    two.start_keepalived()
    processes = balancers.processes()
    made = balancers.connections(COUNT, ADDRESS)
    made.say(b"a")
    assert made.lost(b"a") == 0

    # A host that crashes: it says nothing any more, to nobody.
    for link in ("outside", "inside"):
        one.balancer.host.ip("link", "set", link, "down")
    until(lambda: two.addresses == {ADDRESS, GATEWAY}, "the other host takes the addresses")
    processes.say(b"b")
    made.say(b"c")
    assert made.lost(b"b", b"c") == 0

    # Back again, it leaves them where they are.
    for link in ("outside", "inside"):
        one.balancer.host.ip("link", "set", link, "up")
    one.balancer.host.ip("route", "replace", "198.51.100.0/24", "via", "192.0.2.254")
    until(lambda: active(both) is two, "one host alone has the addresses")

    # A host whose rules are gone and cannot come back: another program owns the table.
    with seized(two.balancer):
        until(lambda: active(both) is one, f"the addresses leave a host without rules: {two.agent.said}")
        processes.say(b"d")
        made.say(b"e")
        assert made.lost(b"d", b"e") == 0
    # The agent repairs the rules; the addresses stay.
    two.agent.ready()
    assert active(both) is one
