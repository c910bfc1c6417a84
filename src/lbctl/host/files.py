"""Writing a file so that it is there whole or as it was, whatever happens in between."""

from __future__ import annotations

import os
from pathlib import Path

from lbctl.errors import ApplyFailed


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


def sweep(folder: Path, name: str) -> None:
    """Remove what processes left that were killed while they wrote `NAME.PID.new`; raises `OSError`."""
    for left in folder.glob(f"{name}.*.new"):
        if not Path("/proc", left.suffixes[-2][1:]).exists():
            left.unlink(missing_ok=True)


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
