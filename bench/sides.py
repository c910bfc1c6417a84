"""What differs between the backends for the benches: our rules as text, and the tools that take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

import lbctl_iptables.apply
import lbctl_iptables.drivers
import lbctl_nftables.drivers
import lbctl_nftables.script
from lbctl.host import LocalHost
from lbctl.model import Endpoint, Intent, Program
from lbctl.spi import Backend
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables

ENDPOINTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A backend through one of its drivers, and the tool that is measured beside it."""

    backend: Backend
    driver: str
    #: A program → the text that `apply` loads where nothing of it is in the kernel yet.
    written: Callable[[Program], str]
    load: Callable[[LocalHost, str], None]
    #: The tool's command that loads a file, whose path comes last, and the one that reads the rules.
    tool: tuple[str, ...]
    reader: tuple[str, ...]

    def script(self, host: LocalHost, intent: Intent) -> str:
        """Our rules for an intent, as `apply` loads them."""
        return self.written(self.backend.compile(intent, self.backend.probe(host).capabilities))


SIDES = {
    "nftables": Side(
        backend=nftables,
        driver="libnftables",
        written=lbctl_nftables.script.render,
        load=lambda host, text: lbctl_nftables.drivers.load(host, "libnftables", text, trusted=True),
        tool=("nft", "-f"),
        reader=("nft", "-j", "list", "table", "ip", "lbctl"),
    ),
    "iptables": Side(
        backend=iptables,
        driver="legacy",
        written=lambda program: lbctl_iptables.apply.scripts(program)["iptables"].text,
        load=lambda host, text: lbctl_iptables.drivers.load(host, "legacy", "iptables", text),
        tool=("iptables-legacy-restore", "--noflush", "--counters"),
        reader=("iptables-legacy-save", "--counters"),
    ),
}


def intent_text(services: int, *, endpoints: int = ENDPOINTS, protocol: str = "tcp") -> str:
    """An intent file: port 80 of so many addresses from 10.100.0.0 on, with endpoints in 10.1.0.0/16."""
    lines = ["schema = 1"]
    for i in range(services):
        listen = f"10.{100 + i // 65536}.{i // 256 % 256}.{i % 256}:80/{protocol}"
        targets = ", ".join(f'"10.1.{i // 256 % 256}.{j + 1}:{8000 + i % 1000}"' for j in range(endpoints))
        lines += ["[[service]]", f'name = "s{i}"', f'listen = "{listen}"', f"endpoints = [{targets}]"]
    return "\n".join(lines) + "\n"


def moved(intent: Intent, number: int) -> Intent:
    """The intent with another address for one endpoint of one service."""
    at = number * 7919 % len(intent.services)
    service = intent.services[at]
    there = Endpoint(address=IPv4Address(f"10.3.{number // 250}.{number % 250 + 1}"), port=8000)
    changed = replace(service, endpoints=(there, *service.endpoints[1:]))
    return replace(intent, services=(*intent.services[:at], changed, *intent.services[at + 1 :]))
