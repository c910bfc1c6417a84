"""The sdist and the wheel."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Where the two files are."""

    wheel: Path
    sdist: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """Both."""
        return self.wheel, self.sdist


def build(source: Path, output: Path) -> Built:
    """Build both from a tree, the wheel from the sdist: so the sdist is complete."""
    with tempfile.TemporaryDirectory(dir=output) as folder:
        argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}{done.stderr}")
        [wheel] = Path(folder).glob("*.whl")
        [sdist] = Path(folder).glob("*.tar.gz")
        return Built(wheel=wheel.rename(output / wheel.name), sdist=sdist.rename(output / sdist.name))
