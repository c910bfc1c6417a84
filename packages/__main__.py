"""Build what is published of lbctl: `make packages`.

    python packages [--source FOLDER] [--output FOLDER] [KIND …]

- python: sdist and wheel, with units, man pages and completions;
- deb, rpm: the same with lbctl's whole environment, for every Python from 3.11 to 3.14 of the distribution;
- pyz: one file for the same Pythons;
- image: an OCI archive for the agent, where buildah is installed (only if named).

Two builds of one commit are equal: times are those of the commit (`SOURCE_DATE_EPOCH`), dependencies those of
requirements.txt with its hashes. `--source` is another tree of lbctl, e.g. of another version.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import environment
import image
import native
import single
import wheel

ROOT = Path(__file__).parents[1]
DEFAULT = ("python", "deb", "rpm", "pyz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python packages", description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT, help="tree of lbctl to build")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of what is built")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(DEFAULT)}, image")
    given = parser.parse_args(arguments)
    kinds = given.kinds or DEFAULT
    if unknown := set(kinds) - {*DEFAULT, "image"}:
        parser.error(f"unknown kind: {', '.join(sorted(unknown))}")
    os.environ.setdefault("SOURCE_DATE_EPOCH", _commit_time(given.source))
    # Modes of files do not depend on who builds.
    os.umask(0o022)
    given.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made = _build(kinds, given.source, given.output, Path(folder))
    for file in made:
        print(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}")
    return 0


def _build(kinds: Sequence[str], source: Path, output: Path, work: Path) -> list[Path]:
    """Build kinds of packages, and return their files. `work` is a folder for what is not published."""
    made: list[Path] = []
    if {*kinds} & {*DEFAULT}:
        built = wheel.build(source, output if "python" in kinds else work)
        site = environment.build(built.wheel, work / "site")
        made += built.files if "python" in kinds else ()
        made += (native.build(kind, site, source, output) for kind in ("deb", "rpm") if kind in kinds)
        made += (single.build(site, output),) if "pyz" in kinds else ()
    if "image" in kinds:
        made.append(image.build(output))
    return made


def _commit_time(source: Path) -> str:
    """The time of the last commit, in seconds; of a tree without history, that of its changelog."""
    done = subprocess.run(
        ["git", "-C", source, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or str(int((source / "CHANGELOG.md").stat().st_mtime))


if __name__ == "__main__":
    sys.exit(main())
