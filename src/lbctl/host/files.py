"""Writing a file so that it is there whole or as it was, whatever happens in between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Have the file at `path` hold `text`, for its owner alone; raises `ApplyFailed` where it cannot.

    A link is followed. What is there and no regular file is left alone: a device would be lost.
    """
    fresh = None
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise ApplyFailed(f"cannot write {path}: it is not a regular file")
        fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        fresh.rename(target)
    except (OSError, ValueError) as error:
        if fresh is not None:
            _forget(fresh)
        reason = error.strerror if isinstance(error, OSError) else error
        raise ApplyFailed(f"cannot write {path}: {reason}") from error


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
