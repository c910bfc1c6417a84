"""The image of the agent, built upon a fresh Debian system: a registry may be out of reach."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4
from support.network import intent, service
from systems.conftest import build, tree
from systems.system import RELEASES, archived

#: What buildah 1.28 gives by default: `--cap-drop all` would drop those that are added too.
_DEFAULT = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
_CAPABILITIES = (
    *(f"--cap-drop=CAP_{name}" for name in _DEFAULT),
    *("--cap-add=CAP_NET_ADMIN", "--cap-add=CAP_NET_RAW"),
)
_PATIENCE = 300.0


class Image:
    """The image in a storage of its own. `files` is seen as /srv in its containers."""

    def __init__(self, folder: Path, files: Path) -> None:
        storage = (f"--root={folder / 'root'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs")
        self._buildah = ("buildah", *storage)
        self._files = files
        self._container = ""

    def base(self, file: Path) -> str:
        """Make an image of the archive of a system, and return what names it."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archived(RELEASES[-1])), "/")
        self.buildah("commit", "--quiet", "--rm", container, f"oci-archive:{file}")
        return f"oci-archive:{file}"

    def take(self, file: Path) -> list[str]:
        """Have a container of an archive, and return the words that its image runs."""
        self._container = self.buildah("from", f"oci-archive:{file}")
        settings = json.loads(self.buildah("inspect", self._container))["OCIv1"]["config"]
        return [*settings["Entrypoint"], *settings["Cmd"]]

    def buildah(self, *words: str) -> str:
        """Return the last line that buildah prints."""
        done = subprocess.run([*self._buildah, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip() if words[0] == "inspect" else done.stdout.strip().rpartition("\n")[2]

    def command(self, *argv: str) -> list[str]:
        """The words that run a program of the image, in the current network namespace."""
        isolated = ("--isolation=chroot", "--network=host", *_CAPABILITIES, f"--volume={self._files}:/srv:ro")
        return [*self._buildah, "run", *isolated, self._container, "--", *argv]

    def run(self, *argv: str) -> str:
        """Return what a program of the image prints."""
        done = subprocess.run(self.command(*argv), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def image(tmp_path) -> Image:
    files = tmp_path / "files"
    files.mkdir()
    return Image(tmp_path / "storage", files)


def test_the_agent_of_the_image_runs_with_two_capabilities(image, network, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_BASE", image.base(tmp_path / "base.oci.tar"))
    build(tree(tmp_path / "tree", "HEAD"), tmp_path / "dist", "deb", "image")
    words = image.take(tmp_path / "dist" / "lbctl-agent.oci.tar")
    text = intent(service("web", "80/tcp", "8001", "8002", "8003", check="tcp"))
    (tmp_path / "files" / "lbctl.toml").write_text(text, encoding="utf-8")
    network.local_endpoints((8001, 8002))

    with network.host.entered():
        # NET_ADMIN is 12, NET_RAW 13.
        assert "CapEff:\t0000000000003000" in image.run("cat", "/proc/self/status")
        image.run("lbctl", "apply", "--yes", "--config", "/srv/lbctl.toml")
        agent = subprocess.Popen(image.command(*words), start_new_session=True)
        try:
            _wait_for('wanted_share_ratio{endpoint="8003",family="ipv4",service="web"} 0.0', agent)
            assert Counter(network.ask(network.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}
        finally:
            os.killpg(agent.pid, signal.SIGTERM)
            agent.wait(_PATIENCE)


def _wait_for(line: str, agent: subprocess.Popen[bytes]) -> None:
    """Ask the agent for its metrics until they have a line."""
    end = time.monotonic() + _PATIENCE
    text = ""
    while line not in text:
        assert agent.poll() is None, "the agent has ended"
        assert time.monotonic() < end, text
        time.sleep(0.1)
        try:
            with urllib.request.urlopen("http://127.0.0.1:9099/metrics", timeout=_PATIENCE) as answer:
                text = answer.read().decode()
        except OSError:  # not yet there
            continue
