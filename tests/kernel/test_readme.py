"""The README is true: its tour is run, its matrix is what the backends say."""

from pathlib import Path

from lbctl.conformance import CHECKS, Check
from lbctl.errors import Unsupported
from lbctl.host import LocalHost
from lbctl.model import Intent
from lbctl.spi import Backend, Probe, backends
from support.console import replay, shells
from support.network import Network

README = Path(__file__).parents[2] / "README.md"


def test_the_tour_prints_what_the_readme_says(network: Network, tmp_path: Path) -> None:
    network.local_endpoints((8001, 8002, 8003, 8004))
    with shells(tmp_path, {"": network.host}) as opened:
        replay(README, opened)


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
