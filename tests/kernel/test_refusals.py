"""What keeps lbctl from a change: it says so, ends with the code for it, and leaves the kernel as it was."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbctl.config import loads
from lbctl.model import diff
from support.crash import LBCTL, Scene
from support.network import intent, service

OLD = intent(service("web", "80/tcp", "8001", "8002"))
NEW = intent(service("web", "80/tcp", "8001", "8003"))
LEGACY = ("--backend", "iptables", "--driver", "legacy")
NFT = ("--backend", "nftables", "--driver", "nft")


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, getattr(request, "param", NFT))
    made.apply(OLD)
    yield made
    made.close()


def is_as_before(scene: Scene) -> None:
    assert diff(scene.held, scene.compiled(loads(OLD, "old"))) == ()
    assert scene.foreign() == scene.others
    assert not scene.is_pending


def goes_on(scene: Scene) -> None:
    """With what was in the way gone, the change comes about, and can be taken back."""
    assert scene.lbctl("apply", "--yes", *scene.way, config=NEW).code == 0
    assert scene.lbctl("rollback", "--yes").code == 0
    is_as_before(scene)


class Box:
    """A scene's host as one that has disks of its own: its first process is in the scene's network."""

    def __init__(self, scene: Scene) -> None:
        self.folder = scene.folder
        self.scene = scene
        words = ["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--propagation", "private"]
        with scene.namespace.entered():
            self.keeper = subprocess.Popen(
                ["unshare", *words, "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE
            )
        assert self.keeper.stdout is not None
        self.keeper.stdout.readline()
        [self.first] = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text().split()

    def run(self, *argv: str, code: int = 0) -> str:
        with self.scene.namespace.entered():
            done = subprocess.run(
                ["nsenter", f"--target={self.first}", "--mount", "--pid", *argv],
                env={**os.environ, "LBCTL_STATE_DIR": str(self.folder)},
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == code, done.stderr
        return done.stderr

    def lbctl(self, *words: str, code: int, config: str | None = None) -> str:
        options = []
        if config is not None:
            path = self.folder / "box.toml"
            path.write_text(config)
            options = ["--config", str(path)]
        return self.run(LBCTL, *words, *options, code=code)

    def mount(self, name: str) -> Path:
        """Have a folder of the state be a disk of 64 KiB."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        self.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "lbctl", str(folder))
        return folder

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.communicate()


@pytest.fixture
def box(scene: Scene) -> Iterator[Box]:
    made = Box(scene)
    yield made
    made.close()


def test_a_disk_that_is_full_or_read_only(scene: Scene, box: Box) -> None:
    lib, run = box.mount("lib"), box.mount("run")
    # The history of this box begins here, with two states.
    box.lbctl("apply", "--yes", *scene.way, config=NEW, code=0)
    box.lbctl("apply", "--yes", *scene.way, config=OLD, code=0)
    change, back = ("apply", "--yes", *scene.way), ("rollback", "--yes")
    for stop, go, why, commands in (
        (
            ("dd", "if=/dev/zero", f"of={lib}/fill"),
            ("rm", f"{lib}/fill"),
            "No space left on device",
            ((change, NEW), ((*change, "--trial", "60s"), NEW), (back, None)),
        ),
        (
            ("mount", "-o", "remount,ro", str(lib)),
            ("mount", "-o", "remount,rw", str(lib)),
            "Read-only file system",
            ((change, NEW), (back, None)),
        ),
    ):
        box.run(*stop, code=1 if "dd" in stop else 0)
        for words, config in commands:
            said = box.lbctl(*words, config=config, code=5)
            assert why in said
            assert str(lib) in said
        is_as_before(scene)
        # Nothing to do is no change; nothing has to be noted.
        box.lbctl(*change, config=OLD, code=0)
        box.run(*go)
    box.run("mount", "-o", "remount,ro", str(run))
    assert f"cannot open the lock {run}" in box.lbctl(*change, config=NEW, code=5)
    is_as_before(scene)
    box.lbctl("plan", *scene.way, config=NEW, code=0)
    box.run("mount", "-o", "remount,rw", str(run))
    # What is only kept for speed, and the name of who holds the lock, can be done without.
    box.run("dd", "if=/dev/zero", f"of={run}/fill", code=1)
    box.lbctl(*change, config=NEW, code=0)
    box.lbctl(*back, code=0)
    is_as_before(scene)


def test_rules_are_removed_on_a_full_disk(scene: Scene, box: Box) -> None:
    lib, run = box.mount("lib"), box.mount("run")
    box.lbctl("apply", "--yes", *scene.way, config=NEW, code=0)
    for folder in (lib, run):
        box.run("dd", "if=/dev/zero", f"of={folder}/fill", code=1)
    # Not even the lock is there, and it cannot be made on a disk without a free inode.
    used = f"$(df --output=iused {run} | tail -n 1 | tr -d ' ')"
    box.run("sh", "-c", f"rm {run}/*.lock && mount -o remount,nr_inodes={used} {run}")
    said = box.lbctl("remove", "--yes", code=0)
    assert "Not in the history: " in said
    assert "No space left on device" in said
    assert (scene.foreign(), scene.is_pending) == (scene.others, False)
    assert not scene.held
    box.run("rm", f"{lib}/fill")
    box.run("mount", "-o", "remount,nr_inodes=0", str(run))
    box.lbctl("apply", "--yes", *scene.way, config=OLD, code=0)


def test_another_lbctl_is_at_work(scene: Scene) -> None:
    words = ("apply", "--yes", *scene.way)
    [lock] = (scene.folder / "run").glob("lbctl.*.lock")
    handle = os.open(lock, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    for wait in ((), ("--wait", "0.2s")):
        busy = scene.lbctl(*words, *wait, config=NEW)
        assert busy.code == 7
        assert f"another lbctl (process {os.getpid()}" in busy.err
        assert "--wait" in busy.err
    threading.Timer(0.3, os.close, (handle,)).start()
    assert scene.lbctl(*words, "--wait", "10s", config=NEW).code == 0
    assert scene.lbctl("rollback", "--yes").code == 0
    is_as_before(scene)


@pytest.mark.parametrize("driver", ["nft", "libnftables"])
def test_the_kernel_refuses(tmp_path: Path, driver: str) -> None:
    """A table of our name that belongs to somebody who is still there."""
    scene = Scene(tmp_path, (*NFT[:3], driver))
    with scene.namespace.entered():
        owner = subprocess.Popen(
            ["nft", "--interactive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert owner.stdin is not None
    assert owner.stdout is not None
    owner.stdin.write("add table ip6 lbctl { flags owner; }\nlist tables ip6\n")
    owner.stdin.flush()
    assert any("table ip6 lbctl" in line for line in owner.stdout)
    held = scene.held
    refused = scene.lbctl("apply", "--yes", *scene.way, config=OLD)
    assert refused.code == 5
    assert "nft refused: Error: Could not process rule: Operation not permitted" in refused.err
    assert (scene.held, scene.foreign(), scene.is_pending) == (held, scene.others, False)
    owner.communicate("")
    assert scene.lbctl("apply", "--yes", *scene.way, config=OLD).code == 0
    is_as_before(scene)
    scene.close()


@contextmanager
def standing_in(scene: Scene, name: str, script: str) -> Iterator[None]:
    """Have a script be found first under the name of a program, which it can run as `$REAL`."""
    folder = scene.folder / "bin"
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nREAL={shutil.which(name)}\n{script}\n")
    path.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield
    path.unlink()


#: Checks as ever, and refuses to load.
REFUSES = """case "$*" in *-restore*|*--test*|*--version*|*--check*) exec $REAL "$@" ;; esac
echo "line 2 failed: no room" >&2; exit 1"""
#: Loads once, and then no more.
ONCE = 'if test -e "$0.done"; then echo "no room" >&2; exit 4; fi\n>"$0.done"; exec $REAL "$@"'


@pytest.mark.parametrize("scene", [LEGACY], indirect=True)
def test_the_second_family_is_refused(scene: Scene) -> None:
    with standing_in(scene, "ip6tables-legacy-restore", REFUSES):
        refused = scene.lbctl("apply", "--yes", *scene.way, config=NEW)
    assert refused.code == 5
    assert "ip6tables refused: line 2 failed: no room" in refused.err
    is_as_before(scene)
    goes_on(scene)


@pytest.mark.parametrize("scene", [LEGACY], indirect=True)
def test_the_first_family_cannot_be_taken_back_either(scene: Scene) -> None:
    with (
        standing_in(scene, "ip6tables-legacy-restore", REFUSES),
        standing_in(scene, "iptables-legacy-restore", REFUSES.replace("echo", ONCE + "\necho", 1)),
    ):
        unknown = scene.lbctl("apply", "--yes", *scene.way, config=NEW)
        assert unknown.code == 6
        assert "then iptables could not be reverted" in unknown.err
        assert scene.is_pending
        # Neither forward nor back: the kernel is as it was left, and that is still known.
        again = scene.lbctl("apply", "--yes", *scene.way, config=NEW)
        assert again.code == 6
        assert "cannot be completed: ip6tables refused" in again.err
        assert scene.is_pending
    finished = scene.lbctl("rollback", "--yes")
    assert finished.code == 0, finished.err
    assert "Interrupted, completed now: apply number 2" in finished.err
    is_as_before(scene)
