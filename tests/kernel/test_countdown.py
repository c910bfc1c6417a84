"""The wait for the end of a trial on a real terminal: the countdown, Enter, and Ctrl-C."""

import fcntl
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.network import Network, Result, intent, service

OLD = intent(service("web", "80/tcp", "8001", "8002"))
NEW = intent(service("web", "80/tcp", "8001", "8002", "8003"))
LBCTL = str(Path(sys.executable).with_name("lbctl"))
#: Seconds that nothing here may take, on the slowest machine.
PATIENCE = 120


class Terminal:
    """The terminal that controls a running lbctl, and all that it has shown."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.shown = ""
        self._master, self._process = master, process

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def await_text(self, text: str) -> None:
        until = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            assert self._read() or text in self.shown, self.shown

    def end(self) -> Result:
        while self._read():
            pass
        return Result(self._process.wait(PATIENCE), "", self.shown)

    def _read(self) -> bool:
        """Take what is shown next; False once lbctl has closed the terminal."""
        assert select.select([self._master], [], [], PATIENCE)[0], self.shown
        try:
            part = os.read(self._master, 4096)
        except OSError:  # how Linux ends a terminal that no process holds
            return False
        self.shown += part.decode()
        return bool(part)


@contextmanager
def on_terminal(network: Network, *words: str, before: bytes = b"", **env: str) -> Iterator[Terminal]:
    """Run lbctl in a session whose terminal is its own, as in a shell; `before` was typed already."""
    master, slave = pty.openpty()
    os.write(master, before)
    with network.host.entered():
        process = subprocess.Popen(
            [LBCTL, *words],
            env={
                **os.environ,
                "LBCTL_STATE_DIR": str(network.folder),
                "TERM": "xterm",
                "COLUMNS": "200",
                **env,
            },
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        os.close(master)
        process.kill()
        process.wait()


@pytest.fixture
def old(network: Network) -> str:
    """The rules of an old state; new.toml has another one."""
    assert network.lbctl("apply", "--yes", config=OLD).code == 0
    (network.folder / "new.toml").write_text(NEW)
    return network.rules()


def trial(network: Network, seconds: int) -> tuple[str, ...]:
    return ("apply", str(network.folder / "new.toml"), "--yes", "--trial", f"{seconds}s")


def test_the_seconds_are_counted_down_and_enter_keeps_the_change(network: Network, old: str) -> None:
    with on_terminal(network, *trial(network, 100)) as terminal:
        terminal.await_text("Reverting in 100 s; Enter keeps the change, Ctrl-C leaves the trial running.")
        terminal.await_text("\rReverting in 98 s; ")
        terminal.type(b"\n")
        ended = terminal.end()
    assert ended.code == 0
    assert "\nConfirmed." in ended.err.replace("\r\x1b[K", "")
    # One line, written anew.
    assert all(
        "\n" not in part for part in re.findall(r"Reverting in \d+ s(.*?)\r", ended.err, re.DOTALL)[1:-1]
    )
    assert "8003" in network.rules()
    assert network.lbctl("history", "--output", "json", config=OLD).json["trial"] is None


@pytest.mark.parametrize(("before", "typed"), [(b"\n", b""), (b"", b"n\n"), (b"", b"\x04")])
def test_only_enter_in_the_trial_keeps_the_change(
    network: Network, old: str, before: bytes, typed: bytes
) -> None:
    with on_terminal(network, *trial(network, 2), before=before) as terminal:
        terminal.await_text("Reverting in")
        terminal.type(typed)
        ended = terminal.end()
    assert (ended.code, network.rules()) == (8, old), ended.err
    assert "was not confirmed and was reverted" in ended.err


def test_ctrl_c_leaves_the_trial_running_and_says_so(network: Network, old: str) -> None:
    with on_terminal(network, *trial(network, 100)) as terminal:
        terminal.await_text("Reverting in")
        terminal.type(b"\x03")
        ended = terminal.end()
    assert (ended.code, "Traceback" in ended.err) == (130, False)
    assert re.search(
        r"lbctl: interrupted: the trial continues for \d+ s: lbctl confirm keeps the change, "
        r"lbctl rollback reverts it now",
        " ".join(ended.err.split()),
    )
    assert "8003" in network.rules()
    assert network.lbctl("confirm", config=OLD).code == 0


def test_a_plain_terminal_gets_plain_lines(network: Network, old: str) -> None:
    with on_terminal(network, *trial(network, 100), TERM="dumb") as terminal:
        terminal.await_text(
            "Applied on trial; reverting in 100 s unless you press Enter or run `lbctl confirm`."
        )
        terminal.type(b"\n")
        ended = terminal.end()
    assert (ended.code, "\x1b" in ended.err) == (0, False)


def test_what_a_trial_would_refuse_is_refused_before_the_question(network: Network, old: str) -> None:
    new = str(network.folder / "new.toml")
    network.tool("nft", "add", "rule", "ip", "lbctl", "prerouting", "counter")
    with on_terminal(network, "apply", new, "--trial", "60s") as terminal:
        ended = terminal.end()
    assert (ended.code, "[y/N]" in ended.err) == (7, False)
    assert "differ from the last recorded state" in ended.err
    assert network.lbctl("apply", "--yes", config=OLD).code == 0
    with on_terminal(network, *trial(network, 100)) as terminal:
        terminal.await_text("Reverting in")
        for words in (("apply", new), ("apply", new, "--yes"), ("remove",), ("remove", "--yes")):
            refused = network.lbctl(*words)
            assert (refused.code, refused.out, "has not ended" in refused.err) == (7, "", True), refused
        assert network.lbctl("rollback", "--yes").code == 0


def test_a_saved_file_is_written_once_the_trial_is_confirmed(network: Network) -> None:
    for ports in (["8001", "--every 2 --packet 0"], ["8002", ""]):
        statistic = f"-m statistic --mode nth {ports[1]}" if ports[1] else ""
        rule = f"-t nat -A PREROUTING -p tcp --dport 80 {statistic} -j REDIRECT --to-ports {ports[0]}"
        network.tool("iptables-legacy", *rule.split())
    rules = network.rules()
    file = network.folder / "saved.toml"
    words = ("migrate", "--to", "nftables", "--yes", "--save", str(file), "--trial")
    assert (network.lbctl(*words, "1s").code, file.exists(), network.rules()) == (8, False, rules)
    # The second try is not refused, and it is this process that confirms.
    with on_terminal(network, *words, "100s") as terminal:
        terminal.await_text("Reverting in")
        assert not file.exists()
        terminal.type(b"\n")
        ended = terminal.end()
    assert (ended.code, f"Wrote {file}." in ended.err) == (0, True), ended.err
    assert network.lbctl("plan", str(file), "--exit-code").code == 0
    assert network.lbctl("rollback", "--yes", config=file).code == 0
    file.unlink()
    # Another process confirms, and the one that waits is gone.
    with on_terminal(network, *words, "100s") as terminal:
        terminal.await_text("Reverting in")
        terminal.type(b"\x03")
        assert terminal.end().code == 130
    assert not file.exists()
    assert network.lbctl("confirm").code == 0
    assert network.lbctl("plan", str(file), "--exit-code").code == 0
    assert (file.stat().st_mode & 0o777) == 0o600
