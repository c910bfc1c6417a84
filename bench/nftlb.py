"""nftlb, a load balancer that writes nftables rules as lbctl does: its farms, and its API.

Its file and its API take the same JSON. Started with `--exit`, it loads a file and ends; otherwise it keeps
its farms in memory and takes changes over HTTP, with a key; here on the loopback of a private namespace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from ipaddress import IPv4Address
from pathlib import Path
from subprocess import Popen
from typing import Any

from programs import running

from lbctl.host.netns import Namespace

PROGRAM = "nftlb"
KEY, HOST, PORT = "bench", "127.0.0.1", 5555
#: Seconds for one request, and for the start with a file: 1,000 farms of three backends take more than ten.
PATIENCE, LOADING = 60.0, 240.0
MODES = ("snat", "dnat", "dsr", "stlsdnat", "local")

Farm = dict[str, Any]


def farm(
    name: str,
    addresses: Sequence[IPv4Address | str],
    backends: Sequence[IPv4Address | str],
    *,
    protocol: str = "tcp",
    ports: Sequence[int] = (),
    **settings: str,
) -> Farm:
    """Return a farm on port 80 of addresses; without `ports`, backends are asked on the port of the farm."""
    return {
        "name": name,
        # Before all other settings: after one of these, nftlb 1.0.7 gives the farm an address of its own too,
        # an empty one, and nft refuses its rules ("syntax error, unexpected colon").
        "addresses": [
            {"name": f"{name}-{number}", "ip-addr": str(each), "ports": "80", "protocol": protocol}
            for number, each in enumerate(addresses)
        ],
        "family": "ipv4",
        "mode": "dnat",
        "protocol": protocol,
        "scheduler": "rr",
        **settings,
        "state": "up",
        "backends": [
            {"name": f"b{number}", "ip-addr": str(each), **port, "weight": "1", "state": "up"}
            for number, each in enumerate(backends)
            for port in [{"port": str(ports[number])} if ports else {}]
        ],
    }


def change(name: str, backend: int, settings: Mapping[str, str]) -> Farm:
    """Return what changes one backend of a farm."""
    return {"name": name, "backends": [{"name": f"b{backend}", **settings}]}


def document(farms: Sequence[Farm]) -> str:
    return json.dumps({"farms": farms})


def loading(file: Path) -> tuple[str, ...]:
    """Return the command that loads a file and ends."""
    return (PROGRAM, "--key", KEY, "--log", "3", "--log-output", "2", "--config", str(file), "--exit")


def complaint(log: str) -> str:
    """Return the first error that nft reports in a log, and the command that it underlines."""
    found = re.search(r"Error: (.*)\n(.*)\n( *)(\^+)$", log, re.MULTILINE)
    if not found:
        return log.strip() or "no message"
    error, commands, before, underlined = found.groups()
    at = commands.rfind(" ; ", 0, len(before) + 1) + 1
    return f"{error}: {commands[at : len(before) + len(underlined)].strip(' ;')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """nftlb at work in a namespace."""

    namespace: Namespace
    process: Popen[str]

    def post(self, farms: Sequence[Farm]) -> None:
        """Create or change farms; raises `OSError` when nftlb refuses."""
        answer = self.request("POST", document(farms))
        if "success" not in answer:
            raise OSError(f"nftlb refuses {farms}: {answer}")

    def request(self, method: str, body: str = "") -> str:
        with self.namespace.entered():
            connection = HTTPConnection(HOST, PORT, timeout=PATIENCE)
            try:
                connection.request(method, "/farms", body, {"Key": KEY})
                return connection.getresponse().read().decode()
            finally:
                connection.close()


@contextmanager
def daemon(namespace: Namespace, folder: Path, farms: Sequence[Farm] = ()) -> Iterator[Daemon]:
    """Run nftlb in a namespace; when it is yielded, its farms are in the kernel."""
    file, log = folder / "nftlb.json", folder / "nftlb.log"
    file.write_text(document(farms))
    argv = [word for word in loading(file) if word != "--exit"]

    def ready() -> bool:
        # It answers once the file is loaded.
        with namespace.entered():
            connection = HTTPConnection(HOST, PORT, timeout=PATIENCE)
            try:
                connection.request("GET", "/farms", headers={"Key": KEY})
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

    words = [*argv, "--host", HOST, "--port", str(PORT)]
    with running(namespace, words, ready=ready, log=log, patience=LOADING) as process:
        yield Daemon(namespace=namespace, process=process)
    namespace.run("nft", "flush", "ruleset")
