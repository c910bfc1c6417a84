"""The host that this process runs on."""

from __future__ import annotations

import fcntl
import glob
import importlib
import os
import pwd
import shutil
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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from lbctl.errors import ApplyFailed, PermissionDenied, Stale
from lbctl.host.capabilities import Capability, capabilities
from lbctl.host.host import Completed
from lbctl.host.persons import holder_name
from lbctl.host.reports import subscribe
from lbctl.host.state import StateDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType
    from typing import Unpack

    from lbctl.host.host import Expected
    from lbctl.host.orders import Orders
    from lbctl.host.reports import Reports, Words

T = TypeVar("T")
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
