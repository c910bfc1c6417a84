"""The directories that hold lbctl's own state: no other user decides what is read from or written to them.

A directory is opened without following a link, and all work in it is relative to that descriptor. It is
refused if another user could put files into it: what is read there decides what the kernel gets. The modes of
what is made here do not depend on the umask of the caller.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, PermissionDenied
from lbctl.host.files import replace_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: Of a directory that is only on the way to ours.
_PUBLIC = 0o755


class StateDir:
    """One directory of state, made when something is first written to it."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        self._mode = mode

    def read(self, name: str) -> str | None:
        """Return the text of a file that only root and this user can have written; None if there is none.

        Raises `PermissionDenied` for a directory that cannot be trusted.
        """
        try:
            with self._opened() as folder:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                handle = os.open(name, flags, dir_fd=folder)
        except OSError:
            return None
        with os.fdopen(handle, encoding="utf-8") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode) or not _is_own(found) or found.st_mode & _OTHERS_WRITE:
                return None
            try:
                return file.read()
            except (OSError, UnicodeDecodeError):
                return None

    def write(self, name: str, text: str, *, durable: bool = True) -> None:
        """Have the file `name` hold `text`, readable by its owner alone; a link in its place is replaced.

        Raises `ApplyFailed`, and what the file held before is still there, or `PermissionDenied`.
        """
        try:
            with self._opened(create=True) as folder:
                _sweep(folder, name)
                replace_at(folder, name, text, durable=durable)
        except OSError as error:
            raise ApplyFailed(f"cannot write {self.path / name}: {error.strerror}") from error

    def append(self, name: str, text: str) -> None:
        """Add `text` to the file `name`, for its owner alone; it may be lost where the host crashes.

        Raises `ApplyFailed`, and maybe a part of the text is there, or `PermissionDenied`.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with self._opened(create=True) as folder:
                handle = os.open(name, flags, 0o600, dir_fd=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or not _is_own(found):
                    raise ApplyFailed(f"{self.path / name} is not a file of lbctl")
                os.fchmod(handle, 0o600)
                file.write(text)
        except OSError as error:
            raise ApplyFailed(f"cannot write {self.path / name}: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Have there be no file `name`; raises `ApplyFailed` or `PermissionDenied`."""
        try:
            with self._opened() as folder:
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ApplyFailed(f"cannot remove {self.path / name}: {error.strerror}") from error

    def rename(self, name: str, new: str) -> None:
        """Have the file `name` be `new`; raises `ApplyFailed` or `PermissionDenied`."""
        try:
            with self._opened() as folder:
                os.rename(name, new, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            raise ApplyFailed(f"cannot rename {self.path / name} to {new}: {error.strerror}") from error

    def names(self) -> tuple[str, ...]:
        """Return the names of all files, sorted; raises `PermissionDenied`."""
        try:
            with self._opened() as folder:
                return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 (a descriptor)
        except PermissionError as error:
            raise PermissionDenied(
                f"{self.path} is for root alone", hint="run lbctl as root (sudo)"
            ) from error
        except OSError:
            return ()

    def open_lock(self, name: str) -> int:
        """Return a descriptor to lock, of the file `name` or, on a full disk, of the directory itself.

        Raises `PermissionDenied` and `ApplyFailed`.
        """
        try:
            with self._opened(create=True) as folder:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                try:
                    handle = os.open(name, flags, 0o600, dir_fd=folder)
                    with suppress(PermissionError):  # root's, and we are not root
                        os.fchmod(handle, 0o600)
                    return handle
                except OSError as error:
                    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                        raise
                    # Removing rules needs no room, and no other process can make the file either.
                    return os.dup(folder)
        except OSError as error:
            kind = PermissionDenied if isinstance(error, PermissionError) else ApplyFailed
            raise kind(
                f"cannot open the lock {self.path / name}: {error.strerror}",
                hint="run as root, or set LBCTL_STATE_DIR to a directory that you can write",
            ) from error

    def open_existing(self, name: str) -> int | None:
        """Return a descriptor of a file, to be looked at only; None where there is none to be trusted."""
        try:
            with self._opened() as folder:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                return os.open(name, flags, dir_fd=folder)
        except (OSError, PermissionDenied):
            return None

    @contextmanager
    def _opened(self, *, create: bool = False) -> Iterator[int]:
        """Yield a descriptor of the directory; raises `OSError`, and `PermissionDenied` if it is not safe."""
        if create:
            _make(self.path, self._mode)
        # The names above are the administrator's, who may have put a link there (/var/run, for instance).
        above = os.open(self.path.parent, _DIRECTORY)
        try:
            _check(os.fstat(above), self.path.parent, sticky=True)
            folder = self._descend(above)
        finally:
            os.close(above)
        try:
            _check(os.fstat(folder), self.path)
            yield folder
        finally:
            os.close(folder)

    def _descend(self, above: int) -> int:
        try:
            return os.open(self.path.name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except NotADirectoryError:
            found = os.stat(self.path.name, dir_fd=above, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                raise
            raise PermissionDenied(
                f"{self.path} is a symbolic link, and lbctl does not keep its state behind one",
                hint="remove it, or have LBCTL_STATE_DIR name another directory",
            ) from None


def _make(path: Path, mode: int) -> None:
    """Make a directory and what is missing above it."""
    for above in reversed(path.parents):
        _make_one(above, _PUBLIC)
    _make_one(path, mode)


def _make_one(path: Path, mode: int) -> None:
    # The mode of mkdir is cut by the umask, hence the second step.
    if os.path.lexists(path):
        return
    with suppress(FileExistsError):  # another lbctl was quicker
        path.mkdir(mode=0o700)
        path.chmod(mode)


def _check(found: os.stat_result, path: Path, *, sticky: bool = False) -> None:
    """Raise `PermissionDenied` if another user could put files there, or replace what is there.

    In a `sticky` directory, such as /tmp, users can only replace what is theirs.
    """
    if not _is_own(found):
        reason, hint = f"belongs to {_name_of(found.st_uid)}", f"chown root: {path}"
    elif found.st_mode & _OTHERS_WRITE and not (sticky and found.st_mode & stat.S_ISVTX):
        reason, hint = "can be written by other users", f"chmod go-w {path}"
    else:
        return
    raise PermissionDenied(
        f"{path} {reason}: state that is kept there cannot be trusted",
        hint=f"{hint}, or have LBCTL_STATE_DIR name another directory",
    )


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid in {0, os.geteuid()}


def _name_of(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _sweep(folder: int, name: str) -> None:
    """Remove what processes left that were killed while they wrote: `.NAME.PID.new`."""
    for left in os.listdir(folder):
        if left.startswith(f".{name}.") and left.endswith(".new"):
            number = left.removeprefix(f".{name}.").removesuffix(".new")
            if number.isascii() and number.isdecimal() and not Path("/proc", number).exists():
                os.unlink(left, dir_fd=folder)
