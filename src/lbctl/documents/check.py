"""What `check` and `render` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from lbctl.errors import ConfigProblem, IntentError


class ConfigProblemDocument(TypedDict):
    """A mistake in an intent file; `line` is null for the file as a whole."""

    file: str | None
    line: int | None
    message: str
    hint: str | None


class CheckDocument(TypedDict):
    """What `check` found. `notes` are sentences about what is valid but rarely intended."""

    valid: bool
    services: list[str]
    errors: list[ConfigProblemDocument]
    notes: list[str]


#: Rules as text; `for` and `family` as given. Its key `for` is a word of Python's.
RenderDocument = TypedDict(
    "RenderDocument",
    {"backend": str, "rules": str, "for": NotRequired[str], "family": NotRequired[str]},
)


def problem(found: ConfigProblem) -> ConfigProblemDocument:
    """Return the document of a mistake."""
    return ConfigProblemDocument(
        file=found.file, line=found.line or None, message=found.message, hint=found.hint
    )


def problems(error: IntentError) -> list[ConfigProblemDocument]:
    """Return all mistakes that an error reports; the error itself if it is about no file."""
    return [problem(each) for each in error.problems] or [
        ConfigProblemDocument(file=None, line=None, message=error.message, hint=error.hint)
    ]
