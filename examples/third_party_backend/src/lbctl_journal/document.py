"""The journal: one JSON file that holds the program of every owner, each a list of items.

{"format": 1, "owners": {"lbctl": [{"key": [...], "service": "web", "text": "..."}]}}
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed
from lbctl.model import Item, Program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 1


def dump(programs: Iterable[Program]) -> str:
    """Programs as the text of a journal: the one writer, for what is shown and for what is stored."""
    owners = {
        program.owner: [{"key": i.key, "service": i.service, "text": i.text} for i in program.items]
        for program in programs
        if program
    }
    return json.dumps({"format": FORMAT, "owners": owners}, indent=2) + "\n"


def read(path: Path) -> dict[str, Program]:
    """Owner → program; empty where there is no file yet.

    Raises `ApplyFailed` for a file that cannot be read or is no journal.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ApplyFailed(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ApplyFailed(f"{path} is no JSON: {error}", hint="move the file away") from error
    try:
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']}")
        return {
            owner: Program(owner, tuple(Item(tuple(x["key"]), x["text"], x["service"]) for x in items))
            for owner, items in document["owners"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ApplyFailed(f"{path} is no journal of format {FORMAT}", hint="move the file away") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other writers out; the file itself is replaced while it is held, so its directory is locked."""
    try:
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ApplyFailed(f"{path.parent} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write(path: Path, programs: Iterable[Program]) -> None:
    """Replace the journal in one step: a reader sees the old text or the new one, never a part."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(dump(programs))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        finally:
            # Gone already, where all went well.
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ApplyFailed(f"{path} cannot be written: {error.strerror}") from error
