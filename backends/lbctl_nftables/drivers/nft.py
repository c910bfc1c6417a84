"""Driver `nft`: the command, complete. The binding is not on PyPI, so this is what many hosts have."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from lbctl.host import reported_version

if TYPE_CHECKING:
    from lbctl.host import Completed, Host

NAME = "nft"


def find(host: Host) -> tuple[str | None, str]:
    """(version, "") where the command can be used, else (None, the reason)."""
    path = host.which("nft")
    if path is None:
        return None, "command nft is not in PATH"
    if host.byte_order() != sys.byteorder:
        return None, "that host has another byte order than this one, in which its rules cannot be read"
    found = re.search(r"v(\d+(?:\.\d+)+)", reported_version(host, path))
    return (found[1], "") if found else (None, f"{path} does not report its version")


def read(host: Host, *words: str, handles: bool = False) -> Completed:
    """Run one listing command."""
    return host.run([_path(host), "--numeric-priority", *(["--handle"] if handles else []), *words])


def files(host: Host) -> tuple[str, ...]:
    """Return the files, besides the library, that decide what this driver writes."""
    return (_path(host),)


def load(host: Host, script: str, *, check: bool, trusted: bool) -> Completed:  # noqa: ARG001 (a process of its own)
    """Run a script as one transaction, or have it checked only."""
    return host.run([_path(host), *(["--check"] if check else []), "--file", "-"], stdin=script)


def _path(host: Host) -> str:
    return host.which("nft") or "nft"
