"""Run a program in another root, which sees this machine's kernel, devices and some of its folders.

    python enter.py ROOT [FOLDER…] -- PROGRAM [WORD…]

Each FOLDER (or file) is bound at the same path in the root. The mounts are in a mount namespace of their own
and end with the program, however it ends. The network namespace is the caller's.
"""

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
#: What any program needs of the running system.
SYSTEM = ("/dev", "/proc", "/sys")


def main(arguments: list[str]) -> None:
    """See the module. Does not return: the program replaces this one."""
    end = arguments.index("--")
    root, *folders = arguments[:end]
    program = arguments[end + 1 :]
    cwd = Path.cwd()
    _call("unshare", _CLONE_NEWNS)
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    # A mount point, as `/` is everywhere: programs change how its mounts propagate.
    _call("mount", bytes(Path(root)), bytes(Path(root)), None, _MS_BIND, None)
    for folder in (*SYSTEM, *folders):
        _bind(Path(folder), Path(root))
    os.chdir(root)
    # Not chroot: who enters this mount namespace later finds the same root, and the kernel refuses user
    # namespaces to processes below a changed root.
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir(cwd if cwd.is_dir() else "/")
    os.execvp(program[0], program)


def _bind(path: Path, root: Path) -> None:
    """Make `path` seen in the root. A path that this machine lacks is left out."""
    if not path.exists():
        return
    target = root / path.relative_to("/")
    if path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _call("mount", bytes(path), bytes(target), None, _MS_BIND | _MS_REC, None)


def _call(name: str, *words: object) -> None:
    # os.unshare came with Python 3.12; Python has no mount.
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*words) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{words}: {os.strerror(code)}")


if __name__ == "__main__":
    main(sys.argv[1:])
