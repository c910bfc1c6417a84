"""What systemd does to a process by its unit's [Service] section, done by hand: no host need run systemd.

    python sandbox.py SPEC PROGRAM [WORD…]

runs a program under the capabilities, mounts, system calls and address families of a `Sandbox` in JSON.
The kernel enforces them by the same means: bounding set, read-only mounts, seccomp (by the libseccomp that
systemd itself uses). Settings that forbid or hide what lbctl never looks for are left out.
"""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_CAPABILITIES = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_ALLOW, _ERRNO, _MASKED = 0x7FFF0000, 0x00050000, 7
_WRITE, _EXEC, _SHM_EXEC = 2, 4, 0o100000


@dataclass(frozen=True)
class Sandbox:
    """What a process may do. `writable` are the only folders that it can write.

    `write_or_execute` is True if no memory may be both.
    """

    capabilities: list[str]
    calls: list[str]
    families: list[str]
    writable: list[str]
    write_or_execute: bool = True

    @classmethod
    def of(cls, unit: dict[str, list[str]], *writable: str) -> "Sandbox":
        """That of a unit whose own folders are `writable`."""
        assert unit["ProtectSystem"] == ["strict"]
        assert unit["NoNewPrivileges"] == ["yes"]
        return cls(
            capabilities=_words(unit, "CapabilityBoundingSet"),
            calls=sorted(_allowed_calls(unit["SystemCallFilter"])),
            families=_words(unit, "RestrictAddressFamilies"),
            writable=[*writable, *_words(unit, "ReadWritePaths")],
            write_or_execute=unit["MemoryDenyWriteExecute"][-1] == "yes",
        )

    def command(self, *argv: str) -> list[str]:
        """The words that run a program in it."""
        return [sys.executable, __file__, json.dumps(asdict(self)), *argv]


def read_service(*files: Path) -> dict[str, list[str]]:
    """The [Service] section of a unit file and its drop-ins: the values of each setting."""
    found: dict[str, list[str]] = {}
    for file in files:
        section = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            key, equals, value = line.partition("=")
            if line.startswith("["):
                section = line
            elif section == "[Service]" and equals and not line.startswith("#"):
                # An empty value takes back what was there.
                found[key] = [*found.get(key, ()), value] if value else []
    return found


def _words(unit: dict[str, list[str]], key: str) -> list[str]:
    return [word for value in unit.get(key, ()) for word in value.split()]


def _allowed_calls(filters: list[str]) -> set[str]:
    sets = _call_sets()

    def within(name: str) -> Iterator[str]:
        if name.startswith("@"):
            for each in sets[name]:
                yield from within(each)
        else:
            yield name

    allowed: set[str] = set()
    for value in filters:
        named = {call for name in value.lstrip("~").split() for call in within(name)}
        allowed = allowed - named if value.startswith("~") else allowed | named
    # Always allowed, says systemd.exec(5): what starts and ends a program.
    return allowed | set(within("@default"))


def _call_sets() -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    listed = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            sets[name := line.strip()] = []
        elif line.startswith("  ") and not line.strip().startswith("#"):
            sets[name].append(line.strip())
    return sets


def _enter(sandbox: Sandbox) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *words: object) -> None:
        if getattr(libc, name)(*words) < 0:
            raise OSError(ctypes.get_errno(), f"{name}{words}")

    def writable(path: bytes, yes: bool) -> None:
        attributes = (ctypes.c_uint64 * 4)(*((0, _RDONLY) if yes else (_RDONLY, 0)), 0, 0)
        call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, ctypes.sizeof(attributes))

    call("unshare", _CLONE_NEWNS)
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    for path in sandbox.writable:
        call("mount", path.encode(), path.encode(), None, _MS_BIND | _MS_REC, None)
    writable(b"/", False)
    for path in sandbox.writable:
        writable(path.encode(), True)
    kept = {_CAPABILITIES[name] for name in sandbox.capabilities}
    for number in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        if number not in kept:
            call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _filter(sandbox)


class _Condition(ctypes.Structure):
    """That an argument of a call, of whose bits only those in `mask` count, is `value`."""

    _fields_ = (
        ("number", ctypes.c_uint),
        ("compare", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def _filter(sandbox: Sandbox) -> None:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO | errno.EPERM))
    # What MemoryDenyWriteExecute and RestrictAddressFamilies forbid of calls that are allowed.
    conditions = {"socket": [(0, 0xFFFFFFFF, _FAMILIES[family]) for family in sandbox.families]}
    if sandbox.write_or_execute:
        conditions |= {
            "mmap": [(2, _WRITE | _EXEC, protection) for protection in (0, _WRITE, _EXEC)],
            "mprotect": [(2, _EXEC, 0)],
            "pkey_mprotect": [(2, _EXEC, 0)],
            "shmat": [(2, _SHM_EXEC, 0)],
        }
    for name in sandbox.calls:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        # Negative: no call of this machine.
        if number < 0:
            continue
        if name not in conditions:
            assert not seccomp.seccomp_rule_add_array(context, _ALLOW, number, 0, None), name
        for argument, mask, value in conditions.get(name, ()):
            only = _Condition(argument, _MASKED, mask, value)
            assert not seccomp.seccomp_rule_add_array(context, _ALLOW, number, 1, ctypes.byref(only)), name
    assert not seccomp.seccomp_load(context)


if __name__ == "__main__":
    _enter(Sandbox(**json.loads(sys.argv[1])))
    os.execv(sys.argv[2], sys.argv[2:])
