"""The seam to the outside: all that lbctl does to or learns from a host passes through `Host`.

Tests put a `FakeHost` here to see faults that a real host seldom shows.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lbctl.errors import ApplyFailed, PermissionDenied, Stale

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import ModuleType

CAP_NET_ADMIN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a program ended."""

    code: int
    out: str
    err: str


class Host(Protocol):
    """What lbctl needs of the machine that it runs on."""

    def which(self, program: str) -> str | None:
        """The path of `program` in PATH, or None."""

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """Run a program to its end, without a shell and in the C locale."""

    def read(self, path: str) -> str | None:
        """The text of a (kernel) file, or None where it cannot be read."""

    def exists(self, path: str) -> bool:
        """True where there is a file, be it readable or not."""

    def module(self, name: str) -> ModuleType | None:
        """A Python module that the distribution may have installed, or None."""

    def may_change_network(self) -> bool:
        """True where this process holds CAP_NET_ADMIN."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock `name` of this network namespace; raises `Stale` where somebody else does."""


class LocalHost:
    """This host, and the network namespace that this process is in."""

    def __init__(self, state_dir: Path | None = None) -> None:
        override = state_dir or os.environ.get("LBCTL_STATE_DIR") or None
        self._run_dir = Path(override) / "run" if override else Path("/run/lbctl")

    def which(self, program: str) -> str | None:
        """See `Host`."""
        return shutil.which(program)

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """See `Host`. Undecodable bytes survive a round trip (surrogateescape)."""
        done = subprocess.run(
            argv,
            input=stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        return Completed(
            code=done.returncode,
            out=done.stdout.decode("utf-8", "surrogateescape"),
            err=done.stderr.decode("utf-8", "surrogateescape"),
        )

    def read(self, path: str) -> str | None:
        """See `Host`."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """See `Host`."""
        return Path(path).exists()

    def module(self, name: str) -> ModuleType | None:
        """See `Host`. A module that is there but broken counts as missing."""
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            return None

    def may_change_network(self) -> bool:
        """See `Host`. Read from the kernel: a container's root often lacks the capability."""
        for line in (self.read("/proc/thread-self/status") or "").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
        return os.geteuid() == 0

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """See `Host`. The file stays; the lock ends with the process, however that ends."""
        # Two namespaces on one host are two kernels to us: they may be changed at the same time.
        namespace = os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 (a magic link, not a path)
        path = self._run_dir / f"{name}.{namespace}.lock"
        try:
            self._run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            kind = PermissionDenied if isinstance(error, PermissionError) else ApplyFailed
            raise kind(
                f"cannot open the lock {path}: {error.strerror}",
                hint="run as root, or set LBCTL_STATE_DIR to a directory that you can write",
            ) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                raise Stale(
                    f"another lbctl (process {holder}) is changing this network namespace",
                    hint="wait for it to end, then try again",
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)
