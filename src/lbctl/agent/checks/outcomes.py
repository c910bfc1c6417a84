"""Outcomes that several kinds of checks have, worded alike."""

from __future__ import annotations

import errno
import os
import ssl
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from lbctl.agent.health import Ending, Outcome
from lbctl.model import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.agent.health import Target
    from lbctl.model import Address

#: Faults of this host, or of this process: they say nothing about an endpoint.
_OWN_FAULTS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EPERM,
        errno.EACCES,
        errno.EAGAIN,
    }
)
LOOPBACK: Mapping[Family, Address] = {Family.IPV4: IPv4Address("127.0.0.1"), Family.IPV6: IPv6Address("::1")}


def passed(text: str, seconds: float) -> Outcome:
    """Return the outcome of a check that found what it expects."""
    return Outcome(ending=Ending.PASSED, text=text, seconds=seconds)


def failed(text: str, seconds: float) -> Outcome:
    """Return the outcome of a check that found something else, or nothing."""
    return Outcome(ending=Ending.FAILED, text=text, seconds=seconds)


def undecided(text: str, seconds: float = 0.0) -> Outcome:
    """Return the outcome of a check that could not be made."""
    return Outcome(ending=Ending.UNDECIDED, text=text, seconds=seconds)


def of_timeout(seconds: float) -> Outcome:
    """Return the outcome of a check that took too long."""
    return failed("timeout", seconds)


def of_error(error: OSError, seconds: float) -> Outcome:
    """Return the outcome of a check that ended with an error of the system."""
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", "") or error.reason or "failed"
        return failed(f"TLS: {reason}", seconds)
    return of_code(error.errno, seconds) if error.errno else failed(str(error) or "no connection", seconds)


def of_code(code: int, seconds: float) -> Outcome:
    """Return the outcome of a check that ended with an error number."""
    text = os.strerror(code).lower()
    return undecided(f"not checked: {text}", seconds) if code in _OWN_FAULTS else failed(text, seconds)


def address(target: Target) -> Address:
    """Return where a target is reached: a process on this host at the loopback address."""
    return LOOPBACK[target.family] if target.address is None else target.address
