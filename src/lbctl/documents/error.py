"""What any command prints with `--output json` if it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.documents.check import ConfigProblemDocument, problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.errors import ConfigProblem


class FailureDocument(TypedDict):
    """What went wrong: `code` is the kind of error, `exit` the exit code, `errors` all mistakes of a file."""

    code: str
    exit: int
    message: str
    hint: str | None
    errors: list[ConfigProblemDocument]


class ErrorDocument(TypedDict):
    """An error."""

    error: FailureDocument


def error(
    code: str, exit_code: int, message: str, hint: str | None = None, found: Sequence[ConfigProblem] = ()
) -> ErrorDocument:
    """Return the document of an error; `found` are all mistakes of an intent file."""
    return ErrorDocument(
        error=FailureDocument(
            code=code, exit=exit_code, message=message, hint=hint, errors=[problem(each) for each in found]
        )
    )
