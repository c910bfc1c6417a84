"""What lbctl costs, held against another checkout of it: whole processes, in turns, in fresh networks.

    python bench/against.py CHECKOUT [--services 10000] [--runs 5] [--driver libnftables]

CHECKOUT has an environment of its own (`make venv`). Each round has both sides do the same in a network
namespace of their own: a first apply, an apply that changes nothing, and changes of one endpoint. Prints the
medians of seconds and of CPU seconds, the processes that lbctl starts included, and the ratio of this side to
the other one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from sides import intent_text
from timing import Spent, fresh, run

from lbctl.host import LocalHost

HERE = Path(__file__).parents[1]
FIRST, SAME, DELTA = "first apply", "no change", "change of one endpoint"


def measure(checkout: Path, driver: str, folder: Path) -> dict[str, Spent]:
    """One side in one round."""
    state = folder / "state"
    shutil.rmtree(state, ignore_errors=True)
    environment = {**os.environ, "LBCTL_STATE_DIR": str(state)}
    lbctl = (str(checkout / ".venv/bin/lbctl"), "apply", "--yes", "--driver", driver, "--config")
    spent: defaultdict[str, Spent] = defaultdict(Spent)
    with fresh(LocalHost()):
        run(spent[FIRST], *lbctl, str(folder / "first.toml"), env=environment)
        run(spent[SAME], *lbctl, str(folder / "first.toml"), env=environment)
        for name in ("other", "first", "other", "first"):
            run(spent[DELTA], *lbctl, str(folder / f"{name}.toml"), env=environment)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--driver", default="libnftables")
    given = parser.parse_args()
    sides = (HERE, given.checkout.resolve())
    found: dict[Path, defaultdict[str, Spent]] = {side: defaultdict(Spent) for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = intent_text(given.services)
        (folder / "first.toml").write_text(text)
        (folder / "other.toml").write_text(text.replace('"10.1.0.1:', '"10.2.0.1:', 1))
        for number in range(given.runs):
            for side in sides if number % 2 else sides[::-1]:
                for what, spent in measure(side, given.driver, folder).items():
                    found[side][what].note(statistics.median(spent.wall), statistics.median(spent.cpu))
            print(f"round {number + 1} of {given.runs}", file=sys.stderr, flush=True)
    for what in (FIRST, SAME, DELTA):
        here, there = (found[side][what] for side in sides)
        for kind, mine, other in (("seconds", here.wall, there.wall), ("CPU seconds", here.cpu, there.cpu)):
            one, two = statistics.median(mine), statistics.median(other)
            print(f"{what}, {kind}: {one:.2f}, the other checkout {two:.2f}, ratio {one / two:.2f}")


if __name__ == "__main__":
    main()
