"""What loses connections on this host although the rules are right.

Read-only: nothing is changed and no module is loaded. What cannot be examined is listed, and is no problem.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lbctl.engine.change.session import Session, open_session
from lbctl.engine.inspect.checks import HostFacts, NotExamined, cheap_checks
from lbctl.engine.inspect.direct import direct_return
from lbctl.engine.inspect.sources import source_problems
from lbctl.engine.inspect.surroundings import connection_table, takeover_settings, ways
from lbctl.engine.record import history
from lbctl.engine.record.trial import Standing
from lbctl.engine.record.unsettled import unsettled
from lbctl.errors import ApplyFailed, LbctlError, NoBackend
from lbctl.host import UNPRIVILEGED
from lbctl.model import DEFAULT_OWNER, Severity
from lbctl.spi import AUTO, Case, Problem, Reader, backends as installed_backends, count_rules, survey
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.engine.inspect.checks import Seen
    from lbctl.host import Host
    from lbctl.model import Address, Intent
    from lbctl.spi import Backend, Candidate, Driver, Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All problems, errors first; and what was not looked at. No `backend` where none is usable."""

    backend: str | None
    driver: str | None
    problems: tuple[Problem, ...]
    unseen: tuple[NotExamined, ...]

    def of(self, severity: Severity) -> tuple[Problem, ...]:
        """Return the problems of one severity."""
        return tuple(problem for problem in self.problems if problem.severity is severity)


def examine(
    host: Host,
    intent: Intent | None,
    *,
    backend: str = AUTO,
    driver: str | None = None,
    installed: Sequence[Backend] | None = None,
) -> Diagnosis:
    """Look for problems on a host: for the services of an intent, or without one for what every intent needs.

    Raises `IntentError` for a backend or driver that does not exist.
    """
    known = installed_backends() if installed is None else installed
    seen: list[Seen] = []
    session: Session | None = None
    try:
        session = open_session(host, backend=backend, driver=driver, installed=known)
        if backend == AUTO and driver is None and intent is not None and host.may_change_network():
            others = session.elsewhere(intent.owner)
            if others and not session.observe(intent.owner):
                session = others[0]
    except NoBackend as error:
        seen.append(_no_backend(error))
    except ApplyFailed as error:
        seen.append(NotExamined(what="where the rules of the intent are", reason=error.message))
    if intent is not None:
        seen += source_problems(host, intent)
    if session is not None and intent is not None:
        try:
            intent = session.effective(intent).intent
        except LbctlError as error:
            seen.append(NotExamined(what="what operators decided about endpoints", reason=error.message))
    seen += _unsettled(host, intent.owner if intent else DEFAULT_OWNER)
    seen += _user_site(host)
    seen += connection_table(host, intent)
    if intent is not None:
        seen += takeover_settings(host, intent)
    facts = HostFacts(host=host)
    passages: tuple[Passage, ...] = ()
    if intent is not None:
        seen += cheap_checks(facts, intent)
        seen += direct_return(host, intent)
        passages, met = ways(host, intent)
        seen += met
    candidates = session.candidates if session else survey(host, known)
    seen += _in_stores(host, candidates, _case(session, intent, tuple(facts.addresses), passages))
    seen += _mixed(host, candidates)
    problems = dict.fromkeys(each for each in seen if isinstance(each, Problem))
    return Diagnosis(
        backend=session.backend.name if session else None,
        driver=session.driver if session else None,
        problems=tuple(sorted(problems, key=lambda problem: list(Severity).index(problem.severity))),
        unseen=tuple(dict.fromkeys(each for each in seen if isinstance(each, NotExamined))),
    )


def _no_backend(error: NoBackend) -> Problem:
    return Problem(
        code="no-backend",
        severity=Severity.ERROR,
        message="nothing on this host can balance connections",
        evidence=error.message,
        fix=error.hint or "lbctl backends shows what is missing",
    )


def _unsettled(host: Host, owner: str) -> Iterator[Problem]:
    found = unsettled(host, owner)
    if found.entry is not None:
        yield Problem(
            code="interrupted-change",
            severity=Severity.WARNING,
            message="a change was interrupted, and may be applied for one of two address families only",
            evidence=str(found.entry),
            fix="lbctl apply, like any command that changes something, first finishes or reverts it",
        )
    if found.trial is not None and found.trial.standing not in {Standing.RUNNING, Standing.REVERTING}:
        yield Problem(
            code="trial-unattended",
            severity=Severity.WARNING,
            message="a change is on trial, and no process is left to revert it",
            evidence=str(found.trial),
            fix="lbctl rollback reverts it",
        )
    for line in found.damaged + history.damaged(host, owner):
        yield Problem(
            code="damaged-state",
            severity=Severity.WARNING,
            message="a file of lbctl's own state cannot be read",
            evidence=line,
            fix="check the disk; the file is ignored and may be removed",
        )


def _user_site(host: Host) -> Iterator[Problem]:
    found = host.user_site()
    if found is not None:
        yield Problem(
            code="user-site",
            severity=Severity.WARNING,
            message="as root, lbctl runs code from a home directory: with sudo -E or su, another user's",
            evidence=f"Python imports packages, and runs the .pth files, of {found}",
            fix="start lbctl by python -sP -m lbctl, or set PYTHONNOUSERSITE=1 for root",
        )


def _case(
    session: Session | None,
    intent: Intent | None,
    addresses: tuple[Address, ...],
    passages: tuple[Passage, ...],
) -> Case:
    driver = session.choice.driver if session else None
    return Case(
        intent=intent,
        store=driver.store if driver else None,
        precedence=driver.precedence if driver else -sys.maxsize,
        addresses=addresses,
        passages=passages,
    )


def _in_stores(host: Host, candidates: Sequence[Candidate], case: Case) -> Iterator[Seen]:
    """Yield what the backends know of each place that can hold rules, be it ours or another."""
    for backend, driver in _stores(candidates):
        if not isinstance(backend, Reader):
            continue
        try:
            yield from backend.diagnose(host, driver.name, case)
        except ApplyFailed as error:
            yield NotExamined(what=f"rules of {driver.store}", reason=error.message)
        if driver.usable and not host.may_change_network():
            yield NotExamined(what=f"rules of {driver.store}", reason=UNPRIVILEGED)


def _stores(candidates: Sequence[Candidate]) -> Iterator[tuple[Backend, Driver]]:
    """One driver for each place, a usable one where there is one."""
    seen: set[str] = set()
    for candidate in candidates:
        for driver in sorted(candidate.probe.drivers, key=lambda each: not each.usable):
            if driver.store not in seen:
                seen.add(driver.store)
                yield candidate.backend, driver


def _mixed(host: Host, candidates: Sequence[Candidate]) -> Iterator[Problem]:
    """Places of one backend that hold rules together: their tools have the same names, and show one alone."""
    for candidate in candidates:
        if len({driver.store for driver in candidate.probe.drivers}) < 2:
            continue
        counts = {
            each.store: (each.managed or 0) + (each.foreign or 0) for each in count_rules(host, [candidate])
        }
        held = {store: number for store, number in counts.items() if number}
        if len(held) > 1:
            yield Problem(
                code="flavours-mixed",
                severity=Severity.WARNING,
                message=f"{' and '.join(held)} hold rules, and the kernel runs both: each tool shows its own",
                evidence="; ".join(f"{store}: {number} rules" for store, number in held.items()),
                fix="have all programs of this host use one of them, and remove the rules from the other",
            )
