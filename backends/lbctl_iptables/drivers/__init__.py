"""The ways to reach iptables. All take the text of iptables-restore and print that of iptables-save.

A driver is a module or object with `name`, `store`, `find(host)` → whether it can be used and what its
iptables lacks, `save(host, word)` → all tables with counters, and `load(host, word, script, check)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lbctl.errors import ApplyFailed, ToolCrashed
from lbctl_iptables.drivers.iptc import Iptc
from lbctl_iptables.drivers.restore import Legacy, NfTables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.host import Completed, Host
    from lbctl_iptables.drivers.found import DriverProbe


class IptablesDriver(Protocol):
    """One way to reach iptables."""

    name: str
    store: str
    #: True where any write to the table starts the nth counters of all its rules anew.
    restarts: bool
    #: True where the kernel counts the changes of its rules, of any process.
    counted: bool

    def find(self, host: Host) -> DriverProbe:
        """Return what there is on a host, found without touching the kernel."""

    def expect(self, host: Host, words: Iterable[str]) -> None:
        """Have the host know that these families are saved next; see `Host.expect`."""

    def save(self, host: Host, word: str) -> Completed:
        """Return all tables of one family as iptables-save prints them, with counters. Makes none.

        A family that there is no tool for has no tables.
        """

    def load(self, host: Host, word: str, script: str, *, check: bool) -> Completed:
        """Run a script of one family, each of its sections as one transaction, or have it checked only."""


ALL: Mapping[str, IptablesDriver] = {d.name: d for d in (Legacy(), NfTables(), Iptc())}


def save(host: Host, driver: str, word: str) -> str:
    """Return all tables of one family with counters; raises `ApplyFailed` with the tool's words."""
    done = ALL[driver].save(host, word)
    if done.code:
        reason = f"the tool was ended by {done.ended_by}" if done.ended_by else _explain("", done.err)
        raise ApplyFailed(f"{word} cannot be read: {reason}")
    return done.out


def save_each(host: Host, driver: str, words: Iterable[str]) -> dict[str, str]:
    """As `save`, for several families."""
    every = tuple(words)
    ALL[driver].expect(host, every)
    return {word: save(host, driver, word) for word in every}


def load(host: Host, driver: str, word: str, script: str, *, check: bool = False) -> None:
    """Run a script, or have it checked.

    Raises `ApplyFailed` with the tool's message, and `ToolCrashed` if the tool did not end by itself.
    """
    done = ALL[driver].load(host, word, script, check=check)
    if done.ended_by is not None:
        kind = ApplyFailed if check else ToolCrashed
        raise kind(f"{word} (driver {driver}) was ended by {done.ended_by}")
    if done.code:
        raise ApplyFailed(f"{word} refused: {_explain(script, done.err)}")


def _explain(script: str, message: str) -> str:
    """Return the first complaint, with the line of ours that it is about."""
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith("Try `")]
    first = lines[0].strip() if lines else "no reason given"
    for word in " ".join(lines).replace(":", " ").split():
        if word.isdigit() and "line" in message and 0 < int(word) <= script.count("\n"):
            return f"{first} in line {word}: {script.splitlines()[int(word) - 1]}"
    return first
