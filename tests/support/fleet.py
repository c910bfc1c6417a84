"""A fleet under load: clients at a steady rate, and established connections that move from host to host.

The hosts of the demo's fleet, with 40 addresses of clients and a router between balancers and endpoints:

client 198.51.100.1-40 ── hub ── lb1-lb3 ── back ── endpoints

The hub chooses the balancer by the client's address, and so does the other router: replies come back over the
balancer that got the request. Services with `takeover` need that; those with `source-nat` do not.
"""

import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lbctl.demo.fleet import BALANCERS, ENDPOINTS, INTENT, SERVICE_ADDRESS, DemoFleet
from lbctl.host.netns import Namespace, PrivateHost
from support.balancers import CLIENTS4, CLIENTS_NET4, Connections, Processes, apply_settings, settings_in

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Connections a second on an idle machine, and milliseconds that one may take.
RATE, PATIENCE = 2000, 10_000
_BACK = "10.0.0.253"
#: Established connections of each kind: of each scheduler, the client or the server sending first.
HELD = 100
#: Scheduler → port of its service, and of its endpoints.
TAKEOVER = {"source-hash": (81, 8081), "maglev": (82, 8082)}
#: Endpoints of all services of `intent`.
COUNT = len(ENDPOINTS) * (1 + len(TAKEOVER))


def intent(web: str = INTENT) -> str:
    """Return the demo's intent, or another one, with a service for each scheduler that has `takeover`."""
    return web + "".join(
        f"""
[[service]]
name = "{scheduler}"
listen = "{SERVICE_ADDRESS}:{listens}/tcp"
scheduler = "{scheduler}"
takeover = true
source-nat = "never"
endpoints = {[f"{address}:{port}" for address in ENDPOINTS]!r}
[service.check]
kind = "tcp"
""".replace("'", '"')
        for scheduler, (listens, port) in TAKEOVER.items()
    )


class Fabric:
    """The routes of a fleet, in both directions."""

    def __init__(self, fleet: DemoFleet) -> None:
        self._fleet = fleet
        self._back = Namespace(PrivateHost())
        hub, client, endpoints = (fleet.hosts[name] for name in ("hub", "client", "endpoints"))
        client.address("lo", *(f"{address}/32" for address in CLIENTS4))
        hub.ip("route", "add", CLIENTS_NET4, "dev", "client")
        self._back.address("lo", f"{_BACK}/32")
        self._back.connect("endpoints", endpoints, "back")
        endpoints.ip("route", "add", CLIENTS_NET4, "via", _BACK, "dev", "back", "onlink")
        for address in ENDPOINTS:
            self._back.ip("route", "add", address, "dev", "endpoints")
        settings = settings_in((EXAMPLES / "vrrp/90-lbctl.conf").read_text())
        for name, address in BALANCERS.items():
            balancer = fleet.hosts[name]
            apply_settings(balancer, settings)
            self._back.connect(name, balancer, "inside")
            balancer.address("inside", f"{address}/32")
            self._back.ip("route", "add", address, "dev", name)
            endpoints.ip("route", "add", address, "via", _BACK, "dev", "back", "onlink")
            for endpoint in ENDPOINTS:
                balancer.ip("route", "add", endpoint, "via", _BACK, "dev", "inside", "onlink", "src", address)
        for router, name in ((hub, "clients"), (self._back, "endpoints")):
            text = (EXAMPLES / "bgp/README.md").read_text().partition(f"# the {name}' router")[2]
            apply_settings(router, settings_in(text.partition("\n\n")[0]))
            router.write("/proc/sys/net/ipv4/ip_forward", "1")
        self.route(*BALANCERS)

    def route(self, *balancers: str) -> None:
        """Have all connections go over these balancers."""
        paths = [f"nexthop via {BALANCERS[name]} dev {name} onlink".split() for name in balancers]
        self._back.ip("route", "replace", CLIENTS_NET4, *(word for path in paths for word in path))
        self._fleet.route(*balancers)

    def unplug(self, name: str) -> None:
        """Cut a balancer off from everything."""
        self._back.ip("link", "delete", name)
        self._fleet.unplug(name)

    def close(self) -> None:
        """Remove the endpoints' router."""
        self._back.close()


def compiled(folder: Path) -> Path:
    """Return the program of the clients, compiled."""
    path = folder / "clients"
    source = Path(__file__).with_name("clients.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-o", path, source], check=True)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What became of the connections.

    `failed` has when each one without an answer began, on the monotonic clock, and why it failed.
    """

    began: int
    seconds: float
    answers: Counter[str]
    failed: list[tuple[float, str]]

    def failures(self, *but: tuple[float, float]) -> list[tuple[float, str]]:
        """Return the connections that no endpoint answered, but those that began in some spans of time."""
        return [
            (began, why)
            for began, why in self.failed
            if not any(first <= began <= last for first, last in but)
        ]


class Clients:
    """Clients that open new connections until they are stopped."""

    def __init__(self, fleet: DemoFleet, rate: int = RATE) -> None:
        self._report = fleet.folder / "clients.txt"
        words = [str(rate), str(PATIENCE), f"{SERVICE_ADDRESS}:80", *CLIENTS4]
        with fleet.hosts["client"].entered(), self._report.open("wb") as output:
            self._process = subprocess.Popen(
                [compiled(fleet.folder), *words], stdin=subprocess.PIPE, stdout=output
            )

    def stop(self) -> Traffic:
        """Have them begin no connection any more; return what became of all."""
        self._process.communicate()
        assert self._process.returncode == 0
        began, seconds, answers, failed = 0, 0.0, Counter[str](), []
        for line in self._report.read_text().splitlines():
            match line.split(maxsplit=2):
                case ["began", count, time]:
                    began, seconds = int(count), float(time)
                case ["answer", text, count]:
                    answers[text] = int(count)
                case ["failed", time, why]:
                    failed.append((float(time), why))
        return Traffic(began=began, seconds=seconds, answers=answers, failed=failed)


class Established:
    """Connections to the services with `takeover`, half of which the server sends on first."""

    def __init__(self, fleet: DemoFleet) -> None:
        self._processes = Processes(
            fleet.hosts["endpoints"], ENDPOINTS, [port for _, port in TAKEOVER.values()]
        )
        self._fleet = fleet
        self._kinds: dict[tuple[str, str], Connections] = {}

    def open(self) -> None:
        """Open all of them; each hears its own text."""
        for scheduler, (port, _) in TAKEOVER.items():
            for first in ("client", "server"):
                made = Connections(self._fleet.hosts["client"], HELD, SERVICE_ADDRESS, port)
                self._kinds[scheduler, first] = made
                made.say(b"a")
                assert made.lost(b"a") == 0

    def lost(self) -> dict[tuple[str, str], int]:
        """Have all of them talk; return how many of each kind are lost, where any is."""
        for (_, first), made in self._kinds.items():
            if first == "server":
                self._processes.say(b"s", *made.places)
            made.say(b"c")
        found = {
            kind: made.lost(*([b"s"] if kind[1] == "server" else []), b"c")
            for kind, made in self._kinds.items()
        }
        return {kind: count for kind, count in found.items() if count}

    def close(self) -> None:
        """End all."""
        for made in self._kinds.values():
            made.close()
        self._processes.close()
