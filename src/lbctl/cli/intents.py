"""The intent that a command is about: its files, by option, environment or place."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from lbctl.cli.context import Context
from lbctl.errors import IntentError, NoIntentFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lbctl.host import Host
    from lbctl.model import Intent

#: So many intent files are named.
_FEW_FILES = 3
#: What was read to find the hosts of a command, files → intent: the command does not read them again.
_AHEAD: ContextVar[dict[tuple[Path, ...], Intent] | None] = ContextVar("ahead", default=None)


def context_of(host: Host, owner: str | None, config: Path | None, *, announced: bool = True) -> Context:
    """Return the context with the owner that was named, else that of the intent file, else the default.

    The file is announced, unless a command uses nothing else of it. Raises `IntentError`.
    """
    from lbctl.model import DEFAULT_OWNER, check_owner

    if owner is not None:
        try:
            return Context(host=host, owner=check_owner(owner))
        except ValueError as error:
            raise IntentError(str(error), hint="small letters, digits and dashes, at most 12") from error
    files = files_if_any(config)
    if announced:
        announce(files, config)
    try:
        found = _loaded(files).owner if files else DEFAULT_OWNER
    except IntentError as error:
        error.hint = "--owner NAME works without reading the file"
        raise
    return Context(host=host, files=files, owner=found)


def context_with_intent(host: Host, config: Path | None) -> tuple[Context, Intent]:
    """Return the context of an intent file, and the intent; raises `IntentError`.

    The files are announced: the command changes something, or shows a change.
    """
    files = intent_files(config)
    announce(files, config)
    intent = read_intent(config)
    return Context(host=host, files=files, owner=intent.owner), intent


def read_intent(config: Path | None) -> Intent:
    """The intent that the options and the environment point to; raises `IntentError`."""
    from lbctl.cli.fleet import published_name

    return intent_of(intent_files(config), published_name(config))


def intent_of(files: Sequence[Path], name: str | None) -> Intent:
    """The intent of files, or the published one that they or a name point to; raises `IntentError`."""
    from lbctl.cli.fleet import followed

    intent = _loaded(files)
    return intent if intent.follow is None and name is None else followed(files, name)


def intent_if_any(config: Path | None) -> Intent | None:
    """As `read_intent`; None where there is no file and none was named."""
    return read_intent(config) if files_if_any(config) else None


def intent_files(config: Path | None) -> tuple[Path, ...]:
    """The files of `read_intent`: for a published intent, the local ones that bound it."""
    from lbctl.cli.fleet import local_files, published_name
    from lbctl.config import find

    if published_name(config) is not None:
        return local_files()
    return find(config, os.environ, Path())


def files_if_any(config: Path | None) -> tuple[Path, ...]:
    """As `intent_files`; () where there is no file and none was named."""
    try:
        return intent_files(config)
    except NoIntentFile:
        return ()


def intent_finder(config: Path | None) -> Callable[[], tuple[Path, ...]]:
    """Return what finds the files of `intent_files` again and again, by absolute paths; () if there is none.

    The place is chosen once: a file of the current directory that comes later is none of it.
    """
    from lbctl.cli.fleet import local_environment, published_name
    from lbctl.config import finder

    if published_name(config) is not None:
        return finder(None, local_environment(), Path.cwd(), here=False)
    return finder(config.absolute() if config is not None else None, os.environ, Path.cwd())


@contextmanager
def reading_once() -> Iterator[None]:
    """Have a command use what `read_ahead` returned of its files, once, instead of reading them again."""
    before = _AHEAD.set({})
    try:
        yield
    finally:
        _AHEAD.reset(before)


def read_ahead(files: Sequence[Path]) -> Intent:
    """Return the intent of files before the command itself asks for it; raises `IntentError`."""
    from lbctl.config import load_merged

    intent = load_merged(files)
    if (ahead := _AHEAD.get()) is not None:
        ahead[tuple(files)] = intent
    return intent


def _loaded(files: Sequence[Path]) -> Intent:
    from lbctl.config import load_merged

    found = (_AHEAD.get() or {}).pop(tuple(files), None)
    return found or load_merged(files)


def announce(files: Sequence[Path], config: Path | None = None) -> None:
    """Name the intent files that a command goes by, and those of a directory that it does not read."""
    from lbctl.cli.output import say
    from lbctl.config import unread

    if files:
        say(f"Intent: {_few(files)}")
    if ignored := unread(config, files):
        say(f"Note: not read: {_few(ignored)}; of {config}, lbctl.toml and conf.d/*.toml are the intent")


def _few(files: Sequence[Path]) -> str:
    """Name a few of many files."""
    from lbctl.config.documents import name_of

    shown = [f"./{path}" if path == Path("lbctl.toml") else name_of(path) for path in files[:_FEW_FILES]]
    more = [f"{len(files) - _FEW_FILES} more"] if len(files) > _FEW_FILES else []
    return ", ".join([*shown, *more])
