"""Private network namespaces that need no name and leave nothing behind.

A namespace lives as long as somebody holds a descriptor of it: it goes with this process, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lbctl.errors import ApplyFailed
from lbctl.host.host import TOOL
from lbctl.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lbctl.host.host import Host

_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
#: The calling thread's own namespace: /proc/self/ns is the main thread's.
CURRENT = "/proc/thread-self/ns/net"


class Namespace:
    """A fresh network namespace with its loopback interface up."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.fd = _in_thread(_unshared)
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """The namespace as a path that other programs can open while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread, and the processes that it starts, be in this namespace."""
        outside = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self.fd, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", outside, _CLONE_NEWNET)
        finally:
            os.close(outside)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a program in here and return its output; raises `ApplyFailed` where it fails."""
        with self.entered():
            done = self._host.run(argv, stdin=stdin)
        if done.code:
            raise ApplyFailed(f"{' '.join(argv)}: {done.err.strip() or f'ended with {done.code}'}")
        return done.out

    def ip(self, *words: str) -> str:
        """Run `ip` in here."""
        return self.run("ip", *words)

    def connect(self, link: str, other: Namespace, other_link: str) -> None:
        """Join two namespaces by a pair of virtual Ethernet interfaces, both up."""
        self.ip("link", "add", link, "type", "veth", "peer", "name", other_link, "netns", other.path)
        self.ip("link", "set", link, "up")
        other.ip("link", "set", other_link, "up")

    def address(self, link: str, *addresses: str) -> None:
        """Give an interface addresses, at once usable (`nodad`: no wait for duplicates of IPv6 ones)."""
        lines = [f"address add {each} dev {link}{' nodad' if ':' in each else ''}\n" for each in addresses]
        self.run("ip", "-batch", "-", stdin="".join(lines))

    def write(self, path: str, value: str) -> None:
        """Set a kernel parameter of this namespace, as `/proc/sys/net/ipv4/ip_forward`."""
        with self.entered():
            Path(path).write_text(value, encoding="ascii")

    def close(self) -> None:
        """Let go of the namespace; the kernel destroys it with its last process."""
        os.close(self.fd)


class PrivateHost(LocalHost):
    """This host seen from inside a private namespace: no other process is at work there, and nothing is kept.

    But for what is known of the host's tools: they are the same inside.
    """

    #: For the life of this process, by name.
    _tools: ClassVar[dict[str, str]] = {}

    #: iptables locks the file of its own namespace. The usual file guards the tables of the real host; with
    #: any other one, namespaces would wait for each other, or fail (1.8.11 without -w).
    environment: ClassVar[Mapping[str, str]] = {**LocalHost.environment, "XTABLES_LOCKFILE": CURRENT}

    @contextmanager
    def lock(self, name: str, *, patience: float = 0.0) -> Iterator[None]:  # noqa: ARG002
        """See `Host`."""
        yield

    def recall(self, name: str) -> str | None:
        """See `Host`."""
        return self._tools.get(name)

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`."""
        if name.startswith(TOOL) and text is not None:
            self._tools[name] = text

    def save(self, name: str, text: str | None) -> None:
        """See `Host`."""

    def append(self, name: str, text: str) -> None:
        """See `Host`."""

    def rename(self, name: str, new: str) -> None:
        """See `Host`."""

    def saved_names(self) -> tuple[str, ...]:
        """See `Host`."""
        return ()


def become_root_of_user_namespace() -> None:
    """Move this process into its own user namespace, as its root; raises `OSError` where forbidden."""
    uid, gid = os.geteuid(), os.getegid()
    # With a network namespace of its own: to the old one it could not come back from others.
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")


def hide_directory(path: str) -> None:
    """Have this process see an empty directory in memory at `path`, which ends with it.

    To be called before any other thread is started. Raises `OSError`.
    """
    _call("unshare", _CLONE_NEWNS)
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", b"lbctl", path.encode(), b"tmpfs", 0, b"mode=0755")


def _unshared() -> int:
    _call("unshare", _CLONE_NEWNET)
    return os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(work: Callable[[], int]) -> int:
    """Return the result of `work` in a thread of its own, whose namespaces end with it."""
    results: list[int] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            results.append(work())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _call(name: str, *args: int | bytes | None) -> None:
    # os.unshare and os.setns came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
