"""What the commands have in common that work by etcd: where it is, what is followed there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.errors import IntentError, NoBackend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.agent.fleet.publication import Publication
    from lbctl.host import Host
    from lbctl.model import EtcdAccess, Intent

#: `etcd://edge`, or with the whole key. A path has no two slashes one behind the other.
_PUBLISHED = re.compile(r"etcd:/{1,3}(?:lbctl/intent/)?(?P<name>.*)")

ForFleet = Annotated[
    bool,
    typer.Option("--fleet", help="Change the published intent, for all hosts that follow it."),
]
Sign = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="KEY",
        help="Sign the publication with this OpenSSH private key.",
        show_default=False,
    ),
]
Message = Annotated[
    str,
    typer.Option(
        "--message", "-m", metavar="TEXT", help="Reason for the change, one line.", show_default=False
    ),
]


def published_name(config: Path | None) -> str | None:
    """Return the name of a published intent, of `etcd://NAME`; None for a file. Raises `IntentError`."""
    from lbctl.model import check_intent_name

    text = str(config) if config is not None else os.environ.get("LBCTL_CONFIG", "")
    found = _PUBLISHED.fullmatch(text)
    if found is None:
        return None
    try:
        return check_intent_name(found["name"])
    except ValueError as error:
        raise IntentError(str(error), hint="write it like etcd://edge") from error


def local_files() -> tuple[Path, ...]:
    """Return the files that say what this host follows, and where etcd is."""
    from lbctl.config import find_local

    return find_local(local_environment(), Path())


def local_environment() -> Mapping[str, str]:
    """Return the environment, without the name of a published intent in the place of a file."""
    if not _PUBLISHED.fullmatch(os.environ.get("LBCTL_CONFIG", "")):
        return os.environ
    return {key: value for key, value in os.environ.items() if key != "LBCTL_CONFIG"}


def need_agent() -> None:
    """Raise `NoBackend` where the packages are missing that talk to etcd."""
    try:
        import h11  # noqa: F401
    except ModuleNotFoundError as error:
        raise NoBackend("etcd needs the package h11", hint="pip install 'lbctl[agent]'") from error


def followed(files: Sequence[Path], name: str | None) -> Intent:
    """Return what this host follows now, as its local files bound it; reports what that is."""
    need_agent()
    from lbctl.agent.fleet.local import load_local, resolve
    from lbctl.cli.context import local_host
    from lbctl.cli.output import say

    local = load_local(files, name)
    accepted, trouble = resolve(local_host(), local)
    if trouble is not None:
        say(f"{trouble}. This is what was accepted last.")
    say(f"Follows {described(accepted.publication)}")
    return accepted.intent


def described(publication: Publication) -> str:
    """Return a publication in a line."""
    tried = f" (canary on {', '.join(publication.hosts)})" if publication.hosts else ""
    message = f": {publication.message}" if publication.message else ""
    return (
        f"revision {publication.revision} of {publication.name}{tried}, "
        f"{publication.time} by {publication.author}{message}"
    )


def place(config: Path | None) -> tuple[str, EtcdAccess]:
    """Return the name of the published intent that a command is about, and how etcd is reached.

    Raises `IntentError` where the local files do not say so.
    """
    name = published_name(config)
    local, shown, access = _local(config)
    name = name or (local.follow.intent if local.follow is not None else None)
    if name is None:
        raise IntentError(
            f"{shown} has no [follow] table: which published intent is meant?", hint="--config etcd://NAME"
        )
    return name, access


def access_of(config: Path | None) -> EtcdAccess:
    """Return how etcd is reached; raises `IntentError` where the local files do not say so."""
    return _local(config)[2]


def _local(config: Path | None) -> tuple[Intent, str, EtcdAccess]:
    """Return the intent in the local files, their names, and how etcd is reached."""
    from lbctl.config import find, load_merged

    need_agent()
    files = (
        local_files()
        if config is None or published_name(config) is not None
        else find(config, os.environ, Path())
    )
    local, shown = load_merged(files), ", ".join(map(str, files))
    if local.etcd is None:
        raise IntentError(f"{shown} has no [etcd] table", hint="it says where etcd is")
    return local, shown, local.etcd


def change_lines(before: Publication | None, after: Publication) -> Iterator[str]:
    """Yield what a publication changes, by service and key."""
    from lbctl.cli.differences import service_lines
    from lbctl.model import Intent, intent_changes

    yield from service_lines(intent_changes(before.intent() if before else Intent(), after.intent()))


def author_of(host: Host) -> str:
    """Return who publishes: `USER@HOST`."""
    import socket

    from lbctl.model import MAX_WHO, inert

    return inert(f"{host.user()}@{socket.gethostname()}")[:MAX_WHO]
