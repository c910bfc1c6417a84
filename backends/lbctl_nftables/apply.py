"""Plan → kernel: one transaction for both families, all of it or nothing.

A second one takes out slots that no rule picks any more. Nothing changes with it for any connection, and
where it does not come to pass the next apply does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.spi import ensure_fresh
from lbctl_nftables import drivers, generation, script
from lbctl_nftables.observe import observe

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Plan, Program


def apply(host: Host, plan: Plan) -> Program:
    """See `lbctl.spi.Backend.apply`."""
    owner = plan.after.owner
    before = generation.read(host)
    ensure_fresh(plan, None if before is None else str(before), lambda: observe(host, plan.driver, owner))
    doing, clearing = script.transactions(owner, plan.changes, plan.after)
    if doing:
        drivers.load(host, plan.driver, doing)
    if clearing:
        _clear(host, plan.driver, clearing)
    now = generation.read(host)
    if before is not None and now == before.after(bool(doing) + bool(clearing)):
        # Atomic transactions on a known state, and nobody else's among them: there is nothing to read back.
        return plan.after.at(str(now))
    return observe(host, plan.driver, owner)


def _clear(host: Host, driver: str, text: str) -> None:
    try:
        drivers.load(host, driver, text)
    except ApplyFailed as error:
        raise StateUnknown(
            f"the new rules are in force, but unused slots could not be taken out: {error.message}",
            hint="lbctl apply tries again",
        ) from error


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    drivers.load(host, driver, script.render(program), check=True)
