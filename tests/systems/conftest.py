"""Packages of three versions, and fresh systems to put them into."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from matrix.roots import REPOSITORY
from support.network import Network
from systems.system import RELEASES, System, fresh

#: The last commit of 0.1, which was no package.
_OLD = "4aee9e1"
#: What a host has that runs the packages: so an installation needs no network.
_REQUIRED = (
    *("conntrack", "init", "iproute2", "iptables", "nftables", "procps", "python3", "python3-nftables"),
    "rpm",  # a package of the system only to install rpms
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """Folders of packages: of 0.1, of this version, of the same built again, and of a version after it."""

    old: Path
    new: Path
    again: Path
    newer: Path

    def file(self, folder: Path, pattern: str) -> Path:
        """The one file of a folder that fits a pattern."""
        [file] = folder.glob(pattern)
        return file


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Packages:
    """Built from the last commit by the builder as it is: in different folders, and not to differ by them."""
    folder = tmp_path_factory.mktemp("packages")
    made = Packages(**{name: folder / name for name in ("old", "new", "again", "newer")})
    build(tree(folder / "new-tree", "HEAD"), made.new)
    build(tree(folder / "the same tree", "HEAD"), made.again, cwd=folder, umask=0o077)
    build(tree(folder / "old-tree", _OLD), made.old, "deb")
    later = tree(folder / "newer-tree", "HEAD")
    version = later / "src" / "lbctl" / "version.py"
    version.write_text('"""The version."""\n\n__version__ = "0.9.0"\n', encoding="utf-8")
    build(later, made.newer, "deb", "rpm")
    return made


def build(source: Path, output: Path, *kinds: str, cwd: Path | None = None, umask: int = -1) -> None:
    """Have `python packages` build a tree; `umask` -1 is that of this process."""
    argv = [sys.executable, REPOSITORY / "packages", "--source", source, "--output", output, *kinds]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, umask=umask)
    assert done.returncode == 0, done.stdout + done.stderr


def tree(folder: Path, commit: str) -> Path:
    """The files of a commit."""
    folder.mkdir()
    git = ["git", "-c", f"safe.directory={REPOSITORY}", "-C", REPOSITORY, "archive", commit]
    with subprocess.Popen(git, stdout=subprocess.PIPE) as reading:
        subprocess.run(["tar", "--extract", "-C", folder], stdin=reading.stdout, check=True)
    assert reading.returncode == 0, f"no commit {commit}: a shallow clone lacks it"
    return folder


@pytest.fixture(params=RELEASES)
def system(request, tmp_path) -> System:
    return fresh(request.param, tmp_path / "root", packages=_REQUIRED)


@pytest.fixture
def network(tmp_path) -> Iterator[Network]:
    network = Network(tmp_path)
    yield network
    network.close()


@pytest.fixture
def booted(system, network) -> Iterator[System]:
    """A system whose systemd runs on the middle one of three hosts."""
    with network.host.entered(), system.booted() as running:
        yield running


@pytest.fixture
def provide(system, packages) -> Callable[[Path, str], str]:
    """Copy a package into the system, and return its path there."""

    def copy(folder: Path, pattern: str) -> str:
        file = packages.file(folder, pattern)
        target = system.file(f"/root/{file.name}")
        target.write_bytes(file.read_bytes())
        target.chmod(0o755)
        return f"/root/{file.name}"

    return copy
