"""The lock that orders all who change the rules of an owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record.verdicts import is_live

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from lbctl.host import Host

#: Seconds that a command waits for an agent: its steps are short, and may come at any time.
_AGENT = 10.0


def owner_lock(host: Host, owner: str, *, patience: float = 0.0) -> AbstractContextManager[None]:
    """Hold the lock of an owner; raises `Stale` if another command holds it longer than `patience` seconds.

    While an agent of the owner runs, it is waited for in any case.
    """
    return host.lock(owner, patience=max(patience, _AGENT) if is_live(host, owner) else patience)
