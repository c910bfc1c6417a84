"""What a command works on, found once at its beginning and handed on: the only place that opens a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lbctl.host import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The host that a command is about, the intent files that it uses, and the owner of the rules."""

    host: Host
    files: tuple[Path, ...] = ()
    owner: str


def open_host() -> Host:
    """Return the host that a command is about."""
    from lbctl.host import LocalHost

    return LocalHost()
