"""Which answer of a source counts: the last good one. Pure: time comes from the caller.

An answer beyond the bounds of the intent is wrong as a whole, and changes nothing but what is shown. An
answer without endpoints is doubted: with `allow-empty` it counts once it was given several times in a row,
without it never. Answers that follow each other quickly are judged together, at most one in `PACE` seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model.answer import Discovered, ordered, problem
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lbctl.agent.health import Moment
    from lbctl.agent.sources.source import Answer
    from lbctl.model import Discovery, Intent, Service

#: Times in a row that a source must say that there are no endpoints.
CONFIRMATIONS = 3
#: Seconds between two judgements of one source's answers.
PACE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known from one source. `answer` is the last good one, None for none so far.

    `good` is when that was given or confirmed, in seconds since 1970. `error` is what has been wrong since
    then, None for nothing.
    """

    discovery: Discovery
    answer: Answer | None = None
    good: float | None = None
    error: str | None = None

    @property
    def outlook(self) -> str:
        """What counts while the source fails."""
        return "there is no good answer so far" if self.answer is None else "the last good answer is kept"


@dataclass(slots=True)
class _Entry:
    service: Service
    known: Known
    pending: Answer | None = None
    #: The end of the pause behind the last judgement, on the steady clock.
    until: float = 0.0
    empty: int = 0


class AnswerKeeper:
    """Keeps what the sources of an intent answered."""

    def __init__(self, is_local: Callable[[str], bool]) -> None:
        #: Whether the source of a name may name ports of this host.
        self._is_local = is_local
        self._intent: Intent | None = None
        self._entries: dict[str, _Entry] = {}

    def replace(self, intent: Intent, restored: Mapping[str, Discovered] | None = None) -> None:
        """Go on with another intent.

        What is known stays where a service has the same source and the answer lies within its bounds; what
        is in `restored`, good answers by service, counts where nothing is known.
        """
        before, self._entries, self._intent = self._entries, {}, intent
        for service in intent.services:
            discovery = service.discover
            if discovery is None:
                continue
            entry = _Entry(service=service, known=Known(discovery=discovery))
            old = before.get(service.name)
            if old is not None and _asks_alike(old.known.discovery, discovery):
                entry.until, entry.empty, entry.pending = old.until, old.empty, old.pending
                known = old.known
                answer, good = known.answer, known.good
                error = known.error
            else:
                kept = (restored or {}).get(service.name)
                same = kept is not None and (kept.source, kept.name) == (discovery.source, discovery.name)
                answer, good = (kept.endpoints, kept.good) if kept is not None and same else (None, None)
                error = None
            if answer is not None:
                wrong = self._problem(entry, answer)
                entry.known = (
                    Known(discovery=discovery, answer=answer, good=good, error=error)
                    if wrong is None
                    else Known(discovery=discovery, error=wrong)
                )
            self._entries[service.name] = entry

    def note(self, service: str, answer: Answer) -> None:
        """Note an answer: of several before the next judgement, the last one counts."""
        if (entry := self._entries.get(service)) is not None:
            entry.empty = 0 if answer else entry.empty + 1
            entry.pending = ordered(answer)

    def doubts(self, service: str) -> bool:
        """Return True if an answer without endpoints has to be confirmed by asking again."""
        entry = self._entries.get(service)
        return entry is not None and entry.known.discovery.allow_empty and entry.known.answer != ()

    def fail(self, service: str, text: str) -> bool:
        """Note that a source gave no answer, and why; True if that is news."""
        entry = self._entries.get(service)
        if entry is None or entry.known.error == text:
            return False
        entry.known = _with_error(entry.known, text)
        return True

    def next(self) -> float | None:
        """Return when something is to be judged, on the steady clock; None for nothing."""
        return min((e.until for e in self._entries.values() if e.pending is not None), default=None)

    def step(self, now: Moment) -> list[str]:
        """Judge what is due; return the services of which something changed, `known` says what."""
        changed = []
        for name, entry in self._entries.items():
            if entry.pending is None or now.steady < entry.until:
                continue
            before = entry.known
            self._judge(entry, entry.pending, now)
            entry.pending, entry.until = None, now.steady + PACE
            if (before.answer, before.error) != (entry.known.answer, entry.known.error):
                changed.append(name)
        return changed

    def _judge(self, entry: _Entry, answer: Answer, now: Moment) -> None:
        wrong = self._problem(entry, answer)
        if not answer and wrong is None and entry.known.answer != () and entry.empty < CONFIRMATIONS:
            wrong = f"the answer is empty ({entry.empty} of {CONFIRMATIONS} times)"
        if wrong is not None:
            entry.known = _with_error(entry.known, wrong)
        else:
            kept = entry.known.answer  # the same object where nothing changed
            entry.known = Known(
                discovery=entry.known.discovery,
                answer=kept if kept == answer else answer,
                good=now.wall,
            )

    def _problem(self, entry: _Entry, answer: Answer) -> str | None:
        if self._intent is None or entry.service.discover is None:
            return None
        local = self._is_local(entry.service.discover.source)
        return problem(self._intent, entry.service, answer, local=local)

    def answers(self) -> Mapping[str, Discovered]:
        """Return the last good answers, by service."""
        return {
            name: Discovered(
                source=known.discovery.source,
                name=known.discovery.name,
                endpoints=known.answer,
                good=known.good or 0.0,
            )
            for name, known in self.known().items()
            if known.answer is not None
        }

    def known(self) -> Mapping[str, Known]:
        """Return what is known from each source, by service."""
        return {name: entry.known for name, entry in self._entries.items()}

    def services(self) -> Iterable[str]:
        """Return the services that have a source."""
        return self._entries.keys()


def _asks_alike(one: Discovery, other: Discovery) -> bool:
    return (one.source, one.name) == (other.source, other.name)


def _with_error(known: Known, text: str) -> Known:
    return Known(discovery=known.discovery, answer=known.answer, good=known.good, error=text)
