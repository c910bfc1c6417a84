"""The bench works, at sizes that measure nothing: every part, and a report of all that it found."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[2] / "bench"
OURS = ("lbctl, nftables", "lbctl, iptables")


def test_connections(tmp_path: Path) -> None:
    """That each request had a connection of its own, the bench holds against the kernel's counters."""
    found, said = bench(tmp_path, "proxies", "changes")
    cases = found["proxies"]["cases"]
    changes, shares = found["changes"]["changes"], found["changes"]["shares"]
    assert {"direct", "direct, tracked", *OURS} <= set(cases)
    assert not any(r[kind]["lost"] for c in cases.values() for r in c["rounds"] for kind in ("new", "paced"))
    for way in OURS:
        assert changes[way]["lost"] == {}
        assert shares[way]["answers"] == {"8001": 20, "8002": 20, "8003": 20}
    # What loses connections is seen to lose them.
    assert shares["iptables rules, the same nth on each line"]["lost"]["refused"] > 0
    assert "connections lost in 2 changes: lbctl, nftables" in said


def test_rules(tmp_path: Path) -> None:
    found, said = bench(tmp_path, "load", "growth")
    for backend in ("nftables", "iptables"):
        assert found["load"]["backends"][backend]["first apply"]["cpu"]
        rows = found["growth"]["backends"][backend]["rows"]
        assert {row["services"] for row in rows if row["what"] == "lbctl"} == {1, 10}
        assert all(row["flow_ns"] for row in rows)
    assert "iptables: a new flow over 64 endpoints / 4" in said


def test_direct_return(tmp_path: Path) -> None:
    found, said = bench(tmp_path, "dsr")
    assert all(row["packet_ns"] for row in found["dsr"]["cost"]["rows"])
    assert found["dsr"]["shares"] == {"connections": 60, "lost": {}, "got": [20, 20, 20]}
    assert found["dsr"]["changes"]["round-robin"]["lost"] == {}
    assert "a packet over two links / plain forwarding" in said


def test_parts_by_name(tmp_path: Path) -> None:
    """nftlb itself is in tests/servers: here it may be missing, which the report says."""
    found, said = bench(tmp_path, "start-up", "dsr", "nftlb", "nat", "least")
    assert list(found) == ["nftlb", "nat", "dsr", "least", "start-up"]
    assert found["dsr"]["shares"]["lost"] == {}
    assert sum(found["dsr"]["shares"]["got"]) == found["dsr"]["shares"]["connections"] == 60
    for way in OURS:
        assert all(microseconds > 0 for kind in found["nat"]["cases"][way].values() for microseconds in kind)
    assert {"IPVS wlc", "lbctl least-connections"} <= set(found["least"]["cases"][0]["ways"])
    assert {"lbctl plan", "lbctl status"} <= set(found["start-up"]["commands"])
    if "absent" in found["nftlb"]:
        assert "Not measured: nftlb is not installed." in said
    else:
        assert found["nftlb"]["loads"]


def bench(folder: Path, *parts: str) -> tuple[dict[str, Any], str]:
    """Return what some parts found, and the report."""
    file = folder / "results.json"
    run(str(BENCH), "--size", "tiny", "--output", str(file), *parts)
    results = json.loads(file.read_text())
    assert results["failed"] == {}
    assert set(results["parts"]) == set(parts)
    return results["parts"], run(str(BENCH / "report.py"), str(file))


def run(*argv: str) -> str:
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
