"""Programs run by a user without privileges."""

from __future__ import annotations

import shutil
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
_DROP = ("--reuid=65534", "--regid=65534", "--clear-groups")
#: In a mount namespace: covers the folder $2, and puts $1, which is below it, back into the empty one.
_OPEN = (
    '(PATH=/usr/bin:/bin; mount -n --bind "$1" /mnt && mount -n -t tmpfs -o mode=755 lbctl "$2" '
    '&& mkdir -p "$1" && mount -n --move /mnt "$1") && shift 2 && exec "$@"'
)


def as_user(*options: str) -> tuple[str, ...]:
    """The words that run a program as a user who can read this repository; `options` are of setpriv.

    A clone in root's home is below a folder that is closed to others. `PATH` may be empty.
    """
    drop = (_found("setpriv"), *_DROP, *options)
    for folder in reversed(_REPOSITORY.parents):
        if not folder.stat().st_mode & 0o001:
            unshare = (_found("unshare"), "--mount", "--propagation", "private")
            return (*unshare, "/bin/sh", "-c", _OPEN, "sh", str(_REPOSITORY), str(folder), *drop)
    return drop


def _found(program: str) -> str:
    return shutil.which(program) or program
