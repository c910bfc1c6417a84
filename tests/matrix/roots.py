"""Unpacked systems of other releases: a folder each, in which programs are run by chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matrix import archive
from matrix.releases import Release

REPOSITORY = Path(__file__).parents[2]
#: All that `make matrix` keeps; `make clean` removes it.
CACHE = REPOSITORY / ".matrix"

#: Stands for a complete root, and names the archives that it is made of.
_STAMP = ".complete"
#: Debian merged these into /usr; packages of older releases still unpack into the old places.
_MERGED = ("bin", "lib", "lib64", "sbin")
#: How this machine resolves names and trusts servers: pip fetches from within a root.
_NETWORK = (
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/pip.conf",
    "/etc/ssl",
    "/etc/xdg/pip",
    "/usr/share/ca-certificates",
)
#: /run holds the lock of iptables.
_SHARED = ("/run", "/tmp")
ENTER = Path(__file__).with_name("enter.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The unpacked system of a release."""

    release: Release
    path: Path

    def command(self, *argv: str) -> list[str]:
        """The words that run a program of the root in it. This repository is there at its own path."""
        return [sys.executable, str(ENTER), str(self.path), str(REPOSITORY), *_SHARED, *_NETWORK, "--", *argv]

    def run(self, *argv: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a program of the root, and return what it prints; raises `RuntimeError` if it fails."""
        done = subprocess.run(
            self.command(*argv), env={**os.environ, **(environment or {})}, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{self.release}: {' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    @property
    def libraries(self) -> Path:
        """The folder of the root's shared libraries, `/usr/lib/<architecture>`."""
        return next(self.path.glob("usr/lib/*/libc.so.6")).parent

    @property
    def loader(self) -> Path:
        """The root's dynamic loader, which runs the root's programs outside it."""
        return next(self.libraries.glob("ld-linux*.so.*"))


def unpacked(release: Release, packages: Sequence[str]) -> tuple[Root, str]:
    """Return the root of a release with some packages at least, and a note if it is not the newest.

    Raises `UnreachableError` if there is no such root and the archive cannot be reached.
    """
    root = Root(release=release, path=CACHE / release.name)
    stamp = root.path / _STAMP
    held = set(stamp.read_text(encoding="utf-8").split()) if stamp.exists() else set()
    try:
        archives = archive.fetch(release, packages, CACHE / f"apt-{release.name}")
    except archive.UnreachableError as error:
        if {name.partition("_")[0] for name in held} >= set(packages):
            return root, f"{release}: as fetched earlier, since the archive cannot be reached: {error}"
        raise
    if not held >= {file.name for file in archives}:
        _unpack(archives, root.path)
    return root, ""


def _unpack(archives: Sequence[Path], path: Path) -> None:
    """Make a root of archives, in place of the one that is there."""
    new = path.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    for name in _MERGED:
        (new / "usr" / name).mkdir(parents=True)
        (new / name).symlink_to(f"usr/{name}")
    for file in archives:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as reading:
            subprocess.run(
                ["tar", "--extract", "--keep-directory-symlink", "--preserve-permissions", "-C", new],
                stdin=reading.stdout,
                check=True,
            )
        if reading.returncode:
            raise RuntimeError(f"{file} cannot be unpacked")
    _configure(new)
    (new / _STAMP).write_text("".join(f"{file.name}\n" for file in archives), encoding="utf-8")
    shutil.rmtree(path, ignore_errors=True)
    new.rename(path)


def _configure(path: Path) -> None:
    """Do what the packages' own scripts would do, as far as programs here need it."""
    shell = path / "usr" / "bin" / "sh"
    if not shell.exists():
        shell.symlink_to("dash")
    for name in ("passwd", "group"):
        master = path / "usr/share/base-passwd" / f"{name}.master"
        if master.exists():
            shutil.copy(master, path / "etc" / name)
    # The words iptables and ip6tables are of Debian's default flavour.
    for word in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            (path / "usr" / "sbin" / f"{word}{suffix}").symlink_to(f"{word}-nft{suffix}")
    if (path / "usr" / "sbin" / "ldconfig").exists():
        subprocess.run(["/usr/sbin/chroot", path, "/sbin/ldconfig"], check=True)
