"""A bar shows itself on a terminal, for work that takes long, and nowhere else."""

import os
import pty
import subprocess
import sys
from collections.abc import Sequence

#: Each stage of the work lasts until a line comes in.
PROGRAM = """
import sys
from lbctl.cli import progress
progress.PATIENCE = float(sys.argv[1])
with progress.stages("One thing", "Another") as on:
    sys.stdin.readline()
    on()
    sys.stdin.readline()
print("done")
"""
AT_ONCE, NEVER = 0.0, 3600.0


def shown(patience: float, *stages: Sequence[str], terminal: bool = True, **variables: str) -> str:
    """All that the work shows. Each of its two `stages` ends when the words of that stage are shown."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(patience)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=slave if terminal else subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", **variables},
    ) as process:
        os.close(slave)
        assert process.stdin
        text = ""
        for words in stages or ((), ()):
            while not all(word in text for word in words):
                text += os.read(master, 65536).decode()
            process.stdin.write(b"\n")
            process.stdin.flush()
        try:
            while piece := os.read(master, 65536):
                text += piece.decode()
        except OSError:
            pass  # Linux ends a terminal that nobody holds with EIO.
        finally:
            os.close(master)
        if process.stderr:
            text += process.stderr.read().decode()
    assert process.returncode == 0
    return text


def test_long_work_shows_its_stages() -> None:
    shown(AT_ONCE, ("One thing", "0/2"), ("Another", "1/2"))


def test_short_work_shows_nothing() -> None:
    assert shown(NEVER) == ""


def test_what_is_no_terminal_gets_nothing() -> None:
    assert shown(AT_ONCE, terminal=False) == ""
    assert shown(AT_ONCE, TERM="dumb") == ""
