"""What a remote host answers, as values. All of it is untrusted: what has no known form counts as missing."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NoReturn

from lbctl.errors import ApplyFailed, PermissionDenied
from lbctl.host.host import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host.remote.destination import Destination
    from lbctl.host.remote.session import RemoteReply

#: The length of a frame that netlink.pl reads and writes.
FRAME = struct.Struct("=I")
#: Status of a request that is refused since other users could write there.
_UNTRUSTED = 13
_LINE = re.compile(rb"([+-]) ([0-9]{1,9}) ([A-Za-z0-9._-]{1,255})\n")


def completed(reply: RemoteReply) -> Completed:
    """Return how a program ended there."""
    return Completed(code=reply.status, out=reply.text, err=reply.err.decode("utf-8", "surrogateescape"))


def refuse(destination: Destination, reply: RemoteReply, failure: str) -> NoReturn:
    """Raise what a request failed with: `PermissionDenied` or `ApplyFailed`."""
    kind = PermissionDenied if reply.status == _UNTRUSTED else ApplyFailed
    raise kind(f"{destination}: {failure}: {reply.complaint or f'status {reply.status}'}")


def tool_path(text: str) -> str | None:
    """Return the path that a line is, if it is one."""
    path = text.rstrip("\n")
    return path if path.startswith("/") and path.isprintable() else None


def file_text(data: bytes) -> str | None:
    """Return the text of a file of the state; None if it is no UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def state_files(data: bytes) -> Iterator[tuple[str, str | None]]:
    """Yield the names of files and, of small ones, their texts. What cannot be read is no file of lbctl."""
    place = 0
    while place < len(data):
        found = _LINE.match(data, place)
        if found is None:
            return
        name, place = found[3].decode("ascii"), found.end()
        if found[1] == b"-":
            yield name, None
            continue
        size = int(found[2])
        text = file_text(data[place : place + size])
        place += size
        if text is not None:
            yield name, text


def netlink_answers(data: bytes) -> Iterator[bytes]:
    """Yield the frames that netlink.pl wrote: all of the kernel's answers to a request each."""
    place = 0
    while place + FRAME.size <= len(data):
        (size,) = FRAME.unpack_from(data, place)
        yield data[place + FRAME.size : place + FRAME.size + size]
        place += FRAME.size + size
