"""One folder of Python packages, lbctl and all that it needs, for several versions of Python at once.

Names of compiled modules carry the version that they are for, e.g. `_yaml.cpython-313-x86_64-linux-gnu.so`,
so they lie beside each other; all other files are the same for every version. So one package serves several
releases of a distribution, and outlives an upgrade from one to the next.
"""

from __future__ import annotations

import filecmp
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

#: The versions of Python that are served.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: Architecture as the kernel names it → the platforms of wheels that run on glibc 2.28 and newer.
PLATFORMS = {
    machine: tuple(f"manylinux_2_{minor}_{machine}" for minor in (5, 12, 17, 24, 26, 27, 28))
    for machine in ("x86_64", "aarch64")
}
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
#: Only makes PyYAML faster, which works without; Debian wants libyaml as a package of its own.
_LEFT_OUT = "yaml/_yaml.*"
#: What describes a package to `importlib.metadata`, and its licences. The rest is about how pip installed it.
_METADATA = ("METADATA", "entry_points.txt")


def build(wheel: Path, site: Path) -> Path:
    """Return `site`, a new folder for `sys.path`, with a wheel of lbctl and its dependencies."""
    site.mkdir()
    for version in PYTHONS:
        with tempfile.TemporaryDirectory(dir=site.parent) as folder:
            _install(Path(folder), version)
            _merge(Path(folder), site)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if ".data/" not in name and _wanted(Path(name)):
                archive.extract(name, site)
    return site


def _install(folder: Path, version: str) -> None:
    platforms = (f"--platform={name}" for name in PLATFORMS[platform.machine()])
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--require-hashes")
    kind = ("--only-binary=:all:", "--implementation=cp", f"--python-version={version}")
    subprocess.run(
        [*pip, *kind, *platforms, f"--target={folder}", f"--requirement={REQUIREMENTS}"], check=True
    )


def _merge(new: Path, site: Path) -> None:
    """Add files to those of other versions of Python; raises `SystemExit` if one differs."""
    for file in _files(new):
        target = site / file.relative_to(new)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        elif not filecmp.cmp(file, target, shallow=False):
            sys.exit(f"{file.relative_to(new)} is not the same for each version of Python")


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and _wanted(file.relative_to(folder)))


def _wanted(path: Path) -> bool:
    """True if a file of an installed package belongs into the environment: modules, not programs."""
    first, *rest = path.parts
    if not first.endswith(".dist-info"):
        return first != "bin" and not path.match(_LEFT_OUT)
    return rest[0] in _METADATA or rest[0].upper().startswith("LICEN") or rest[0] == "licenses"
