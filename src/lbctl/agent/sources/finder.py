"""Asks the sources of an intent, and gives the keeper what they answer: the part that runs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from random import Random
from typing import TYPE_CHECKING, TypeAlias

from lbctl.agent.health import Moment
from lbctl.agent.journal import Priority
from lbctl.agent.sources.source import Access, SourceFailed, find
from lbctl.documents.status import SourceDocument
from lbctl.model import inert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.agent.journal import Journal
    from lbctl.agent.sources.keeper import AnswerKeeper
    from lbctl.agent.sources.source import Answer, Source
    from lbctl.host import Host
    from lbctl.model import Discovered, Intent

#: What one task asks for: the service, the source, its name.
_Question: TypeAlias = tuple[str, str, str]

#: Seconds that the first answer may take.
_PATIENCE = 30.0
#: Seconds before a source is asked again that failed: the first time, and at most.
_AGAIN, _AGAIN_MOST = 1.0, 30.0
_IDLE = 3600.0
#: Characters of an error that are shown.
_SHOWN = 200


class Finder:
    """Keeps a task for each source of the intent that is followed."""

    def __init__(
        self,
        host: Host,
        keeper: AnswerKeeper,
        journal: Journal,
        changed: Callable[[], object],
        open_source: Callable[[str], Source] = find,
    ) -> None:
        self._host, self._keeper, self._journal, self._changed = host, keeper, journal, changed
        self._open = open_source
        self._tasks: dict[_Question, asyncio.Task[None]] = {}
        #: Seconds until a source that fails now is asked again, by service; none after an answer.
        self._pauses: dict[str, float] = {}
        self._access = Access()
        self._intent: Intent | None = None
        self._more = asyncio.Event()
        self._random = Random()  # noqa: S311 (spreads questions, and guards nothing)

    def replace(self, intent: Intent, restored: Mapping[str, Discovered] | None = None) -> None:
        """Go on with another intent; nothing happens where it is the same object."""
        if intent is self._intent:
            return
        self._intent = intent
        self._keeper.replace(intent, restored)
        access = Access(
            etcd=intent.etcd, docker=intent.docker, consul=intent.consul, kubernetes=intent.kubernetes
        )
        questions = {
            (service.name, service.discover.source, service.discover.name)
            for service in intent.services
            if service.discover is not None
        }
        same = access == self._access
        self._access = access
        for question in [each for each in self._tasks if each not in questions or not same]:
            self._tasks.pop(question).cancel()
        for question in questions - self._tasks.keys():
            self._tasks[question] = asyncio.create_task(self._ask(*question))
        self._more.set()

    async def run(self) -> None:
        """Judge each answer when it arrives; ends only when it is cancelled, and the tasks with it."""
        try:
            while True:
                self._more.clear()
                if changed := self._keeper.step(self._now()):
                    self._report(changed)
                    self._changed()
                due = self._keeper.next()
                pause = _IDLE if due is None else max(due - self._now().steady, 0.0)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, _IDLE)):
                        await (self._more.wait() if due is None else asyncio.sleep(pause))
        finally:
            tasks, self._tasks = list(self._tasks.values()), {}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def answers(self) -> Mapping[str, Discovered]:
        """Return the last good answers, by service."""
        return self._keeper.answers()

    def documents(self) -> list[SourceDocument]:
        """Return what is shown of each source."""
        now = self._host.now()
        return [
            SourceDocument(
                service=service,
                kind=known.discovery.source,
                name=known.discovery.name,
                endpoints=len(known.answer or ()),
                age=None if known.good is None else round(max(now - known.good, 0.0), 3),
                error=known.error,
            )
            for service, known in self._keeper.known().items()
        ]

    async def _ask(self, service: str, source: str, name: str) -> None:
        """Give the keeper what a source answers; ask it again whenever it fails or ends."""
        while True:
            try:
                if await self._listen(service, self._open(source), name) is None:
                    self._failed(service, "the source gave no answer")
            except TimeoutError:
                self._failed(service, "no answer in time")
            except (SourceFailed, OSError) as error:
                self._failed(service, str(error))
            except Exception as error:  # noqa: BLE001 (a source of a third party must not end the agent)
                self._failed(service, f"{type(error).__name__}: {error}")
            pause = self._pauses.get(service, _AGAIN)
            self._pauses[service] = min(pause * 2, _AGAIN_MOST)
            await asyncio.sleep(pause * self._random.uniform(0.75, 1.25))

    async def _listen(self, service: str, source: Source, name: str) -> Answer | None:
        """Note answers until they end, or one has to be confirmed; return the last, None for none at all."""
        answer: Answer | None = None
        async with aclosing(source.answers(name, self._access)) as answers:
            while True:
                try:
                    async with asyncio.timeout(_PATIENCE if answer is None else None):
                        answer = await anext(answers)
                except StopAsyncIteration:
                    return answer
                self._keeper.note(service, answer)
                self._more.set()
                if answer:
                    self._pauses.pop(service, None)
                if not answer and self._keeper.doubts(service):
                    return answer
                await asyncio.sleep(0)  # a source that never waits leaves the loop to others

    def _failed(self, service: str, text: str) -> None:
        text = inert(text)[:_SHOWN]
        if self._keeper.fail(service, text):
            known = self._keeper.known()[service]
            self._journal.say(
                f"{service}: {known.discovery}: {text}; {known.outlook}", Priority.WARNING, service=service
            )

    def _report(self, services: list[str]) -> None:
        for service in services:
            known = self._keeper.known()[service]
            if known.error is not None:
                text, priority = f"{known.error}; {known.outlook}", Priority.WARNING
            else:
                count = len(known.answer or ())
                text, priority = f"{count} endpoint{'' if count == 1 else 's'}", Priority.NOTICE
            self._journal.say(f"{service}: {known.discovery}: {text}", priority, service=service)

    def _now(self) -> Moment:
        return Moment(self._host.clock(), self._host.now())
