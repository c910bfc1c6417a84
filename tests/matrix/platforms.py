"""A release as a place to run lbctl in: its tools, and a Python.

The Python is the release's own or, if that is too old for lbctl, this machine's.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lbctl.host.netns import PrivateHost
from matrix import commands, environments
from matrix.releases import Release
from matrix.roots import REPOSITORY, Root

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = re.compile(r"\d+(\.\d+)+")
#: More than the longest of what is run takes on a busy machine, in seconds.
_PATIENCE = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A release, and how Python programs with lbctl and the tools of the release are run.

    `chroot` is None if they are run outside the root. `environment` is the whole of theirs.
    """

    release: Release
    python: Path
    chroot: Root | None
    environment: Mapping[str, str] = field(repr=False)

    def run(
        self, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with some words and variables, from this repository's folder."""
        return self._run(str(self.python), *words, environment=environment or {})

    def tool(self, *argv: str) -> str:
        """What a tool of the release prints; raises `CalledProcessError` if it fails."""
        done = self._run(*argv)
        done.check_returncode()
        return done.stdout

    def version(self, program: str) -> str:
        """The version that a program prints for `--version`, e.g. 1.0.6."""
        found = _VERSION.search(self.tool(program, "--version"))
        assert found
        return found[0]

    def _run(
        self, *argv: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.chroot.command(*argv) if self.chroot else argv,
            cwd=REPOSITORY,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )


def prepared(root: Root) -> Platform:
    """Return the platform of a root; an environment for lbctl is made in the root if there is none."""
    if not root.release.hosts_lbctl:
        return outside(root)
    python = environments.in_root(root)
    return Platform(release=root.release, python=python, chroot=root, environment=_environment(python.parent))


def outside(root: Root) -> Platform:
    """Return the platform of a root's commands and this machine's Python."""
    python = environments.of_this_machine()
    environment = _environment(python.parent, commands.wrapped(root))
    return Platform(release=root.release, python=python, chroot=None, environment=environment)


def _environment(*folders: Path) -> dict[str, str]:
    return {
        "PATH": ":".join([*map(str, folders), _PATH]),
        "HOME": os.environ.get("HOME", "/root"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(REPOSITORY / "tests"),
        # As for any private namespace: the usual lock of iptables guards the real host's tables.
        "XTABLES_LOCKFILE": PrivateHost.environment["XTABLES_LOCKFILE"],
        # The repository may be a user's, and root must leave nothing there.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
