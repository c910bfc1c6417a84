"""Plan → kernel: one transaction for both families, all of it or nothing.

Another one may come before it, which brings what nothing leads to yet, and one behind it, which takes out
what nothing leads to any more. Nothing changes with these for any connection, and where one does not come to
pass the next apply sees what is too much. Before the last one, clients that would keep an endpoint which
takes no more are forgotten; who they are is known only then, since nobody can be noted for it any longer.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.model import diff
from lbctl.spi import ensure_fresh
from lbctl_nftables import affinity, drivers, flows, generation, layout, script, tool
from lbctl_nftables.observe import expect, observe, read_map, touched
from lbctl_nftables.verify import holds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbctl.host import Host
    from lbctl.model import Item, Plan, Program

#: How often a map of clients is looked through before apply gives up; twice is the rule, to see and be sure.
_TRIES = 10
#: So many items are asked for one by one; beyond that, reading everything costs less.
_FEW = 1000


def apply(host: Host, plan: Plan) -> Program:
    """See `lbctl.spi.Backend.apply`."""
    owner = plan.after.owner
    before = generation.read(host)
    mark = None if before is None else str(before)
    ensure_fresh(plan, mark, lambda: observe(host, plan.driver, owner))
    record = tool.recall(host, plan.driver)
    trusted = record is not None and mark is not None and record.generation == mark
    load = partial(drivers.load, host, plan.driver, trusted=trusted)
    preparing, doing, clearing = script.transactions(owner, plan.changes, plan.after)
    ours = _run(load, preparing)
    # In one transaction with the rules: no client meets these before they know it.
    doing += script.remember(owner, plan.clients, plan.after)
    prepared = "the old rules are in force, beside new elements that no rule refers to yet" if ours else ""
    ours += _run(load, doing, in_force=prepared)
    for sweep in affinity.sweeps(plan.changes, plan.after):
        ours += _sweep(load, lambda s: read_map(host, plan.driver, s.word, owner, s.name), owner, sweep)
    for gone in flows.ended(plan):
        ours += _end(load, host, owner, gone)
    for moved in flows.moved(plan):
        ours += _readdress(load, host, owner, moved)
    ours += _run(load, clearing, in_force="the new rules are in force, but unused slots could not be removed")
    try:
        return _read_back(host, plan, record, None if before is None else before.after(ours))
    except ApplyFailed as error:
        raise StateUnknown(f"the rules were written, but cannot be read back: {error.message}") from error


def _read_back(
    host: Host, plan: Plan, record: tool.Record | None, expected: generation.Generation | None
) -> Program:
    """Return what the kernel holds after the plan's transactions.

    Whatever the tool said, what it wrote is read: what the plan touched, if the tool is known to write
    rightly and no other program wrote since (the generation is the `expected` one); else everything.
    """
    in_part = record is not None and record.verified and _is_small(plan)
    if not in_part:
        expect(host, plan.after.owner)
    mark = generation.read(host)
    if in_part and mark == expected is not None:
        found = touched(host, plan.after.owner, [change.key for change in plan.changes])
        right = all(_text(found[change.key]) == _text(change.after) for change in plan.changes)
    else:
        right = holds(host, plan.after)
    held = plan.after.at(None if mark is None else str(mark))
    if not right or generation.read(host) != mark:
        held = observe(host, plan.driver, plan.after.owner)
        right = not diff(held, plan.after)
    if record is not None:
        now = held.generation if right else None
        tool.keep(host, plan.driver, replace(record, verified=right, generation=now))
    return held


def _is_small(plan: Plan) -> bool:
    """True for a plan that leaves each table in place, and touches few enough items to ask for each."""
    return len(plan.changes) <= _FEW and script.is_delta(plan.changes)


def _text(item: Item | None) -> str | None:
    return None if item is None else item.text


def _run(load: Callable[[str], None], text: str, *, in_force: str = "") -> int:
    """Run a script, if there is one; returns how many transactions that took.

    `in_force` says what the kernel holds that it did not hold before, if this script fails.
    """
    if not text:
        return 0
    try:
        load(text)
    except ApplyFailed as error:
        if not in_force:
            raise
        raise StateUnknown(
            f"{in_force}: {error.message}", hint="lbctl apply tries again, and removes the surplus"
        ) from error
    return 1


def _sweep(
    load: Callable[[str], None], read: Callable[[affinity.Sweep], Any], owner: str, sweep: affinity.Sweep
) -> int:
    """Remove entries until none is left to remove; returns how many transactions that took."""
    reason, transactions = "they change too fast", 0
    for _ in range(_TRIES):
        try:
            entries = affinity.strangers(read(sweep), sweep.wanted)
            if not entries:
                return transactions
            _load_most(load, partial(script.forget, owner, sweep.word, sweep.name), entries)
            transactions += 1
        except ApplyFailed as error:
            # A client whose entry expired meanwhile may have been placed anew: look again.
            reason = error.message
    raise StateUnknown(
        f"the new rules are in force, but some clients keep endpoints that take no new connections: {reason}",
        hint=f"see nft list map {sweep.word} {layout.table(owner)} {sweep.name}; lbctl apply tries again",
    )


def _end(load: Callable[[str], None], host: Host, owner: str, gone: flows.EndedFlows) -> int:
    """End connections that rules at ingress have learned; returns how many transactions that took."""
    transactions = 0
    for _ in range(_TRIES):
        found = [e for e in flows.entries(host, owner, gone.word, gone.name) if e.endpoint in gone.cards]
        if not found:
            break
        found.sort(key=lambda entry: entry.seconds, reverse=True)
        # What the next look still finds has come, or could not go since another entry expired.
        with suppress(ApplyFailed):
            _load_most(load, partial(script.forget, owner, gone.word, gone.name), found)
            transactions += 1
    return transactions


def _readdress(load: Callable[[str], None], host: Host, owner: str, moved: flows.MovedFlows) -> int:
    """Give connections the new MAC addresses of their endpoints; returns how many transactions that took.

    Each once: two endpoints may have exchanged theirs. What cannot be written goes where it went before.
    """
    done: set[str] = set()
    transactions = 0
    for _ in range(_TRIES):
        entries = flows.entries(host, owner, moved.word, moved.name)
        found = [each for each in entries if each.endpoint in moved.cards and each.client not in done]
        if not found:
            break
        found.sort(key=lambda entry: entry.seconds, reverse=True)
        with suppress(ApplyFailed):
            text_of = partial(script.readdress, owner, moved.word, moved.name, moved.cards)
            done |= {entry.client for entry in _load_most(load, text_of, found)}
            transactions += 1
    return transactions


def _load_most(
    load: Callable[[str], None],
    text_of: Callable[[Sequence[affinity.AffinityEntry]], str],
    entries: Sequence[affinity.AffinityEntry],
) -> Sequence[affinity.AffinityEntry]:
    """Change entries, of which the first last longest, or as many of these as can be; returns which.

    One that expires meanwhile has the kernel refuse them all. Among many clients there is always one, but
    hardly among those that last.
    """
    try:
        load(text_of(entries))
    except ApplyFailed:
        if len(entries) == 1:
            raise
        return _load_most(load, text_of, entries[: len(entries) // 2])
    return entries


def write(host: Host, plan: Plan) -> None:
    """See `lbctl.spi.Backend.write`."""
    for text in script.transactions(plan.after.owner, plan.changes, plan.after):
        if text:
            drivers.load(host, plan.driver, text)


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    drivers.load(host, driver, script.render(program), check=True)
