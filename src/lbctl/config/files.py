"""Which files an intent is read from."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.config.documents import name_of
from lbctl.errors import IntentError, NoIntentFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


ETC = Path("/etc/lbctl")
_ROOT = 0
#: Digits of the largest number of a user.
_LONGEST_USER = 10
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def find(config: Path | None, environ: Mapping[str, str], cwd: Path, etc: Path = ETC) -> tuple[Path, ...]:
    """The files of the intent: `config`, else $LBCTL_CONFIG, else `cwd`/lbctl.toml, else those in `etc`.

    A name stands for a file, which `load_merged` reads and complains about; for standard input if it is "-";
    or for the files of a directory. In `etc` these are lbctl.toml, if it exists, and conf.d/*.toml in name
    order. Raises `NoIntentFile` if there is none, and `IntentError` for a directory without intent files and
    for a file of `cwd` that root must not use unless it is named.
    """
    if found := finder(config, environ, cwd, etc)():
        return found
    raise NoIntentFile(
        f"no intent file: neither ./lbctl.toml nor {name_of(etc / 'lbctl.toml')} is there",
        hint="write one with `lbctl init`, or with `lbctl import` from existing rules; "
        "or name one with --config FILE",
    )


def finder(
    config: Path | None, environ: Mapping[str, str], cwd: Path, etc: Path = ETC, *, here: bool = True
) -> Callable[[], tuple[Path, ...]]:
    """Return what finds the files of the intent, now and later in the same place; they are () if it has none.

    A directory may have other files by then. Without `here`, `cwd` is no such place. Raises as `find`.
    """
    if config is not None:
        return partial(_named, config)
    if named := environ.get("LBCTL_CONFIG"):
        return partial(_named, Path(named) if named == "-" else cwd / named)
    if here and _exists(own := cwd / "lbctl.toml"):
        _ensure_own(own, environ)
        return partial(_named, own)
    return partial(_main_and_parts, etc)


def find_local(environ: Mapping[str, str], cwd: Path, etc: Path = ETC) -> tuple[Path, ...]:
    """As `find`, but never a file of the current directory: the files that say what this host follows."""
    if found := finder(None, environ, cwd, etc, here=False)():
        return found
    raise NoIntentFile(
        f"{name_of(etc / 'lbctl.toml')} is missing: its [etcd] and [follow] tables say what is followed",
        hint="write it, or name another file with $LBCTL_CONFIG",
    )


def _named(path: Path) -> tuple[Path, ...]:
    """The files behind a path that was named: itself, or those of a directory, which are merged.

    In a directory, they are those that are looked for in /etc/lbctl; where it has none of these, its *.toml.
    """
    try:
        if not path.is_dir():
            return (path,)
    except PermissionError:
        # Reading it names the file and the problem.
        return (path,)
    found = _main_and_parts(path) or _parts(path)
    if not found:
        raise IntentError(
            f"{name_of(path)} is a directory without intent files",
            hint="it may have lbctl.toml and conf.d/*.toml, or else *.toml",
        )
    return found


def unread(config: Path | None, files: Sequence[Path]) -> tuple[Path, ...]:
    """Return the *.toml of a directory that was named which are not among the files that `find` returned."""
    if config is None or config in files:
        return ()
    return tuple(path for path in _parts(config) if path not in files)


def _main_and_parts(folder: Path) -> tuple[Path, ...]:
    main = folder / "lbctl.toml"
    return ((main,) if _exists(main) else ()) + _parts(folder / "conf.d")


def _parts(folder: Path) -> tuple[Path, ...]:
    """The intent files of a directory in name order; () if there is no such directory."""
    try:
        return tuple(
            sorted(p for p in folder.iterdir() if p.suffix == ".toml" and not p.name.startswith("."))
        )
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise IntentError(f"{name_of(folder)} cannot be read: {error.strerror}") from None


def _ensure_own(path: Path, environ: Mapping[str, str]) -> None:
    """Raise `IntentError` if this is root, and another user can decide what a file of the directory says.

    The user behind sudo may: what he writes there is what root was asked to apply.
    """
    if os.geteuid():
        return
    caller = environ.get("SUDO_UID", "")
    trusted = {_ROOT}
    if caller.isascii() and caller.isdecimal() and len(caller) <= _LONGEST_USER:
        trusted.add(int(caller))
    for place, user, writable in _deciding(path):
        if user in trusted and not writable:
            continue
        reason = "can be written by other users" if user in trusted else f"belongs to {_user(user)}"
        raise IntentError(
            f"./{path.name} is not used: {place} {reason}",
            hint=f"if it is meant, name it: --config {path.name}",
        )


def _deciding(path: Path) -> Iterator[tuple[str, int, bool]]:
    """What decides what a file of the current directory says: its name, its user, if others can write it."""
    folder, link = path.parent.stat(), path.lstat()
    # In a sticky directory, such as /tmp, users can only replace what is theirs.
    open_to_all = bool(folder.st_mode & _OTHERS_WRITE and not folder.st_mode & stat.S_ISVTX)
    yield "the current directory", folder.st_uid, open_to_all
    yield "it", link.st_uid, not stat.S_ISLNK(link.st_mode) and bool(link.st_mode & _OTHERS_WRITE)
    with suppress(OSError):  # who reads it reports a link to nothing
        found = path.stat()
        yield "it", found.st_uid, bool(found.st_mode & _OTHERS_WRITE)


def _user(number: int) -> str:
    import pwd  # only where there is something to report

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _exists(path: Path) -> bool:
    """True where something is at `path`, even a dangling link: that is to be reported, not passed over."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
