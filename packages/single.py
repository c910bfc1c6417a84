"""`lbctl.pyz`: one file that any Python from 3.11 to 3.14 of a host runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_OPTIONS = (
    "--entry-point=lbctl.__main__:start",
    "--python=/usr/bin/python3 -sP",
    "--compressed",
    "--reproducible",
    # What lbctl starts, e.g. the process that reverts a trial, is Python with a module of lbctl.
    "--extend-pythonpath",
)


def build(site: Path, output: Path) -> Path:
    """Build it from an environment."""
    file = output / "lbctl.pyz"
    shiv = (sys.executable, "-m", "shiv.cli")
    subprocess.run([*shiv, *_OPTIONS, f"--site-packages={site}", f"--output-file={file}"], check=True)
    return file
