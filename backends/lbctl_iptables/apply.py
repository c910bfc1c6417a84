"""Plan → kernel: one transaction per family, and both families or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.model import Change, Program, diff
from lbctl.spi import ensure_fresh
from lbctl_iptables import drivers, layout, script
from lbctl_iptables.carry import carry
from lbctl_iptables.observe import dumps, observe, program
from lbctl_iptables.rules import parse, rules_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Plan
    from lbctl_iptables.rules import Rule


def apply(host: Host, plan: Plan) -> Program:
    """See `lbctl.spi.Backend.apply`."""
    before = dumps(host, plan.driver)
    ensure_fresh(plan, None, lambda: program(plan.after.owner, before))
    scripts = {}
    for word, dump in before.items():
        text = _script(word, plan, dump, plan.changes, plan.after)
        if text:
            scripts[word] = text
    for word in list(scripts)[1:]:
        # What the kernel would refuse of a later family is found before the first one is touched.
        drivers.load(host, plan.driver, word, scripts[word], check=True)
    done: list[str] = []
    for word, text in scripts.items():
        try:
            drivers.load(host, plan.driver, word, text)
        except ApplyFailed as error:
            for earlier in done:
                _undo(host, plan, earlier, before[earlier], error)
            raise
        done.append(word)
    return observe(host, plan.driver, plan.after.owner)


def _undo(host: Host, plan: Plan, word: str, dump: str, cause: ApplyFailed) -> None:
    back = tuple(Change(change.after, change.before) for change in plan.changes)
    try:
        drivers.load(host, plan.driver, word, _script(word, plan, dump, back, plan.before))
    except ApplyFailed as error:
        raise StateUnknown(
            f"{cause.message}; then {word} could not be taken back: {error.message}",
            hint="lbctl plan shows what the kernel holds now; lbctl apply completes it",
        ) from error


def _script(word: str, plan: Plan, dump: str, changes: Sequence[Change], goal: Program) -> str:
    if all(change.key[0] != word for change in changes):
        return ""
    chains, _ = parse(dump, goal.owner)
    counted = _counted(word, changes, chains)
    if drivers.ALL[plan.driver].restarts:
        # The kernel is about to start all counters anew: what is in the middle of a round is written too.
        for item in goal.of_kind("chain"):
            name = item.key[2]
            if item.key[0] == word and name in chains and name not in counted:
                now = carry(chains[name], chains[name])
                if [rule.tokens for rule in now] != [rule.tokens for rule in chains[name]]:
                    counted[name] = now
    return script.transaction(word, changes, counted)


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    changes = diff(Program(program.owner), program)
    for word in layout.WORD.values():
        text = script.transaction(word, changes, _counted(word, changes, {}))
        if text:
            drivers.load(host, driver, word, text, check=True)


def _counted(
    word: str, changes: Sequence[Change], chains: Mapping[str, Sequence[Rule]]
) -> dict[str, list[Rule]]:
    """The chains that changes write, with what they take over from those in the kernel."""
    return {
        change.key[2]: carry(rules_of(change.key[2], change.after.text), chains.get(change.key[2], ()))
        for change in changes
        if change.key[:2] == (word, "chain") and change.after is not None
    }
