"""Plan → kernel: one transaction per family, and both families or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, StateUnknown
from lbctl.model import Change
from lbctl_iptables import drivers, layout, script

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Plan, Program


def apply(host: Host, plan: Plan) -> None:
    """See `lbctl.spi.Backend.apply`."""
    words = [word for word in layout.WORD.values() if script.transaction(word, plan.changes)]
    if len(words) > 1:
        # What the kernel would refuse is found before the first family is touched.
        for word in words:
            drivers.load(host, plan.driver, word, script.transaction(word, plan.changes), check=True)
    done: list[str] = []
    for word in words:
        try:
            drivers.load(host, plan.driver, word, script.transaction(word, plan.changes))
        except ApplyFailed as error:
            _undo(host, plan, done, error)
            raise
        done.append(word)


def _undo(host: Host, plan: Plan, words: list[str], cause: ApplyFailed) -> None:
    back = [Change(change.after, change.before) for change in plan.changes]
    for word in words:
        try:
            drivers.load(host, plan.driver, word, script.transaction(word, back))
        except ApplyFailed as error:
            raise StateUnknown(
                f"{cause.message}; then {word} could not be taken back: {error.message}",
                hint="lbctl plan shows what the kernel holds now; lbctl apply completes it",
            ) from error


def check(host: Host, driver: str, program: Program) -> None:
    """See `lbctl.spi.Backend.check`."""
    for word in layout.WORD.values():
        if any(item.key[0] == word for item in program.items):
            drivers.load(host, driver, word, script.render(program), check=True)
