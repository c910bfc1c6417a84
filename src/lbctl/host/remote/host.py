"""`Host` over ssh: what is read together comes together, and is kept until something is changed."""

from __future__ import annotations

import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lbctl.errors import ApplyFailed
from lbctl.host.capabilities import Capability, capabilities
from lbctl.host.persons import person
from lbctl.host.remote.answers import completed
from lbctl.host.remote.greeting import FILES, HELLO, Greeting, RemoteClock, clock, greeting
from lbctl.host.remote.locks import Locks
from lbctl.host.remote.reads import Reads, reading, thread_free
from lbctl.host.remote.session import RemoteRequest, SshSession
from lbctl.host.remote.state import STATE, RemoteState
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import ModuleType
    from typing import Literal, Unpack

    from lbctl.host.host import Completed, Expected
    from lbctl.host.orders import Orders
    from lbctl.host.remote.destination import Destination
    from lbctl.host.reports import Reports, Words

T = TypeVar("T")
#: Ticks of a second that kernels are built with.
_TICKS = (100, 250, 300, 1000)
_FIRST_OVERFLOW = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A session that has begun."""

    greeting: Greeting
    reads: Reads
    state: RemoteState
    locks: Locks


class RemoteHost:
    """Another host, and the network namespace that its sshd is in."""

    def __init__(self, destination: Destination, *, can_ask: bool = True) -> None:
        self.session = SshSession(destination, can_ask=can_ask)
        self._asked: range | None = None
        self._begun: _Begun | None = None
        self._clock: RemoteClock | None = None

    @property
    def destination(self) -> Destination:
        """Where it is."""
        return self.session.destination

    def open(self) -> None:
        """Connect, and ask what every command needs, while the command does other things."""
        if self._asked is None:
            self._asked = self._ask_all()

    def close(self) -> None:
        """End the session, and with it all locks."""
        self.session.close()

    def _ask_all(self) -> range:
        return self.session.begin(HELLO, *STATE, *map(reading, FILES))

    def _begin(self) -> _Begun:
        """Return the session, once it has begun; raises `Unreachable`."""
        if self._begun is None:
            asked = self._asked or self._ask_all()
            hello, saved, known, *files = self.session.collect(asked)
            found = greeting(hello.text, self.destination)
            reads, state = Reads(self.session, found), RemoteState(self.session, found)
            state.take(saved, known)
            for path, reply in zip(FILES, files, strict=True):
                reads.take_file(path, reply)
            locks = Locks(self.session, found, state)
            self._begun = _Begun(greeting=found, reads=reads, state=state, locks=locks)
        return self._begun

    def _changes(self) -> Reads:
        """Note that something is changed now: without a lock, by a probe that leaves nothing behind."""
        begun = self._begin()
        self.session.changing = self.session.changing or begun.locks.any_held()
        begun.reads.expire()
        return begun.reads

    # programs and files

    def which(self, program: str) -> str | None:
        """See `Host`. Folders of the administrator's programs are searched whatever PATH says."""
        return self._begin().reads.which(program)

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """See `Host`. What comes by standard input is there in full before the program starts."""
        words = tuple(argv)
        if not stdin:
            return self._begin().reads.run(words)
        self._changes()
        data = stdin.encode("utf-8", "surrogateescape")
        (reply,) = self.session.ask(RemoteRequest(verb="run", words=words, data=data))
        return completed(reply)

    def listing(self, argv: Sequence[str]) -> Completed:
        """See `Host`."""
        return self._begin().reads.listing(tuple(argv))

    def read(self, path: str) -> str | None:
        """See `Host`. Only regular files, /proc included: another kind could wait for ever."""
        return self._begin().reads.read(thread_free(path))

    def write(self, path: str, text: str) -> bool:
        """See `Host`."""
        self._changes()
        request = RemoteRequest(verb="write", words=(thread_free(path),), data=text.encode())
        (reply,) = self.session.ask(request)
        return not reply.status

    def exists(self, path: str) -> bool:
        """See `Host`."""
        return self._begin().reads.exists(thread_free(path))

    def fingerprint(self, path: str) -> str | None:
        """See `Host`."""
        return self._begin().reads.fingerprint(path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        """See `Host`."""
        return self._begin().reads.glob(pattern)

    def holding(self, word: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """See `Host`."""
        self._begin()
        (found,) = self.session.ask(RemoteRequest(verb="holding", words=(word, *patterns)))
        return tuple(found.text.splitlines())

    def expect(self, **expected: Unpack[Expected]) -> None:
        """See `Host`."""
        self._begin().reads.expect(**expected)

    def module(self, name: str) -> ModuleType | None:  # noqa: ARG002 (the protocol's)
        """See `Host`. No Python is asked for there."""
        return None

    def user_site(self) -> str | None:
        """See `Host`."""
        return None

    def is_here(self) -> bool:
        """See `Host`."""
        return False

    def may_change_network(self) -> bool:
        """See `Host`."""
        held = capabilities(self.read("/proc/self/status") or "")
        return held is None or Capability.CAP_NET_ADMIN in held

    # the kernel

    def byte_order(self) -> Literal["little", "big"]:
        """See `Host`."""
        return self._begin().greeting.byte_order

    def namespace(self) -> str | None:
        """See `Host`. The number of the namespace's file, if no program there reads its cookie."""
        found = self._begin().greeting
        return f"{found.boot}/{found.cookie or f'net:{found.network}'}" if found.boot else None

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        """See `Host`. Through perl there, if it has one: no other common program speaks netlink."""
        return self._begin().reads.netlink(protocol, request)

    def speaks_netlink(self) -> bool:
        """See `Host`. Messages are in the byte order of the host, and only in this one they are read."""
        return self.which("perl") is not None and self.byte_order() == sys.byteorder

    def subscribe(self, protocol: int, groups: Iterable[int], words: Words) -> Reports | None:  # noqa: ARG002
        """See `Host`. Nothing is reported over ssh."""
        return None

    @contextmanager
    def kept(self, name: str, make: Callable[[], T]) -> Iterator[T]:  # noqa: ARG002 (the protocol's)
        """See `Host`. Nothing is kept."""
        yield make()

    # locks and state

    @contextmanager
    def lock(self, name: str, *, patience: float = 0.0) -> Iterator[None]:
        """See `Host`. It ends with the session, and with what that runs, however they end."""
        begun = self._begin()
        with begun.locks.hold(name, patience, self.sleep) as reply:
            self._clock = clock(reply.text, self.destination)
            begun.reads.expire()
            yield

    def is_locked(self, name: str) -> bool:
        """See `Host`."""
        return self._begin().locks.is_held(name)

    def task(self) -> int:
        """See `Host`. The shell of the session."""
        return self._begin().greeting.pid

    def socket_path(self, name: str) -> Path:  # noqa: ARG002 (the protocol's)
        """See `Host`. No socket of that host is reached from here: a path that never exists."""
        return Path("/dev/null/lbctl.sock")

    def recall(self, name: str) -> str | None:
        """See `Host`."""
        return self._begin().state.recall(name)

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`. Nothing waits for it."""
        self._begin().state.remember(name, text)

    def save(self, name: str, text: str | None) -> None:
        """See `Host`."""
        self._begin().state.save(name, text)

    def append(self, name: str, text: str) -> None:
        """See `Host`."""
        self._begin().state.append(name, text)

    def rename(self, name: str, new: str) -> None:
        """See `Host`."""
        self._begin().state.rename(name, new)

    def saved(self, name: str) -> str | None:
        """See `Host`."""
        return self._begin().state.saved(name)

    def saved_names(self) -> tuple[str, ...]:
        """See `Host`."""
        return self._begin().state.saved_names()

    # time and people

    def now(self) -> float:
        """See `Host`. By that host's clock, read with each lock."""
        found = self._clock or self._begin().greeting.clock
        return found.now + found.elapsed()

    def clock(self) -> float:
        """See `Host`. By that host's clock, read with each lock."""
        found = self._clock or self._begin().greeting.clock
        return found.uptime + found.elapsed()

    def ticks(self) -> tuple[float, int]:
        """See `Host`."""
        reads = self._begin().reads
        reads.forget("/proc/timer_list")
        text = reads.read("/proc/timer_list") or ""
        ticks, now = re.search(r"jiffies: (\d+)", text), re.search(r"now at (\d+) nsecs", text)
        if ticks is None or now is None:
            return 0.0, _TICKS[0]
        gone, seconds = int(ticks[1]) - (1 << 32), int(now[1]) / 1e9
        return float(ticks[1]), min(_TICKS, key=lambda each: abs(gone - (seconds - _FIRST_OVERFLOW) * each))

    def user(self) -> str:
        """See `Host`. The person here: there it may be root for everybody."""
        return person()

    def sleep(self, seconds: float) -> None:
        """See `Host`. What was read before is read again."""
        time.sleep(seconds)
        begun = self._begin()
        for part in (begun.reads, begun.state, begun.locks):
            part.expire()

    def detach(self, argv: Sequence[str]) -> None:
        """See `Host`. Nothing of lbctl is there to be started."""
        raise ApplyFailed(f"{argv[0]} cannot be started in the background on {self.destination}")

    def stand_by(self, orders: Orders) -> None:
        """See `Host`. A script there waits, in a session of its own."""
        self._begin().state.stand_by(orders)

    def postpone(self, ident: str, guard: str, deadline: float) -> None:
        """See `Host`."""
        self._begin().state.postpone(ident, guard, deadline)
