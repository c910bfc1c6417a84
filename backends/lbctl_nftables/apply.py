"""Plan → kernel: one transaction for both families, all of it or nothing.

Another one may come before it, which brings what nothing leads to yet, and one behind it, which takes out
what nothing leads to any more. Nothing changes with these for any connection, and where one does not come to
pass the next apply sees what is too much. Before the last one, clients that would keep an endpoint which
takes no more are forgotten; who they are is known only then, since nobody can be noted for it any longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.spi import ensure_fresh
from lbctl_nftables import affinity, drivers, generation, layout, script
from lbctl_nftables.observe import observe, read_map

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.host import Host
    from lbctl.model import Plan, Program

#: How often a map of clients is looked through before apply gives up; twice is the rule, to see and be sure.
_TRIES = 10


def apply(host: Host, plan: Plan) -> Program:
    """See `lbctl.spi.Backend.apply`."""
    owner = plan.after.owner
    before = generation.read(host)
    ensure_fresh(plan, None if before is None else str(before), lambda: observe(host, plan.driver, owner))
    preparing, doing, clearing = script.transactions(owner, plan.changes, plan.after)
    ours = _load(host, plan.driver, preparing)
    # In one transaction with the rules: no client meets these before they know it.
    doing += script.remember(owner, plan.clients, plan.after)
    prepared = "the old rules are in force, and beside them what nothing leads to yet" if ours else ""
    ours += _load(host, plan.driver, doing, in_force=prepared)
    for sweep in affinity.sweeps(plan.changes, plan.after):
        ours += _sweep(host, plan.driver, owner, sweep)
    ours += _load(
        host,
        plan.driver,
        clearing,
        in_force="the new rules are in force, but unused slots could not be taken out",
    )
    now = generation.read(host)
    if before is not None and now == before.after(ours):
        # Atomic transactions on a known state, and nobody else's among them: there is nothing to read back.
        return plan.after.at(str(now))
    return observe(host, plan.driver, owner)


def _load(host: Host, driver: str, text: str, *, in_force: str = "") -> int:
    """Run a script, if there is one; returns how many transactions that took.

    `in_force` says what else than before the kernel holds where this one fails.
    """
    if not text:
        return 0
    try:
        drivers.load(host, driver, text)
    except ApplyFailed as error:
        if not in_force:
            raise
        raise StateUnknown(
            f"{in_force}: {error.message}", hint="lbctl apply tries again, and takes out what is too much"
        ) from error
    return 1


def _sweep(host: Host, driver: str, owner: str, sweep: affinity.Sweep) -> int:
    """Take out entries until there are none to take out; returns how many transactions that took."""
    reason, transactions = "they change too fast", 0
    for _ in range(_TRIES):
        try:
            listed = read_map(host, driver, sweep.word, owner, sweep.name)
            entries = affinity.strangers(listed, sweep.wanted)
            if not entries:
                return transactions
            _forget(host, driver, owner, sweep, entries)
            transactions += 1
        except ApplyFailed as error:
            # A client whose entry expired meanwhile may have been placed anew: look again.
            reason = error.message
    raise StateUnknown(
        f"the new rules are in force, but clients keep endpoints that take no more: {reason}",
        hint=f"see nft list map {sweep.word} {layout.table(owner)} {sweep.name}; lbctl apply tries again",
    )


def _forget(
    host: Host, driver: str, owner: str, sweep: affinity.Sweep, entries: Sequence[affinity.Entry]
) -> None:
    """Take out entries, of which the first last longest, or as many of these as can be.

    One that expires while it is taken out has the kernel refuse them all. Among many clients there is always
    one, but hardly among those that last.
    """
    try:
        drivers.load(host, driver, script.forget(owner, sweep.word, sweep.name, entries))
    except ApplyFailed:
        if len(entries) == 1:
            raise
        _forget(host, driver, owner, sweep, entries[: len(entries) // 2])


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    drivers.load(host, driver, script.render(program), check=True)
