"""Kernel load balancing as a declared intent.

One small file says which port or address is balanced over which processes or hosts. lbctl compiles it
for nftables or iptables, applies it atomically, reads it back and proves the share of every endpoint.

The names in `__all__` are for Python programs and stay; see `lbctl.api`. They are imported on use.
"""

from typing import TYPE_CHECKING, Any

from lbctl.version import __version__

if TYPE_CHECKING:
    from lbctl.api import (
        Endpoint,
        Intent,
        LbctlError,
        Listener,
        Plan,
        Scheduler,
        Service,
        Session,
        SourceNat,
        State,
        Status,
        apply,
        dump,
        load,
        loads,
        open_session,
        plan,
        remove,
        status,
    )

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
    "__version__",
    "apply",
    "dump",
    "load",
    "loads",
    "open_session",
    "plan",
    "remove",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lbctl import api  # the command line starts without most of it

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
