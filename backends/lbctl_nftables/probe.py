"""What this host offers for nftables, found without touching the kernel.

Neither a netlink socket is opened nor `nft --check` run here: both may load modules. The kernel's part is
read from /proc; a kernel that says nothing about its modules is believed to have nf_tables built in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.host import ModuleState, has_ipv6, kernel_module
from lbctl.model import Family
from lbctl.spi import Driver, Probe
from lbctl_nftables import dialect, drivers, layout

if TYPE_CHECKING:
    from lbctl.host import Host

_IPV4_ONLY = frozenset({Family.IPV4})
FIX = "install nftables (Debian: apt install nftables python3-nftables)"


def probe(host: Host, *, driver: str | None = None) -> Probe:
    """See `lbctl.spi.Backend.probe`."""
    kernel = kernel_module(host, "nf_tables")
    flowtables = kernel_module(host, "nft_flow_offload")
    release = (host.read("/proc/sys/kernel/osrelease") or "").strip()
    found = []
    for name, module in drivers.ALL.items():
        version, reason = module.find(host)
        if not reason and kernel is ModuleState.MISSING:
            reason = "this kernel has no nf_tables"
        found.append(
            Driver(
                name=name,
                store=layout.NAME,
                usable=not reason,
                reason=reason or "usable",
                version=version,
                precedence=layout.DESTINATION_PRIORITY,
            )
        )
    # The library behind the binding comes from the same source as the command.
    hinted = dialect.hint(next((each.version for each in found if each.version), None), release)
    asked = dialect.ask(host, driver) if driver is not None else None
    can = dialect.CAPABILITIES if has_ipv6(host) else replace(dialect.CAPABILITIES, families=_IPV4_ONLY)
    refusal = asked.offload_refusal if asked else ""
    if flowtables is ModuleState.MISSING:
        refusal = refusal or "this kernel has no nft_flow_offload"
    can = replace(can, offload=not refusal, offload_refusal=refusal)
    can = dialect.speaking(can, asked.name if asked else hinted.name)
    return Probe(
        drivers=tuple(found),
        capabilities=can,
        fix=FIX,
        facts={
            "kernel": release,
            "nf_tables": kernel,
            "offload": can.offload_refusal
            or f"nft_flow_offload {flowtables}; tested at the tool's first use",
            "dialect": f"{hinted.name} ({hinted.reason}); verified at its first use",
        },
    )
