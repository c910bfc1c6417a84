"""Messages are wrapped at the width of a terminal, and left alone for everything else."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from io import StringIO
from pathlib import Path

import pytest

from lbctl.cli.options import Color
from lbctl.cli.output import Style, prose, say
from support.network import intent, service

LBCTL = Path(sys.executable).with_name("lbctl")
BAD = intent(service("web", "80/tcp", "8001", scheduler="leastconn"))


class Screen(StringIO):
    """A terminal of 40 columns."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")


def test_words_are_wrapped_and_never_broken() -> None:
    text = f"a note of {'many ' * 10}words with /a/path/{'x' * 50} in it"
    lines = prose(text, stream=Screen()).split("\n")
    assert " ".join(line.strip() for line in lines) == text
    assert [line for line in lines[1:] if not line.startswith("    ") or line[4] == " "] == []
    assert [len(line) > 40 for line in lines] == ["/a/path/" in line for line in lines]
    assert prose(text, stream=StringIO()) == text
    assert prose("short  and   aligned", stream=Screen()) == "short  and   aligned"


def test_styles_take_no_columns() -> None:
    paint = Style(Color.ALWAYS)
    plain = prose("word " * 20, stream=Screen())
    painted = prose(" ".join(paint("word", "red") for _ in range(20)), stream=Screen())
    assert painted.replace(paint("word", "red"), "word") == plain.rstrip()


def test_rules_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    rule = "    -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8001"
    say(f"one line of words that is longer than the terminal is wide\n{rule}")
    assert rule in screen.getvalue().split("\n")
    assert len(screen.getvalue().split("\n")) == 4


@pytest.mark.parametrize("columns", [40, 80])
def test_errors_fit_the_terminal(columns: int, tmp_path: Path) -> None:
    path = tmp_path / "b.toml"
    path.write_text(BAD)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run(
        [LBCTL, "check", "b.toml", "--color", "never"],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    shown = os.read(master, 65536).decode().replace("\r\n", "\n")
    os.close(master)
    assert done.returncode == 2
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert "hint: did you mean" in shown
    hint = next(number for number, line in enumerate(lines) if "hint:" in line)
    assert lines[hint + 1].startswith(" " * 10)
    assert done.stdout == ""
