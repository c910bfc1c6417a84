"""A bar shows itself on a terminal, for work that takes long, and nowhere else."""

import os
import pty
import subprocess
import sys

PROGRAM = """
import sys, time
from lbctl.cli import progress
progress.PATIENCE = 0.05
with progress.stages("One thing", "Another") as on:
    time.sleep(float(sys.argv[1]))
    on()
    time.sleep(float(sys.argv[1]))
print("done")
"""


def shown(seconds: float, *, terminal: bool = True, **variables: str) -> str:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)],
        stdout=subprocess.DEVNULL,
        stderr=slave if terminal else subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", **variables},
    )
    os.close(slave)
    if not terminal:
        text = process.communicate()[1].decode()
        os.close(master)
        return text
    pieces = []
    try:
        while piece := os.read(master, 65536):
            pieces.append(piece)
    except OSError:
        pass  # Linux ends a terminal that nobody holds with EIO.
    finally:
        os.close(master)
    assert process.wait() == 0
    return b"".join(pieces).decode()


def test_long_work_shows_its_stages() -> None:
    text = shown(0.6)
    assert "One thing" in text
    assert "Another" in text
    assert "1/2" in text


def test_short_work_shows_nothing() -> None:
    assert shown(0) == ""


def test_what_is_no_terminal_gets_nothing() -> None:
    assert shown(0.4, terminal=False) == ""
    assert shown(0.4, TERM="dumb") == ""
