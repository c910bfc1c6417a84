"""Every effect of lbctl: running programs, reading files, importing bindings, locks and namespaces."""

from lbctl.host.conntrack import TrackedConnection, forget_flows, translated_connections
from lbctl.host.files import write_whole
from lbctl.host.host import Completed, Host, LocalHost
from lbctl.host.kernel import ModuleState, has_ipv6, kernel_module

__all__ = [
    "Completed",
    "Host",
    "LocalHost",
    "ModuleState",
    "TrackedConnection",
    "forget_flows",
    "has_ipv6",
    "kernel_module",
    "translated_connections",
    "write_whole",
]
