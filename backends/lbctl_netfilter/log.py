"""Findings and rules that are not understood, in the order of the text, and never without an end."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lbctl.model import Finding, Severity, UnsupportedRule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from fractions import Fraction

ERROR, WARNING, INFO = Severity.ERROR, Severity.WARNING, Severity.INFO
#: How much each finding matters, unless it is noted otherwise.
SEVERITIES: Mapping[str, Severity] = {
    "affinity-recent": INFO,
    "chain-loop": ERROR,
    "dnat-range": WARNING,
    "duplicate-rules": WARNING,
    "equal-probability-on-each-line": ERROR,
    "every-n-on-each-line": ERROR,
    "family-mismatch": ERROR,
    "input-not-text": ERROR,
    "last-mark-wins": ERROR,
    "missing-commit": ERROR,
    "mixed-backends": WARNING,
    "no-catch-all": ERROR,
    "nth-missing-packet": WARNING,
    "obsolete-negation": WARNING,
    "packet-out-of-range": ERROR,
    "partial-dump": WARNING,
    "per-packet-balancing": ERROR,
    "port-range-target": WARNING,
    "prerouting-only": WARNING,
    "probability-rounding": WARNING,
    "probability-zero": WARNING,
    "removed-match": ERROR,
    "selectors-differ": ERROR,
    "shared-counter": INFO,
    "shell-construct": WARNING,
    "snat-pool": INFO,
    "statistic-before-selector": ERROR,
    "undefined-chain": ERROR,
    "unexpanded-variable": ERROR,
    "unparsable-line": ERROR,
    "unreachable-rule": WARNING,
    "unsupported-match": WARNING,
    "unsupported-target": WARNING,
    "wrong-table": ERROR,
}
#: Findings of one kind that are listed; what is beyond is counted.
MOST = 1000
#: Letters of a rule that are shown.
_LONGEST = 400


@lru_cache(maxsize=256)
def shown(text: str) -> str:
    """Return a name of the text for a sentence: printable, and cut."""
    made = text.encode("unicode_escape").decode("ascii")
    return made if len(made) <= 60 else made[:57] + "..."


def percent(share: Fraction) -> str:
    """Return a share for people: `29.6 %`."""
    return f"{float(share) * 100:.3g} %"


class Written(Protocol):
    """A part of a text: a rule, a statement, a command."""

    @property
    def line(self) -> int:
        """The line in which it begins, from 1."""

    @property
    def text(self) -> str:
        """What is written there, verbatim."""


class Place(NamedTuple):
    """A line of a text, without a rule of its own."""

    line: int
    text: str = ""


class Log:
    """What a reader reports about one text."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.unsupported: list[UnsupportedRule] = []
        #: False where the text as a whole is no ruleset to trust.
        self.accept = True
        self._counts: dict[str, int] = {}
        self._last: dict[str, Finding] = {}
        self._said: set[tuple[str, int, str, str]] = set()

    def find(
        self,
        code: str,
        at: Written,
        message: str,
        corrected: Iterable[str] = (),
        severity: Severity | None = None,
    ) -> None:
        """Note a finding; that of a line which serves both families once."""
        line, text = at.line, at.text
        if (code, line, text, message) in self._said:
            return
        self._said.add((code, line, text, message))
        count = self._counts[code] = self._counts.get(code, 0) + 1
        if count <= MOST:
            found = Finding(
                code=code,
                severity=severity or SEVERITIES[code],
                line=line,
                rule=text[:_LONGEST],
                message=message,
                corrected=tuple(corrected),
            )
            self.findings.append(found)
            self._last[code] = found

    def refuse(self, code: str, at: Written, message: str) -> None:
        """Note that the text as a whole is none to trust."""
        self.accept = False
        self.find(code, at, message, severity=ERROR)

    def cannot(self, at: Written, what: str, reason: str) -> None:
        """Note a rule that would matter and is not understood."""
        lost = UnsupportedRule(line=at.line, rule=at.text[:_LONGEST], what=what, reason=reason)
        self.unsupported.append(lost)

    def finish(self) -> tuple[Finding, ...]:
        """Return all findings by line; those that were only counted as one more."""
        for code, count in self._counts.items():
            if count > MOST:
                more = f"and {count - MOST} more of these"
                self.findings.append(replace(self._last[code], message=more, corrected=()))
        return tuple(sorted(self.findings, key=lambda found: found.line))
