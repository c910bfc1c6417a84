"""The facts of `lbctl.model.effective`: what is known of endpoints besides the intent, from the state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.record import deals, discovered, overrides, verdicts
from lbctl.model import Facts, Health

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.engine.record.verdicts import Recorded
    from lbctl.host import Host
    from lbctl.model import Deal, Discovered, Verdicts

#: Seconds that a failed check counts after its agent has ended, for who cannot be asked.
YOUNG = 600.0


def read_facts(
    host: Host,
    owner: str,
    *,
    live: Mapping[str, Verdicts] | None = None,
    found: Mapping[str, Discovered] | None = None,
    dealt: Mapping[str, frozenset[Deal]] | None = None,
    cautious: bool = False,
) -> Facts:
    """Return the facts on record of an owner; raises `Damaged` where a record cannot be read.

    `live`, `found` and `dealt` are the verdicts, the answers of sources and the deals of this process itself,
    the agent. With
    `cautious`, endpoints that failed within the last ten minutes stay out, even if the agent that found it
    has ended. The last good answer of a source counts whether or not an agent runs.
    """
    facts = Facts(
        overrides={each.place: each for each in overrides.read(host, owner)},
        found=discovered.read(host, owner) if found is None else found,
        deals=deals.read(host, owner) if dealt is None else dealt,
    )
    if live is not None:
        return replace(facts, verdicts=live, live=True)
    recorded = verdicts.read(host, owner)
    if recorded is None:
        return facts
    if recorded.live:
        return replace(facts, verdicts=recorded.verdicts, live=True)
    young = _young(recorded, host.now()) if cautious else {}
    return replace(facts, verdicts=young, old=recorded.verdicts)


def as_left(facts: Facts) -> Iterator[Facts]:
    """Yield facts by which the kernel may have been changed since an agent ended; none if none has.

    All that the agent knew, as it left the rules; its failures alone, as commands that cannot ask take them,
    even if these are older by now; and nothing of it, as other commands do.
    """
    if facts.old:
        if facts.verdicts:
            yield replace(facts, verdicts={})
        yield replace(facts, verdicts=facts.old, old={})
        yield replace(facts, verdicts=_failures(facts.old), old={})


def _young(recorded: Recorded, now: float) -> Mapping[str, Verdicts]:
    """Return what counts of verdicts whose agent has ended."""
    if not 0 <= now - recorded.time < YOUNG:
        return {}
    return _failures(recorded.verdicts)


def _failures(verdicts: Mapping[str, Verdicts]) -> Mapping[str, Verdicts]:
    found = {
        service: {place: verdict for place, verdict in own.items() if verdict.health is Health.DOWN}
        for service, own in verdicts.items()
    }
    return {service: own for service, own in found.items() if own}
