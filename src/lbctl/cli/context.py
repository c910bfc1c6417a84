"""What a command works on, found once at its beginning and handed on: the only place that opens a host."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lbctl.host import Host
    from lbctl.host.remote import Destination

#: The host of `--host`, while its command runs.
_REMOTE: ContextVar[Host | None] = ContextVar("remote", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The host that a command is about, the intent files that it uses, and the owner of the rules."""

    host: Host
    files: tuple[Path, ...] = ()
    owner: str


def open_host() -> Host:
    """Return the host that a command is about: that of `--host`, else this one."""
    return _REMOTE.get() or local_host()


def local_host() -> Host:
    """Return this host, whatever a command is about."""
    from lbctl.host import LocalHost

    return LocalHost()


@contextmanager
def working_on(destination: Destination) -> Iterator[None]:
    """Have `open_host` return the host at a destination, over one session of ssh."""
    from lbctl.host.remote import RemoteHost

    host = RemoteHost(destination, can_ask=sys.stdin is not None and sys.stdin.isatty())
    before = _REMOTE.set(host)
    try:
        host.open()  # which connects while the command reads its intent
        yield
    finally:
        _REMOTE.reset(before)
        if os.environ.get("LBCTL_DEBUG") == "1":
            for number, verbs in enumerate(host.session.log, 1):
                print(f"round trip {number}: {verbs}", file=sys.stderr)
            print(f"received {host.session.received} bytes", file=sys.stderr)
        host.close()
