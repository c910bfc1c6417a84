"""Write requirements.txt anew: the newest dependencies of lbctl, with the hashes of the wheels that are used.

python packages/lock.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

from environment import PLATFORMS, PYTHONS, REQUIREMENTS

_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_HEADER = "# Written by `make lock`: what packages bundle, and the wheels for each Python and machine.\n"


def main() -> None:
    """See the module."""
    project = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = (*project["dependencies"], *project["optional-dependencies"]["agent"])
    hashes: dict[str, set[str]] = defaultdict(set)
    for version in PYTHONS:
        for names in PLATFORMS.values():
            for name, found in _resolved(version, names, wanted):
                hashes[name].add(found)
    text = "".join(
        f"{name} \\\n" + " \\\n".join(f"    --hash=sha256:{each}" for each in sorted(hashes[name])) + "\n"
        for name in sorted(hashes)
    )
    REQUIREMENTS.write_text(_HEADER + text, encoding="utf-8")


def _resolved(version: str, platforms: tuple[str, ...], wanted: tuple[str, ...]) -> list[tuple[str, str]]:
    """What pip would install: (NAME==VERSION, SHA-256)."""
    argv = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report=-"),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={version}", "--target=unused"),
        *(f"--platform={name}" for name in platforms),
        *wanted,
    ]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    return [
        (
            f"{each['metadata']['name'].lower()}=={each['metadata']['version']}",
            each["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for each in json.loads(done.stdout)["install"]
    ]


if __name__ == "__main__":
    main()
