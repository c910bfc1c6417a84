"""What a run of the matrix found, and its document: recorded.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from matrix.releases import DRIVERS

FORMAT_VERSION = 1
_OPTIONAL = frozenset(str(driver) for driver in DRIVERS if driver.optional)
RECORDED = Path(__file__).with_name("recorded.json")


class Verdict(StrEnum):
    """How lbctl does on a platform. A refusal names what is refused, and is right."""

    YES = "yes"
    REFUSED = "refused"
    FAILED = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one test; `reason` is what is refused, or what is wrong."""

    verdict: Verdict
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict)

    @classmethod
    def parse(cls, text: str) -> Outcome:
        """The outcome whose text this is."""
        verdict, _, reason = text.partition(": ")
        return cls(verdict=Verdict(verdict), reason=reason)

    @classmethod
    def of(cls, wrong: str) -> Outcome:
        """Right, or wrong for a reason."""
        return cls(verdict=Verdict.FAILED, reason=wrong) if wrong else cls(verdict=Verdict.YES)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverResult:
    """One driver on one platform. `unusable` is lbctl's reason not to use it; nothing else is known then.

    `features` by the check of the conformance suite, `dumps` by the spelling of the tools' dump, `foreign`
    by the release that wrote the tables (drivers of nftables only).
    """

    backend: str
    driver: str
    unusable: str
    features: Mapping[str, Outcome]
    dumps: Mapping[str, Outcome]
    foreign: Mapping[str, Outcome]

    def __str__(self) -> str:
        return f"{self.backend} {self.driver}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformResult:
    """One release. `python` is what lbctl ran on there; `tests` is None where that is this machine's."""

    release: str
    nft: str
    iptables: str
    python: str
    own_python: bool
    drivers: tuple[DriverResult, ...]
    tour: Outcome
    tests: Outcome | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A run of the matrix, on one kernel."""

    lbctl: str
    kernel: str
    platforms: tuple[PlatformResult, ...]


def failures(platform: PlatformResult) -> Iterator[str]:
    """Everything that is wrong on a platform, a line each."""
    named = {"README": platform.tour, "unit and property tests": platform.tests}
    for driver in platform.drivers:
        if driver.unusable and str(driver) not in _OPTIONAL:
            yield f"{platform.release}: {driver}: not usable: {driver.unusable}"
        if not driver.unusable and not (driver.features and driver.dumps):
            yield f"{platform.release}: {driver}: nothing was tested"
        named |= {f"{driver}: {name}": outcome for name, outcome in driver.features.items()}
        named |= {f"{driver}: dump {name}": outcome for name, outcome in driver.dumps.items()}
        named |= {f"{driver}: tables of {name}": outcome for name, outcome in driver.foreign.items()}
    for name, outcome in named.items():
        if outcome and outcome.verdict is Verdict.FAILED:
            yield f"{platform.release}: {name}: {outcome.reason}"


def write(result: Result, path: Path = RECORDED) -> None:
    """Record a result."""
    document = {"format_version": FORMAT_VERSION, **_plain(result)}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: object) -> Any:
    """The value as JSON has it. An outcome is one text, so that the difference of two records is short."""
    match value:
        case Outcome():
            return str(value)
        case PlatformResult() | DriverResult() | Result():
            return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value


def read(path: Path = RECORDED) -> Result:
    """Return the recorded result."""
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document.pop("format_version") == FORMAT_VERSION
    return Result(**{**document, "platforms": tuple(map(_platform, document["platforms"]))})


def _platform(document: dict[str, Any]) -> PlatformResult:
    tests = document["tests"]
    return PlatformResult(
        **{
            **document,
            "drivers": tuple(map(_driver, document["drivers"])),
            "tour": Outcome.parse(document["tour"]),
            "tests": tests if tests is None else Outcome.parse(tests),
        }
    )


def _driver(document: dict[str, Any]) -> DriverResult:
    parts = {key: outcomes(document[key]) for key in ("features", "dumps", "foreign")}
    return DriverResult(**{**document, **parts})


def outcomes(document: Mapping[str, str]) -> dict[str, Outcome]:
    """Name → outcome, of name → its text."""
    return {name: Outcome.parse(text) for name, text in document.items()}
