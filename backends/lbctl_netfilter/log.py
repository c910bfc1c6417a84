"""Findings and rules that are not understood, in the order of the text, and never without an end."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.model import Finding, Severity, UnsupportedRule

if TYPE_CHECKING:
    from collections.abc import Iterable
    from fractions import Fraction

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
        severity: Severity,
        line: int,
        rule: str,
        message: str,
        corrected: Iterable[str] = (),
    ) -> None:
        """Note a finding; that of a line which serves both families once."""
        if (code, line, rule, message) in self._said:
            return
        self._said.add((code, line, rule, message))
        count = self._counts[code] = self._counts.get(code, 0) + 1
        if count <= MOST:
            found = Finding(
                code=code,
                severity=severity,
                line=line,
                rule=rule[:_LONGEST],
                message=message,
                corrected=tuple(corrected),
            )
            self.findings.append(found)
            self._last[code] = found

    def refuse(self, code: str, line: int, rule: str, message: str) -> None:
        """Note that the text as a whole is none to trust."""
        self.accept = False
        self.find(code, Severity.ERROR, line, rule, message)

    def cannot(self, line: int, rule: str, what: str, reason: str) -> None:
        """Note a rule that would matter and is not understood."""
        self.unsupported.append(UnsupportedRule(line=line, rule=rule[:_LONGEST], what=what, reason=reason))

    def finish(self) -> tuple[Finding, ...]:
        """Return all findings by line; those that were only counted as one more."""
        for code, count in self._counts.items():
            if count > MOST:
                last = self._last[code]
                self.findings.append(
                    Finding(
                        code=code,
                        severity=last.severity,
                        line=last.line,
                        rule=last.rule,
                        message=f"and {count - MOST} more of these",
                    )
                )
        return tuple(sorted(self.findings, key=lambda found: found.line))
