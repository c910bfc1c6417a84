"""docs/matrix.md, made of the recorded result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from matrix.releases import DRIVERS, RELEASES
from matrix.result import DriverResult, Outcome, PlatformResult, Result, Verdict, failures

DOCUMENT = Path(__file__).parents[2] / "docs" / "matrix.md"

_TITLES = {release.name: release.title for release in RELEASES}
_HEAD = """\
# Platforms

`make matrix` runs lbctl with the tools of other Debian releases and writes this page. The tools are unpacked,
not installed, and run on one kernel in private network namespaces; an older kernel may do otherwise. If a
release's own Python is new enough for lbctl, that is what runs it, with all drivers; if not, this machine's
Python does, with the release's commands. *refused* means that lbctl names the feature and changes nothing
(exit code 3).
"""
_DRIVERS = """\
## Drivers

*Features* counts the checks of the conformance suite (`python -m lbctl.conformance`, real connections) by
their outcome. *Own dumps* counts the ways in which the tools list the rules (`nft list ruleset` with `-a`,
`-s`, `-n`, `-nn`, `-j`; `iptables-save` with and without `-c`): *yes* if `lbctl compare` finds a listing
equal to the live rules.
"""
_FOREIGN = """\
## Tables of another release

lbctl with the tools of a platform reads, checks, migrates and removes what lbctl with another platform's nft
wrote, in one network namespace and without its state.
"""
_FEATURES = """\
## Features

The outcome on all releases that offer the driver; a release that differs is named.
"""


def document(result: Result) -> str:
    """Return the text of the page."""
    parts = [
        _HEAD,
        f"Recorded with lbctl {result.lbctl} on Linux {result.kernel.partition('-')[0]}.\n",
        _table(_platforms(result.platforms)),
        _DRIVERS,
        _table(_drivers(result.platforms)),
        _FOREIGN,
        _table(_foreign(result.platforms)),
        _FEATURES,
        _table(_features(result.platforms)),
    ]
    if wrong := [line for platform in result.platforms for line in failures(platform)]:
        parts += ["## Failures\n", "".join(f"- {_one_line(line)}\n" for line in wrong)]
    return "\n".join(parts)


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body))


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]} …"


def _platforms(platforms: Sequence[PlatformResult]) -> Iterator[Sequence[str]]:
    yield "platform", "nft", "iptables", "Python", "README's tour", "unit and property tests"
    for each in platforms:
        python = each.python if each.own_python else f"{each.python}, not its own"
        tests = _cell(each.tests) if each.tests else "by `make test`"
        yield _TITLES[each.release], each.nft, each.iptables, python, _cell(each.tour), tests


def _cell(outcome: Outcome) -> str:
    if outcome.verdict is Verdict.YES and outcome.reason:
        return f"{outcome.verdict} ({outcome.reason})"
    return str(outcome.verdict)


def _drivers(platforms: Sequence[PlatformResult]) -> Iterator[Sequence[str]]:
    yield "platform", "driver", "features", "own dumps"
    for platform in platforms:
        for driver in platform.drivers:
            title = _TITLES[platform.release]
            if driver.unusable:
                yield title, str(driver), f"not used: {driver.unusable}", ""
            else:
                yield title, str(driver), _counts(driver.features.values()), _counts(driver.dumps.values())


def _foreign(platforms: Sequence[PlatformResult]) -> Iterator[Sequence[str]]:
    yield "platform", "driver", *(f"tables of {_TITLES[each.release]}" for each in platforms)
    for platform in platforms:
        for driver in platform.drivers:
            if driver.foreign:
                found = (driver.foreign.get(writer.release) for writer in platforms)
                yield (
                    _TITLES[platform.release],
                    str(driver),
                    *(str(each.verdict) if each else "" for each in found),
                )


def _counts(outcomes: Iterable[Outcome]) -> str:
    """How many of each verdict, as `35 yes, 2 refused`."""
    found = [outcome.verdict for outcome in outcomes]
    return ", ".join(f"{found.count(verdict)} {verdict}" for verdict in Verdict if verdict in found)


def _features(platforms: Sequence[PlatformResult]) -> Iterator[Sequence[str]]:
    yield "feature", *map(str, DRIVERS)
    names = dict.fromkeys(name for each in platforms for driver in each.drivers for name in driver.features)
    for name in names:
        yield name, *(_where(name, str(driver), platforms) for driver in DRIVERS)


def _where(feature: str, driver: str, platforms: Sequence[PlatformResult]) -> str:
    """The verdict of all releases that have a driver, and behind it each one that differs."""
    found = {
        _TITLES[platform.release]: _verdict(each, feature)
        for platform in platforms
        for each in platform.drivers
        if str(each) == driver
    }
    if not found:
        return ""
    verdicts = list(found.values())
    most = max(verdicts, key=verdicts.count)
    return "; ".join([most, *(f"{title}: {verdict}" for title, verdict in found.items() if verdict != most)])


def _verdict(driver: DriverResult, feature: str) -> str:
    return "not used" if driver.unusable else driver.features[feature].verdict
