"""What systemd is told: sd_notify(3), a datagram of lines, where a unit has `Type=notify-reload`."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


class Notifier:
    """Reports the state of the agent to systemd; does nothing without a unit that asks for it."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        try:
            own = int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
            microseconds = int(os.environ.get("WATCHDOG_USEC", 0)) if own else 0
        except ValueError:
            microseconds = 0
        #: Seconds between two signs of life, half of what the unit allows; None where none is wanted.
        self.pulse = microseconds / 2_000_000 if microseconds > 0 else None

    def ready(self, status: str) -> None:
        """The agent does its work; also after a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload has begun."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The agent ends."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notice:
            notice.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
