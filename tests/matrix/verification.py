"""Verify lbctl on a platform: conformance, dumps, the README's tour, and lbctl's own tests on its Python."""

from __future__ import annotations

import json
import platform as machine
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import lbctl
from matrix import foreign
from matrix.platforms import Platform
from matrix.releases import Driver
from matrix.result import DriverResult, Outcome, PlatformResult, Result, Verdict, outcomes

#: Tests that need no kernel, without those of the record that this run is about to write, and of the
#: repository itself, which take development tools and find the same everywhere.
_TESTS = (
    *("tests/unit", "tests/property"),
    *(f"--ignore=tests/unit/test_{name}.py" for name in ("architecture", "bench_report", "links", "matrix")),
)


def verify(platform: Platform, platforms: Sequence[Platform]) -> PlatformResult:
    """Run everything on one of some platforms."""
    offered = _offered(platform)
    others = [other for other in platforms if other is not platform]
    return PlatformResult(
        release=platform.release.name,
        nft=platform.version("nft"),
        iptables=platform.version("iptables-nft"),
        python=platform.version(str(platform.python)),
        own_python=platform.release.hosts_lbctl,
        drivers=tuple(_driver(platform, driver, offered, others) for driver in platform.release.drivers),
        tour=outcome_of(platform, "-m", "matrix.tour"),
        tests=_tests(platform) if platform.release.tests else None,
    )


def result(platforms: tuple[PlatformResult, ...]) -> Result:
    """The result of a whole run on this machine."""
    return Result(lbctl=lbctl.__version__, kernel=machine.release(), platforms=platforms)


def _offered(platform: Platform) -> dict[tuple[str, str], str]:
    """(backend, driver) → why lbctl cannot use it there, empty if it can."""
    document = _json(platform, "-m", "lbctl", "backends", "--output", "json")
    return {
        (backend["name"], driver["name"]): "" if driver["usable"] else driver["reason"]
        for backend in document["backends"]
        for driver in backend["drivers"]
    }


def _driver(
    platform: Platform, driver: Driver, offered: Mapping[tuple[str, str], str], others: Sequence[Platform]
) -> DriverResult:
    found = DriverResult(
        backend=driver.backend,
        driver=driver.name,
        unusable=offered.get((driver.backend, driver.name), "not offered"),
        features={},
        dumps={},
        foreign={},
    )
    if found.unusable:
        return found
    words = ("--backend", driver.backend, "--driver", driver.name, "--output", "json")
    writers = others if driver.backend == "nftables" else ()
    return replace(
        found,
        features=_conformance(_json(platform, "-m", "lbctl.conformance", *words)),
        dumps=outcomes(_json(platform, "-m", "matrix.dumps", driver.backend, driver.name)),
        foreign={other.release.name: foreign.verify(other, platform, driver.name) for other in writers},
    )


def _conformance(document: dict[str, Any]) -> dict[str, Outcome]:
    """Check → its outcome, of the suite's document for one driver."""
    verdicts = {verdict.lower(): verdict for verdict in Verdict}
    return {
        check["name"]: Outcome(verdict=verdicts[found["verdict"]], reason=found["reason"] or "")
        for check in document["checks"]
        for found in check["outcomes"]
    }


def outcome_of(platform: Platform, *words: str) -> Outcome:
    """The outcome that a program on a platform prints."""
    return Outcome.parse(_json(platform, *words))


def _tests(platform: Platform) -> Outcome:
    # A platform has this machine's folder of temporary files.
    with tempfile.NamedTemporaryFile() as report:
        options = ("-p", "no:cacheprovider", "--numprocesses", "2", "--junit-xml", report.name)
        done = platform.run("-m", "pytest", *options, *_TESTS)
        try:
            suite = next(ElementTree.parse(report.name).iter("testsuite"))
        except (ElementTree.ParseError, StopIteration):
            return Outcome.of(f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    if failed or done.returncode:
        return Outcome.of(", ".join(failed) or f"pytest ended with {done.returncode}")
    return Outcome(verdict=Verdict.YES, reason=f"{suite.get('tests')} tests")


def _json(platform: Platform, *words: str) -> Any:
    done = platform.run(*words)
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        how = f"python {' '.join(words)} ended with {done.returncode}"
        raise RuntimeError(f"{platform.release}: {how}: {done.stdout}{done.stderr}") from error
