"""README.md and the tutorial are true: their commands are run, their matrix is what the backends do."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lbctl.conformance import CHECKS, ConformanceCheck
from lbctl.errors import Unsupported
from lbctl.host import LocalHost
from lbctl.model import Intent
from lbctl.spi import Backend, Probe, backends
from support.console import end_processes, replay, shells
from support.network import Network

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference.md"
HEAD = "| feature | nftables | iptables |\n|---|---|---|\n"
_TABLE = re.compile(rf"{re.escape(HEAD)}(?:\|.*\n)*")


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/drain.md"])
def test_the_commands_print_what_the_document_says(network: Network, tmp_path: Path, document: str) -> None:
    network.local_endpoints((8001, 8002, 8003, 8004))
    with shells(tmp_path, {"": network.host}) as opened:
        replay(ROOT / document, opened)


@pytest.mark.timeout(600)
def test_the_tutorial_needs_nothing_but_itself(network: Network, tmp_path: Path) -> None:
    """Its processes are its own, too."""
    try:
        with shells(tmp_path, {"": network.host}) as opened:
            replay(ROOT / "docs/tutorial.md", opened)
    finally:
        end_processes(network.host)


def test_the_matrix_is_what_the_conformance_suite_has() -> None:
    """That each cell is true, the suite verifies with real connections, driver by driver."""
    rows = matrix()
    # README has the features in which the backends differ; each has drivers of its own.
    differing = [row for row in rows[1:] if len(set(row[1:])) > 1]
    for document, shown in ((REFERENCE, rows), (README, differing)):
        wanted = HEAD + "".join(f"| {' | '.join(row)} |\n" for row in shown)
        text = document.read_text(encoding="utf-8")
        if os.environ.get("UPDATE_GOLDEN"):
            text = _TABLE.sub(wanted, text)
            document.write_text(text, encoding="utf-8")
        assert f"{wanted}\n" in text, wanted


def matrix() -> list[Sequence[str]]:
    """The drivers, then each feature with what each backend does."""
    probes = {b: b.probe(LocalHost()) for b in backends() if b.name in {"nftables", "iptables"}}
    drivers = (", ".join(sorted(d.name for d in probe.drivers)) for probe in probes.values())
    features = (
        (check.name, *(cell(check, backend, probe) for backend, probe in probes.items()))
        for check in CHECKS
        if check.feature
    )
    return [("drivers", *drivers), *features]


def cell(check: ConformanceCheck, backend: Backend, probe: Probe) -> str:
    try:
        # Who says why the kernel of a host refuses flowtables has them where a kernel does.
        offload = probe.capabilities.offload or bool(probe.capabilities.offload_refusal)
        capabilities = replace(probe.capabilities, remap=check.allow_remap, offload=offload)
        backend.compile(Intent(services=check.services, offload=check.offload), capabilities)
    except Unsupported:
        return "refused"
    return "yes"
