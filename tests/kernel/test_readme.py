"""The README is true: its tour is run, its matrix is what the backends say."""

import re
import subprocess
import sys
from pathlib import Path

from lbctl.conformance import CHECKS, Check
from lbctl.errors import Unsupported
from lbctl.host import LocalHost
from lbctl.model import Intent
from lbctl.spi import Backend, Probe, backends
from support.network import Network

README = Path(__file__).parents[2] / "README.md"


def commands(text: str) -> list[tuple[str, str]]:
    """Each `$ command` of the console blocks with the output printed below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


def test_the_tour_prints_what_the_readme_says(network: Network, tmp_path: Path) -> None:
    network.local_endpoints((8001, 8002, 8003, 8004))
    tour = commands(README.read_text(encoding="utf-8"))
    assert len(tour) >= 9
    place = Path(sys.executable).parent
    for command, expected in tour:
        with network.host.entered():
            done = subprocess.run(
                command,
                shell=True,
                executable="/bin/bash",
                cwd=tmp_path,
                env={"PATH": f"{place}:/usr/sbin:/usr/bin:/sbin:/bin", "LBCTL_STATE_DIR": str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=True,
            )
        assert done.stdout.strip() == expected.strip(), command


def test_the_matrix_is_what_the_conformance_suite_has() -> None:
    """That each cell is true, the suite proves with real connections, driver by driver."""
    found = {b: b.probe(LocalHost()) for b in backends() if b.name in {"nftables", "iptables"}}
    rows = [("feature", *(backend.name for backend in found))]
    rows += [("drivers", *(", ".join(sorted(d.name for d in probe.drivers)) for probe in found.values()))]
    for check in CHECKS:
        if check.feature:
            rows.append((check.name, *(cell(check, backend, probe) for backend, probe in found.items())))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    wanted = "\n".join([lines[0], "|---|---|---|", *lines[1:]])
    assert wanted in README.read_text(encoding="utf-8"), wanted


def cell(check: Check, backend: Backend, probe: Probe) -> str:
    try:
        backend.compile(Intent(services=check.services), probe.capabilities)
    except Unsupported:
        return "refused"
    return "yes"
