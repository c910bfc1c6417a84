"""Every figure of speed in the documents is the bench's own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_documents_say_what_the_bench_found() -> None:
    report = ROOT / "bench/report.py"
    done = subprocess.run(
        [sys.executable, str(report), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_document_of_figures_is_without_its_regions() -> None:
    for document, least in (("README.md", 1), ("docs/bench/README.md", 9)):
        assert (ROOT / document).read_text(encoding="utf-8").count("<!-- bench:") >= least
