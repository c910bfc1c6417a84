"""What the kernel offers, read from files alone: asking it in any other way may load modules."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.host.host import Host


class ModuleState(StrEnum):
    """Where a kernel module is."""

    LOADED = "loaded"
    BUILT_IN = "built in"
    LOADABLE = "loadable, not loaded yet"
    MISSING = "missing"


def has_ipv6(host: Host) -> bool:
    """False where this network namespace has no IPv6 at all, as with the kernel's option ipv6.disable=1."""
    return host.read("/proc/thread-self/net/if_inet6") is not None


def kernel_module(host: Host, name: str) -> ModuleState:
    """Return the state of module `name` (as /proc/modules spells it).

    A kernel without module files is believed to have everything built in: nothing on the host says more.
    """
    if any(line.startswith(f"{name} ") for line in (host.read("/proc/modules") or "").splitlines()):
        return ModuleState.LOADED
    release = (host.read("/proc/sys/kernel/osrelease") or "").strip()
    folder = f"/lib/modules/{release}"
    host.expect(reads=[f"{folder}/modules.builtin", f"{folder}/modules.dep"])
    if f"/{name}.ko" in (host.read(f"{folder}/modules.builtin") or ""):
        return ModuleState.BUILT_IN
    loadable = host.read(f"{folder}/modules.dep")
    if loadable is None:
        return ModuleState.BUILT_IN
    return ModuleState.LOADABLE if f"/{name}.ko" in loadable else ModuleState.MISSING
