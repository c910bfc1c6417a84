"""A host in memory, for tests of what a real host seldom shows.

It is public, so that the author of a backend can test against it too:

    host = FakeHost(programs=("nft",), files={"/proc/modules": "nf_tables 1 0 - Live 0x0\\n"})
    host.answer("nft", "--version", out="nftables v1.0.6 (Lester Gooch #5)")
    host.fail_write(2, err="Error: No space left on device")
    ...
    assert [each.argv[0] for each in host.ran] == ["nft"]

A *write* is a run that is handed a text on standard input, be it to load or to check it. What nobody
announced is an error of the test, never an empty answer.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lbctl.errors import ApplyFailed, Stale
from lbctl.host.host import Completed
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType
    from typing import Literal

    from lbctl.host.orders import Orders
    from lbctl.host.reports import Reports, Words

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One program that was run."""

    argv: tuple[str, ...]
    stdin: str

    @property
    def program(self) -> str:
        """The program's name without its folder."""
        return self.argv[0].rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    words: tuple[str, ...]
    reply: Callable[[Ran], Completed]

    def fits(self, ran: Ran) -> bool:
        program, *options = self.words
        return ran.program == program and set(options) <= set(ran.argv[1:])


class FakeHost:
    """A `lbctl.host.Host` that does nothing and tells what was asked of it."""

    def __init__(
        self,
        *,
        programs: Iterable[str] = (),
        files: Mapping[str, str] | None = None,
        modules: Mapping[str, ModuleType] | None = None,
        privileged: bool = True,
    ) -> None:
        self.programs = set(programs)
        self.files = dict(files or {})
        self.modules = dict(modules or {})
        self.privileged = privileged
        #: What `is_here` answers.
        self.here = True
        #: Everything that was run, first to last.
        self.ran: list[Ran] = []
        #: What was handed to kernel files, first to last.
        self.written: list[tuple[str, str]] = []
        #: The names of locks that somebody else holds, and of those that lbctl held.
        self.busy: set[str] = set()
        self.locked: list[str] = []
        #: What is remembered. Nothing is believed of it until `asked` says what the kernel answers.
        self.memory: dict[str, str] = {}
        #: What is saved, and why nothing more can be, where that is so.
        self.shelf: dict[str, str] = {}
        self.no_room: str | None = None
        #: What `user_site` answers.
        self.packages: str | None = None
        #: The seconds that `now` and `clock` tell; sleeping moves both on.
        self.time = 0.0
        self.uptime = 0.0
        #: What happens while somebody sleeps, once `uptime` is as far.
        self.events: list[tuple[float, Callable[[], object]]] = []
        #: What was detached, and what then happens.
        self.detached: list[tuple[str, ...]] = []
        self.on_detach: Callable[[], object] = lambda: None
        #: The programs that a host without lbctl was given to run by itself.
        self.orders: list[Orders] = []
        self.asked: Callable[[int, bytes], bytes | None] = lambda *_: None
        #: What `subscribe` returns.
        self.reports: Reports | None = None
        self._answers: list[_Answer] = []
        self._failures: dict[int, Completed] = {}

    @property
    def writes(self) -> list[Ran]:
        """The runs that were handed a text."""
        return [ran for ran in self.ran if ran.stdin]

    def answer(self, *words: str, out: str = "", err: str = "", code: int = 0) -> None:
        """Say how a program ends whose name is the first of `words` and whose arguments hold the others.

        Of several announcements that fit a run, the last one counts.
        """
        completed = Completed(code=code, out=out, err=err)
        self.answer_with(lambda _: completed, *words)

    def answer_with(self, reply: Callable[[Ran], Completed], *words: str) -> None:
        """As `answer`, for answers that depend on the run or on what ran before it."""
        self.programs.add(words[0])
        self._answers.insert(0, _Answer(words=words, reply=reply))

    def fail_write(self, number: int, *, err: str, code: int = 1) -> None:
        """Have the write with that number, counted from 1, fail."""
        self._failures[number] = Completed(code=code, out="", err=err)

    def which(self, program: str) -> str | None:
        """See `Host`."""
        return f"/usr/sbin/{program}" if program in self.programs else None

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """See `Host`."""
        ran = Ran(argv=tuple(argv), stdin=stdin)
        self.ran.append(ran)
        if stdin and len(self.writes) in self._failures:
            return self._failures[len(self.writes)]
        for answer in self._answers:
            if answer.fits(ran):
                return answer.reply(ran)
        raise LookupError(f"no answer was announced for: {' '.join(argv)}")

    def listing(self, argv: Sequence[str]) -> Completed:
        """See `Host`."""
        return self.run(argv)

    def read(self, path: str) -> str | None:
        """See `Host`."""
        return self.files.get(path)

    def write(self, path: str, text: str) -> bool:
        """See `Host`. What is written is kept in `written`; a file that is not there takes nothing."""
        if path in self.files:
            self.written.append((path, text))
        return path in self.files

    def exists(self, path: str) -> bool:
        """See `Host`."""
        return self.read(path) is not None

    def fingerprint(self, path: str) -> str | None:
        """See `Host`. A program is there as its path; its content never changes."""
        there = path in self.files or path.rpartition("/")[2] in self.programs
        return path if there else None

    def glob(self, pattern: str) -> tuple[str, ...]:
        """See `Host`."""
        return tuple(sorted(path for path in self.files if fnmatch(path, pattern)))

    def holding(self, word: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """See `Host`."""
        paths = (path for pattern in patterns for path in self.glob(pattern))
        return tuple(path for path in paths if word in self.files[path])

    def module(self, name: str) -> ModuleType | None:
        """See `Host`."""
        return self.modules.get(name)

    def is_here(self) -> bool:
        """See `Host`."""
        return self.here

    def may_change_network(self) -> bool:
        """See `Host`."""
        return self.privileged

    @contextmanager
    def lock(self, name: str, *, patience: float = 0.0) -> Iterator[None]:  # noqa: ARG002 (the protocol's)
        """See `Host`. Who holds a lock here never lets go."""
        if name in self.busy:
            raise Stale("another lbctl (process 1) is changing this network namespace")
        self.locked.append(name)
        self.busy.add(name)
        try:
            yield
        finally:
            self.busy.remove(name)

    def is_locked(self, name: str) -> bool:
        """See `Host`."""
        return name in self.busy

    def task(self) -> int:
        """See `Host`."""
        return 1

    def socket_path(self, name: str) -> Path:
        """See `Host`. Nobody listens there."""
        return Path("/run/lbctl", f"{name}.sock")

    def namespace(self) -> str | None:
        """See `Host`."""
        return "fake"

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        """See `Host`."""
        return self.asked(protocol, request)

    def subscribe(self, protocol: int, groups: Iterable[int], words: Words) -> Reports | None:  # noqa: ARG002
        """See `Host`."""
        return self.reports

    def speaks_netlink(self) -> bool:
        """See `Host`."""
        return True

    def byte_order(self) -> Literal["little", "big"]:
        """See `Host`."""
        return sys.byteorder

    def expect(self, **_: object) -> None:
        """See `Host`. Nothing is asked before it is asked for."""

    @contextmanager
    def kept(self, name: str, make: Callable[[], T]) -> Iterator[T]:  # noqa: ARG002 (the protocol's)
        """See `Host`. Nothing is kept."""
        yield make()

    def recall(self, name: str) -> str | None:
        """See `Host`."""
        return self.memory.get(name)

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`."""
        self.memory.pop(name, None)
        if text is not None:
            self.memory[name] = text

    def save(self, name: str, text: str | None) -> None:
        """See `Host`."""
        if self.no_room is not None and text is not None:
            raise ApplyFailed(f"cannot write {name}: {self.no_room}")
        self.shelf.pop(name, None)
        if text is not None:
            self.shelf[name] = text

    def append(self, name: str, text: str) -> None:
        """See `Host`."""
        self.save(name, (self.saved(name) or "") + text)

    def rename(self, name: str, new: str) -> None:
        """See `Host`."""
        self.shelf[new] = self.shelf.pop(name)

    def saved(self, name: str) -> str | None:
        """See `Host`."""
        return self.shelf.get(name)

    def saved_names(self) -> tuple[str, ...]:
        """See `Host`."""
        return tuple(sorted(self.shelf))

    def user_site(self) -> str | None:
        """See `Host`."""
        return self.packages

    def now(self) -> float:
        """See `Host`."""
        return self.time

    def user(self) -> str:
        """See `Host`."""
        return "tester"

    def clock(self) -> float:
        """See `Host`."""
        return self.uptime

    def ticks(self) -> tuple[float, int]:
        """See `Host`."""
        return self.uptime * 100, 100

    def sleep(self, seconds: float) -> None:
        """See `Host`. Takes no time."""
        self.time += seconds
        self.uptime += seconds
        due = [event for event in self.events if event[0] <= self.uptime]
        self.events = [event for event in self.events if event not in due]
        for _, happen in due:
            happen()

    def detach(self, argv: Sequence[str]) -> None:
        """See `Host`."""
        self.detached.append(tuple(argv))
        self.on_detach()

    def stand_by(self, orders: Orders) -> None:
        """See `Host`."""
        self.orders.append(orders)

    def postpone(self, ident: str, guard: str, deadline: float) -> None:
        """See `Host`."""
        self.orders[-1] = replace(self.orders[-1], ident=ident, guard=guard, deadline=deadline)
