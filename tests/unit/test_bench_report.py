"""Every figure of speed in the documents is the bench's own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
DOCUMENTS = ("README.md", "docs/bench/README.md")
REGION = re.compile(r"(?s)<!-- bench:([a-z-]+) -->\n(.*?)<!-- /bench:\1 -->")
RECORDED = ROOT / "docs/bench/results.json"


def test_the_documents_are_in_step_with_the_recorded_run() -> None:
    done = report("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_region_has_a_text() -> None:
    found = {
        name: text
        for document in DOCUMENTS
        for name, text in REGION.findall((ROOT / document).read_text(encoding="utf-8"))
    }
    known = python("import report; print(*report.REGIONS)").split()
    assert set(found) == set(known)
    assert [name for name, text in found.items() if not text.strip()] == []


def test_a_figure_that_differs_is_found(tmp_path: Path) -> None:
    results = json.loads(RECORDED.read_text())
    [case] = [case for name, case in results["parts"]["proxies"]["cases"].items() if name == "HAProxy"]
    for one in case["rounds"]:
        one["new"]["per_second"] *= 3
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(results))
    done = report(str(changed), "--check")
    assert done.returncode == 1
    assert done.stdout.startswith("docs/bench/README.md differs from ")


@pytest.mark.parametrize(
    ("part", "why", "text"),
    [
        ("agent", "", "Not measured in this run: `make bench PARTS=agent`."),
        ("agent", "no server", "The measurement failed: no server"),
    ],
)
def test_a_region_without_figures_says_why(tmp_path: Path, part: str, why: str, text: str) -> None:
    results: dict[str, Any] = {"parts": {}, "failed": {part: why} if why else {}}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    code = "import json, report, sys; print(report.region('agent', json.load(open(sys.argv[1]))))"
    assert python(code, str(file)).strip() == text


def test_a_missed_target_has_its_cause() -> None:
    code = """
from targets import Target
print(Target(title="a", value=2, limit=1, cause="the kernel's part is 1.5").verdict)
print(Target(title="a", value=2, limit=1).verdict)
print(Target(title="a", value=2, limit=1, cause="x", meant_for="meant for 10,000 services").verdict)
print(Target(title="a", value=2, limit=1, at_least=True, cause="x").verdict)
"""
    assert python(code).splitlines() == [
        "MISSED: the kernel's part is 1.5",
        "MISSED: not explained",
        "meant for 10,000 services",
        "met",
    ]


def test_lists_of_numbers_are_lines_of_the_document() -> None:
    code = "import json, report; print(report.as_text({'a': [1, 2.5], 'b': [{'c': []}]}), end='')"
    text = python(code)
    assert '"a": [1, 2.5]' in text.replace("[ ", "[").replace(" ]", "]")
    assert json.loads(text) == {"a": [1, 2.5], "b": [{"c": []}]}


def test_the_command_that_nft_refuses_is_found_in_the_log_of_nftlb() -> None:
    refused, before = "add flowtable ip nftlb ft { hook ingress priority 50 ; }", " ; add table ip nftlb ; "
    log = [
        "nft command error : Error: Could not process rule: No such file or directory",
        f"{before}{refused} ; add rule ip nftlb a flow add @ft",
        " " * len(before) + "^" * len(refused),
        "recovery in progress...",
    ]
    code = "import nftlb, sys; print(nftlb.complaint(sys.argv[1])); print(nftlb.complaint('no marks'))"
    assert python(code, "\n".join(log)).splitlines() == [
        f"Could not process rule: No such file or directory: {refused}",
        "no marks",
    ]


def report(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCH / "report.py"), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def python(code: str, *words: str) -> str:
    """Run code that imports the bench's modules, in a process: their names are not for this one."""
    start = f"import sys; sys.path.insert(0, {str(BENCH)!r})\n"
    argv = [sys.executable, "-c", start + code, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
