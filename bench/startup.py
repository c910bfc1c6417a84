"""How long lbctl takes to start, held against the least that a Typer program can do.

    python bench/startup.py [RUNS]

Whole processes, started alike and in turns, so that whatever else the machine does hits both sides; medians.
Exits with 1 where lbctl takes more than 1.3 times as long.
"""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.3
RUNS = 41

INTENT = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8003"]\n'

TWO = '''\
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


def seconds(argv: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(runs: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Both sides start from byte code, as installed packages do.
        (folder / "two.py").write_text(TWO)
        compileall.compile_dir(folder, quiet=1)
        intent = folder / "lbctl.toml"
        intent.write_text(INTENT)
        lbctl = launcher(folder, "lbctl", "lbctl.cli", "main")
        two = launcher(folder, "two", "two", "app")
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LBCTL_", "PYTHON"))},
            "PYTHONPATH": name,
        }
        pairs = {
            "lbctl --help": ([lbctl, "--help"], [two, "--help"]),
            "lbctl check": ([lbctl, "check", "--config", str(intent)], [two, "a"]),
        }
        worst = 0.0
        print(f"{'':14}{'lbctl':>10}{'two':>10}{'ratio':>8}   ({runs} runs each, medians)")
        for label, (ours, theirs) in pairs.items():
            for argv in (ours, theirs):
                seconds(argv, environment)
            times = [(seconds(ours, environment), seconds(theirs, environment)) for _ in range(runs)]
            mine, other = (statistics.median(side) for side in zip(*times, strict=True))
            worst = max(worst, mine / other)
            print(f"{label:14}{mine * 1000:7.1f} ms{other * 1000:7.1f} ms{mine / other:8.2f}")
        print(f"target: at most {LIMIT}: {'met' if worst <= LIMIT else 'MISSED'}")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else RUNS))
