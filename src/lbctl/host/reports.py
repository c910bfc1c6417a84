"""Sockets on which the kernel reports events by netlink, filtered before they wake this process."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_ATTACH_FILTER = 270, 1, 26
#: struct sock_filter of linux/filter.h: operation, jumps, operand. A load of 16 bits, a jump, a return.
_STEP = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN, _ALL = 0x28, 0x15, 0x06, 0xFFFFFFFF
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


def subscribe(protocol: int, groups: Iterable[int], *, offset: int, value: bytes) -> Reports | None:
    """Return the reports of some groups that have two bytes of this value at an offset of their message.

    None where this kernel has no such groups.
    """
    steps = (
        (_LOAD, 0, 0, offset),
        (_EQUAL, 0, 1, int.from_bytes(value, "big")),
        (_RETURN, 0, 0, _ALL),
        (_RETURN, 0, 0, 0),
    )
    program = ctypes.create_string_buffer(b"".join(_STEP.pack(*step) for step in steps))
    kernel = None
    try:
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        # struct sock_fprog of linux/filter.h: how many steps, and where they are.
        described = struct.pack("@HP", len(steps), ctypes.addressof(program))
        kernel.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        kernel.bind((0, 0))
        for group in groups:
            kernel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        if kernel is not None:
            kernel.close()
        return None
    return Reports(kernel)
