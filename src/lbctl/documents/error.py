"""What any command prints with `--output json` if it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.documents.check import ProblemDocument, problems
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from lbctl.errors import LbctlError


class FailureDocument(TypedDict):
    """What went wrong: `code` is the kind of error, `exit` the exit code, `errors` all mistakes of a file."""

    code: str
    exit: int
    message: str
    hint: str | None
    errors: list[ProblemDocument]


class ErrorDocument(TypedDict):
    """An error."""

    error: FailureDocument


def error(failure: LbctlError) -> ErrorDocument:
    """Return the document of an error."""
    return ErrorDocument(
        error=FailureDocument(
            code=failure.code,
            exit=failure.exit_code,
            message=failure.message,
            hint=failure.hint,
            errors=problems(failure) if isinstance(failure, IntentError) and failure.problems else [],
        )
    )
