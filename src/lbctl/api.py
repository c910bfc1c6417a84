"""What Python programs use of lbctl: `import lbctl` offers these names, and they stay.

    intent = lbctl.load("lbctl.toml")
    session = lbctl.open_session()
    plan = lbctl.plan(session, intent)
    lbctl.apply(session, plan)

All else may change between versions, except `lbctl.spi` for authors of backends and `lbctl.errors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lbctl import config, engine
from lbctl.config import dump, loads
from lbctl.engine import Session, Status, plan, status
from lbctl.errors import LbctlError
from lbctl.host import LocalHost
from lbctl.model import DEFAULT_OWNER, Endpoint, Intent, Listener, Plan, Scheduler, Service, SourceNat, State
from lbctl.spi import AUTO

if TYPE_CHECKING:
    import os

    from lbctl.host import Host

__all__ = [
    "Endpoint",
    "Intent",
    "LbctlError",
    "Listener",
    "Plan",
    "Scheduler",
    "Service",
    "Session",
    "SourceNat",
    "State",
    "Status",
    "apply",
    "dump",
    "load",
    "loads",
    "open_session",
    "plan",
    "remove",
    "status",
]


def load(path: str | os.PathLike[str]) -> Intent:
    """Return the intent in a file, or in the files of a directory that are merged.

    Raises `IntentError` with every mistake in `problems`.
    """
    return config.load_merged(config.find(Path(path), {}, Path()))


def open_session(
    *, backend: str = AUTO, driver: str | None = None, patience: float = 0.0, host: Host | None = None
) -> Session:
    """Return this host with a backend that can be used; raises `NoBackend`.

    `backend` and `driver` are what the options of the same names take. `patience` are the seconds to wait for
    another lbctl that holds the lock. `host` is for tests: `lbctl.host.fake.FakeHost`.
    """
    return engine.open_session(host or LocalHost(), backend=backend, driver=driver, patience=patience)


def apply(session: Session, plan: Plan, *, record: bool = True) -> tuple[str, ...]:
    """Have the kernel hold what a plan of this session leads to, atomically; returns notes for the user.

    With `record`, the state is noted in the history, and `lbctl rollback` can revert it; a program that
    applies many changes may do without. Raises `Stale` if the kernel changed since the plan, another lbctl
    holds the lock or a trial runs; `ApplyFailed` if nothing was changed; `StateUnknown` if it is not known
    what the kernel holds.
    """
    return engine.apply(session, (plan,), record=record)


def remove(session: Session, owner: str = DEFAULT_OWNER, *, record: bool = True) -> tuple[str, ...]:
    """Remove all rules of an owner, from every backend; returns and raises as `apply` does."""
    return engine.remove(session, owner, everywhere=True, record=record)
