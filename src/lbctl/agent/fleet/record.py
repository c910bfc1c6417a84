"""What a host accepted last: a file beside its history, so that it goes on without etcd after a restart."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lbctl.errors import Damaged
from lbctl.model import read_record
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Shape

VERSION = 1
_SHAPE: Shape = {"format_version": int, "name": str, "text": str, "floor": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The publication that was carried out last, as etcd had it.

    `floor` is the highest revision for all hosts that was accepted: an older one is not taken again.
    """

    name: str
    text: str
    floor: int


def read(host: Host, owner: str, name: str) -> Last | None:
    """Return what was accepted last of an intent; None for nothing. Raises `Damaged`."""
    text = host.saved(_name(owner))
    if text is None:
        return None
    found = read_record(text, _SHAPE, f"the record of the intent that is followed, {_name(owner)},")
    if found.pop("format_version") != VERSION:
        raise Damaged(f"{_name(owner)} is from another version of lbctl")
    return Last(**found) if found["name"] == name else None


def write(host: Host, owner: str, last: Last) -> None:
    """Have this be what was accepted last; raises `ApplyFailed`."""
    fields = {"name": last.name, "text": last.text, "floor": last.floor}
    host.save(_name(owner), json.dumps({"format_version": VERSION, **fields}))


def _name(owner: str) -> str:
    return f"{owner}.followed"
