"""The two ways to write nftables, and to list foreign tables. Both take and print the same text.

A driver is a module with `NAME`, `find(host)` → its version and the reason why it cannot be used ("" where it
can), `files(host)`, and `read` and `load`, which return how nft ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, ToolCrashed
from lbctl_nftables.drivers import libnftables, nft

if TYPE_CHECKING:
    from lbctl.host import Completed, Host

_OTHER_VERSION = "another version of nft may have written rules that this one cannot read: use one version"

#: In the order of preference: the binding saves the start of a process.
ALL = {libnftables.NAME: libnftables, nft.NAME: nft}


def list_table(host: Host, driver: str, family: str, name: str, *, handles: bool = False) -> Completed:
    """Return how nft lists one table, with the handles of its rules if asked.

    The command lists if there is one, whatever the driver; a library would load slower. Raises `ApplyFailed`
    if nft is ended by a signal: nft 1.0.6 crashes on some tables that nft 1.1.3 wrote.
    """
    by = nft if host.which("nft") else ALL[driver]
    done: Completed = by.read(host, "list", "table", family, name, handles=handles)
    if done.ended_by is not None:
        raise ApplyFailed(_ended(host, by.NAME, done), hint=_OTHER_VERSION)
    return done


def load(host: Host, driver: str, script: str, *, check: bool = False, trusted: bool = False) -> None:
    """Run a script as one transaction, or have it checked.

    `trusted`: nothing but this tool wrote rules since they were last verified, so that its library may run
    in this process. Raises `ApplyFailed` with nft's message, and `ToolCrashed` if nft did not end by itself.
    """
    done = ALL[driver].load(host, script, check=check, trusted=trusted)
    if done.ended_by is not None:
        crash = ApplyFailed if check else ToolCrashed
        raise crash(_ended(host, driver, done), hint=_OTHER_VERSION)
    if done.code:
        raise ApplyFailed(f"nft refused: {explain(script, done.err)}")


def _ended(host: Host, driver: str, done: Completed) -> str:
    """Return which tool a signal ended."""
    version, _ = nft.find(host)
    return f"nft {version or '(version unknown)'} (driver {driver}) was ended by {done.ended_by}"


def explain(script: str, message: str) -> str:
    """Return the first complaint of nft, with the line of ours that it is about."""
    text = message.strip() or "no reason given"
    first = text.splitlines()[0]
    place = first.split(":", 3)
    if len(place) == 4 and place[1].isdigit() and 0 < int(place[1]) <= script.count("\n") + 1:
        line = script.splitlines()[int(place[1]) - 1].strip()
        return f"{place[3].strip()} in line {place[1]}: {line}"
    return first
