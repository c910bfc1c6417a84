"""Plan → kernel: one transaction for both families, all of it or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.spi import ensure_fresh
from lbctl_nftables import drivers, script
from lbctl_nftables.observe import observe

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Plan, Program


def apply(host: Host, plan: Plan) -> None:
    """See `lbctl.spi.Backend.apply`."""
    owner = plan.after.owner
    ensure_fresh(plan, observe(host, plan.driver, owner))
    drivers.load(host, plan.driver, script.transaction(owner, plan.changes, plan.after))


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    drivers.load(host, driver, script.render(program), check=True)
