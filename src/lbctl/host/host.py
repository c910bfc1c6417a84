"""The seam to the outside: all that lbctl does to or learns from a host passes through `Host`.

Tests put a `FakeHost` here to see faults that a real host seldom shows.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, TypeVar

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import ModuleType
    from typing import Unpack

    from lbctl.host.orders import Orders
    from lbctl.host.reports import Reports, Words

T = TypeVar("T")
#: Names for `Host.remember` that begin with it are for what is known of a tool, and not of the network.
TOOL = "tool."


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a program ended."""

    code: int
    out: str
    err: str

    @property
    def ended_by(self) -> str | None:
        """The signal that ended it, e.g. "signal 11 (SIGSEGV)"; None if it ended by itself.

        A shell that ran the program reports 128 and the signal; no tool of ours ends so by itself.
        """
        number = -self.code if self.code < 0 else self.code - 128
        if number <= 0:
            return None
        known = {int(each): each.name for each in signal.Signals}
        return f"signal {number} ({known[number]})" if number in known else f"signal {number}"


class Expected(TypedDict, total=False):
    """What of a host is asked next, each field by the method of that name."""

    reads: Iterable[str]
    globs: Iterable[str]
    #: Paths, or patterns as of `glob`.
    fingerprints: Iterable[str]
    #: Programs that change nothing; each is run anew.
    runs: Iterable[Sequence[str]]
    listings: Iterable[Sequence[str]]
    #: The protocol and the requests, which take the place of earlier ones; without any, no answer is kept.
    netlink: tuple[int, Sequence[bytes]]


class Host(Protocol):
    """What lbctl needs of the machine that it runs on."""

    def which(self, program: str) -> str | None:
        """Return the path of `program` in PATH, or None."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """Run a program to its end, without a shell and in the C locale.

        Raises `ApplyFailed` for one that does not start, e.g. without a free descriptor: nothing was done.
        """

    def listing(self, argv: Sequence[str]) -> Completed:
        """As `run`, for a program that changes nothing and takes no input.

        What it prints may be as old as the last change that was made through this object.
        """

    def read(self, path: str) -> str | None:
        """Return the text of a (kernel) file, or None where it cannot be read."""

    def write(self, path: str, text: str) -> bool:
        """Hand a text to a kernel file, in one write; False where it is not taken."""

    def exists(self, path: str) -> bool:
        """Return True if there is a file, be it readable or not."""

    def fingerprint(self, path: str) -> str | None:
        """Return what tells the file at `path` from any that replaces it, links followed.

        None if there is none.
        """

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Return the paths of the files that a pattern with `*` and `?` in names fits, in order."""

    def holding(self, word: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """Return the paths of the files that fit one of some patterns, and whose text has a word in it."""

    def module(self, name: str) -> ModuleType | None:
        """Return a Python module that the distribution may have installed, or None."""

    def is_here(self) -> bool:
        """Return True if this process runs on the host: its own Python, and what that imports, is there."""

    def may_change_network(self) -> bool:
        """Return True if this process, or the session on another host, holds CAP_NET_ADMIN."""

    def lock(self, name: str, *, patience: float = 0.0) -> AbstractContextManager[None]:
        """Hold the lock `name` of this network namespace.

        Raises `Stale` with who holds it where somebody else does, and still does `patience` seconds later.
        """

    def is_locked(self, name: str) -> bool:
        """Return True while a process holds `lock(name)`, this one included."""

    def task(self) -> int:
        """Return the number of a task of the host, in its /proc, that lives as long as this work."""

    def socket_path(self, name: str) -> Path:
        """Return where the unix socket `name` of this network namespace is; its directory may be missing."""

    def namespace(self) -> str | None:
        """Return what names this network namespace and no other, before or after.

        None where the kernel is older.
        """

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        """Return the kernel's answer to netlink messages that have one each; None where it cannot be asked.

        Answers stand behind one another, and so do all parts of a dump.
        """

    def subscribe(self, protocol: int, groups: Iterable[int], words: Words) -> Reports | None:
        """Return the netlink messages that the kernel sends to groups from now on, filtered by `words`.

        None if the kernel has no such groups.
        """

    def speaks_netlink(self) -> bool:
        """Return True if `netlink` reaches that host's kernel."""

    def byte_order(self) -> Literal["little", "big"]:
        """Return how that host's kernel writes integers."""

    def expect(self, **expected: Unpack[Expected]) -> None:
        """Take note of what is asked next, one by one: a host that is far away is asked for it in one go."""

    def kept(self, name: str, make: Callable[[], T]) -> AbstractContextManager[T]:
        """What `make` makes, kept under `name` for the next time; where the work with it raises, it is not.

        For what holds a netlink socket: closing one waits until the kernel has put away what a transaction
        took out, which takes longer than all else that a small change does. A socket belongs to the network
        namespace that it was made in, so another one, another thread and a forked process get their own.
        """

    def recall(self, name: str) -> str | None:
        """Return what was last remembered of this network namespace under `name`; None where nothing was."""

    def remember(self, name: str, text: str | None) -> None:
        """Keep `text` for `recall` until this host starts again at most, None for nothing.

        Best effort: where it cannot be kept, nothing is, and that is no error.
        """

    def save(self, name: str, text: str | None) -> None:
        """Keep `text` under `name` for this network namespace, None for no longer; for root alone.

        What is saved for the host's own namespace outlives its restarts. Raises `ApplyFailed`, and what was
        saved before is still there.
        """

    def append(self, name: str, text: str) -> None:
        """Add `text` to what is saved under `name`; it may be lost where the host crashes.

        Raises `ApplyFailed`, and a part of the text may be saved.
        """

    def rename(self, name: str, new: str) -> None:
        """Have what is saved under `name` be saved under `new`, in one step that takes no room.

        Raises `ApplyFailed`, and what was saved is still there under `name`.
        """

    def saved(self, name: str) -> str | None:
        """Return what was saved under `name`.

        None where nothing was, or where others could have written it.
        """

    def saved_names(self) -> tuple[str, ...]:
        """Return the names under which something is saved, in order.

        As all that reads or writes what is saved, raises `PermissionDenied` where another user could have
        written it.
        """

    def user_site(self) -> str | None:
        """Return the directory of a user's own packages that this Python imports as root.

        None if it does not.
        """

    def now(self) -> float:
        """Seconds since 1970."""

    def user(self) -> str:
        """Return the person behind this process, as far as it is known."""

    def clock(self) -> float:
        """Seconds since this host started, asleep or not: this clock cannot be set."""

    def ticks(self) -> tuple[float, int]:
        """The kernel's tick of now, as its files tell it on a machine of 64 bits, and ticks of a second."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def detach(self, argv: Sequence[str]) -> None:
        """Start a program that outlives this process, its shell and its terminal; it says nothing.

        It is in this network namespace, and has the same state. Raises `ApplyFailed`, as for a host where
        lbctl is not (`is_here`).
        """

    def stand_by(self, orders: Orders) -> None:
        """Have a host where lbctl is not carry out orders by itself when their time comes.

        Returns when it stands by. Raises `ApplyFailed`.
        """

    def postpone(self, ident: str, guard: str, deadline: float) -> None:
        """Have orders of that name carried out at another time, on `clock`. Raises `ApplyFailed`."""
