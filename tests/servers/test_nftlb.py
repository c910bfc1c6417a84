"""The bench runs nftlb, unpacked, beside lbctl."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[2] / "bench"
NFTLB, LBCTL = "nftlb", "lbctl, nftables"


def test_nftlb_is_measured_beside_lbctl(servers: Path, tmp_path: Path) -> None:
    assert (servers / "usr/sbin/nftlb").exists()
    parts, report = bench(tmp_path, "nftlb", "changes")
    found = parts["nftlb"]
    assert {row["what"] for row in found["loads"]} == {"NAT, round robin", "DSR, source hash"}
    for row in (*found["loads"], *found["changes"]):
        assert row["sides"][NFTLB]["cpu"]
        assert row["sides"][LBCTL]["cpu"]
    # That its packets arrive, each run verifies.
    kinds = {row["what"] for row in found["flows"] if row["side"] == NFTLB and row["flow_ns"]}
    assert kinds == {row["what"] for row in found["flows"] if row["side"] == LBCTL}
    assert found["modes"]["dnat"] == found["modes"]["dsr"] == ""
    way = "nftlb, DNAT"
    assert parts["changes"]["shares"][way]["answers"] == {"8001": 20, "8002": 20, "8003": 20}
    assert parts["changes"]["changes"][way]["lost"] == {}
    assert "Loaded by nftlb on this kernel: snat" in report.replace("`", "")


def bench(folder: Path, *parts: str) -> tuple[dict[str, Any], str]:
    """Return what parts of the bench found at the least size, and the report."""
    file = folder / "results.json"
    run(str(BENCH), "--size", "tiny", "--output", str(file), *parts)
    results = json.loads(file.read_text())
    assert results["failed"] == {}
    return results["parts"], run(str(BENCH / "report.py"), str(file))


def run(*argv: str) -> str:
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
