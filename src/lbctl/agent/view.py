"""What the agent shows: the status of its rules, made when somebody asks, and what it has done itself."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, cast

from lbctl.documents.agent import AgentDocument, AgentStatusDocument, FillDocument, RateDocument
from lbctl.documents.status import AgentSummaryDocument, status as status_document
from lbctl.engine import status, unsettled
from lbctl.model import Rates, time_of
from lbctl.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbctl.agent.loop import Figures, Follower
    from lbctl.documents.agent import CheckedDocument
    from lbctl.documents.status import SourceDocument
    from lbctl.engine.change.keep import FollowedState
    from lbctl.host import Host

#: Seconds that a document is shown again before a new one is made, and the part of time spent on making it.
_FRESH, _PART = 1.0, 0.1
#: Values of a sparkline.
_VALUES = 60
_ENTRIES = "/proc/sys/net/netfilter/nf_conntrack_count"
_LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"


class View:
    """The document behind `/status`, `/metrics` and the page."""

    def __init__(self, host: Host, owner: str, follower: Follower, figures: Figures) -> None:
        self._host, self._owner, self._follower, self._figures = host, owner, follower, figures
        self._started = time_of(host.now())
        self._made: AgentStatusDocument | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()
        #: By the names of service and endpoint.
        self._rates: Rates[tuple[str, str]] = Rates(_VALUES)
        #: The path or name of what is followed, e.g. of the intent file.
        self.source: Callable[[], str] = str
        #: Called in the loop's thread, as all that reads what checks found.
        self.checks: Callable[[], list[CheckedDocument]] = list
        #: The number of endpoints that are checked, and of those that fail.
        self.counts: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.sources: Callable[[], list[SourceDocument]] = list

    async def document(self) -> AgentStatusDocument:
        """Return the document of now, at most as old as it took several times to make."""
        async with self._lock:
            began = self._host.clock()
            if self._made is not None and began < self._until:
                return self._made
            make = partial(self._make, self.summary(), self.checks())
            made: AgentStatusDocument = await self._follower.in_thread(make)
            now = self._host.clock()
            self._made, self._until = made, now + max(_FRESH, (now - began) / _PART)
            return made

    def _make(self, summary: AgentSummaryDocument, checks: list[CheckedDocument]) -> AgentStatusDocument:
        kept = self._follower.last
        followed = kept.followed if kept is not None else None
        document = self._status(followed) if followed is not None else _nothing()
        counts = {
            (service["name"], endpoint["name"]): endpoint["connections"]
            for service in document.get("services", [])
            for endpoint in service["endpoints"]
        }
        self._rates.note(self._host.clock(), counts)
        document["agent"] = self._agent(summary, checks)
        return document

    def _status(self, followed: FollowedState) -> AgentStatusDocument:
        found = status(followed.session, followed.intent)
        left = unsettled(self._host, self._owner)
        return cast("AgentStatusDocument", status_document(found.drift, found, left))

    def summary(self) -> AgentSummaryDocument:
        """Return what the agent says of itself; cheap, and to be called in the loop's thread."""
        figures = self._figures
        problems = list(figures.problems.values())
        if self._follower.last is None:
            problems.append("nothing is carried out yet")
        checked, failing = self.counts()
        return AgentSummaryDocument(
            version=__version__,
            owner=self._owner,
            host=socket.gethostname(),
            started=self._started,
            now=time_of(self._host.now()),
            intent=self.source(),
            ready=self._follower.is_ready() is True,
            problems=problems,
            notice=figures.notice,
            paused_until=None if figures.paused_until is None else time_of(figures.paused_until),
            applies=figures.applies,
            repairs=figures.repairs,
            failures=figures.failures,
            apply_seconds=figures.seconds,
            checked=checked,
            failing=failing,
            sources=self.sources(),
        )

    def _agent(self, summary: AgentSummaryDocument, checks: list[CheckedDocument]) -> AgentDocument:
        return AgentDocument(
            **summary,
            conntrack=self._conntrack(),
            checks=checks,
            rates=list(self._rate_documents()),
        )

    def _rate_documents(self) -> Iterator[RateDocument]:
        rates = self._rates
        for service, endpoint in rates:
            yield RateDocument(
                service=service,
                endpoint=endpoint,
                interval=round(rates.interval or _FRESH, 3),
                values=[round(value, 2) for value in rates.of((service, endpoint))],
            )

    def _conntrack(self) -> FillDocument | None:
        used, limit = ((self._host.read(path) or "").strip() for path in (_ENTRIES, _LIMIT))
        if not (used.isdecimal() and limit.isdecimal()):
            return None
        return FillDocument(used=int(used), limit=int(limit))


def _nothing() -> AgentStatusDocument:
    return AgentStatusDocument(
        backend="",
        driver="",
        in_sync=False,
        applied=None,
        rolled_back=None,
        drift={"gone": None, "services": [], "rules": [], "elsewhere": []},
        left_out=[],
        interrupted=None,
        trial=None,
    )
