"""`make matrix`: see the package.

Exits with 1 if anything is wrong. A quick run that cannot reach the archive says so and exits with 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from matrix import platforms, quick, result, table, verification
from matrix.archive import UnreachableError
from matrix.platforms import Platform
from matrix.releases import QUICK, RELEASES, Release
from matrix.result import PlatformResult, Verdict
from matrix.roots import Root, unpacked


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m matrix", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only the oldest nft and the newest, in a minute"
    )
    names = [release.name for release in RELEASES]
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=", ".join(names))
    given = parser.parse_args(arguments)
    if unknown := set(given.releases) - set(names):
        parser.error(f"unknown release: {', '.join(sorted(unknown))}")
    if os.geteuid():
        parser.error("needs root, for network namespaces and chroot")
    wanted = given.releases or (QUICK if given.quick else names)
    chosen = [release for release in RELEASES if release.name in wanted]
    try:
        if given.quick:
            return _quick(chosen)
        return _whole(chosen)
    except UnreachableError as error:
        _say(f"\n*** make matrix: NOTHING WAS TESTED. The Debian archive cannot be reached. ***\n{error}\n")
        return 0 if given.quick else 1


def _quick(releases: Sequence[Release]) -> int:
    with ThreadPoolExecutor() as pool:
        roots = list(pool.map(lambda release: _root(release, quick.PACKAGES), releases))
    outcomes = [quick.verify(root) for root in roots]
    for release, outcome in zip(releases, outcomes, strict=True):
        print(f"{release}, nftables nft: {outcome.verdict} {outcome.reason}".rstrip())
    return int(any(outcome.verdict is Verdict.FAILED for outcome in outcomes))


def _whole(releases: Sequence[Release]) -> int:
    # Two at once: a run waits for connections and for the archive half of its time.
    with ThreadPoolExecutor(2) as pool:
        prepared = list(pool.map(_prepared, releases))
        found = tuple(pool.map(lambda platform: _verified(platform, prepared), prepared))
    whole = verification.result(found)
    if list(releases) == list(RELEASES):
        result.write(whole)
        table.DOCUMENT.write_text(table.document(whole), encoding="utf-8")
    print(table.document(whole))
    return int(any(line for platform in found for line in result.failures(platform)))


def _prepared(release: Release) -> Platform:
    return platforms.prepared(_root(release, release.packages))


def _verified(platform: Platform, prepared: Sequence[Platform]) -> PlatformResult:
    start = time.monotonic()
    verified = verification.verify(platform, prepared)
    wrong = list(result.failures(verified))
    # At once: a whole run takes its time.
    _say("\n".join([f"{platform.release}: {time.monotonic() - start:.0f} s, {len(wrong)} wrong", *wrong]))
    return verified


def _root(release: Release, packages: Sequence[str]) -> Root:
    root, note = unpacked(release, packages)
    if note:
        _say(note)
    return root


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
