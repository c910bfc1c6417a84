"""What systemd would start here, from the files of its units alone: asking it needs a running one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.host.host import Host

_ADMINISTRATOR = "/etc/systemd/system"
#: Where systemd looks for units, first to last.
_FOLDERS = (_ADMINISTRATOR, "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_PROGRAM = "lbctl"
_APPLIES = re.compile(r"(?m)^\s*ExecStart\w*\s*=.*\blbctl\b.*\bapply\b")


def unit_file(host: Host, unit: str, *, then: Sequence[str] = ()) -> tuple[str, str] | None:
    """Return the path and the text of a unit; the first folder that has it decides.

    `then` are files that are likely to be read next (see `Host.expect`).
    """
    host.expect(
        reads=[*(f"{folder}/{unit}" for folder in _FOLDERS), *then], globs=[*_additions(unit), links_of(unit)]
    )
    for folder in _FOLDERS:
        path = f"{folder}/{unit}"
        text = host.read(path)
        if text is not None:
            return path, text
    return None


def enabled(host: Host, unit: str) -> str | None:
    """Return the link by which another unit starts this one; None where there is none."""
    return next(iter(host.glob(links_of(unit))), None)


def applies_again(host: Host, unit: str) -> bool:
    """Return True if lbctl applies again whenever a unit was started or loaded anew.

    By an addition to that unit, or by one of its own that is enabled and follows it.
    """
    tied = re.compile(rf"(?m)^\s*(?:PartOf|BindsTo|ReloadPropagatedFrom)\s*=.*\b{re.escape(unit)}")
    for path in host.holding(_PROGRAM, _additions(unit)):
        text = host.read(path) or ""
        if not _APPLIES.search(text):
            continue
        if path.endswith(".conf") or (tied.search(text) and enabled(host, path.rpartition("/")[2])):
            return True
    return False


def _additions(unit: str) -> list[str]:
    """Return the patterns of what adds to a unit, and of all services."""
    return [f"{folder}/{each}" for folder in _FOLDERS for each in (f"{unit}.d/*.conf", "*.service")]


def links_of(unit: str) -> str:
    """Return the pattern of the links by which other units start this one."""
    return f"{_ADMINISTRATOR}/*.wants/{unit}"
