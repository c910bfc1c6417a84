"""Packages of any Debian release, fetched by this machine's apt with configuration and state of its own.

apt resolves dependencies as on an empty system, so what it fetches is complete, and verifies signatures with
the keys of this machine's Debian. Mirror and proxy are those of the machine's own apt.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from matrix.releases import Release

#: Names another archive, e.g. on a machine that is not Debian but has apt.
VARIABLE = "MATRIX_MIRROR"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: apt's configuration beyond the machine's `Acquire` part. apt's sandbox user cannot read a user's clone.
_CONFIGURATION = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{folder}/sources";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "15";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
"""
_SOURCE = """\
Types: deb
URIs: {mirror}
Suites: {release}
Components: main
Signed-By: {keyring}
"""


class UnreachableError(Exception):
    """The archive cannot be reached, or this machine has no apt, or apt knows no Debian archive."""


def fetch(release: Release, packages: Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Return the archives (.deb) of packages and of all that they depend on, below `folder`.

    What an earlier run fetched is used again. Raises `UnreachableError`, and `RuntimeError` if the release
    lacks a package.
    """
    _configure(release, folder)
    _fetching(folder, "--error-on=any", "update")
    planned = _apt(folder, "--simulate", "install", *packages)
    _fetching(folder, "--download-only", "--yes", "install", *packages)
    # Deletes what the release does not have any more.
    _apt(folder, "autoclean")
    archives = folder / "cache" / "archives"
    return tuple(archives / file_name(line) for line in planned.splitlines() if line.startswith("Inst "))


def file_name(planned: str) -> str:
    """The archive's name, of apt's line `Inst NAME (VERSION ORIGIN [ARCHITECTURE])`, with more behind it."""
    _, name, version, *rest = planned.split(" ")
    architecture = next(word for word in rest if word.startswith("["))
    return f"{name}_{version.lstrip('(').replace(':', '%3a')}_{architecture.strip('[])')}.deb"


def _configure(release: Release, folder: Path) -> None:
    for part in ("state/lists/partial", "cache/archives/partial", "sources"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").write_text("", encoding="utf-8")
    source = _SOURCE.format(mirror=mirror(), release=release.name, keyring=KEYRING)
    (folder / "sources" / "debian.sources").write_text(source, encoding="utf-8")
    configuration = _CONFIGURATION.format(folder=folder)
    (folder / "apt.conf").write_text(configuration + acquire(), encoding="utf-8")


def mirror() -> str:
    """The address of a Debian archive: of the variable, or where this Debian has its own packages from."""
    if given := os.environ.get(VARIABLE):
        return given
    system = platform.freedesktop_os_release()
    wanted = [system.get("VERSION_CODENAME", ""), "main"]
    if system["ID"] == "debian":
        fields = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
        for line in _run("apt-get", "indextargets", "--format", fields, "Created-By: Packages").splitlines():
            *found, address = line.split(" ")
            if found == wanted:
                return address
    raise UnreachableError(f"this machine's apt names no Debian archive; {VARIABLE} can")


def acquire() -> str:
    """The machine's settings of how to fetch (proxies, timeouts), without what to fetch."""
    lines = _run("apt-config", "dump", "Acquire").splitlines(keepends=True)
    other = ("Acquire::IndexTargets", "Acquire::Languages")
    return "".join(line for line in lines if not line.startswith(other))


def _fetching(folder: Path, *words: str) -> None:
    try:
        _apt(folder, *words)
    except RuntimeError as error:
        raise UnreachableError(str(error)) from error


def _apt(folder: Path, *words: str) -> str:
    return _run("apt-get", "--quiet=2", *words, environment={"APT_CONFIG": str(folder / "apt.conf")})


def _run(*argv: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            argv, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise UnreachableError(f"{argv[0]} is not installed") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
