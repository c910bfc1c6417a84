"""Sockets on which the kernel reports events by netlink, filtered before they wake this process."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

#: By its offset in a message: the values of which two bytes have one.
Words: TypeAlias = "Mapping[int, Collection[bytes]]"

_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_ATTACH_FILTER = 270, 1, 26
#: struct sock_filter of linux/filter.h: operation, jumps if true and false, operand.
_STEP = struct.Struct("=HBBI")
_LOAD, _EQUAL, _JUMP, _RETURN, _ALL = 0x28, 0x15, 0x05, 0x06, 0xFFFFFFFF
#: Values of an offset; more of them are not looked at. What a filter may take is bounded by
#: net.core.optmem_max, which was 20 KiB up to Linux 6.7.
_MOST = 500
#: Bytes of reports that the kernel keeps.
_BUFFER = 1 << 20
#: Reports that are read at a time, and their longest part that is read.
_AT_ONCE, _PART = 256, 8192


class Reports:
    """A subscription to groups of multicast messages. Belongs to the network namespace it was made in."""

    def __init__(self, kernel: socket.socket) -> None:
        self._kernel = kernel

    def fileno(self) -> int:
        """Return the descriptor, readable once there is a report."""
        return self._kernel.fileno()

    def only(self, words: Words) -> None:
        """Have the kernel report what has one of the values at each offset, and possibly more.

        Raises `OSError`.
        """
        steps = _steps(words)
        program = ctypes.create_string_buffer(b"".join(_STEP.pack(*step) for step in steps))
        # struct sock_fprog of linux/filter.h: how many steps, and where they are.
        described = struct.pack("@HP", len(steps), ctypes.addressof(program))
        self._kernel.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)

    def read(self) -> list[bytes] | None:
        """Return the reports that wait, without waiting; None if the kernel had to drop some."""
        found: list[bytes] = []
        for _ in range(_AT_ONCE):
            try:
                found.append(self._kernel.recv(_PART, socket.MSG_DONTWAIT))
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS
                return None
        return found

    def close(self) -> None:
        """End the subscription."""
        self._kernel.close()


def subscribe(protocol: int, groups: Iterable[int], words: Words) -> Reports | None:
    """Return the reports of some groups that `Reports.only` lets through; None if the kernel has none."""
    try:
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError:
        return None
    reports = Reports(kernel)
    try:
        reports.only(words)
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        kernel.bind((0, 0))
        for group in groups:
            kernel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        reports.close()
        return None
    return reports


def _steps(words: Words) -> list[tuple[int, int, int, int]]:
    """Return a program of classic BPF: 0 for a message that lacks all values of an offset, else all of it."""
    steps = []
    for offset, values in words.items():
        if len(values) > _MOST:
            continue
        steps.append((_LOAD, 0, 0, offset))
        for left, value in zip(range(len(values), 0, -1), values, strict=True):
            # Past the values that are left, and the return behind them.
            past = 2 * (left - 1) + 1
            steps += [(_EQUAL, 0, 1, int.from_bytes(value, "big")), (_JUMP, 0, 0, past)]
        steps.append((_RETURN, 0, 0, 0))
    return [*steps, (_RETURN, 0, 0, _ALL)]
