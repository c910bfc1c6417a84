"""How long commands take over ssh, compared with the same commands on the host itself.

    PYTHONPATH=tests python bench/remote.py [RUNS]

10,000 services, nft, a real sshd (unpacked by `make test-servers`) in a private network namespace, as root.
Local and remote runs take turns, so that whatever else the machine does hits both; medians of the time that
passes. Exits with 1 if a command takes more than 1.5 times as long over ssh.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from support.network import Network, Result, intent, service
from support.sshd import FarSshd

SERVICES = 10_000
RUNS = 5
LIMIT = 1.5


def main(runs: int) -> int:
    """Measure, and print a line for each command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "many.toml"
        services = (
            service(f"s{n}", f"192.0.2.1:{10000 + n}/tcp", "10.0.0.11:80", "10.0.0.12:80")
            for n in range(SERVICES)
        )
        path.write_text(intent(*services), encoding="utf-8")
        network = Network(folder)
        far = FarSshd(network, Path(sys.executable).parents[1] / "servers")
        try:
            return _compare({"local": network.lbctl, "ssh": far.lbctl}, path, runs)
        finally:
            far.close()
            network.close()


def _compare(sides: dict[str, Callable[..., Result]], path: Path, runs: int) -> int:
    commands = {
        "apply": ("--driver=nft", "--yes", f"--config={path}"),
        "plan": ("--driver=nft", f"--config={path}"),
        "remove": ("--yes",),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for side, run in sides.items():
            for command, options in commands.items():
                began = time.monotonic()
                done = run(command, *options)
                times.setdefault((command, side), []).append(time.monotonic() - began)
                if done.code:
                    raise SystemExit(f"{command} ({side}): {done.err}")
    worst = 0.0
    for command in commands:
        local, ssh = (median(times[command, side]) for side in ("local", "ssh"))
        ratio = median(b / a for a, b in zip(times[command, "local"], times[command, "ssh"], strict=True))
        print(f"{command}: local {local:.2f} s, over ssh {ssh:.2f} s, {ratio:.2f} times as long")
        worst = max(worst, ratio)
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS))
