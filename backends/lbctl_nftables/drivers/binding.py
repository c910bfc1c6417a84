"""Why the Python binding of libnftables cannot be imported, and what makes it so.

Distributions ship the binding, and PyPI does not: an environment that hides the distribution's modules, as
those of pipx, uv and `python -m venv` do, has none, whether or not python3-nftables is installed.
"""

from __future__ import annotations

import re
import sys
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from lbctl.host import Host

MODULE = "nftables"
_OLDEST = (3, 11)
#: Debian has one folder for all versions of Python 3; elsewhere each has its own.
_FOLDERS = ("/usr/lib*/python3/dist-packages", "/usr/lib*/python3.[0-9]*/site-packages")
_VERSION = re.compile(r"/python(3(?:\.[0-9]+)?)(?:/|$)")


class Installer(Enum):
    """What made the environment that lbctl runs in, by the file that it leaves there."""

    PIPX = "pipx_metadata.json"
    UV = "uv-receipt.toml"
    OTHER = ""


def why_missing(host: Host, *, prefix: str = sys.prefix, visible: Container[str] = sys.path) -> str:
    """Return the reason why the binding cannot be imported, with the command that helps if it is installed.

    `prefix` is the environment that lbctl runs in, `visible` the folders where it looks for modules.
    """
    folders = [path.rpartition(f"/{MODULE}/")[0] for path in _found(host)]
    if not folders:
        return f"Python module {MODULE} is not installed"
    if broken := next((folder for folder in folders if folder in visible), None):
        return f"Python module {MODULE} in {broken} cannot be imported"
    seen = f"Python module {MODULE} is in {folders[0]}, which this Python environment does not see"
    python = next((python for folder in folders if (python := _python(host, folder))), None)
    if python is None:
        version = ".".join(map(str, _OLDEST))
        return f"{seen}, and no Python from {version} on does: driver nft does the same"
    return f"{seen}: {_fix(_installer(host, prefix), python)}"


def _fix(installer: Installer, python: str) -> str:
    venv = f"{python} -m venv --system-site-packages DIR && DIR/bin/pip install lbctl"
    match installer:
        case Installer.PIPX:
            # With --force instead, pipx 1.18 keeps the Python that the environment has.
            again = f"pipx install --system-site-packages --python {python} lbctl"
            return f"pipx uninstall lbctl && {again}"
        case Installer.UV:
            return f"uv tool install has no option for it; use driver nft, or {venv}"
        case Installer.OTHER:
            return venv


def _installer(host: Host, prefix: str) -> Installer:
    left = (each for each in Installer if each.value and host.exists(f"{prefix}/{each.value}"))
    return next(left, Installer.OTHER)


def _found(host: Host) -> Iterator[str]:
    for folder in _FOLDERS:
        yield from host.glob(f"{folder}/{MODULE}/__init__.py")


def _python(host: Host, folder: str) -> str | None:
    """Return the distribution's Python that sees a folder and runs lbctl, as a command.

    None if there is none.
    """
    wanted = _version(folder)
    pythons = [path for path in host.glob("/usr/bin/python3.*") if _version(path)[1:]]
    fit = [path for path in pythons if _version(path) >= _OLDEST and _version(path)[: len(wanted)] == wanted]
    if fit and len(pythons) == 1:
        # The only one is the distribution's own, whose name stays when its version changes.
        return "/usr/bin/python3"
    return max(fit, key=_version, default=None)


def _version(path: str) -> tuple[int, ...]:
    """Return the version in a path such as /usr/bin/python3.11; empty for python3.11-config."""
    found = _VERSION.search(path)
    return tuple(map(int, found[1].split("."))) if found else ()
