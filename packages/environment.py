"""One folder of Python packages, lbctl and all that it needs, for several versions of Python at once.

Names of compiled modules carry the version that they are for, e.g. `_yaml.cpython-313-x86_64-linux-gnu.so`,
so they lie beside each other; all other files are the same for every version. So one package serves several
releases of a distribution, and outlives an upgrade from one to the next.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

#: The versions of Python that are served.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: Architecture as the kernel names it → the platforms of wheels that run on glibc 2.28 and newer.
PLATFORMS = {
    machine: tuple(f"manylinux_2_{minor}_{machine}" for minor in (5, 12, 17, 24, 26, 27, 28))
    for machine in ("x86_64", "aarch64")
}
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
#: What describes a package to `importlib.metadata`, and its licences. The rest is for pip.
_METADATA = ("METADATA", "entry_points.txt")
#: Only makes PyYAML faster, which works without; Debian wants libyaml as a package of its own.
_LEFT_OUT = "yaml/_yaml.*"


def build(wheel: Path, site: Path) -> Path:
    """Return `site`, a new folder for `sys.path`, with a wheel of lbctl and its dependencies."""
    wheels = site.with_suffix(".wheels")
    for version in PYTHONS:
        _download(wheels, version)
    for file in (wheel, *sorted(wheels.iterdir())):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if not name.endswith("/") and _wanted(Path(name)):
                    _add(archive.read(name), site / name)
    return site


def _download(wheels: Path, version: str) -> None:
    """Fetch the wheels for a version of Python, with the hashes that are known of them."""
    platforms = (f"--platform={name}" for name in PLATFORMS[platform.machine()])
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
    kind = ("--only-binary=:all:", "--implementation=cp", f"--python-version={version}")
    subprocess.run([*pip, *kind, *platforms, f"--dest={wheels}", f"--requirement={REQUIREMENTS}"], check=True)


def _add(contents: bytes, file: Path) -> None:
    """Write a file; raises `SystemExit` if it is there and differs, e.g. for another version of Python."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents)
    elif file.read_bytes() != contents:
        sys.exit(f"{file} is not the same for each version of Python")


def _wanted(path: Path) -> bool:
    """True if a file of a wheel belongs into the environment: modules, not programs."""
    first, *rest = path.parts
    if first.endswith(".dist-info"):
        return rest[0] in _METADATA or rest[0].upper().startswith("LICEN")
    return not first.endswith(".data") and not path.match(_LEFT_OUT)
