"""What any backend has to do for least connections: slots that an agent deals again: see `checks`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.conformance.checks import ASIDE, HERE, check, expect_about
from lbctl.conformance.site import OWNER, expect, turns
from lbctl.engine.record import deals
from lbctl.host.netns import PrivateHost
from lbctl.model import Deal, Family, Scheduler

if TYPE_CHECKING:
    from lbctl.conformance.site import Site

DEALT = replace(HERE, scheduler=Scheduler.LEAST_CONNECTIONS)
#: Slots by endpoint, as they are dealt one after the other: of 64 for three endpoints.
_DEALS = ({"8001": 48, "8002": 8, "8003": 8}, {"8001": 8, "8002": 8, "8003": 48})
_COUNT = 192
#: The 0.0001 % quantile: what is dealt is far from anything else.
_CHI_SQUARE = 27.6


class _AgentHost(PrivateHost):
    """A host on which an agent runs, as far as others can see: it holds its lock, and its deals are known."""

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[str, str | None] = {}

    def is_locked(self, name: str) -> bool:
        """See `Host`."""
        return name == f"{OWNER}.agent"

    def recall(self, name: str) -> str | None:
        """See `Host`."""
        return self._records[name] if name in self._records else super().recall(name)

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`."""
        if name.startswith(OWNER):
            self._records[name] = text
        else:
            super().remember(name, text)


@check("scheduler least-connections", DEALT)
def _dealt(site: Site) -> None:
    """Endpoints get connections as they were dealt slots, in turn or by a dice; other services go on."""
    network = site.network
    network.local_endpoints((8001, 8002, 8003, 8004, 8005))
    host = _AgentHost()
    site.at_host(host)
    site.apply(DEALT, ASIDE)
    expect_about(site.ask(count=_COUNT), dict.fromkeys(_DEALS[0], _COUNT / 3), _CHI_SQUARE)
    expect(site.ask(port=81), turns(ASIDE, 1), "another service")
    for turn, dealt in enumerate(_DEALS, 1):
        with network.host.entered():
            given = {Deal(family=Family.IPV4, to=to, slots=slots) for to, slots in dealt.items()}
            deals.write(host, OWNER, {DEALT.name: frozenset(given)})
        plan = site.apply(DEALT, ASIDE)
        expect({change.service for change in plan.changes}, {DEALT.name}, "what a deal changes")
        wanted = {to: slots * _COUNT / 64 for to, slots in dealt.items()}
        expect_about(site.ask(count=_COUNT), wanted, _CHI_SQUARE)
        expect(site.ask(port=81), turns(ASIDE, 1, after=turn), "another service goes on in its turn")
