"""An event loop whose time is that of a fake host: nothing waits, and a day passes in seconds."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any

from lbctl.agent.health import Ending, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lbctl.agent.health import Target
    from lbctl.host.fake import FakeHost


class _Selector(selectors.SelectSelector):
    """Lets time pass in place of waiting."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__()
        self._host = host
        #: How often there was nothing to do but to wait.
        self.waits = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "every task waits for another"
        if timeout > 0:
            self.waits += 1
            self._host.uptime += timeout
            self._host.time += timeout
        return super().select(0)


class _WireSelector(_Selector):
    """Lets time pass only while nothing is on its way through a socket, and in small steps."""

    #: Seconds that a step lets pass, and that it waits for.
    step, grace = 2.0, 0.0002

    def select(self, timeout: float | None = None) -> list[Any]:
        events = selectors.SelectSelector.select(self, 0)
        if events or not timeout:
            return events
        events = selectors.SelectSelector.select(self, self.grace)
        return events or super().select(min(timeout, self.step))


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock is `FakeHost.uptime`. What is handed to a thread is done at once."""

    def __init__(self, host: FakeHost, *, wire: bool = False) -> None:
        """Make a loop; `wire` is True if its tasks speak to each other through real sockets."""
        self._virtual = _WireSelector(host) if wire else _Selector(host)
        super().__init__(self._virtual)
        self._host = host

    @property
    def waits(self) -> int:
        """How often it had nothing to do: a process would have been woken so often."""
        return self._virtual.waits

    def time(self) -> float:
        return self._host.uptime

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (as a thread does)
            future.set_exception(error)
        return future


class ScriptedProber:
    """Checks that end after `seconds` with what a test says; by default all pass."""

    def __init__(self, seconds: float = 0.001) -> None:
        self._seconds = seconds
        self.started = 0
        self.watched: tuple[Target, ...] = ()
        self.closed: Callable[[Target], None] = lambda _: None
        #: What a check finds.
        self.answer: Callable[[Target], Outcome] = lambda _: Outcome(ending=Ending.PASSED, text="connected")

    def start(self, targets: Iterable[Target], done: Callable[[Target, Outcome], None]) -> None:
        loop = asyncio.get_running_loop()
        for target in targets:
            self.started += 1
            loop.call_later(self._seconds, lambda target=target: done(target, self.answer(target)))

    def watch(self, targets: Iterable[Target], closed: Callable[[Target], None]) -> None:
        self.watched, self.closed = tuple(targets), closed

    def close(self) -> None:
        pass
