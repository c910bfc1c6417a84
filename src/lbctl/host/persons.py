"""Who works on a host, as messages and its list of processes name them."""

from __future__ import annotations

import getpass
import re
import socket

from lbctl.model import inert

_OTHER = re.compile(r"[^A-Za-z0-9@._-]")
_SESSION = re.compile(r"(?:^| )lbctl:([A-Za-z0-9@._-]{1,100})(?: |$)")
#: Characters of a command that messages show.
_SHOWN = 100


def person() -> str:
    """Return who works here: USER@HOST."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def session_name(name: str) -> str:
    """Return the word by which the shell that serves a person's session is known among the processes."""
    return f"lbctl:{_OTHER.sub('_', name)[:100]}"


def holder_name(number: str, command: str) -> str:
    """Return what messages call the process that holds a lock; `command` has blanks between its words."""
    if not (number.isascii() and number.isdecimal()):
        return "of unknown number"
    if served := _SESSION.search(command):
        return f"process {number}: over ssh, for {served[1]}"
    words = (word.rpartition("/")[2] for word in command.split(" ") if word.isprintable())
    shown = inert(" ".join(words).strip())[:_SHOWN]
    return f"process {number}: {shown}" if shown else f"process {number}, or a program that it ran"
