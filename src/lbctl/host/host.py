"""The seam to the outside: all that lbctl does to or learns from a host passes through `Host`.

Tests put a `FakeHost` here to see faults that a real host seldom shows.
"""

from __future__ import annotations

import fcntl
import glob
import importlib
import os
import pwd
import shutil
import signal
import site
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypedDict, TypeVar

from lbctl.errors import ApplyFailed, PermissionDenied, Stale
from lbctl.host.capabilities import Capability, capabilities
from lbctl.host.persons import holder_name
from lbctl.host.reports import subscribe
from lbctl.host.state import StateDir
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import ModuleType
    from typing import Unpack

    from lbctl.host.orders import Orders
    from lbctl.host.reports import Reports, Words

T = TypeVar("T")
#: Names for `Host.remember` that begin with it are for what is known of a tool, and not of the network.
TOOL = "tool."
_SO_NETNS_COOKIE = 71
_NETLINK_SECONDS = 5.0
#: More than the kernel sends at once.
_NETLINK_PART = 1 << 16
#: struct nlmsghdr of linux/netlink.h: length, type, flags; NLM_F_MULTI and NLMSG_DONE.
_NETLINK_HEADER = struct.Struct("=IHH8x")
_NETLINK_MULTI, _NETLINK_DONE = 0x2, 3
_CLOCK_MONOTONIC_COARSE = 6
#: INITIAL_JIFFIES of linux/jiffies.h: ticks begin so many seconds before they would fill 32 bits.
_FIRST_OVERFLOW = 300
#: Bytes that name the process that holds a lock.
_HOLDER = 16
_LOCK_PAUSE = 0.02


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


class _Netlink(socket.socket):
    """A netlink socket that is closed with its last user, without Python's warning about it."""

    def __del__(self) -> None:
        self.close()


class _ThreadCache(threading.local):
    """What one thread keeps, and the process and network namespace that it is for."""

    def __init__(self) -> None:
        self.place = (0, 0)
        self.things: dict[str, Any] = {}


class _Held(threading.local):
    """The files of the locks that one thread holds."""

    def __init__(self) -> None:
        self.handles: list[int] = []


class LocalHost:
    """This host, and the network namespace that this process is in."""

    #: What programs find in their environment, whatever ours holds.
    environment: ClassVar[Mapping[str, str]] = {"LC_ALL": "C"}

    def __init__(self, state_dir: Path | None = None) -> None:
        override = state_dir or os.environ.get("LBCTL_STATE_DIR") or None
        base = Path(override).absolute() if override else None
        self._run = StateDir(base / "run" if base else Path("/run/lbctl"), 0o755)
        self._lib = StateDir(base / "lib" if base else Path("/var/lib/lbctl"), 0o700)
        self._kept = _ThreadCache()
        self._held = _Held()
        #: What leads another lbctl to the same state.
        self._state = {"LBCTL_STATE_DIR": str(base)} if base else {}

    def which(self, program: str) -> str | None:
        """See `Host`."""
        return shutil.which(program)

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """See `Host`. Undecodable bytes survive a round trip (surrogateescape).

        A program holds our locks too: should we be killed, the next lbctl waits for what it still does.
        """
        try:
            done = self._completed(argv, stdin)
        except OSError as error:
            raise ApplyFailed(f"{argv[0]} does not start: {error.strerror}") from error
        return Completed(
            code=done.returncode,
            out=done.stdout.decode("utf-8", "surrogateescape"),
            err=done.stderr.decode("utf-8", "surrogateescape"),
        )

    def _completed(self, argv: Sequence[str], stdin: str) -> subprocess.CompletedProcess[bytes]:
        # A pipe takes a few KB at a time, which is a sixth of what it costs to load a long script.
        with os.fdopen(os.memfd_create("stdin"), "w+b") as file:
            file.write(stdin.encode("utf-8", "surrogateescape"))
            file.seek(0)
            return subprocess.run(
                argv,
                stdin=file,
                capture_output=True,
                check=False,
                env={**os.environ, **self.environment},
                pass_fds=self._held.handles,
            )

    def listing(self, argv: Sequence[str]) -> Completed:
        """See `Host`."""
        return self.run(argv)

    def read(self, path: str) -> str | None:
        """See `Host`."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None

    def write(self, path: str, text: str) -> bool:
        """See `Host`."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                return os.write(handle, text.encode()) == len(text)
            finally:
                os.close(handle)
        except OSError:
            return False

    def exists(self, path: str) -> bool:
        """See `Host`."""
        return Path(path).exists()

    def fingerprint(self, path: str) -> str | None:
        """See `Host`. Not the content: the file that counts is the one that is executed next."""
        try:
            real = Path(path).resolve(strict=True)
            about = real.stat()
        except (OSError, RuntimeError):
            return None
        return f"{real}:{about.st_dev}:{about.st_ino}:{about.st_size}:{about.st_mtime_ns}"

    def glob(self, pattern: str) -> tuple[str, ...]:
        """See `Host`."""
        return tuple(sorted(glob.glob(pattern)))  # noqa: PTH207 (a pattern that begins at the root)

    def holding(self, word: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """See `Host`."""
        paths = (path for pattern in patterns for path in self.glob(pattern))
        return tuple(path for path in paths if word in (self.read(path) or ""))

    def module(self, name: str) -> ModuleType | None:
        """See `Host`. A module that is there but broken counts as missing."""
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            return None

    def is_here(self) -> bool:
        """See `Host`."""
        return True

    def may_change_network(self) -> bool:
        """See `Host`. Read from the kernel: a container's root often lacks the capability."""
        held = capabilities(self.read("/proc/thread-self/status") or "")
        return os.geteuid() == 0 if held is None else Capability.CAP_NET_ADMIN in held

    @contextmanager
    def lock(self, name: str, *, patience: float = 0.0) -> Iterator[None]:
        """See `Host`. The file stays; the lock ends with this process and what it runs, however they end."""
        handle = self._run.open_lock(_file(name, "lock"))
        try:
            until = time.monotonic() + patience
            while not _locked(handle):
                if time.monotonic() >= until:
                    raise Stale(
                        f"another lbctl ({self._holder(handle)}) is changing this network namespace",
                        hint="--wait 30s waits for it to end",
                    )
                time.sleep(_LOCK_PAUSE)
            # Always as wide: a disk takes milliseconds to cut a file, and none to write over a line.
            with suppress(OSError):  # a full disk prevents no lock
                os.pwrite(handle, f"{os.getpid():<{_HOLDER - 1}}\n".encode(), 0)
            self._held.handles.append(handle)
            try:
                yield
            finally:
                self._held.handles.remove(handle)
        finally:
            os.close(handle)

    def is_locked(self, name: str) -> bool:
        """See `Host`. Where nothing was ever locked, nothing is made."""
        handle = self._run.open_existing(_file(name, "lock"))
        if handle is None:
            return False
        try:
            return not _locked(handle)
        finally:
            os.close(handle)

    def task(self) -> int:
        """See `Host`. The calling thread."""
        return threading.get_native_id()

    def socket_path(self, name: str) -> Path:
        """See `Host`."""
        return self._run.path / (f"{name}.sock" if _is_first_network() else _file(name, "sock"))

    def _holder(self, handle: int) -> str:
        try:
            number = os.pread(handle, _HOLDER, 0).decode("ascii", "replace").strip()
        except IsADirectoryError:
            number = ""
        command = self.read(f"/proc/{number}/cmdline") if number.isdecimal() else None
        return holder_name(number, (command or "").replace("\0", " "))

    def namespace(self) -> str | None:
        """See `Host`. The cookie is of Linux 5.12, and counts from the start of the host."""
        boot = self._boot
        try:
            with socket.socket(socket.AF_UNIX) as any_socket:
                cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return None
        return f"{boot}/{int.from_bytes(cookie, sys.byteorder)}" if boot else None

    @cached_property
    def _boot(self) -> str:
        """The name of this start of the host; "" if it is unknown."""
        return (self.read("/proc/sys/kernel/random/boot_id") or "").strip()

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        """See `Host`."""

        def opened() -> _Netlink:
            kernel = _Netlink(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            kernel.settimeout(_NETLINK_SECONDS)
            return kernel

        try:
            with self.kept(f"netlink {protocol}", opened) as kernel:
                kernel.send(request)
                left, parts = _ends(request), []
                while left > 0:
                    parts.append(kernel.recv(_NETLINK_PART))
                    left -= _ends(parts[-1])
                return b"".join(parts)
        except OSError:
            return None

    def subscribe(self, protocol: int, groups: Iterable[int], words: Words) -> Reports | None:
        """See `Host`."""
        return subscribe(protocol, groups, words)

    def speaks_netlink(self) -> bool:
        """See `Host`."""
        return True

    def byte_order(self) -> Literal["little", "big"]:
        """See `Host`."""
        return sys.byteorder

    def expect(self, **expected: Unpack[Expected]) -> None:
        """See `Host`. Nothing is far away."""

    @contextmanager
    def kept(self, name: str, make: Callable[[], T]) -> Iterator[T]:
        """See `Host`."""
        place = (os.getpid(), _network())
        if self._kept.place != place:
            self._kept.place, self._kept.things = place, {}
        things = self._kept.things
        # Not there while it is in use: work inside the work has its own.
        thing = things.pop(name) if name in things else make()
        yield thing
        things[name] = thing

    def recall(self, name: str) -> str | None:
        """See `Host`. What another user may have written is not believed."""
        try:
            return self._run.read(_file(name, "known"))
        except PermissionDenied:
            return None

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`."""
        with suppress(ApplyFailed, PermissionDenied):
            # Before the new text: should that fail, nothing is remembered rather than what is over.
            self._run.remove(_file(name, "known"))
            if text is not None:
                self._run.write(_file(name, "known"), text, durable=False)

    def save(self, name: str, text: str | None) -> None:
        """See `Host`."""
        if text is None:
            self._shelf().remove(name)
        else:
            self._shelf().write(name, text)

    def append(self, name: str, text: str) -> None:
        """See `Host`."""
        self._shelf().append(name, text)

    def rename(self, name: str, new: str) -> None:
        """See `Host`."""
        self._shelf().rename(name, new)

    def saved(self, name: str) -> str | None:
        """See `Host`."""
        return self._shelf().read(name)

    def saved_names(self) -> tuple[str, ...]:
        """See `Host`."""
        return self._shelf().names()

    def user_site(self) -> str | None:
        """See `Host`. `python -s` turns it off."""
        return site.getusersitepackages() if site.ENABLE_USER_SITE and os.geteuid() == 0 else None

    def now(self) -> float:
        """See `Host`."""
        return time.time()

    def user(self) -> str:
        """See `Host`."""
        try:
            own = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            own = str(os.getuid())
        return (os.environ.get("SUDO_USER") if os.getuid() == 0 else None) or own

    def clock(self) -> float:
        """See `Host`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def ticks(self) -> tuple[float, int]:
        """See `Host`. The coarse clock moves once a tick; the count is to overflow soon after the start."""
        second = round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))
        return (1 << 32) + (time.monotonic() - _FIRST_OVERFLOW) * second, second

    def sleep(self, seconds: float) -> None:
        """See `Host`."""
        time.sleep(seconds)

    def detach(self, argv: Sequence[str]) -> None:
        """See `Host`. Where systemd runs the host, it ends what a session started; it does not end units."""
        path = self.which("systemd-run") if self.exists("/run/systemd/system") else None
        if path is not None and not self.run([*_as_unit(path, self._state), *argv]).code:
            return
        try:
            # The shell goes at once and leaves an orphan in a session without a terminal, deaf to its end.
            subprocess.run(
                ["/bin/sh", "-c", 'trap "" HUP; "$@" &', "sh", *argv],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, **self._state},
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise ApplyFailed(f"cannot start {argv[0]}: {error}") from error

    def stand_by(self, orders: Orders) -> None:
        """See `Host`."""
        raise ApplyFailed(f"lbctl itself waits on this host, for {orders.guard}")

    def postpone(self, ident: str, guard: str, deadline: float) -> None:  # noqa: ARG002 (the protocol's)
        """See `Host`."""
        raise ApplyFailed(f"lbctl itself waits on this host, for {guard}")

    def _shelf(self) -> StateDir:
        """Where this network namespace's things are saved: one that is not the host's own dies before it."""
        if _is_first_network():
            return self._lib
        mark = (self.namespace() or str(_network())).replace("/", "-")
        return StateDir(self._run.path / f"network-{mark}", 0o700)


def _file(name: str, kind: str) -> str:
    """Return the name of a file about this network namespace. Two on one host are two kernels to us."""
    return f"{name}.{_network()}.{kind}"


def _ends(messages: bytes) -> int:
    """Return how many requests, or ends of answers, are among netlink messages."""
    place = count = 0
    while place + _NETLINK_HEADER.size <= len(messages):
        length, kind, flags = _NETLINK_HEADER.unpack_from(messages, place)
        count += not flags & _NETLINK_MULTI or kind == _NETLINK_DONE
        place += max((length + 3) & ~3, _NETLINK_HEADER.size)
    return count


def _as_unit(systemd_run: str, environment: Mapping[str, str]) -> list[str]:
    """Return the words before a program that have systemd run it as a unit, in this network namespace."""
    kept = {"PATH": os.environ.get("PATH", os.defpath), **environment}
    # Only this names the place to which lbctl.pyz unpacked the packages that the program needs.
    if path := os.environ.get("PYTHONPATH"):
        kept["PYTHONPATH"] = path
    words = [systemd_run, "--quiet", "--collect", *(f"--setenv={k}={v}" for k, v in kept.items())]
    if not _is_first_network():
        here = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        words.append(f"--property=NetworkNamespacePath={here}")
    return [*words, "--"]


def _is_first_network() -> bool:
    """Return True in the network namespace of process 1: of the host, or of the container, itself.

    Only who may trace process 1 sees its /proc/1/ns. But everyone may look into /proc/1/net, and its files
    have numbers of their own in each network namespace (proc_create_net of the kernel makes them anew). Where
    process 1 is hidden altogether, no namespace is taken for the first: state must never be shared.
    """
    try:
        return os.stat("/proc/1/net/dev").st_ino == os.stat("/proc/thread-self/net/dev").st_ino  # noqa: PTH116
    except OSError:
        return False


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _network() -> int:
    """Return the number of the network namespace that this thread is in, unique while that lives."""
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 (a magic link, not a path)
