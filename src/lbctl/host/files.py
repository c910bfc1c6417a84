"""Files: written so that they are whole or as before; read up to a limit, and never from a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lbctl.errors import ApplyFailed, IntentError

#: What the kernel's own tools would not load in one transaction is larger.
DEFAULT_LIMIT = 64 << 20


def read_bounded(source: str, limit: int = DEFAULT_LIMIT) -> bytes:
    """Return the bytes of a regular file or a pipe, or of standard input where `source` is "-".

    Standard input may be a terminal or a socket too. Raises `IntentError` for any other kind of file before a
    byte of it is read, and for more than `limit` bytes.
    """
    name = "standard input" if source == "-" else source
    try:
        if source == "-":
            return _read(0, name, limit)
        # Opening a device can have an effect: its kind is asked first.
        _check_kind(Path(source).stat(), name)
        handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            return _read(handle, name, limit)
        finally:
            os.close(handle)
    except OSError as error:
        raise IntentError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise IntentError(f"{name!r} cannot be read: {error}") from error


def _read(handle: int, name: str, limit: int) -> bytes:
    _check_kind(os.fstat(handle), name, own=name == "standard input", terminal=os.isatty(handle))
    blocks: list[bytes] = []
    left = limit + 1
    while left and (block := os.read(handle, min(left, 1 << 20))):
        blocks.append(block)
        left -= len(block)
    if not left:
        raise IntentError(
            f"{name} is larger than {_size(limit)}", hint="--max-size 256M reads as much; is this a rule set?"
        )
    return b"".join(blocks)


def _check_kind(found: os.stat_result, name: str, *, own: bool = False, terminal: bool = False) -> None:
    mode = found.st_mode
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or (own and (terminal or stat.S_ISSOCK(mode))):
        return
    kind = "a directory" if stat.S_ISDIR(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise IntentError(f"{name} is {kind}", hint="name a regular file or a pipe")


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"


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
