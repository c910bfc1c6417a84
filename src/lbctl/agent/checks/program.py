"""Programs of the administrator: which may be run, and how.

A program is a regular file that root owns and no other user can write, and so is every directory above it. It
is opened once, checked, and run by that very descriptor, as a user other than root: no shell, no new
privileges, an environment of its own, a process group that is ended at the timeout, and at most 4 KiB of
output that are read.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import selectors
import signal
import stat
import subprocess
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from lbctl.agent.checks import outcomes
from lbctl.host.capabilities import Capability, capabilities
from lbctl.model import inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lbctl.agent.health import Outcome, Target
    from lbctl.model import ExecProbe

T = TypeVar("T")

#: Programs that run at once, and bytes of output that are read of each.
MOST, OUTPUT = 64, 4096
#: Symbolic links that are followed, as the kernel does.
_LINKS = 40
_NEEDED = frozenset({Capability.CAP_KILL, Capability.CAP_SETGID, Capability.CAP_SETUID})
_PR_SET_NO_NEW_PRIVS = 38
_WORDS = 80


class ProgramRefused(Exception):
    """A program is not run; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: its exit code, negative for a signal, None at the timeout; and what it printed."""

    code: int | None
    output: bytes


class Programs:
    """Runs programs, at most so many at once. All methods are for the loop's thread, and return at once."""

    def __init__(self, most: int = MOST) -> None:
        # A program inherits `no_new_privs` from its thread.
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="program", initializer=_no_new_privileges)
        #: A descriptor that can be read once all programs are to end. Threads that use it hold this object.
        self._ending = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._ending)

    def check(self, target: Target, probe: ExecProbe) -> asyncio.Future[Outcome]:
        """Run a program as a check."""
        return self._started(lambda: check(target, probe, self._ending))

    def run(
        self, argv: Sequence[str], user: str, environment: Mapping[str, str], timeout: float
    ) -> asyncio.Future[Ended]:
        """Run a program to its end, for at most `timeout` seconds; raises as `run`."""
        return self._started(lambda: run(argv, user, environment, timeout, self._ending))

    def close(self) -> None:
        """End all programs now, and start no more of them."""
        os.eventfd_write(self._ending, 1)
        self.finish()

    def finish(self) -> None:
        """Start no more programs; those that run go on until they end, or until their timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _started(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)


def check(target: Target, probe: ExecProbe, ending: int) -> Outcome:
    """Run a program as a check and return how it ended. To be called in a thread of `Programs`."""
    began = monotonic()
    service, endpoint, family = target.subject or ("", "", target.family)
    environment = {
        "LBCTL_SERVICE": service,
        "LBCTL_ENDPOINT": endpoint,
        "LBCTL_FAMILY": str(family),
        "LBCTL_ADDRESS": str(outcomes.address(target)),
        "LBCTL_PORT": str(target.port or ""),
    }
    try:
        ended = run(probe.argv, probe.user, environment, target.check.timeout / 1000, ending)
    except ProgramRefused as error:
        return outcomes.undecided(f"not run: {error}")
    except OSError as error:
        return outcomes.undecided(f"not run: {error.strerror}")
    seconds = monotonic() - began
    said = _first_line(ended.output)
    match ended.code:
        case None:
            return outcomes.of_timeout(seconds)
        case 0:
            return outcomes.passed(f"exit 0{said}", seconds)
        case code if code < 0:
            return outcomes.failed(f"ended by signal {-code}{said}", seconds)
        case code:
            return outcomes.failed(f"exit {code}{said}", seconds)


def run(argv: Sequence[str], user: str, environment: Mapping[str, str], timeout: float, ending: int) -> Ended:
    """Run a program to its end, for at most `timeout` seconds, and until the descriptor `ending` can be read.

    To be called in a thread of `Programs`. Raises `ProgramRefused`, and OSError where it cannot start.
    """
    _ensure_capable()
    account = _account(user)
    with opened(argv[0]) as program:
        started = subprocess.Popen(
            argv,
            executable=f"/proc/self/fd/{program}",
            pass_fds=(program,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=dict(environment),
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=(),
            umask=0o077,
            start_new_session=True,
        )
    with started:
        return _followed(started, monotonic() + timeout, ending)


def _followed(started: subprocess.Popen[bytes], deadline: float, ending: int) -> Ended:
    """Wait for a program, reading what it prints; its process group has ended when this returns."""
    output = bytearray()
    if started.stdout is None:
        raise ValueError("a program without a pipe")
    process = os.pidfd_open(started.pid)
    pipe = started.stdout.fileno()
    os.set_blocking(pipe, False)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process, selectors.EVENT_READ)
            selector.register(pipe, selectors.EVENT_READ)
            selector.register(ending, selectors.EVENT_READ)
            ended = stopped = False
            while not (ended or stopped) and (left := deadline - monotonic()) > 0:
                for key, _ in selector.select(left):
                    if key.fd == process:
                        ended = True
                    elif key.fd == ending:
                        stopped = True
                    elif not _drain(pipe, output):
                        selector.unregister(pipe)
        _drain(pipe, output)
    finally:
        # Before the leader is waited for: its number names the group until then.
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        os.close(process)
    code = started.wait()
    return Ended(code=code if ended else None, output=bytes(output))


def _drain(pipe: int, output: bytearray) -> bool:
    """Read what is there, and keep the first of it; False at the end."""
    try:
        data = os.read(pipe, OUTPUT)
    except BlockingIOError:
        return True
    output += data[: OUTPUT - len(output)]
    return bool(data)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Hold a descriptor of the program at an absolute path; raises `ProgramRefused` if it may not be run."""
    number = _descend(path)
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise ProgramRefused(f"{path} is not a regular file")
        _require_roots(found, path)
        if not found.st_mode & 0o111:
            raise ProgramRefused(f"{path} is not executable")
        yield number
    finally:
        os.close(number)


def _descend(path: str) -> int:
    """Return a descriptor of what is at `path`; each directory is checked by its own descriptor."""
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    left = [part for part in reversed(path.split("/")) if part]
    links = 0
    try:
        while left:
            _require_roots(os.fstat(here), f"a directory above {path}")
            part = left.pop()
            below = _open(part, here, path)
            if stat.S_ISLNK(os.fstat(below).st_mode):
                os.close(below)
                links += 1
                if links > _LINKS:
                    raise ProgramRefused(f"{path}: too many symbolic links")
                # The directory is root's alone: no other user can have changed the link since.
                aim = os.readlink(part, dir_fd=here)
                left += [step for step in reversed(aim.split("/")) if step]
                if aim.startswith("/"):
                    os.close(here)
                    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                continue
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def _open(part: str, here: int, path: str) -> int:
    try:
        return os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    except OSError as error:
        raise ProgramRefused(f"{path}: {(error.strerror or 'not found').lower()}") from None


def _require_roots(found: os.stat_result, what: str) -> None:
    if found.st_uid != 0:
        raise ProgramRefused(f"{what} does not belong to root")
    if found.st_mode & 0o022:
        raise ProgramRefused(f"{what} can be written by other users than root")


def _ensure_capable() -> None:
    """Raise `ProgramRefused` without the capabilities to run a program as another user and to end it."""
    held = capabilities(Path("/proc/thread-self/status").read_text())
    if held is not None and (missing := _NEEDED - held):
        names = ", ".join(sorted(each.name for each in missing))
        raise ProgramRefused(f"{names} missing: the unit needs lbctl-agent-exec.conf")


def _account(user: str) -> pwd.struct_passwd:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise ProgramRefused(f"there is no user {user}") from None
    if account.pw_uid == 0:
        raise ProgramRefused(f"user {user} is root")
    return account


def _no_new_privileges() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _first_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return f": {inert(lines[0])[:_WORDS]}" if lines else ""
