"""What `doctor` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.engine.inspect.doctor import Diagnosis
    from lbctl.model import Intent


class ProblemDocument(TypedDict):
    """A problem of the host, what shows it and what to do; `service` is null for several and for none."""

    code: str
    severity: str
    service: str | None
    message: str
    evidence: str
    remedy: str


class NotExaminedDocument(TypedDict):
    """What was not checked, and why."""

    what: str
    reason: str


class DiagnosisDocument(TypedDict):
    """All problems, errors first. `backend` is null if none is usable, `services` without an intent file."""

    backend: str | None
    driver: str | None
    services: list[str] | None
    problems: list[ProblemDocument]
    not_examined: list[NotExaminedDocument]


def diagnosis(
    found: Diagnosis, intent: Intent | None, unseen: Sequence[tuple[str, str]]
) -> DiagnosisDocument:
    """Return the document of a diagnosis; `unseen` is what was not looked at, each with the reason."""
    return DiagnosisDocument(
        backend=found.backend,
        driver=found.driver,
        services=None if intent is None else [service.name for service in intent.services],
        problems=[
            ProblemDocument(
                code=problem.code,
                severity=str(problem.severity),
                service=problem.service,
                message=problem.message,
                evidence=problem.evidence,
                remedy=problem.fix,
            )
            for problem in found.problems
        ],
        not_examined=[NotExaminedDocument(what=what, reason=reason) for what, reason in unseen],
    )
