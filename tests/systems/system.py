"""Fresh Debian systems: folders that programs are run in by chroot.

A system has a file system of its own. Devices, /proc, /sys and the kernel are this machine's; the network
namespace is the caller's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from matrix import archive
from matrix.roots import CACHE, ENTER

RELEASES = tuple(os.environ.get("RELEASES", "").split()) or ("bookworm", "trixie")
#: How this machine resolves names, and what its administrator trusts and wants of pip.
_NETWORK = ("/etc/hosts", "/etc/resolv.conf", "/etc/pip.conf", "/usr/local/share/ca-certificates")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
#: More than the longest of what is run takes on a busy machine, in seconds.
_PATIENCE = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A Debian system below `path`; `folders` of this machine are seen there.

    `systemd` is the process id of its systemd. Without one, programs are run by chroot.
    """

    release: str
    path: Path
    folders: tuple[Path, ...] = ()
    systemd: int | None = None

    def command(self, *argv: str) -> list[str]:
        """The words that run a program of the system in it."""
        if self.systemd is None:
            return [sys.executable, str(ENTER), str(self.path), *map(str, self.folders), "--", *argv]
        namespaces = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wdns=/")
        return ["nsenter", "--target", str(self.systemd), *namespaces, *argv]

    def start(self, *argv: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a program of the system, whose output can be read."""
        return subprocess.Popen(
            self.command(*argv),
            cwd="/",
            env={**_ENVIRONMENT, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def follow(self, *argv: str) -> str:
        """Return what a program prints, which must end with 0, and print each line at once.

        There is no limit of time but that of the test: all tests of a clone take long on a busy machine.
        """
        lines = []
        with self.start(*argv) as process:
            assert process.stdout
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        assert process.returncode == 0, f"{self.release}: {' '.join(argv)}: {process.returncode}"
        return "".join(lines)

    def run(self, *argv: str, code: int = 0, variables: Mapping[str, str] | None = None) -> str:
        """Return what a program of the system prints; it must end with `code`."""
        output, ended = self.attempt(*argv, variables=variables)
        assert ended == code, f"{self.release}: {' '.join(argv)}: {ended}\n{output}"
        return output

    def attempt(self, *argv: str, variables: Mapping[str, str] | None = None) -> tuple[str, int]:
        """Return what a program of the system prints, and its exit code."""
        with self.start(*argv, variables=variables) as process:
            output, _ = process.communicate(timeout=_PATIENCE)
        return output, process.returncode

    def file(self, path: str) -> Path:
        """Where this machine sees a file of the system."""
        return self.path / path.removeprefix("/")

    @contextmanager
    def booted(self) -> Iterator[System]:
        """Boot its systemd in the current network namespace; it ends with the block."""
        boot = [sys.executable, str(Path(__file__).with_name("boot.py")), str(self.path)]
        with subprocess.Popen(boot, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                system = replace(self, systemd=int(process.stdout.readline()))
                system.wait_for({"running", "degraded"}, "systemctl", "is-system-running", boot=process)
                yield system
            finally:
                process.terminate()

    def wait_for(
        self, outputs: Collection[str], *argv: str, boot: subprocess.Popen[str] | None = None
    ) -> None:
        """Run a program again and again until it prints one of some words, while `boot` runs."""
        end = time.monotonic() + _PATIENCE
        while (output := self.attempt(*argv)[0].strip()) not in outputs:
            assert boot is None or boot.poll() is None, f"{self.release}: systemd has ended"
            assert time.monotonic() < end, f"{self.release}: {' '.join(argv)}: {output}"
            time.sleep(0.1)


def fresh(release: str, path: Path, *, packages: Sequence[str] = (), folders: Sequence[Path] = ()) -> System:
    """Return a new system below `path`, with some packages and all that they depend on.

    The first one of a release and of packages fetches them; `make clean` removes what is kept of that.
    """
    path.mkdir()
    subprocess.run(["tar", "--extract", "--file", archived(release, packages), "-C", path], check=True)
    return System(release=release, path=path, folders=tuple(folders))


def archived(release: str, packages: Sequence[str] = ()) -> Path:
    """The archive (tar) of a system. `minbase` is what every Debian system has, those in containers too."""
    name = "-".join((release, *packages))
    file = CACHE / "systems" / f"{name}.tar"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = file.with_suffix(".new")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory"),
                *(f"--include={package}" for package in packages),
                *(release, str(folder), archive.mirror()),
            ],
            check=True,
        )
        _connect(folder)
        part = file.with_suffix(".part")
        subprocess.run(["tar", "--create", "--file", part, "-C", folder, "."], check=True)
        part.rename(file)
        shutil.rmtree(folder)
    return file


def _connect(root: Path) -> None:
    """Let programs of a new system reach what this machine reaches."""
    for path in map(Path, _NETWORK):
        target = root / path.relative_to("/")
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        elif path.exists():
            shutil.copy(path, target)
    settings = root / "etc" / "apt" / "apt.conf.d" / "90network"
    settings.write_text(archive.acquire(), encoding="utf-8")
