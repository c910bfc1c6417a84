"""The README is true: its tour is run, its matrix is what the backends say."""

import re
import subprocess
import sys
from pathlib import Path

from lbctl.host import LocalHost
from lbctl.model import Protocol, Scheduler, SourceNat, State
from lbctl.spi import Capabilities, backends
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


def test_the_matrix_is_what_the_backends_say() -> None:
    rows = {
        cells[0]: cells[1:]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and len(cells := [c.strip() for c in line.strip("|").split("|")]) == 3
    }
    header = rows["feature"]
    probes = {b.name: b.probe(LocalHost()) for b in backends() if b.name in header}
    assert list(probes) == header
    for i, probe in enumerate(probes.values()):
        assert sorted(d.name for d in probe.drivers) == sorted(rows["drivers"][i].split(", "))
        for feature, able in features(probe.capabilities).items():
            assert rows[feature][i] == ("yes" if able else "not yet"), feature


def features(can: Capabilities) -> dict[str, bool]:
    return {
        "scheduler round-robin, with weights": Scheduler.ROUND_ROBIN in can.schedulers,
        "scheduler random": Scheduler.RANDOM in can.schedulers,
        "scheduler source-hash": Scheduler.SOURCE_HASH in can.schedulers,
        "scheduler maglev": Scheduler.MAGLEV in can.schedulers,
        "tcp, udp": {Protocol.TCP, Protocol.UDP} <= can.protocols,
        "sctp": Protocol.SCTP in can.protocols,
        "source-nat hairpin, always, never": set(SourceNat) <= can.source_nat,
        "endpoint state drain, backup": {State.DRAIN, State.BACKUP} <= can.states,
        "affinity": can.affinity,
        "allow": can.allow,
    }
