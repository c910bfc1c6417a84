"""`lbctl.pyz`: one file that any Python from 3.11 to 3.14 of a host runs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
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
    _start_by(file, Path(__file__).with_name("start.py").read_bytes())
    return file


def _start_by(file: Path, program: bytes) -> None:
    """Have an archive start by a program of ours, in place of shiv's, which it calls."""
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.getinfo("__main__.py")
        archive.filelist.remove(first)
        del archive.NameToInfo[first.filename]
        own = zipfile.ZipInfo(first.filename, date_time=first.date_time)
        own.external_attr, own.compress_type = first.external_attr, first.compress_type
        archive.writestr(own, program)
