"""The agent as a process: what it is made of, how it starts, reloads and ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.agent import control, sources, web
from lbctl.agent.checker import Checker
from lbctl.agent.checks import Prober
from lbctl.agent.fleet.local import load_local
from lbctl.agent.fleet.member import Member
from lbctl.agent.health import Monitor
from lbctl.agent.http import Server
from lbctl.agent.journal import Journal, Priority
from lbctl.agent.loop import Figures, Follower
from lbctl.agent.notify import Notices
from lbctl.agent.readiness import Readiness
from lbctl.agent.recorder import Recorder
from lbctl.agent.sources import Finder
from lbctl.agent.systemd import Notifier
from lbctl.agent.view import View
from lbctl.engine.change.keep import Keeper
from lbctl.engine.record import discovered, verdicts
from lbctl.errors import Damaged, IntentError, LbctlError, Stale

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from lbctl.agent.health import Subject
    from lbctl.documents.agent import CheckDocument
    from lbctl.engine import Session
    from lbctl.engine.change.keep import Followed, Kept
    from lbctl.host import Host
    from lbctl.model import Discovered, Intent, Override, Verdicts

#: Seconds of a pause that names no end.
_PAUSE = 600.0
_LONGEST_PAUSE = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an agent is started; `files` are the intent files, () for none.

    `follow` is the name of a published intent that is followed instead of the one in their [follow] table.
    """

    owner: str
    files: tuple[Path, ...] = ()
    backend: str = "auto"
    driver: str | None = None
    follow: str | None = None
    follow_file: bool = False
    listen: tuple[tuple[str, int], ...] = ()
    names: tuple[str, ...] = ()
    admin_group: str | None = None


def run(host: Host, options: Options) -> None:
    """Run until SIGTERM or SIGINT. The rules stay as they are.

    Raises `Stale` where another agent of this owner runs, `IntentError` for what cannot be listened on, and
    as `lbctl.engine.apply` where the intent file has to be applied first, and cannot be.
    """
    group = control.group_number(options.admin_group)
    with ExitStack() as stack:
        try:
            # A command that asks whether an agent runs holds it for a moment.
            stack.enter_context(host.lock(f"{options.owner}.agent", patience=1.0))
        except Stale as error:
            raise Stale(f'an agent of owner "{options.owner}" runs already', hint=error.message) from error
        sockets = [stack.enter_context(_bound(address, port)) for address, port in options.listen]
        place = host.socket_path(options.owner)
        admin = stack.enter_context(control.bind(place, group))
        stack.callback(place.unlink, missing_ok=True)
        asyncio.run(_Agent(host, options, group).run(sockets, admin))


class _Agent:
    """One running agent."""

    def __init__(self, host: Host, options: Options, group: int | None) -> None:
        self._host, self._options, self._group = host, options, group
        self._journal, self._notifier = Journal(), Notifier()
        self._figures = Figures()
        self._keeper = Keeper(host, options.owner, self._session)
        self._file = _File(options.files)
        self._register = verdicts.Register(host, options.owner)
        self._written: object = None
        self._begun = False
        self._answered: object = None
        self._recorder: Recorder | None = None
        #: What is ended with the agent.
        self._ends = ExitStack()

    def _session(self) -> Session:
        # What was applied by consent is there by consent.
        return engine.open_session(
            self._host, backend=self._options.backend, driver=self._options.driver, allow_remap=True
        )

    async def run(self, sockets: list[socket.socket], admin: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._follower = Follower(self._host, self._keeper, self._journal, self._figures)
        self._view = View(self._host, self._options.owner, self._follower, self._figures)
        self._view.source = ", ".join(map(str, self._options.files))
        self._follower.looks = self._look_at_file
        self._loop = loop
        self._member = Member(self._host, self._follower, self._figures, self._apply, self._documents)
        try:
            await self._follower.in_thread(self._start)
            self._check()
            await self._serve(sockets, admin)
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(work)
                    for work in (
                        self._checker.run(),
                        self._finder.run(),
                        self._follower.follow(),
                        self._follower.look(),
                        self._member.run(),
                        self._record(),
                        self._announce(),
                        self._tell(),
                    )
                ]

                def stop() -> None:
                    for task in running:
                        task.cancel()

                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, stop)
                loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(self._reload()))
                self._follower.wake()
                self._notifier.ready("following")
        finally:
            self._notifier.stopping()
            await self._write_last()
            self._follower.close()
            self._ends.close()

    def _start(self) -> None:
        """Complete what was left of a change; with nothing applied yet, apply the intent file."""
        owner = self._options.owner
        if engine.unsettled(self._host, owner).due:
            for note in engine.recover(self._session(), owner):
                self._journal.say(note)
        try:
            first = self._keeper.followed() is None
        except Damaged:
            return  # shown by the first step, and nothing is changed until it can be read
        if not self._options.files:
            return
        try:
            local = self._load()
        except IntentError as error:
            if first:
                raise
            self._follower.trouble("file", f"the intent file is not used: {error.message}", Priority.ERROR)
            return
        if local.follow is not None:
            self._member.begin(local)
        elif first:
            self._apply(local, self._view.source)

    def _load(self) -> Intent:
        return load_local(self._options.files, self._options.follow)

    def _check(self) -> None:
        """Arrange what checks endpoints; it begins with the first step."""
        self._prober = Prober(self._host)
        monitor = Monitor(Random())  # noqa: S311 (spreads checks, and guards nothing)
        self._ends.callback(self._prober.close)
        self._checker = Checker(self._host, monitor, self._prober, self._journal, self._follower.wake)
        self._notices = Notices(self._journal)
        self._ends.callback(self._notices.close)
        self._checker.turned = self._notices.changed
        self._readiness = Readiness(self._follower.is_ready)
        self._recorder = Recorder(self._host, self._options.owner, monitor)
        self._checker.learned = self._recorder.learned
        self._finder = Finder(self._host, sources.Keeper(_is_local), self._journal, self._follower.wake)
        self._follower.before = self._write_down
        self._view.checks = self._documents
        self._view.sources = self._finder.documents
        self._view.counts = self._checker.counts
        self._follower.after = self._carried_out

    async def _begin(self) -> None:
        """Begin to ask sources and to check endpoints, if there are any, with what was known before."""
        followed = await self._follower.in_thread(self._keeper.followed)
        if followed is None:
            return
        start = await self._follower.in_thread(lambda: self._known(followed))
        self._begun = True
        self._finder.replace(followed.intent, start.answers)
        self._checker.begin(start.joined, start.verdicts, start.serving)
        self._heed(start.joined, ())

    def _known(self, followed: Followed) -> _Start:
        """Return what is on record and in the kernel."""
        owner = self._options.owner
        joined = followed.session.effective(followed.intent).known
        recorded = verdicts.read(self._host, owner)
        return _Start(
            joined=joined,
            answers=discovered.read(self._host, owner),
            verdicts=recorded.verdicts if recorded is not None else {},
            serving=frozenset(self._serving(followed, joined)),
        )

    def _serving(self, followed: Followed, joined: Intent) -> Iterator[Subject]:
        """Yield the endpoints that the kernel sends connections to, as far as it can be read."""
        session = followed.session
        names = {
            (service.name, endpoint.to): endpoint.name
            for service in joined.services
            for endpoint in service.endpoints
        }
        for each in session.backend.lift(session.observe(self._options.owner)).services:
            for to in each.shares:
                if (each.name, to) in names:
                    yield each.name, names[each.name, to], each.family

    async def _write_down(self) -> Callable[[], object]:
        """Return what has other commands, and the next step, find the verdicts of now."""
        if not self._begun:
            await self._begin()
        found = self._checker.verdicts()
        answers = self._finder.answers()

        def write() -> None:
            followed = self._keeper.followed()
            if followed is not None:
                followed.session.memory.verdicts[self._options.owner] = found
                followed.session.memory.found[self._options.owner] = answers
            if answers != self._answered:
                self._answered = answers
                discovered.write(self._host, self._options.owner, answers)
            if found != self._written:
                self._written = found
                self._register.write(found)

        return write

    def _documents(self) -> list[CheckDocument]:
        plan = self._follower.last.plan if self._follower.last is not None else None
        return self._checker.documents(plan.effective if plan is not None else None)

    def _carried_out(self, kept: Kept) -> None:
        if kept.followed is not None:
            self._finder.replace(kept.followed.intent)
            effective = kept.plan.effective if kept.plan is not None else None
            known = effective.known if effective is not None else kept.followed.intent
            self._checker.replace(known)
            self._heed(known, tuple(kept.facts.overrides.values()))
        self._member.news()

    def _heed(self, intent: Intent, overrides: tuple[Override, ...]) -> None:
        """Have all that follows it go on with an intent, and with the overrides in force."""
        self._notices.follow(intent)
        self._readiness.follow(intent)
        if self._recorder is not None:
            self._recorder.follow(intent, overrides)

    async def _write_last(self) -> None:
        """Write what the log lacks at the end."""
        if self._recorder is not None:
            with suppress(LbctlError):
                await self._follower.in_thread(self._recorder.pending())

    async def _announce(self) -> None:
        await self._readiness.run(
            self._follower.in_thread, lambda fault: self._follower.trouble("announce", fault)
        )

    async def _record(self) -> None:
        if self._recorder is None:
            return
        await self._recorder.run(
            self._follower.in_thread, lambda fault: self._follower.trouble("log", fault, Priority.WARNING)
        )

    def _apply(self, intent: Intent, what: str) -> None:
        session = self._session()
        made = engine.plan(session, intent)
        for note in (*made.notes, *engine.apply(session, (made,), record=True)):
            self._journal.say(note)
        self._journal.say(f"Applied: {what}" if made.changed else f"In sync: {what}", Priority.NOTICE)

    def _look_at_file(self) -> object:
        """Notice an intent file that changed: it is shown, or applied with --follow-file."""
        state = self._file.state()
        if state == self._file.seen:
            return state
        self._file.seen = state
        self._compare(apply=self._options.follow_file)
        return state

    def _compare(self, *, apply: bool) -> None:
        """Read the intent file; where it differs from what was applied last, apply it or say so."""
        if not self._options.files:
            return
        names = ", ".join(map(str, self._options.files))
        try:
            intent = self._load()
            if intent.owner != self._options.owner:
                raise IntentError(f'the owner in the file is "{intent.owner}" now', hint="restart the agent")
            differs = self._differs(intent)
            if differs and apply:
                self._take(intent)
                differs = False
        except LbctlError as error:
            self._follower.trouble("file", f"the intent file is not applied: {error.message}", Priority.ERROR)
            return
        text = f"{names} differs from what was applied last; it is not applied: lbctl plan shows how"
        self._figures.notice = text if differs else None
        self._follower.trouble("file", None)
        if differs:
            self._journal.say(text, Priority.NOTICE)

    def _differs(self, intent: Intent) -> bool:
        """Return True if the intent file says something else than what is followed."""
        if intent.follow is not None:
            return self._member.local != intent
        followed = self._keeper.followed()
        return followed is None or followed.intent != intent

    def _take(self, intent: Intent) -> None:
        """Follow another intent file: apply it, or the published one that it names from now on."""
        if intent.follow is None:
            self._apply(intent, self._view.source)
        self._loop.call_soon_threadsafe(self._member.replace, intent)

    async def _reload(self) -> None:
        self._notifier.reloading()
        await self._follower.in_thread(lambda: self._compare(apply=True))
        self._follower.wake()
        self._notifier.ready("following")

    async def _serve(self, sockets: list[socket.socket], admin: socket.socket) -> None:
        pages = Server(web.reader(self._view.document, self._options.names))
        for listening in sockets:
            address, port = listening.getsockname()[:2]
            if not ip_address(address).is_loopback:
                self._journal.say(
                    f"Anybody who reaches {address}:{port} can read the status.", Priority.NOTICE
                )
            await pages.listen(listening)
        actions = {"/pause": self._pause, "/resume": self._resume, "/reload": self._reload_now}
        reports = {"/agent": self._summary}
        commands = Server(control.handler(self._view.document, actions, reports=reports, group=self._group))
        await commands.listen(admin)

    def _summary(self) -> Mapping[str, object]:
        return {**self._view.summary()}

    async def _pause(self, words: Mapping[str, object]) -> Mapping[str, object]:
        seconds = words.get("seconds", _PAUSE)
        if not isinstance(seconds, int | float) or not 1 <= seconds <= _LONGEST_PAUSE:
            raise ValueError("seconds: between one second and a day")
        self._figures.paused_until = self._host.now() + seconds
        asyncio.get_running_loop().call_later(seconds, self._end_pause, self._figures.paused_until)
        self._journal.say(f"Paused for {seconds:g} s: the kernel is left as it is.", Priority.NOTICE)
        return {"paused_until": self._figures.paused_until}

    def _end_pause(self, until: float) -> None:
        if self._figures.paused_until == until:
            self._figures.paused_until = None
            self._journal.say("The pause is over.", Priority.NOTICE)
            self._follower.wake()

    async def _resume(self, _: Mapping[str, object]) -> Mapping[str, object]:
        if self._figures.paused_until is not None:
            self._end_pause(self._figures.paused_until)
        return {"paused_until": None}

    async def _reload_now(self, _: Mapping[str, object]) -> Mapping[str, object]:
        await self._reload()
        return {"problems": list(self._figures.problems.values())}

    async def _tell(self) -> None:
        """Tell systemd that the loop goes round."""
        pulse = self._notifier.pulse
        while True:
            self._notifier.alive()
            await asyncio.sleep(pulse or 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """What is known before the first check and the first answer of a source.

    `joined` is the intent with the endpoints in `answers`, `serving` who takes connections in the kernel.
    """

    joined: Intent
    answers: Mapping[str, Discovered]
    verdicts: Mapping[str, Verdicts]
    serving: Collection[Subject]


def _is_local(source: str) -> bool:
    """Return True for a source that may name ports of this host."""
    try:
        return sources.find(source).local
    except sources.SourceFailed:
        return False


class _File:
    """Whether the intent files are the ones that were looked at last."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self.seen: object = self.state()

    def state(self) -> object:
        """Return what changes when a file does."""
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                one = path.stat()
                found.append((one.st_mtime_ns, one.st_ino, one.st_size))
            except OSError:
                found.append(None)
        return tuple(found)


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise IntentError(f"cannot listen on {address} port {port}: {error.strerror}") from error
