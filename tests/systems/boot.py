"""Boot the systemd of another root, in namespaces of its own: a container without a network of its own.

    python boot.py ROOT

Prints the process id of that systemd. It ends with this program, and all that it runs with it. The network
namespace is the caller's. Of this machine's kernel it can change only what belongs to a network namespace.
"""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

# os.unshare came with Python 3.12; Python has no mount.
_LIBC = ctypes.CDLL(None, use_errno=True)
#: Mounts, cgroups, names, System V objects, processes.
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
_PR_SET_PDEATHSIG = 1
_PROGRAM = ("/lib/systemd/systemd", "--log-target=journal", "--show-status=no")
#: systemd takes the first for the kind of its container.
_ENVIRONMENT = {
    "container": "lbctl-test",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


def main(root: str) -> None:
    """See the module."""
    _call("unshare", 0x00020000)
    _mount(None, "/", flags=_REC | _PRIVATE)
    # The hierarchy is one, wherever it is mounted; only this process sees it here.
    hierarchy = Path("/mnt")
    _mount("cgroup2", str(hierarchy), "cgroup2")
    group = hierarchy / f"lbctl-test-{os.getpid()}"
    group.mkdir()
    home = hierarchy / Path("/proc/self/cgroup").read_text().split("0::/")[-1].strip()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    _call("unshare", _NAMESPACES)
    if child := os.fork():
        (home / "cgroup.procs").write_text(str(os.getpid()))
        print(child, flush=True)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        os.waitpid(child, 0)
        _remove(group)
        return
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    _furnish(root)
    os.chroot(root)
    os.chdir("/")
    # Not this program's, which a test reads.
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.execve(_PROGRAM[0], _PROGRAM, _ENVIRONMENT)


def _furnish(root: str) -> None:
    """Mount what systemd expects of whoever starts it in a container."""
    # A mount point, as `/` is everywhere.
    _mount(root, root, flags=_BIND)
    strict = _NOSUID | _NODEV | _NOEXEC
    _mount("proc", f"{root}/proc", "proc", flags=strict)
    for name in ("sys", "sysrq-trigger"):
        path = f"{root}/proc/{name}"
        # A kernel may have been built without the second.
        if Path(path).exists():
            _mount(path, path, flags=_BIND)
            _mount(None, path, flags=_BIND | _REMOUNT | _RDONLY | strict)
    _mount("sysfs", f"{root}/sys", "sysfs", flags=strict | _RDONLY)
    _mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2", flags=strict)
    _mount("tmpfs", f"{root}/run", "tmpfs", flags=_NOSUID | _NODEV, data="mode=755")
    _mount("tmpfs", f"{root}/dev", "tmpfs", flags=_NOSUID, data="mode=755")
    for name in _DEVICES:
        Path(root, "dev", name).touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", flags=_BIND)
    for name in ("pts", "shm"):
        Path(root, "dev", name).mkdir()
    _mount("devpts", f"{root}/dev/pts", "devpts", flags=_NOSUID | _NOEXEC, data="newinstance,ptmxmode=0666")
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", flags=_NOSUID | _NODEV)
    Path(root, "dev", "ptmx").symlink_to("pts/ptmx")


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        # A cgroup whose last process is about to end cannot be removed; it is empty and harms nobody.
        with suppress(OSError):
            Path(folder).rmdir()


def _mount(
    source: str | None, target: str, kind: str | None = None, *, flags: int = 0, data: str | None = None
) -> None:
    words = [each.encode() if each is not None else None for each in (source, target, kind)]
    _call("mount", *words, flags, data.encode() if data is not None else None)


def _call(name: str, *words: object) -> None:
    if getattr(_LIBC, name)(*words) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{words}: {os.strerror(code)}")


if __name__ == "__main__":
    main(sys.argv[1])
