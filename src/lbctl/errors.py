"""The exception tree. Every failure that a user can meet is one of these.

An error carries a message for the person, a hint for the next step, and the exit code of the process:

    LbctlError
      IntentError        2  the intent file or the command line is wrong
        NoIntentFile     2  none was named, and there is none
      WrongUsage         2  the command line is not understood
      NoBackend          3  no backend of this host can be used
      Unreachable        3  another host or a server cannot be reached
      Unsupported        3  the backend cannot express a feature that the intent asks for
      PermissionDenied   4  the kernel would refuse us
      ApplyFailed        5  nothing was changed
        Damaged          5  a record of lbctl's own state is not what was written
      StateUnknown       6  a write was interrupted; what the kernel holds is not known
        ToolCrashed      6  a tool was ended by a signal; reading back settles what the kernel holds
        ConnectionLost   6  the connection to another host ended during a change there
      Stale              7  the kernel changed since the plan, or another lbctl holds the lock
      Reverted           8  a trial was not confirmed
"""

from __future__ import annotations

from typing import ClassVar

from lbctl.values import dataclass


class LbctlError(Exception):
    """Base of all errors that lbctl reports: `message`, `hint` or None, `exit_code`, and `code` in JSON."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigProblem:
    """One mistake in an intent file: where it is, what is wrong, what to do.

    `line` counts from 1; 0 is the file as a whole, e.g. one that does not exist.
    """

    file: str
    line: int
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}"


class IntentError(LbctlError):
    """The intent cannot be used. `problems` holds every mistake that was found, in file order."""

    exit_code = 2
    code = "invalid-input"

    def __init__(
        self, message: str, *, problems: tuple[ConfigProblem, ...] = (), hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class NoIntentFile(IntentError):
    """No intent file was named, and there is none where lbctl looks for one."""

    code = "no-intent-file"


class WrongUsage(LbctlError):
    """An option or argument that the command does not take, or that is missing."""

    exit_code = 2
    code = "usage"


class NoBackend(LbctlError):
    """No backend, or not the one that was asked for, can be used on this host."""

    exit_code = 3
    code = "no-backend"


class Unsupported(LbctlError):
    """A backend cannot express a feature, and refuses rather than rendering less.

    `service` is None for a feature of the whole intent.
    """

    exit_code = 3
    code = "unsupported"

    def __init__(self, *, backend: str, service: str | None, feature: str, needs: str) -> None:
        where = "" if service is None else f'service "{service}": '
        super().__init__(f"{where}backend {backend} does not support {feature}", hint=needs)
        self.backend = backend
        self.service = service
        self.feature = feature


class PermissionDenied(LbctlError):
    """The kernel wants a capability that this process does not have."""

    exit_code = 4
    code = "permission-denied"


class ApplyFailed(LbctlError):
    """The change was refused as a whole; the kernel is as it was."""

    exit_code = 5
    code = "apply-failed"


class Damaged(ApplyFailed):
    """A record of lbctl's own state is not what was written: its message names the place and the fault."""

    code = "damaged-state"


class StateUnknown(LbctlError):
    """The change was interrupted; part of it may be in the kernel."""

    exit_code = 6
    code = "state-unknown"


class ToolCrashed(StateUnknown):
    """A tool that was writing rules was ended by a signal: the kernel may hold the old or the new rules."""

    code = "tool-crashed"


class ConnectionLost(StateUnknown):
    """The connection to another host ended while something was being changed there."""

    code = "connection-lost"


class Stale(LbctlError):
    """What was planned against is no longer there, or another lbctl is at work."""

    exit_code = 7
    code = "stale"


class Overtaken(Stale):
    """What a plan was made from changed after it was made; nothing was changed by it."""


class Unreachable(LbctlError):
    """Another host or a server that a command needs cannot be reached, or refuses us."""

    exit_code = 3
    code = "unreachable"


class Reverted(LbctlError):
    """A trial was not confirmed in time and was reverted."""

    exit_code = 8
    code = "reverted"
