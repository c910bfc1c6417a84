"""What existing rules do, as `import` and each side of `compare` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from lbctl.model import written

if TYPE_CHECKING:
    from lbctl.model import AnalysedService, Analysis, Finding


class ShareDocument(TypedDict):
    """An endpoint, and its share of the new connections that the selector matches."""

    to: str
    share: str


class AffinityDocument(TypedDict):
    """How clients keep their endpoint; `seconds` is null for no time limit."""

    kind: str
    by: str
    seconds: int | None


class ServiceDocument(TypedDict):
    """A service of existing rules. Shares and `leak`, the unmatched traffic, add up to 1."""

    family: str
    proto: str
    dst: str
    dport: str
    hooks: list[str]
    action: str
    mode: str
    backends: list[ShareDocument]
    leak: str
    leak_to: str | None
    affinity: AffinityDocument | None
    exact: bool
    depends_on: str | None
    when: dict[str, str] | None
    name: str | None
    source_nat: str | None
    source_lines: list[int]
    lines: list[int]


class FindingDocument(TypedDict):
    """A problem of rules, and corrected rules if there are any."""

    code: str
    severity: str
    line: int
    rule: str
    message: str
    corrected: list[str]


class UnsupportedDocument(TypedDict):
    """A rule that would matter and cannot be expressed, verbatim."""

    line: int
    rule: str
    what: str
    reason: str


class ReadingDocument(TypedDict):
    """The services that rules balance, with their shares, and the findings."""

    format: str
    accept: bool
    services: list[ServiceDocument]
    findings: list[FindingDocument]
    unsupported: list[UnsupportedDocument]
    untouched_rules: int


def document(reading: Analysis) -> ReadingDocument:
    """Return the document of a reading."""
    return ReadingDocument(
        format=reading.format,
        accept=reading.accept,
        services=[service_document(service) for service in reading.services],
        findings=[finding_document(finding) for finding in reading.findings],
        unsupported=[
            UnsupportedDocument(line=each.line, rule=each.rule, what=each.what, reason=each.reason)
            for each in reading.unsupported
        ],
        untouched_rules=reading.untouched_rules,
    )


def finding_document(finding: Finding) -> FindingDocument:
    """Return the document of a finding."""
    return FindingDocument(
        code=finding.code,
        severity=str(finding.severity),
        line=finding.line,
        rule=finding.rule,
        message=finding.message,
        corrected=list(finding.corrected),
    )


def service_document(service: AnalysedService) -> ServiceDocument:
    """Return the document of a service."""
    kept = service.affinity
    return ServiceDocument(
        family=str(service.family),
        proto=service.proto,
        dst=service.dst,
        dport=service.dport,
        hooks=list(service.hooks),
        action=service.action,
        mode=service.mode,
        backends=[ShareDocument(to=backend.to, share=written(backend.share)) for backend in service.backends],
        leak=written(service.leak),
        leak_to=service.leak_to,
        affinity=AffinityDocument(kind=kept.kind, by=kept.by, seconds=kept.seconds) if kept else None,
        exact=service.exact,
        depends_on=service.depends_on,
        when=dict(service.when) if service.when else None,
        name=service.name,
        source_nat=None if service.source_nat is None else str(service.source_nat),
        source_lines=list(service.source_lines),
        lines=list(service.lines),
    )
