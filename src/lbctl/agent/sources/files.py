"""Files that sources read: regular ones only, since a pipe without a writer would block a thread for ever."""

from __future__ import annotations

import os
import stat

from lbctl.agent.sources.source import SourceFailed


def read(path: str, longest: int, *, private: bool = False) -> bytes:
    """Return the bytes of a regular file, at most `longest` of them; raises `SourceFailed`.

    A `private` file is that of root or of the user of this process, no link, and no other user can read it.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if private else 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise SourceFailed(f"{path} is not a regular file")
            if private and (found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}):
                raise SourceFailed(f"{path} can be read by other users: chmod 0600 it")
            data = stream.read(longest + 1)
    except OSError as error:
        raise SourceFailed(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > longest:
        raise SourceFailed(f"{path} has more than {longest} bytes")
    return data
