"""Trials on the real kernel: the reverter outlives lbctl, its shell and its terminal."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.host import LocalHost
from support.network import Network, intent, service

OLD = intent(service("web", "80/tcp", "8001", "8002"))
NEW = intent(service("web", "80/tcp", "8001", "8002", "8003"))
LBCTL = str(Path(sys.executable).with_name("lbctl"))
SECONDS = 2.0
#: Seconds that nothing here may take, on the slowest machine.
PATIENCE = 120


class Stage:
    """A host that holds an old state, and the file of a new one."""

    def __init__(self, network: Network, way: tuple[str, ...]) -> None:
        self.network, self.way = network, way
        self.reader = LocalHost(network.folder)
        assert network.lbctl("apply", "--yes", *way, config=OLD).code == 0
        self.old = network.rules()
        self.file = network.folder / "new.toml"
        self.file.write_text(NEW)

    @property
    def command(self) -> list[str]:
        words = ["apply", "--yes", "--trial", f"{SECONDS:g}s", "--config", str(self.file)]
        return [LBCTL, *words, *self.way, "--output", "json"]

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "LBCTL_STATE_DIR": str(self.network.folder)}

    @contextmanager
    def applying(self) -> Iterator[subprocess.Popen[str]]:
        pipe = subprocess.PIPE
        with self.network.host.entered():
            process = subprocess.Popen(
                self.command, env=self.env, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True
            )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    @property
    def deadline(self) -> float:
        """When the trial is to be reverted at the earliest, on the clock of `Host.clock`."""
        with self.network.host.entered():
            found = engine.read_trial(self.reader, "lbctl")
        assert found is not None
        return found.deadline

    def await_new(self) -> None:
        """Wait until the rules of the new state are there."""
        self._await(lambda rules: "8003" in rules)

    def await_old(self) -> None:
        """Wait until the old rules are there again."""
        self._await(lambda rules: "8003" not in rules)

    def _await(self, wanted: Callable[[str], bool]) -> None:
        until = time.monotonic() + PATIENCE
        tool = {"nftables": ("nft", "list", "ruleset")}.get(self.way[1])
        legacy = ("iptables-legacy-save",) if self.way[3] == "legacy" else ("iptables-nft-save",)
        while not wanted(self.network.tool(*(tool or legacy))):
            assert time.monotonic() < until, "the kernel never held what was waited for"
            time.sleep(0.02)


@pytest.fixture
def stage(network: Network, way: tuple[str, ...]) -> Stage:
    return Stage(network, way)


def test_a_trial_ends_with_8_where_nobody_confirms(stage: Stage) -> None:
    with stage.applying() as process:
        stage.await_new()
        deadline = stage.deadline
        stage.await_old()
        assert stage.reader.clock() >= deadline
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 8, err
    assert stage.network.rules() == stage.old
    assert '"trial": "reverted"' in out
    assert "was not confirmed and was reverted to state 1" in err
    assert "read back" in err


def test_a_confirmed_trial_stays(stage: Stage) -> None:
    with stage.applying() as process:
        stage.await_new()
        confirmed = stage.network.lbctl("confirm", "--wait", "5s", "--output", "json")
        assert (confirmed.code, confirmed.json["confirmed"]) == (0, True)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert '"trial": "confirmed"' in out
    time.sleep(SECONDS + 0.5)
    assert stage.network.lbctl("plan", "--exit-code", *stage.way, config=NEW).code == 0
    assert stage.network.lbctl("confirm").code == 5


def test_a_trial_outlives_lbctl_its_shell_and_its_terminal(stage: Stage) -> None:
    master, slave = pty.openpty()
    with stage.network.host.entered():
        shell = subprocess.Popen(
            ["/bin/sh", "-c", '"$@"; true', "sh", *stage.command],
            env=stage.env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The terminal becomes the session's own, so that its end is a hangup.
            preexec_fn=_take_terminal,
        )
    os.close(slave)
    try:
        stage.await_new()
        deadline = stage.deadline
        [lbctl] = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
        os.kill(int(lbctl), signal.SIGKILL)
        os.kill(shell.pid, signal.SIGKILL)
    finally:
        os.close(master)
        shell.kill()
        shell.wait()
    stage.await_old()
    assert stage.reader.clock() >= deadline
    assert stage.network.rules() == stage.old
    late = stage.network.lbctl("confirm", "--wait", "5s")
    assert late.code == 8
    assert "too late to confirm" in late.err


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_whole_group_and_session_may_be_killed(network: Network) -> None:
    """As often as $LBCTL_TRIALS says: all that the terminal's session holds is gone at once."""
    stage = Stage(network, ("--backend", "nftables", "--driver", "libnftables"))
    for _ in range(int(os.environ.get("LBCTL_TRIALS", "2"))):
        with network.host.entered():
            process = subprocess.Popen(
                stage.command,
                env=stage.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        stage.await_new()
        deadline = stage.deadline
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stage.await_old()
        assert stage.reader.clock() >= deadline
    assert network.rules() == stage.old
