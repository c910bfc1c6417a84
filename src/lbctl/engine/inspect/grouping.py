"""Problems that differ only in what they concern, as one: 500 silent endpoints are a few lines."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.spi import Problem

#: What stands for `Problem.about` while two problems are compared; no text for a terminal contains it.
_ABOUT = "\x00"
#: Entries of a list, and pieces of evidence, that are named.
_SHOWN, _EVIDENCE = 8, 2
_NUMBERED = re.compile(r"(|.*:)([0-9]{1,5})(|/[a-z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemGroup:
    """Problems with one code, severity and sentence. `services` has what is concerned in each service."""

    problem: Problem
    services: Mapping[str | None, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.services:
            raise ValueError("a group of no problems")

    @property
    def whole(self) -> Problem | None:
        """The one problem that says it all, with everything that it concerns; None for several services."""
        if len(self.services) > 1:
            return None
        about = folded(next(iter(self.services.values())))
        return _with(self.problem, about)

    @property
    def general(self) -> Problem:
        """The problem without a service, about `these endpoints` if it names any."""
        return replace(_with(self.problem, "these endpoints"), service=None)


def grouped(problems: Iterable[Problem]) -> tuple[ProblemGroup, ...]:
    """Return problems as groups, in the order in which the first of each comes."""
    kinds: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        about = problem.about
        message = problem.message.replace(about, _ABOUT) if about else problem.message
        kinds.setdefault((problem.code, problem.severity, message, bool(about)), []).append(problem)
    return tuple(_group(found) for found in kinds.values())


def folded(texts: Sequence[str]) -> str:
    """Return a list of endpoints for a sentence: ports in a row as one range, and a few of many."""
    parts = list(_runs(texts))
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more


def _group(found: Sequence[Problem]) -> ProblemGroup:
    services: dict[str | None, dict[str, None]] = {}
    for problem in found:
        services.setdefault(problem.service, {}).update({problem.about: None} if problem.about else {})
    evidence = list(dict.fromkeys(problem.evidence for problem in found))
    more = f"; and {len(evidence) - _EVIDENCE} more" if len(evidence) > _EVIDENCE else ""
    first = replace(found[0], evidence="; ".join(evidence[:_EVIDENCE]) + more)
    return ProblemGroup(problem=first, services={name: tuple(each) for name, each in services.items()})


def _with(problem: Problem, about: str) -> Problem:
    if not problem.about:
        return problem
    message, fix = (text.replace(problem.about, about) for text in (problem.message, problem.fix))
    return replace(problem, message=message, fix=fix, about=about)


def _runs(texts: Sequence[str]) -> Iterator[str]:
    """Yield texts; `8001/tcp`, `8002/tcp`, `8003/tcp` in a row as `8001-8003/tcp`."""
    row: tuple[str, int, int, str] | None = None
    for text in texts:
        match = _NUMBERED.fullmatch(text)
        if (
            match is not None
            and row is not None
            and (match[1], int(match[2]), match[3])
            == (
                row[0],
                row[2] + 1,
                row[3],
            )
        ):
            row = (row[0], row[1], row[2] + 1, row[3])
            continue
        if row is not None:
            yield _run(*row)
        row = (match[1], int(match[2]), int(match[2]), match[3]) if match is not None else None
        if match is None:
            yield text
    if row is not None:
        yield _run(*row)


def _run(prefix: str, first: int, last: int, suffix: str) -> str:
    return f"{prefix}{first}{suffix}" if first == last else f"{prefix}{first}-{last}{suffix}"
