"""How long lbctl takes to start, held against the least that a Typer program can do.

    python bench/startup.py [RUNS]

Whole processes, started alike and in turns, so that whatever else the machine does hits both sides; medians
of CPU time, that of tools which are started included, and of the time that passes. `plan` and `status` need
root: they ask the kernel of a private network namespace, which has the rules of the intent. Exits with 1 if a
command takes more than 1.5 times as long.
"""

from __future__ import annotations

import compileall
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timing import Spent, median_ratio, run

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace

if TYPE_CHECKING:
    from programs import Programs
    from sizes import Size

LIMIT = 1.5
RUNS = 21
#: What the other side is called in results.
TWO = "two commands"

INTENT = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8003"]\n'
RULES = (
    "*nat\n-A PREROUTING -p tcp -m tcp --dport 80 -m statistic --mode nth --every 2 --packet 0 "
    "-j DNAT --to-destination 10.0.0.1:80\n-A PREROUTING -p tcp -m tcp --dport 80 "
    "-j DNAT --to-destination 10.0.0.2:80\nCOMMIT\n"
)

PROGRAM = '''\
import typer

app = typer.Typer()


@app.command()
def a() -> None:
    """The first command."""
    print("a")


@app.command()
def b() -> None:
    """The second command."""
    print("b")
'''

# What an installer writes into bin/ for a console script.
LAUNCHER = """\
#!{python}
import sys
from {module} import {function}
if __name__ == "__main__":
    sys.argv[0] = sys.argv[0].removesuffix(".exe")
    sys.exit({function}())
"""


def launcher(folder: Path, name: str, module: str, function: str) -> str:
    """A console script like those of an installed program."""
    path = folder / name
    path.write_text(LAUNCHER.format(python=sys.executable, module=module, function=function))
    path.chmod(0o755)
    return str(path)


@contextmanager
def network() -> Iterator[bool]:
    """Be in a network namespace of its own; False without the privilege."""
    if os.geteuid():
        yield False
        return
    namespace = Namespace(LocalHost())
    try:
        with namespace.entered():
            yield True
    finally:
        namespace.close()


def measure(folder: Path, runs: int) -> dict[str, dict[str, Any]]:
    """Return command → side → seconds, of which CPU time is."""
    # Both sides start from byte code, as installed packages do.
    (folder / "two.py").write_text(PROGRAM)
    compileall.compile_dir(folder, quiet=1)
    intent, rules = folder / "lbctl.toml", folder / "rules"
    intent.write_text(INTENT)
    rules.write_text(RULES)
    lbctl = launcher(folder, "lbctl", "lbctl.__main__", "start")
    two = launcher(folder, "two", "two", "app")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LBCTL_", "PYTHON"))},
        "PYTHONPATH": str(folder),
        "LBCTL_STATE_DIR": str(folder / "state"),
    }
    config = ("--config", str(intent))
    found: dict[str, dict[str, Spent]] = {}
    with network() as privileged:
        pairs = {
            "lbctl --help": ([lbctl, "--help"], [two, "--help"]),
            "lbctl check": ([lbctl, "check", *config], [two, "a"]),
            "lbctl import": ([lbctl, "import", str(rules)], [two, "a"]),
        }
        if privileged:
            run(Spent(), lbctl, "apply", "--yes", *config, env=environment)
            pairs["lbctl plan"] = ([lbctl, "plan", *config], [two, "a"])
            pairs["lbctl status"] = ([lbctl, "status", *config], [two, "a"])
        for number in range(runs + 1):
            for label, (ours, theirs) in pairs.items():
                sides = found.setdefault(label, {"lbctl": Spent(), TWO: Spent()})
                # The first run fills caches.
                for side, argv in (("lbctl", ours), (TWO, theirs)):
                    run(sides[side] if number else Spent(), *argv, env=environment)
    return {label: {side: each.as_json() for side, each in sides.items()} for label, sides in found.items()}


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:  # noqa: ARG001 (a part's)
    """Command → what it and the other program took."""
    return {"commands": measure(folder, size.starts)}


def main(runs: int) -> int:
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), runs)
    print(f"{'CPU time':14}{'lbctl':>10}{TWO:>14}{'ratio':>8}{'wall':>8}   ({runs} runs each, medians)")
    for label, sides in found.items():
        mine, other = (statistics.median(sides[side]["cpu"]) for side in ("lbctl", TWO))
        cpu, wall = (median_ratio(sides["lbctl"][what], sides[TWO][what]) for what in ("cpu", "wall"))
        worst = max(worst, cpu)
        print(f"{label:14}{mine * 1000:7.1f} ms{other * 1000:11.1f} ms{cpu:8.2f}{wall:8.2f}")
    print(f"target: at most {LIMIT}: {'met' if worst <= LIMIT else 'MISSED'}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else RUNS))
