"""docs/how-to/python.md is true: its program is run on the kernel, and type-checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.network import Network, intent, service

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "how-to" / "python.md"
_PROGRAM = re.compile(r"```python\n(.*?)```.*?```text\n(.*?)```", re.DOTALL)


def test_the_program_of_the_guide_does_what_it_says(network: Network) -> None:
    found = _PROGRAM.search(GUIDE.read_text(encoding="utf-8"))
    assert found
    program, printed = found.groups()
    (network.folder / "lbctl.toml").write_text(intent(service("web", "80/tcp", "8001-8003")))
    with network.host.entered():
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=network.folder,
            env={**os.environ, "LBCTL_STATE_DIR": str(network.folder)},
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", printed)
    assert len(network.lbctl("history", "--output", "json").json["history"]) == 2
    (network.folder / "program.py").write_text(program)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(network.folder / "program.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
