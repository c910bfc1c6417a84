"""Every effect of lbctl: running programs, reading files, importing bindings, locks and namespaces."""

from typing import TYPE_CHECKING

from lbctl.host.links import links
from lbctl.lazy import importer

if TYPE_CHECKING:
    from lbctl.host.conntrack import (
        TrackedConnection,
        connection_counts,
        forget_flows,
        local_addresses,
        translated_connections,
    )
    from lbctl.host.files import write_whole
    from lbctl.host.host import TOOL, Completed, Host, LocalHost
    from lbctl.host.kernel import ModuleState, has_ipv6, kernel_module
    from lbctl.host.links import Link, link_names, neighbours
    from lbctl.host.nf_tables import rule_reports, rules_generation, rules_tables
    from lbctl.host.orders import Orders, ToolRun
    from lbctl.host.privilege import UNPRIVILEGED, need_privilege
    from lbctl.host.reports import Reports
    from lbctl.host.routes import Route, has_routes, links_back, links_in, route_to, routes_to
    from lbctl.host.sockets import Listening, listening
    from lbctl.host.tools import reported_version
    from lbctl.host.units import applies_again, enabled, links_of, unit_file

_HOMES = {
    "conntrack": (
        "TrackedConnection",
        "connection_counts",
        "forget_flows",
        "local_addresses",
        "translated_connections",
    ),
    "files": ("write_whole",),
    "host": ("TOOL", "Completed", "Host", "LocalHost"),
    "kernel": ("ModuleState", "has_ipv6", "kernel_module"),
    "links": ("Link", "link_names", "neighbours"),
    "nf_tables": ("rule_reports", "rules_generation", "rules_tables"),
    "orders": ("Orders", "ToolRun"),
    "privilege": ("UNPRIVILEGED", "need_privilege"),
    "reports": ("Reports",),
    "routes": ("Route", "has_routes", "links_back", "links_in", "route_to", "routes_to"),
    "sockets": ("Listening", "listening"),
    "tools": ("reported_version",),
    "units": ("applies_again", "enabled", "links_of", "unit_file"),
}

__all__ = [
    "TOOL",
    "UNPRIVILEGED",
    "Completed",
    "Host",
    "Link",
    "Listening",
    "LocalHost",
    "ModuleState",
    "Orders",
    "Reports",
    "Route",
    "ToolRun",
    "TrackedConnection",
    "applies_again",
    "connection_counts",
    "enabled",
    "forget_flows",
    "has_ipv6",
    "has_routes",
    "kernel_module",
    "link_names",
    "links",
    "links_back",
    "links_in",
    "links_of",
    "listening",
    "local_addresses",
    "need_privilege",
    "neighbours",
    "reported_version",
    "route_to",
    "routes_to",
    "rule_reports",
    "rules_generation",
    "rules_tables",
    "translated_connections",
    "unit_file",
    "write_whole",
]

__getattr__ = importer(__name__, _HOMES)
