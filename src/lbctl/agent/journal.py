"""One line per event: to the journal with fields of its own where systemd reads us, else to stderr.

The protocol is systemd's (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): a datagram of `NAME=value` lines.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

from lbctl.model import inert

_SOCKET = "/run/systemd/journal/socket"


class Priority(IntEnum):
    """Priorities of syslog(3)."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


class Journal:
    """Where the agent's events go."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        if "JOURNAL_STREAM" in os.environ and Path(_SOCKET).exists():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def say(self, message: str, priority: Priority = Priority.INFO, **fields: str) -> None:
        """Write one event; `fields` are those of the journal behind `LBCTL_`. Never raises."""
        message = inert(message)
        if self._socket is not None:
            lines = [f"MESSAGE={message}", f"PRIORITY={int(priority)}", "SYSLOG_IDENTIFIER=lbctl-agent"]
            lines += [f"LBCTL_{name.upper()}={inert(value)}" for name, value in fields.items()]
            data = "".join(f"{line}\n" for line in lines).encode()
            with suppress(OSError):  # a journal that restarts, or a datagram that is too long
                with suppress(BlockingIOError):  # one that hangs costs lines, and not the agent
                    self._socket.sendto(data, socket.MSG_DONTWAIT, _SOCKET)
                return
        with suppress(OSError, ValueError):  # the reader is gone: that ends no agent
            # A person at a terminal has no journal that would say when it was.
            when = f"{time.strftime('%H:%M:%S')} " if sys.stderr.isatty() else ""
            sys.stderr.write(f"{when}{message}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Write to stderr from now on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
