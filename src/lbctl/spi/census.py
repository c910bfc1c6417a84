"""How many rules each place of this host holds, whichever backend is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl.spi.backend import Census, Counting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.host import Host
    from lbctl.spi.backend import Backend, Driver
    from lbctl.spi.selection import Candidate


def census(host: Host, candidates: Sequence[Candidate]) -> tuple[Census, ...]:
    """One count for each store of the candidates, unknown where it cannot be had. Leaves no trace."""
    counts: dict[str, Census] = {}
    for candidate in candidates:
        # The usable drivers first, each kind in the order of preference.
        for driver in sorted(candidate.probe.drivers, key=lambda d: not d.usable):
            if driver.store not in counts:
                counts[driver.store] = _count(host, candidate.backend, driver)
    return tuple(counts.values())


def _count(host: Host, backend: Backend, driver: Driver) -> Census:
    if driver.usable and isinstance(backend, Counting) and host.may_change_network():
        try:
            return backend.census(host, driver.name)
        except ApplyFailed:
            pass
    return Census(store=driver.store)
