"""What finds out about endpoints, and what hears of it.

Checks and sources give facts. The next step has them as verdicts and answers, other commands find them on
record, and the log of events, the programs of `notify` and those of `[agent]` hear of them.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from lbctl.agent import sources
from lbctl.agent.checker import Checker
from lbctl.agent.checks import Prober
from lbctl.agent.dealer import Dealer
from lbctl.agent.journal import Priority
from lbctl.agent.monitor import Monitor
from lbctl.agent.notify import Notices
from lbctl.agent.readiness import Readiness
from lbctl.agent.recorder import Recorder
from lbctl.agent.sources import Finder
from lbctl.engine.record import discovered, verdicts
from lbctl.errors import LbctlError
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping

    from lbctl.agent.health import Subject
    from lbctl.agent.journal import Journal
    from lbctl.agent.loop import Follower
    from lbctl.documents.agent import CheckedDocument
    from lbctl.documents.status import SourceDocument
    from lbctl.engine.change.keep import FollowedState, Keeper, Kept
    from lbctl.host import Host
    from lbctl.model import Discovered, Intent, Override, Verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What is known before the first check and the first answer of a source.

    `joined` is the intent with the endpoints in `answers`, `serving` who takes connections in the kernel.
    """

    joined: Intent
    answers: Mapping[str, Discovered]
    verdicts: Mapping[str, Verdicts]
    serving: Collection[Subject]
    overrides: tuple[Override, ...]


class Observers:
    """All observers of one agent. Constructed in a running loop; they begin with the first step."""

    def __init__(self, host: Host, owner: str, keeper: Keeper, follower: Follower, journal: Journal) -> None:
        self._host, self._owner, self._keeper, self._follower = host, owner, keeper, follower
        monitor = Monitor(Random())  # noqa: S311 (spreads checks, and guards nothing)
        self._prober = Prober(host)
        self._checker = Checker(host, monitor, self._prober, journal, follower.wake)
        self._finder = Finder(host, sources.AnswerKeeper(_is_local), journal, follower.wake)
        self._notices = Notices(journal)
        self._readiness = Readiness(follower.is_ready)
        self._dealer = Dealer(host, owner, keeper, follower)
        self._recorder = Recorder(host, owner, monitor)
        self._checker.turned = self._notices.changed
        self._checker.learned = self._recorder.learned
        self._register = verdicts.Register(host, owner)
        self._begun = False
        #: The steady time of what the next step is made from.
        self._known_at = 0.0
        #: What was written down last.
        self._written: object = None
        self._answered: object = None

    def works(self) -> tuple[Coroutine[object, object, None], ...]:
        """Return what is to run until the agent ends."""
        report = self._follower.trouble
        in_thread = self._follower.in_thread
        return (
            self._checker.run(),
            self._finder.run(),
            self._dealer.run(),
            self._recorder.run(in_thread, lambda fault: report("log", fault, Priority.WARNING)),
            self._readiness.run(in_thread, lambda fault: report("announce", fault)),
        )

    async def close(self) -> None:
        """End them; what the log lacks is written, and when the sources gave their last good answers."""
        answers = self._finder.answers()
        with suppress(LbctlError):
            await self._follower.in_thread(self._recorder.pending())
            if self._begun:
                await self._follower.in_thread(lambda: discovered.write(self._host, self._owner, answers))
        self._notices.close()
        self._prober.close()

    async def before(self) -> Callable[[], object]:
        """Return what has other commands, and the next step, find the facts of now. Before each step."""
        if not self._begun:
            await self._begin()
        self._known_at = self._host.clock()
        found = self._checker.verdicts()
        answers = self._finder.answers()

        def write() -> None:
            followed = self._keeper.followed()
            if followed is not None:
                followed.session.memory.verdicts[self._owner] = found
                followed.session.memory.found[self._owner] = answers
                self._dealer.write(followed)
            if answers != self._answered:
                self._answered = answers
                discovered.write(self._host, self._owner, answers)
            if found != self._written:
                self._written = found
                self._register.write(found)

        return write

    def after(self, kept: Kept) -> None:
        """Go on with the intent that a step followed."""
        if kept.followed is None:
            return
        self._finder.replace(kept.followed.intent)
        self._dealer.after(kept)
        effective = kept.plan.effective if kept.plan is not None else None
        known = effective.known if effective is not None else kept.followed.intent
        self._checker.replace(known)
        changed = self._heed(known, tuple(kept.facts.overrides.values()))
        if changed or kept.changed:
            self._recorder.stepped(self._known_at)

    def checks(self) -> list[CheckedDocument]:
        """Return what is shown of each check."""
        plan = self._follower.last.plan if self._follower.last is not None else None
        return self._checker.documents(plan.effective if plan is not None else None)

    def counts(self) -> tuple[int, int]:
        """Return how many endpoints are checked, by service and family, and how many of them fail."""
        return self._checker.counts()

    def sources(self) -> list[SourceDocument]:
        """Return what is shown of each source."""
        return self._finder.documents()

    async def _begin(self) -> None:
        """Begin to ask sources and to check endpoints, if there are any, with what was known before."""
        followed = await self._follower.in_thread(self._keeper.followed)
        if followed is None:
            return
        start = await self._follower.in_thread(lambda: self._known(followed))
        await self._follower.in_thread(self._dealer.begin)
        self._begun = True
        self._finder.replace(followed.intent, start.answers)
        await self._checker.begin(start.joined, start.verdicts, start.serving, self._follower.in_thread)
        self._heed(start.joined, start.overrides)

    def _known(self, followed: FollowedState) -> _Start:
        """Return what is on record and in the kernel."""
        joined = followed.session.effective(followed.intent).known
        recorded = verdicts.read(self._host, self._owner)
        return _Start(
            joined=joined,
            answers=discovered.read(self._host, self._owner),
            verdicts=recorded.verdicts if recorded is not None else {},
            serving=frozenset(self._serving(followed, joined)),
            overrides=tuple(followed.session.facts(self._owner).overrides.values()),
        )

    def _serving(self, followed: FollowedState, joined: Intent) -> Iterator[Subject]:
        """Yield the endpoints that the kernel sends connections to, as far as it can be read."""
        session = followed.session
        names = {
            (service.name, endpoint.to): endpoint.name
            for service in joined.services
            for endpoint in service.endpoints
        }
        held = session.held(self._owner, like=session.compile(followed.intent))
        for each in session.backend.lift(held).services:
            for to in each.shares:
                if (each.name, to) in names:
                    yield each.name, names[each.name, to], each.family

    def _heed(self, intent: Intent, overrides: tuple[Override, ...]) -> bool:
        """Have all go on with an intent, and with the overrides in force; return True if they are others."""
        self._notices.follow(intent)
        self._readiness.follow(intent)
        return self._recorder.follow(intent, overrides)


def _is_local(source: str) -> bool:
    """Return True for a source that may name ports of this host."""
    try:
        return sources.find(source).local
    except sources.SourceFailed:
        return False
