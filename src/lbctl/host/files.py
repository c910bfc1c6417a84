"""Files: written so that they are whole or as before; read up to a limit, and never from a device."""

from __future__ import annotations

import io
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, IntentError
from lbctl.model import inert

if TYPE_CHECKING:
    from typing import BinaryIO

#: What the kernel's own tools would not load in one transaction is larger.
DEFAULT_LIMIT = 64 << 20
_LARGER = "--max-size 256M reads as much; is this a rule set?"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
#: /dev/null: the empty file, by convention.
_NULL = os.makedev(1, 3)


def read_bounded(source: str, limit: int = DEFAULT_LIMIT, *, hint: str = _LARGER) -> bytes:
    """Return the bytes of a regular file or a pipe, or of standard input where `source` is "-".

    Standard input may be a terminal or a socket too, and /dev/null is an empty file. Raises `IntentError` for
    any other kind of file before a byte of it is read, and, with `hint`, for more than `limit` bytes.
    """
    name = "standard input" if source == "-" else source
    try:
        if source == "-":
            if sys.stdin is None:
                raise IntentError("standard input is closed")
            return _read(sys.stdin.buffer, name, limit, hint, own=True)
        # Opening a device can have an effect: its kind is asked first.
        _check_kind(Path(source).stat(), name)
        with Path(source).open("rb") as stream:
            return _read(stream, name, limit, hint)
    except OSError as error:
        raise IntentError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise IntentError(f'"{inert(str(name))}" cannot be read: {error}') from error


def _read(stream: BinaryIO, name: str, limit: int, hint: str, *, own: bool = False) -> bytes:
    try:
        handle = stream.fileno()
    except io.UnsupportedOperation:
        pass  # held in memory
    else:
        _check_kind(os.fstat(handle), name, own=own, terminal=os.isatty(handle))
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise IntentError(f"{name} is larger than {_size(limit)}", hint=hint)
    return data


def _check_kind(found: os.stat_result, name: str, *, own: bool = False, terminal: bool = False) -> None:
    mode = found.st_mode
    if stat.S_ISCHR(mode) and found.st_rdev == _NULL:
        return
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or (own and (terminal or stat.S_ISSOCK(mode))):
        return
    kind = "a directory" if stat.S_ISDIR(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise IntentError(f"{name} is {kind}", hint="name a regular file or a pipe")


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"


def untrusted(path: Path) -> str | None:
    """Return why another user could decide what a file holds; None if only root and this user can."""
    for place in (path.absolute().parent, path):
        try:
            found = place.stat()
        except OSError as error:
            return f"{place} cannot be read: {error.strerror}"
        if found.st_uid not in {0, os.geteuid()}:
            return f"{place} belongs to another user than root"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{place} can be written by other users"
    return None


def write_whole(path: Path, text: str) -> None:
    """Have the file at `path` hold `text`, for its owner alone; raises `ApplyFailed` if it cannot.

    A link is followed: the user named it. What is there and no regular file is left alone: a device would be
    lost.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise ApplyFailed(f"cannot write {path}: it is not a regular file")
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            replace_at(folder, target.name, text)
        finally:
            os.close(folder)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ApplyFailed(f"cannot write {path}: {reason}") from error


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet, for its owner alone; raises `ApplyFailed`."""
    try:
        _write(os.open(path, _NEW, 0o600), text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ApplyFailed(f"{path} cannot be written: {reason}") from error


def replace_at(folder: int, name: str, text: str, *, durable: bool = True) -> None:
    """Have the file `name` of an open directory hold `text` in one step; raises `OSError` if it cannot.

    A link of that name is replaced, not followed. A `durable` file is on the disk before it gets its name.
    """
    fresh = f".{name}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder)
    handle = os.open(fresh, _NEW, 0o600, dir_fd=folder)
    try:
        _write(handle, text, durable=durable)
        os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh, dir_fd=folder)
        raise


def _write(handle: int, text: str, *, durable: bool = False) -> None:
    """Write a text to a new file and close it; its mode is 0600 under every umask."""
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        os.fchmod(handle, 0o600)
        file.write(text)
        file.flush()
        if durable:
            os.fsync(handle)
