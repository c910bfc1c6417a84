"""`lbctl demo --fleet`: three balancers, three members of etcd, six endpoints, for a person to look at."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.errors import LbctlError, NoBackend, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.cli.output import Style
    from lbctl.demo.fleet import DemoFleet

#: Seconds that hosts may take to be as they should.
_PATIENCE = 60.0
_ENDPOINT = "web/10.0.0.11:8080"


def show_fleet(connections: int, style: Style) -> None:
    """Show a fleet step by step, then keep it until Ctrl-C if this is a terminal.

    Raises `LbctlError` where a step does not lead to what it should.
    """
    from lbctl.cli.context import open_host
    from lbctl.demo.fleet import BALANCERS, INTENT, DemoFleet

    host = open_host()
    if not host.may_change_network() or os.geteuid():
        raise PermissionDenied("the fleet needs root", hint="sudo lbctl demo --fleet")
    etcd = host.which("etcd") or _unpacked()
    if etcd is None:
        raise NoBackend(
            "the fleet needs the program etcd, which is not in PATH", hint="apt-get install etcd-server"
        )
    print(style("Three balancers, three members of etcd, six endpoints, in private namespaces", "bold"))
    with DemoFleet(Path(etcd)) as fleet:
        fleet.start_etcd()
        for name in BALANCERS:
            fleet.start_balancer(name)
        (fleet.folder / "edge.toml").write_text(INTENT, encoding="utf-8")
        for title, act, states in _steps(fleet):
            print(style(f"\n{title}", "bold", "cyan"))
            act()
            _await(fleet, states)
            print(_run(fleet, "hosts").rstrip())
            _connect(fleet, connections)
        if sys.stdin is not None and sys.stdin.isatty():
            _hold(fleet, style)


def _unpacked() -> str | None:
    """Return the etcd that `make test-servers` unpacks into the environment that this runs in."""
    found = Path(sys.prefix) / "servers/usr/bin/etcd"
    return str(found) if found.exists() else None


def _steps(fleet: DemoFleet) -> Iterator[tuple[str, Callable[[], object], tuple[str, ...]]]:
    """Yield what happens, how, and in which state each balancer is afterwards."""
    file, well = str(fleet.folder / "edge.toml"), ("in-sync",) * 3
    yield "lbctl publish edge.toml", lambda: _run(fleet, "publish", file, "--yes"), well
    yield "A member of etcd is killed.", lambda: fleet.kill("etcd3"), well
    drain = ("drain", "--fleet", _ENDPOINT, "--yes")
    yield f"lbctl {' '.join(drain)}", lambda: _run(fleet, *drain), well

    def burn() -> None:
        fleet.unplug("lb2")
        fleet.route("lb1", "lb3")

    yield (
        "Balancer lb2 is cut off; the router continues with the others.",
        burn,
        ("in-sync", "silent", "in-sync"),
    )


def _run(fleet: DemoFleet, *words: str) -> str:
    done = fleet.lbctl(*words)
    if done.returncode:
        raise LbctlError(f"lbctl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _await(fleet: DemoFleet, states: tuple[str, ...]) -> None:
    import json

    until = time.monotonic() + _PATIENCE
    while True:
        found = json.loads(_run(fleet, "hosts", "--output", "json"))
        current = found["current"] and found["current"]["revision"]
        settled = all(each["revision"] in (current, None) for each in found["hosts"])
        if settled and tuple(each["state"] for each in found["hosts"]) == states:
            return
        if time.monotonic() > until:
            raise LbctlError(f"the hosts are not {', '.join(states)}", hint=fleet.log("lb1")[-500:])
        time.sleep(0.3)


def _connect(fleet: DemoFleet, count: int) -> None:
    answers = Counter(fleet.ask() for _ in range(count))
    for answer, number in sorted(answers.items()):
        print(f"  {answer}  {number} connections")


def _hold(fleet: DemoFleet, style: Style) -> None:
    hub = fleet.hosts["hub"].path
    command = f"nsenter --net={hub} env LBCTL_CONFIG={fleet.folder}/admin.toml {sys.argv[0]}"
    print(style("\nIt runs until Ctrl-C. In another terminal, as root:", "bold"))
    for words in ("hosts --watch", f"publish {fleet.folder}/edge.toml", f"activate --fleet {_ENDPOINT}"):
        print(f"  {command} {words}")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()
