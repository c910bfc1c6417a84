"""Every effect of lbctl: running programs, reading files, importing bindings, locks and namespaces."""

# At once: its module has the same name, and would be found instead.
from lbctl.host.links import links as links
from lbctl.lazy import imported_on_use

with imported_on_use(globals()):
    from lbctl.host.conntrack import (
        TrackedConnection as TrackedConnection,
        connection_counts as connection_counts,
        forget_flows as forget_flows,
        local_addresses as local_addresses,
        translated_connections as translated_connections,
    )
    from lbctl.host.files import write_whole as write_whole
    from lbctl.host.host import TOOL as TOOL, Completed as Completed, Host as Host, LocalHost as LocalHost
    from lbctl.host.kernel import (
        ModuleState as ModuleState,
        has_ipv6 as has_ipv6,
        kernel_module as kernel_module,
    )
    from lbctl.host.links import Link as Link, link_names as link_names, neighbours as neighbours
    from lbctl.host.nf_tables import (
        rule_reports as rule_reports,
        rules_generation as rules_generation,
        rules_tables as rules_tables,
    )
    from lbctl.host.orders import Orders as Orders, ToolRun as ToolRun
    from lbctl.host.privilege import UNPRIVILEGED as UNPRIVILEGED, need_privilege as need_privilege
    from lbctl.host.reports import Reports as Reports
    from lbctl.host.routes import (
        Route as Route,
        has_routes as has_routes,
        links_back as links_back,
        links_in as links_in,
        routes_to as routes_to,
    )
    from lbctl.host.sockets import Listening as Listening, listening as listening
    from lbctl.host.tools import reported_version as reported_version
    from lbctl.host.units import (
        applies_again as applies_again,
        enabled as enabled,
        links_of as links_of,
        unit_file as unit_file,
    )
