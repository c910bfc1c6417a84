"""The state of lbctl on the real kernel: whose it is, and what is left of it when processes are killed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from support.network import Network, intent, service

LBCTL = str(Path(sys.executable).with_name("lbctl"))
#: Fewer capabilities than process 1 has: what its /proc/1/ns/net is closed to.
FEW = ("setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all")
OLD = intent(service("web", "80/tcp", "8001", "8002"))
NEW = intent(service("web", "80/tcp", "8001", "8002", "8003"))
#: Seconds that nothing here may take, on the slowest machine.
PATIENCE = 120


class Place:
    """A network namespace of several on one host, which all have the same directory of state."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.namespace = Namespace(LocalHost(folder))
        self.config = folder / f"{self.namespace.fd}.toml"
        self.config.write_text(config)

    def lbctl(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        with self.namespace.entered():
            return subprocess.run(
                [*before, LBCTL, *words, "--config", str(self.config)],
                env={**os.environ, "LBCTL_STATE_DIR": str(self.folder / "state")},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )

    def json(self, *words: str, before: tuple[str, ...] = ()) -> Any:
        done = self.lbctl(*words, "--output", "json", before=before)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Place, Place]]:
    made = tuple(
        Place(tmp_path, intent(service(name, f"{port}/tcp", "8001")))
        for name, port in (("web", 80), ("api", 81))
    )
    yield made[0], made[1]
    for place in made:
        place.namespace.close()


@pytest.mark.parametrize("before", [(), FEW], ids=["as root", "with few capabilities"])
def test_no_namespace_sees_the_state_of_another(places: tuple[Place, Place], before: tuple[str, ...]) -> None:
    web, api = places
    for place in places:
        place.json("apply", "--yes", before=before)
    for place in places:
        [entry] = place.json("history", before=before)["history"]
        assert (entry["number"], entry["parent"]) == (1, 0)
        assert place.json("status", before=before)["in_sync"]
    # Back to nothing, and not to what the other one holds.
    assert api.json("rollback", "--yes", before=before)["to"] == 0
    assert api.namespace.run("nft", "list", "tables") == ""
    assert web.json("status", before=before)["in_sync"]
    # All capabilities or few: the same state.
    assert len(web.json("history")["history"]) == 1
    assert [entry["action"] for entry in api.json("history")["history"]] == ["apply", "rollback"]


def test_the_pending_change_of_another_namespace_is_left_alone(places: tuple[Place, Place]) -> None:
    web, api = places
    web.json("apply", "--yes")
    [state] = (web.folder / "state").rglob("lbctl.000001")
    pending = state.with_name("lbctl.pending")
    state.rename(pending)
    api.json("apply", "--yes", before=FEW)
    assert pending.exists()
    assert web.json("history")["interrupted"]["number"] == 1


@pytest.fixture
def trial(network: Network, way: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """An `apply --trial` that waits for its confirmation, with the new rules in the kernel."""
    assert network.lbctl("apply", "--yes", *way, config=OLD).code == 0
    new = network.folder / "new.toml"
    new.write_text(NEW)
    with network.host.entered():
        process = subprocess.Popen(
            [LBCTL, "apply", "--yes", "--trial", "3s", "--config", str(new), *way],
            env={**os.environ, "LBCTL_STATE_DIR": str(network.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.stderr is not None
    until = time.monotonic() + PATIENCE
    while "Applied on trial" not in process.stderr.readline():
        assert time.monotonic() < until
    yield process
    process.kill()
    process.communicate()


def kill_both(network: Network, trial: subprocess.Popen[str]) -> None:
    """Kill lbctl and its reverter, whose number is in the lock that it holds."""
    [lock] = (network.folder / "run").glob("lbctl.trial.*.lock")
    os.kill(int(lock.read_text()), signal.SIGKILL)
    trial.kill()
    trial.wait()


def test_a_trial_whose_processes_were_killed_is_reverted_by_the_next_change(
    network: Network, way: tuple[str, ...], trial: subprocess.Popen[str]
) -> None:
    kill_both(network, trial)
    until = time.monotonic() + PATIENCE
    while (seen := network.lbctl("history", "--output", "json").json["trial"])["state"] != "abandoned":
        assert seen["state"] == "unguarded"
        assert time.monotonic() < until
        time.sleep(0.1)
    for words in (["status", "--brief", *way], ["plan", *way]):
        shown = network.lbctl(*words, config=OLD)
        assert "the process that had to revert it is gone" in shown.out + shown.err
    doctor = network.lbctl("doctor", "--output", "json", config=OLD)
    assert "trial-unattended" in [problem["code"] for problem in doctor.json["problems"]]
    assert "8003" in network.rules()
    late = network.lbctl("confirm")
    assert (late.code, "too late to confirm" in late.err) == (8, True)
    assert "8003" not in network.rules()
    assert network.lbctl("status", "--exit-code", *way, config=OLD).code == 0
    assert network.lbctl("history", "--output", "json").json["trial"] is None


def test_ctrl_c_leaves_a_trial_to_its_reverter(network: Network, trial: subprocess.Popen[str]) -> None:
    trial.send_signal(signal.SIGINT)
    _, err = trial.communicate(timeout=PATIENCE)
    assert (trial.returncode, "Traceback" in err) == (130, False)
    assert "interrupted: the trial continues for " in err
    assert network.lbctl("confirm", "--wait", "5s").code in {0, 8}


def test_ctrl_c_at_the_question_changes_nothing(network: Network) -> None:
    before = network.rules()
    path = network.folder / "lbctl.toml"
    path.write_text(OLD)
    master, slave = pty.openpty()
    with network.host.entered():
        process = subprocess.Popen(
            [LBCTL, "apply", "--config", str(path)],
            env={**os.environ, "LBCTL_STATE_DIR": str(network.folder)},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
    os.close(slave)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    said = os.read(master, 4096)
    assert b"interrupted" in said
    assert b"Traceback" not in said
    os.close(master)
    assert network.rules() == before
    history = network.lbctl("history", "--output", "json", config=OLD).json
    assert (history["history"], history["interrupted"]) == ([], None)


def test_links_in_a_directory_of_another_user_are_not_followed(network: Network) -> None:
    """A directory of state that its owner has prepared for root."""
    victim = network.folder / "victim"
    victim.write_text("precious")
    state = network.folder / "state"
    for name in ("lib", "run"):
        (state / name).mkdir(parents=True)
        (state / name).chmod(0o755)
    (state / "lib" / "lbctl.pending").symlink_to(victim)
    for path in (state, state / "lib", state / "run"):
        os.chown(path, 65534, 65534)
    env = {"LBCTL_STATE_DIR": str(state)}
    before = network.rules()
    refused = network.lbctl("apply", "--yes", config=OLD, env=env)
    assert (refused.code, victim.read_text(), network.rules()) == (4, "precious", before)
    assert "belongs to user nobody" in refused.err
    assert "LBCTL_STATE_DIR" in refused.err


def test_root_does_not_follow_an_intent_of_another_user(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = network.folder / "home"
    home.mkdir()
    (home / "lbctl.toml").write_text(OLD)
    for path in (home, home / "lbctl.toml"):
        os.chown(path, 65534, 65534)
    monkeypatch.chdir(home)
    for words in (["plan"], ["status"], ["apply", "--yes"], ["remove", "--yes"], ["doctor"], ["check"]):
        refused = network.lbctl(*words)
        assert refused.code == 2, words
        assert "./lbctl.toml is not used: the current directory belongs to user nobody" in refused.err
    assert network.lbctl("plan", env={"SUDO_UID": "65534"}).code == 0
    assert network.lbctl("plan", config=home / "lbctl.toml").code == 0
