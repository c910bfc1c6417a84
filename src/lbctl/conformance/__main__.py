"""`python -m lbctl.conformance`: the matrix of what each driver does, refuses, or gets wrong.

Exit code 0 where nothing is wrong, 1 where something is, 3 where no driver can be used, 4 without root.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from lbctl.conformance.checks import CHECKS
from lbctl.conformance.run import Support, run
from lbctl.conformance.site import ways
from lbctl.errors import LbctlError, NoBackend, PermissionDenied
from lbctl.host import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbctl.conformance.run import CheckResult
    from lbctl.conformance.site import DriverUnderTest

FORMAT_VERSION = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lbctl.conformance", description=__doc__)
    parser.add_argument("--backend", help="one backend only")
    parser.add_argument("--driver", help="one driver only")
    parser.add_argument("--output", choices=("text", "json"), default="text", help="how to print the matrix")
    options = parser.parse_args(arguments)
    try:
        found = ways(LocalHost(), options.backend, options.driver)
        usable = _usable(found)
    except LbctlError as error:
        print(f"conformance: {error.message}", file=sys.stderr)
        return error.exit_code
    outcomes = [outcome for way in usable for outcome in _all(way)]
    if options.output == "json":
        print(json.dumps(_document(found, outcomes), indent=2))
    else:
        print(_text(usable, outcomes))
    return int(any(outcome.verdict is Support.FAILED for outcome in outcomes))


def _usable(found: Sequence[DriverUnderTest]) -> list[DriverUnderTest]:
    """Those that can be used, each other one told; raises `NoBackend` or `PermissionDenied`."""
    for way in found:
        if way.reason:
            print(f"{way} cannot be used: {way.reason}", file=sys.stderr)
    usable = [way for way in found if not way.reason]
    if not usable:
        raise NoBackend("no backend and driver of these names can be used here")
    if not LocalHost().may_change_network():
        raise PermissionDenied("network namespaces are made by root only")
    return usable


def _all(way: DriverUnderTest) -> Iterable[CheckResult]:
    for check in CHECKS:
        print(f"\r\x1b[K{way}: {check}", end="", file=sys.stderr) if sys.stderr.isatty() else None
        yield run(check, way)
    way.clear()
    print("\r\x1b[K", end="", file=sys.stderr) if sys.stderr.isatty() else None


def _text(usable: Sequence[DriverUnderTest], outcomes: Sequence[CheckResult]) -> str:
    """Return the matrix, and below it each reason once."""
    by_cell = {(outcome.check, outcome.way): outcome for outcome in outcomes}
    rows = [["", *map(str, usable)]]
    rows += [[check.name, *(by_cell[check, way].verdict for way in usable)] for check in CHECKS]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    for verdict in (Support.REFUSED, Support.FAILED):
        told = [outcome for outcome in outcomes if outcome.verdict is verdict]
        lines += [""] if told else []
        for check, reason in dict.fromkeys((outcome.check, outcome.reason) for outcome in told):
            who = [str(o.way) for o in told if (o.check, o.reason) == (check, reason)]
            lines.append(f"{check}: {verdict} by {', '.join(who)}: {reason}")
    return "\n".join(lines)


def _document(found: Sequence[DriverUnderTest], outcomes: Sequence[CheckResult]) -> dict[str, object]:
    return {
        "format_version": FORMAT_VERSION,
        "drivers": [
            {
                "backend": way.backend.name,
                "driver": way.driver,
                "usable": way.reason is None,
                "reason": way.reason,
            }
            for way in found
        ],
        "checks": [
            {
                "name": check.name,
                "feature": check.feature,
                "outcomes": [
                    {
                        "backend": outcome.way.backend.name,
                        "driver": outcome.way.driver,
                        "verdict": outcome.verdict.lower(),
                        "reason": outcome.reason or None,
                    }
                    for outcome in outcomes
                    if outcome.check is check
                ],
            }
            for check in CHECKS
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
