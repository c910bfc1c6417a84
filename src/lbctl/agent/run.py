"""The agent as a process: what it is made of, how it starts and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.agent import control, web
from lbctl.agent.commands import Commands
from lbctl.agent.cycles import Cycles
from lbctl.agent.fleet.member import Member
from lbctl.agent.http import Server
from lbctl.agent.intent_files import IntentFiles
from lbctl.agent.journal import Journal, Priority
from lbctl.agent.loop import Figures, Follower
from lbctl.agent.observers import Observers
from lbctl.agent.systemd import Notifier
from lbctl.agent.view import View
from lbctl.engine.change.keep import Keeper
from lbctl.engine.record.memory import SessionMemory
from lbctl.errors import IntentError, Stale
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lbctl.engine import Session
    from lbctl.engine.change.keep import Kept
    from lbctl.host import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an agent is started; `files` finds the intent files by absolute paths, () for none.

    `follow` is the name of a published intent that is followed instead of the one in their [follow] table.
    """

    owner: str
    files: Callable[[], tuple[Path, ...]] = tuple
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
            hint = "lbctl status shows since when; systemctl stop lbctl-agent stops the one that systemd runs"
            raise Stale(f'an agent of owner "{options.owner}" runs already', hint=hint) from error
        sockets = [stack.enter_context(_bound(address, port)) for address, port in options.listen]
        place = host.socket_path(options.owner)
        admin = stack.enter_context(control.bind(place, group))
        stack.callback(place.unlink, missing_ok=True)
        asyncio.run(_Agent(host, options, group).run(sockets, admin))


class _Agent:
    """One running agent."""

    def __init__(self, host: Host, options: Options, group: int | None) -> None:
        self._host, self._options, self._group = host, options, group
        self._journal, self._notifier, self._figures = Journal(), Notifier(), Figures()
        self._keeper = Keeper(host, options.owner, self._session)
        #: What one session has read or written, the next one need not read again.
        self._memory = SessionMemory(host)

    def _session(self) -> Session:
        # What was applied by consent is there by consent.
        session = engine.open_session(
            self._host, backend=self._options.backend, driver=self._options.driver, allow_remap=True
        )
        return replace(session, memory=self._memory)

    async def run(self, sockets: list[socket.socket], admin: socket.socket) -> None:
        """Run until a signal ends it."""
        self._follower = Follower(self._host, self._keeper, self._journal, self._figures)
        self._files = self._intent_files()
        try:
            await self._follower.in_thread(self._start)
            observers = Observers(
                self._host, self._options.owner, self._keeper, self._follower, self._journal
            )
            try:
                await self._work(observers, sockets, admin)
            finally:
                self._notifier.stopping()
                await observers.close()
        finally:
            self._follower.close()
            self._journal.close()

    def _intent_files(self) -> IntentFiles:
        return IntentFiles(
            self._options.owner,
            self._options.files,
            self._keeper,
            self._session,
            journal=self._journal,
            figures=self._figures,
            follower=self._follower,
            follows=self._options.follow_file,
            published=self._options.follow,
        )

    def _start(self) -> None:
        """Complete what was left of a change; with nothing applied yet, apply the intent files."""
        owner = self._options.owner
        if engine.unsettled(self._host, owner).due:
            for note in engine.recover(self._session(), owner):
                self._journal.say(note)
        self._files.apply_first()

    async def _work(self, observers: Observers, sockets: list[socket.socket], admin: socket.socket) -> None:
        """Follow, observe and answer until a signal ends it."""
        cycles = Cycles()
        member = self._fleet_member(observers)

        def after(kept: Kept) -> None:
            observers.after(kept)
            cycles.follow(kept)
            member.news()

        self._follower.before, self._follower.after = observers.before, after
        self._follower.looks = self._files.look
        commands = Commands(
            self._host,
            self._follower,
            self._files,
            journal=self._journal,
            figures=self._figures,
            notifier=self._notifier,
        )
        await self._serve(self._view(observers), commands, sockets, admin)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            works = (
                *observers.works(),
                self._follower.follow(),
                self._follower.look(),
                member.run(),
                self._pulse(),
                cycles.run(),
            )
            running = [tasks.create_task(work) for work in works]

            def stop() -> None:
                for task in running:
                    task.cancel()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(commands.reload()))
            self._follower.wake()
            self._notifier.ready("following")
            served = "" if self._options.listen else "; without --listen it serves no page and no metrics"
            self._journal.say(f'The agent of owner "{self._options.owner}" runs{served}.')

    def _fleet_member(self, observers: Observers) -> Member:
        """Return what follows a published intent, if the files name one."""
        loop, files = asyncio.get_running_loop(), self._files
        member = Member(self._host, self._follower, self._figures, files.carry_out, observers.checks)
        if files.local is not None:
            member.begin(files.local)
        files.chosen = lambda local: loop.call_soon_threadsafe(member.replace, local)
        return member

    def _view(self, observers: Observers) -> View:
        view = View(self._host, self._options.owner, self._follower, self._figures)
        view.source = self._files.__str__
        view.checks, view.counts, view.sources = observers.checks, observers.counts, observers.sources
        return view

    async def _serve(
        self, view: View, commands: Commands, sockets: list[socket.socket], admin: socket.socket
    ) -> None:
        pages = web.Pages(view)
        readers = Server(web.reader(pages, self._options.names))
        for listening in sockets:
            address, port = listening.getsockname()[:2]
            if not ip_address(address).is_loopback:
                text = f"Every client that reaches {address}:{port} can read the status."
                self._journal.say(text, Priority.NOTICE)
            await readers.listen(listening)
            self._journal.say(f"The page is at http://{_place(address, port)}/")
        reports = {"/agent": lambda: {**view.summary()}}
        handler = control.handler(pages, commands.actions, reports=reports, group=self._group)
        await Server(handler).listen(admin)

    async def _pulse(self) -> None:
        """Report to systemd that the loop runs."""
        pause = self._notifier.pulse
        while True:
            self._notifier.alive()
            await asyncio.sleep(pause or 3600)


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family)
    except OSError as error:
        # `strerror` repeats the address.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise IntentError(f"cannot listen on {address} port {port}: {reason}") from error


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
