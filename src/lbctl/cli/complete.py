"""What shells offer on Tab: names of services, endpoints, owners, backends, drivers, stores and files.

A completion never fails and never asks: what cannot be read offers nothing.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping, Sequence

    from lbctl.model import Intent
    from lbctl.spi import Driver

_LIVE = "live:"


@contextmanager
def whole_words(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Have bash complete words with colons, e.g. `live:nftables`, though it splits them at colons.

    Its completion reads the words from variables, and replaces only what follows the last colon.
    """
    # The function of bash has a line for each word.
    found = _joined(environ.get("COMP_WORDS", "").split("\n"), environ.get("COMP_CWORD", ""))
    if environ.get("_LBCTL_COMPLETE") != "complete_bash" or found is None:
        yield
        return
    words, place = found
    environ["COMP_WORDS"], environ["COMP_CWORD"] = "\n".join(words), str(place)
    done = len(words[place].rpartition(":")[0]) + 1 if ":" in words[place] else 0
    offered = StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        print("\n".join(line[done:] for line in offered.getvalue().splitlines()))


def name_shell(words: Sequence[str], environ: MutableMapping[str, str]) -> None:
    """Have `--show-completion zsh` mean zsh: by itself Typer takes no name, and prints that of this shell."""
    option, *more = words or ("",)
    name, equals, _ = option.partition("=")
    if name in {"--show-completion", "--install-completion"} and (more or equals):
        environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"


def _joined(words: list[str], place: str) -> tuple[list[str], int] | None:
    """Return words that were split at colons as they were typed, and the place of the current one."""
    if not any(map(_splits, words)) or not place.isdecimal() or int(place) >= len(words):
        return None
    joined: list[str] = []
    places: list[int] = []
    for word in words:
        if joined and (_splits(word) or joined[-1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
        places.append(len(joined) - 1)
    return joined, places[int(place)]


def _splits(word: str) -> bool:
    return bool(word) and not word.strip(":")


def complete_backend(incomplete: str) -> list[str]:
    """Return the backends, and `auto`."""
    from lbctl.spi import AUTO, backends

    return _beginning_with(incomplete, (AUTO, *(backend.name for backend in backends())))


def complete_target(incomplete: str) -> list[str]:
    """Return the backends to migrate to."""
    from lbctl.spi import backends

    return _beginning_with(incomplete, (backend.name for backend in backends()))


def complete_driver(incomplete: str) -> list[str]:
    """Return the drivers of all backends."""
    return _beginning_with(incomplete, (driver.name for driver in _drivers()))


def complete_store(incomplete: str) -> list[str]:
    """Return the stores of all backends."""
    return _beginning_with(incomplete, (driver.store for driver in _drivers()))


def complete_side(incomplete: str) -> list[str]:
    """Return `live:STORE` of all stores, and files."""
    files = [] if incomplete.startswith(_LIVE) else complete_file(incomplete)
    return _beginning_with(incomplete, (f"{_LIVE}{driver.store}" for driver in _drivers())) + files


def complete_file(incomplete: str) -> list[str]:
    """Return files and directories: where other words are offered, shells offer none by themselves."""
    folder, slash, name = incomplete.rpartition("/")
    try:
        found = sorted(Path(folder + slash or ".").iterdir())
    except OSError:
        return []
    names = [each for each in found if each.name.startswith(name) and (name or each.name[:1] != ".")]
    return [f"{folder}{slash}{each.name}{'/' if each.is_dir() else ''}" for each in names]


def complete_owner(incomplete: str) -> list[str]:
    """Return the owners of applied intents."""
    from lbctl.cli.context import open_host
    from lbctl.engine.record.history import owners

    return _beginning_with(incomplete, owners(open_host()))


def complete_service(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the services that were applied last, or those of the intent file."""
    return _beginning_with(incomplete, (service.name for service in _intent(ctx).services))


def complete_endpoint(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the endpoints that were applied last, or those of the intent file, as SERVICE/ENDPOINT."""
    every = (f"{service.name}/{each.name}" for service in _intent(ctx).services for each in service.endpoints)
    return _beginning_with(incomplete, every)


def complete_document(incomplete: str) -> list[str]:
    """Return the names of JSON documents."""
    from lbctl.documents import NAMES

    return _beginning_with(incomplete, NAMES)


def _intent(ctx: typer.Context) -> Intent:
    """The intent that a command is about, by the options that are typed already."""
    from lbctl.cli.context import open_host
    from lbctl.config import find, load_merged
    from lbctl.engine.record.history import last_of
    from lbctl.errors import LbctlError, NoIntentFile
    from lbctl.model import DEFAULT_OWNER, Intent

    config, owner = ctx.params.get("config"), ctx.params.get("owner")
    found: Intent | None = None
    try:
        with suppress(NoIntentFile):
            found = load_merged(find(config, os.environ, Path())) if owner is None else None
        applied = last_of(open_host(), owner or (found.owner if found else DEFAULT_OWNER))
        if applied is not None and config is None:
            return applied.intent
    except LbctlError:
        return Intent()
    return found or Intent()


def _drivers() -> Iterator[Driver]:
    from lbctl.cli.context import open_host
    from lbctl.spi import backends

    for backend in backends():
        yield from backend.probe(open_host()).drivers


def _beginning_with(incomplete: str, names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name.startswith(incomplete)))
