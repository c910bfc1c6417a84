"""One host of a fleet: what the agent needs to follow a published intent and to report."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from lbctl.agent.fleet.report import HostReport, ServiceHealth
from lbctl.agent.fleet.reporter import Reporter
from lbctl.agent.fleet.subscriber import Subscriber
from lbctl.agent.journal import Priority
from lbctl.engine.record import history
from lbctl.errors import Damaged
from lbctl.model import table_digests, time_of
from lbctl.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.agent.fleet.acceptance import Accepted
    from lbctl.agent.loop import Figures, Follower
    from lbctl.documents.agent import CheckedDocument
    from lbctl.host import Host
    from lbctl.model import Intent

#: Places of problems that a host which reports does not have.
_ABOUT_ETCD = frozenset({"etcd", "report"})


class Member:
    """Follows and reports, once the local intent names an intent to follow."""

    def __init__(
        self,
        host: Host,
        follower: Follower,
        figures: Figures,
        carry_out: Callable[[Intent, str], object],
        checks: Callable[[], list[CheckedDocument]],
    ) -> None:
        self._host, self._follower, self._figures, self._checks = host, follower, figures, checks
        self._started = time_of(host.now())
        self._apply = carry_out
        self._subscriber = Subscriber(host, follower.in_thread, self._carry_out, follower.trouble)
        self._reporter = Reporter(lambda: self._subscriber.place, self._report, follower.trouble)
        self._subscriber.changed = self._changed
        #: Values that take long to make, and what they were made of.
        self._tables: tuple[object, Mapping[str, str]] = (None, {})
        self._follows: tuple[object, bool] = (None, False)
        #: The number of the state in the history that the last publication led to.
        self._number = 0

    @property
    def local(self) -> Intent | None:
        """The local intent, if it follows a published one."""
        return self._subscriber.local

    def begin(self, local: Intent) -> None:
        """Begin with what the last agent accepted."""
        self._with(self._subscriber.begin, local)

    def replace(self, local: Intent) -> None:
        """Go on with another local intent."""
        self._with(self._subscriber.replace, local)
        self._reporter.wake()

    def _with(self, work: Callable[[Intent], None], local: Intent) -> None:
        try:
            work(local)
        except Damaged as error:
            self._follower.trouble("fleet", error.message, Priority.ERROR)

    def news(self) -> None:
        """Something may have changed that is reported."""
        self._reporter.wake()

    async def run(self) -> None:
        """Follow and report until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscriber.run())
            tasks.create_task(self._reporter.run())

    def _carry_out(self, accepted: Accepted) -> None:
        publication = accepted.publication
        what = f"revision {publication.revision} of {publication.name}, by {publication.author}"
        if accepted.signer is not None:
            what += f", signed by {accepted.signer}"
        self._apply(accepted.intent, f"{what}{' (canary)' if accepted.canary else ''}")
        self._number = history.latest(self._host, accepted.intent.owner) or 0

    def _changed(self) -> None:
        self._follower.wake()
        self._reporter.wake()

    def _report(self, host: str) -> HostReport:
        state = self._subscriber.state
        accepted = state.accepted
        follows = self._is_followed(accepted)
        return HostReport(
            host=host,
            version=__version__,
            started=self._started,
            revision=None if accepted is None else accepted.publication.revision,
            newest=state.newest,
            canary=accepted is not None and accepted.canary,
            follows=follows is not False,
            in_sync=follows is not None and self._follower.is_ready() is True,
            refused=state.refused,
            problems=self._problems(),
            tables=self._tables_now(),
            services=self._health(),
        )

    def _problems(self) -> tuple[str, ...]:
        found = dict(self._figures.problems)
        return tuple(text for place, text in found.items() if place not in _ABOUT_ETCD)

    def _is_followed(self, accepted: Accepted | None) -> bool | None:
        """Return True if what the kernel follows is what was accepted; None until that is known."""
        kept = self._follower.last
        followed = kept.followed if kept is not None else None
        if accepted is None or followed is None or followed.entry.number < self._number:
            return None
        if self._follows[0] != (followed.entry.number, accepted.text):
            self._follows = (followed.entry.number, accepted.text), followed.intent == accepted.intent
        return self._follows[1]

    def _tables_now(self) -> Mapping[str, str]:
        kept = self._follower.last
        effective = kept.plan.effective if kept is not None and kept.plan is not None else None
        if effective is None:
            return {}
        if self._tables[0] is not effective.intent:
            self._tables = effective.intent, table_digests(effective.intent)
        return self._tables[1]

    def _health(self) -> tuple[ServiceHealth, ...]:
        found = Counter((each["service"], each["health"]) for each in self._checks())
        names = dict.fromkeys(service for service, _ in found)
        return tuple(
            ServiceHealth(
                name=name, up=found[name, "up"], down=found[name, "down"], unknown=found[name, "unknown"]
            )
            for name in names
        )
