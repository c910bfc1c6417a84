"""How a command ends: each exception has its exit code, its lines on stderr and, for JSON, its document."""

from __future__ import annotations

import errno
import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lbctl.cli import options
from lbctl.errors import IntentError, LbctlError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: sysexits.h: a bug of this program.
EX_SOFTWARE = 70
#: sysexits.h: what had to be printed could not be written.
EX_IOERR = 74
#: 128 and the number of SIGINT, as a shell has it.
EX_INTERRUPTED = 130
#: What a disk, or what stands for one, answers.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def report_end(error: BaseException) -> int:
    """Report an exception that ended a command, and return its exit code; raises `BrokenPipeError`."""
    for each in _causes(error):
        match each:
            case KeyboardInterrupt():
                return _interrupted(each)
            case BrokenPipeError():
                # The reader went away, as in `lbctl render | head`, and wants no more.
                _silence()
                return 0
    match error:
        case SystemExit():
            return _exit(error)
        case LbctlError():
            return _failed(error)
        case OSError() if error.errno in _UNWRITABLE:
            return _unwritable(error)
        case _:
            return _bug(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that Typer wraps in it, down to the first that is not of Typer's making."""
    found: BaseException | None = error
    while found is not None:
        yield found
        package = type(found).__module__.partition(".")[0]
        wraps = isinstance(found, SystemExit) or package in {"click", "typer"}
        found = (found.__cause__ or found.__context__) if wraps else None


def _exit(error: SystemExit) -> int:
    code = error.code if isinstance(error.code, int) else int(error.code is not None)
    try:
        # A pipe or file takes the text only now, unless PYTHONUNBUFFERED is set.
        sys.stdout.flush()
    except OSError as full:
        if full.errno in _UNWRITABLE:
            return _unwritable(full)
        raise
    return code


def _unwritable(error: OSError) -> int:
    _silence()
    print(f"lbctl: cannot write: {error.strerror}", file=sys.stderr)
    return EX_IOERR


def _failed(error: LbctlError) -> int:
    from lbctl.cli.output import report

    report(error)
    problems = error.problems if isinstance(error, IntentError) else ()
    _document(error.code, error.exit_code, error.message, error.hint, problems)
    return error.exit_code


def _interrupted(error: KeyboardInterrupt) -> int:
    """Report Ctrl-C, and what it means for the command if that is known: its argument."""
    message = f"interrupted: {error}" if str(error) else "interrupted"
    print(f"\nlbctl: {message}", file=sys.stderr)
    _document("interrupted", EX_INTERRUPTED, message)
    return EX_INTERRUPTED


def _bug(error: BaseException) -> int:
    """One line for an unexpected exception: it must not be taken for a difference, which is 1."""
    if os.environ.get("LBCTL_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    from lbctl.model import inert

    what = inert(f"{type(error).__name__}: {error}".rstrip(": "))
    message = f"this is a bug in lbctl, or this host is out of resources: {what}"
    hint = "please report it with the command and what LBCTL_DEBUG=1 shows"
    print(f"lbctl: {message}; {hint}", file=sys.stderr)
    _document("bug", EX_SOFTWARE, message, hint)
    return EX_SOFTWARE


def _document(code: str, exit_code: int, message: str, hint: str | None = None, problems: Any = ()) -> None:
    """Print the JSON of an error, if JSON was asked for and the command has printed none."""
    words = sys.argv[1:]
    if options.document_printed or not ("--output=json" in words or ("--output", "json") in pairwise(words)):
        return
    from lbctl.cli.output import print_json
    from lbctl.documents.error import error

    print_json(error(code, exit_code, message, hint, problems))
    sys.stdout.flush()


def _silence() -> None:
    """Keep Python from flushing what can no longer be written when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
