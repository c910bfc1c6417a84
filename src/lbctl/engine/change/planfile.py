"""A plan as a file: made now, looked at by others, carried out later, or refused.

Nothing in the file is believed. It holds the intent itself, and carrying it out is making the plan anew from
that intent: both sides must come out as the file has them. So a file that somebody wrote or changed by hand
can do nothing that an intent file could not do.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.config import dump, loads
from lbctl.config.documents import STANDARD_INPUT, name_of, read
from lbctl.config.values import show
from lbctl.engine.change.plan import plan
from lbctl.engine.record.history import digest_of
from lbctl.errors import IntentError, Stale
from lbctl.host import write_whole
from lbctl.model import Intent, Item, Program, diff, inert, touched
from lbctl.values import dataclass
from lbctl.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.engine.change.session import Session
    from lbctl.model import Plan

VERSION = 1
#: Both sides of 10,000 services with ten endpoints are a tenth of it.
_LIMIT = 512 * 1024 * 1024
#: What a plan file begins with. What does not is only read up to a size, to say what is wrong with it.
_HEAD = json.dumps({"format_version": VERSION, "kind": "plan"})[:-1].encode()
_SMALL = 1024 * 1024
#: What tells a plan file from an intent file in JSON.
_KIND = re.compile(rb'"kind"\s*:\s*"plan"')
_LOOKED_AT = 1024 * 1024
_AGAIN = "run lbctl plan -o again, and look at what it shows"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """What a plan file says."""

    file: str
    #: The version of lbctl that wrote it.
    version: str
    backend: str
    driver: str
    allow_remap: bool
    #: The network namespace that it is for, as `Host.namespace` names it.
    namespace: str | None
    #: The intent files that it was made from; for a published intent, the local ones that bound it.
    sources: tuple[Path, ...]
    #: The name of the published intent, where one was named beside the files.
    published: str | None
    intent: Intent
    before: Program
    after: Program


def write_plan(
    session: Session,
    made: Plan,
    intent: Intent,
    sources: Sequence[Path],
    path: Path,
    *,
    published: str | None = None,
) -> None:
    """Keep a plan in a file; raises `ApplyFailed` where it cannot be written.

    `sources` and `published` are what `PlanFile` has.
    """
    text = dump(intent)
    document = {
        "format_version": VERSION,
        "kind": "plan",
        "lbctl": __version__,
        "owner": intent.owner,
        "backend": made.backend,
        "driver": made.driver,
        "allow_remap": session.allow_remap,
        "namespace": session.host.namespace(),
        "sources": [str(source.absolute()) for source in sources if source != STANDARD_INPUT],
        **({} if published is None else {"published": published}),
        "digest": digest_of(text),
        "intent": text,
        "before": made.before.items,
        "after": made.after.items,
    }
    write_whole(path, json.dumps(document) + "\n")


def read_plan(path: Path) -> PlanFile:
    """Return the plan file at `path`; raises `IntentError` where it is none, or does not fit together."""
    _ensure_small_or_plan(path)
    source = read(path, _LIMIT)
    data = source.data()
    if data.get("kind") != "plan":
        source.fail(1, "this is not a plan of lbctl", "lbctl plan -o FILE writes one")
    if data.get("format_version") != VERSION:
        source.fail(1, f"the plan is from another version of lbctl: {show(data.get('lbctl'))}", _AGAIN)
    try:
        intent = loads(_text(data["intent"]), f"{source.file} (intent)")
        found = PlanFile(
            file=source.file,
            version=_text(data["lbctl"]),
            backend=_text(data["backend"]),
            driver=_text(data["driver"]),
            allow_remap=data["allow_remap"] is True,
            namespace=None if data["namespace"] is None else _text(data["namespace"]),
            sources=tuple([Path(_text(name)) for name in data["sources"]]),
            published=None if data.get("published") is None else _text(data["published"]),
            intent=intent,
            before=_program(intent.owner, data["before"]),
            after=_program(intent.owner, data["after"]),
        )
        agrees = (data["owner"], data["digest"]) == (intent.owner, digest_of(dump(intent)))
    except (KeyError, TypeError, ValueError):
        source.fail(1, "the plan is damaged", _AGAIN)
    if not agrees:
        source.fail(1, "the plan is damaged: its digest is not that of its intent", _AGAIN)
    return found


def is_plan_file(path: Path) -> bool:
    """Return True for the path of a plan file, whole or damaged; all else may be meant as an intent file.

    Raises `IntentError` if nothing is there, since both kinds may be meant.
    """
    if path == STANDARD_INPUT:
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return _KIND.search(file.read(_LOOKED_AT)) is not None
    except FileNotFoundError:
        raise IntentError(
            f"{name_of(path)}: no such file",
            hint="lbctl init prints an intent file, lbctl plan -o FILE writes a plan file",
        ) from None
    except (OSError, ValueError):
        return False  # who reads it as an intent file reports it


def _ensure_small_or_plan(path: Path) -> None:
    """Raise `IntentError` for a large file that is no plan: to parse 100 MB takes a minute and gigabytes."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size <= _SMALL:
            return
        with path.open("rb") as file:
            head = file.read(len(_HEAD))
    except (OSError, ValueError):
        return  # `read` reports it
    if head != _HEAD:
        raise IntentError(f"{name_of(path)} is not a plan of lbctl", hint="lbctl plan -o FILE writes one")


def resume(
    session: Session, found: PlanFile, meant: Callable[[], Intent] | None = None, *, place: str = ""
) -> Plan:
    """Return the plan of a file, made anew; raises `Stale` with what changed since it was written.

    `meant` returns what the intent in `place` says by now; None if there is nothing to compare the plan with.
    """
    if found.namespace != session.host.namespace():
        raise Stale(
            f"{found.file} was made in another network namespace, or before this host started", hint=_AGAIN
        )
    if meant is not None:
        _ensure_meant(found, meant, place)
    made = plan(session, found.intent)
    for what, then, now in (
        ("the kernel changed since the plan was made", found.before, made.before),
        ("the plan differs from what its intent gives on this host", found.after, made.after),
    ):
        moved = diff(then, now)
        if moved and not (found.version != __version__ and _same_meaning(session, then, now)):
            raise Stale(f"{what}: {_names(touched(moved))}", hint=_AGAIN)
    return made


def _same_meaning(session: Session, then: Program, now: Program) -> bool:
    """Return True for programs that balance alike: another version may spell the same rules otherwise."""
    try:
        return session.backend.lift(then) == session.backend.lift(now)
    except (ValueError, LookupError):  # what a stranger's file calls rules
        return False


def _ensure_meant(found: PlanFile, read_now: Callable[[], Intent], place: str) -> None:
    """Raise `Stale` if the intent says something else by now."""
    what = f"the intent{' in ' * bool(place)}{place} changed since the plan was made"
    try:
        meant = read_now()
    except IntentError as error:
        raise Stale(f"{what}: {error.message}", hint=_AGAIN) from error
    if meant == found.intent:
        return
    if (meant.owner, meant.mark) != (found.intent.owner, found.intent.mark):
        raise Stale(f"{what}: owner or mark", hint=_AGAIN)
    then, now = ({s.name: s for s in intent.services} for intent in (found.intent, meant))
    moved = frozenset(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    raise Stale(f"{what}: {_names(moved)}", hint=_AGAIN)


_FEW = 8


def _names(services: frozenset[str | None]) -> str:
    """Return the services by name, a few of many; None are the rules that all share."""
    named = sorted(f'service "{inert(name)}"' for name in services if name is not None)
    shared = ["rules that services share"] if None in services else []
    more = [f"{len(named) - _FEW} more"] if len(named) > _FEW else []
    return ", ".join([*named[:_FEW], *more, *shared]) or "the order of services"


def _program(owner: str, rows: Any) -> Program:
    """Return the items of a program; ValueError or TypeError where they are none."""
    return Program(
        owner,
        [
            Item(tuple([_text(part) for part in key]), _text(text), None if name is None else _text(name))
            for key, text, name in rows
        ],
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
