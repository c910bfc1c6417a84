"""Carries out checks of all kinds, each where it costs least, and none for longer than its timeout."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, assert_never

from lbctl.agent.checks import dns, http, outcomes, program, udp
from lbctl.agent.checks.local import LocalSockets
from lbctl.agent.checks.tcp import TcpChecks
from lbctl.agent.health import Ending
from lbctl.model import DnsProbe, ExecProbe, HttpProbe, TcpProbe, UdpProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lbctl.agent.health import Outcome, Target
    from lbctl.host import Host
    from lbctl.model import Address

#: Checks that are no plain connections and run at once; others wait for them, before their time begins.
#: Programs have a bound of their own: slow ones delay no other check.
_AT_ONCE = 1024


class Prober:
    """Checks that are being made. Constructed in a running loop, in whose thread all of it runs."""

    def __init__(self, host: Host) -> None:
        self._loop = asyncio.get_running_loop()
        self._tcp = TcpChecks(self._loop)
        self._local = LocalSockets(host, self._loop)
        self._programs = program.Programs()
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, targets: Iterable[Target], done: Callable[[Target, Outcome], None]) -> None:
        """Begin these checks; `done` is called in the loop's thread once for each."""
        done = self._looking_again(done)
        plain: list[tuple[Target, Address]] = []
        for target in targets:
            if isinstance(target.check.probe, TcpProbe):
                plain.append((target, self._local.address(target)))
            else:
                task = self._loop.create_task(self._carry_out(target, done))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._tcp.start(plain, done)

    def watch(self, targets: Iterable[Target], closed: Callable[[Target], None]) -> None:
        """Have `closed` called in the loop's thread when no process listens any more at a local target."""
        self._local.watch(targets, closed)

    def close(self) -> None:
        """End all checks; those that have not ended are not reported."""
        for task in self._tasks:
            task.cancel()
        self._tcp.close()
        self._local.close()
        self._programs.close()

    def _looking_again(self, done: Callable[[Target, Outcome], None]) -> Callable[[Target, Outcome], None]:
        """Have a failed check of a process on this host be a reason to look where it listens."""

        def reported(target: Target, outcome: Outcome) -> None:
            if target.address is None and outcome.ending is Ending.FAILED:
                self._local.look_again()
            done(target, outcome)

        return reported

    async def _carry_out(self, target: Target, done: Callable[[Target, Outcome], None]) -> None:
        async with nullcontext() if isinstance(target.check.probe, ExecProbe) else self._gate:
            began = self._loop.time()
            try:
                outcome = await self._outcome(target)
            except TimeoutError:
                outcome = outcomes.of_timeout(self._loop.time() - began)
            except OSError as error:
                outcome = outcomes.of_error(error, self._loop.time() - began)
            except Exception as error:  # noqa: BLE001 (a check that is never reported is never made again)
                outcome = outcomes.undecided(f"not checked: {type(error).__name__}: {error}")
        done(target, outcome)

    async def _outcome(self, target: Target) -> Outcome:
        timeout = target.check.timeout / 1000
        match target.check.probe:
            case HttpProbe() as probe:
                async with asyncio.timeout(timeout):
                    return await http.check(target, probe, self._local.address(target))
            case DnsProbe() as probe:
                async with asyncio.timeout(timeout):
                    return await dns.check(target, probe, self._local.address(target))
            case UdpProbe() as probe:
                async with asyncio.timeout(timeout):
                    return await udp.check(target, probe, self._local.address(target))
            case ExecProbe() as probe:
                return await self._programs.check(target, probe)
            case TcpProbe():
                raise ValueError("a TCP check is not a task")
            case other:
                assert_never(other)
