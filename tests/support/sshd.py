"""A real sshd in a network namespace, with keys of its own: Debian's server, unpacked and not installed.

What is asked for over it runs in an unpacked root of another system, or in this one.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lbctl.conformance.network import HOST4
from lbctl.host.netns import Namespace
from matrix.roots import ENTER
from support.network import Network, Result, run_lbctl

PORT = 2222
#: In a mount namespace of its own: the account that sshd gives privileges up to may be missing here.
_START = """
mount --make-rprivate /
mount --bind {folder}/passwd /etc/passwd
mkdir -p /run/sshd
exec {sshd} -D -e -f {folder}/sshd_config
"""


class Sshd:
    """The server, until `close`. `environment` is what a client needs to find it as `far`."""

    def __init__(
        self,
        servers: Path,
        namespace: Namespace,
        address: str,
        folder: Path,
        *,
        root: Path | None = None,
        shell: Sequence[str] = ("sh", "-c"),
        state: Path,
    ) -> None:
        folder.mkdir()
        (folder / "bin").mkdir()
        for name in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True)
        inside = [sys.executable, str(ENTER), str(root), "/run", "/tmp", "--"] if root is not None else []
        start = f'exec {shlex.join([*inside, *shell])} "$SSH_ORIGINAL_COMMAND"'
        _write(folder / "command", f"#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n{start}\n", 0o755)
        _write(
            folder / "passwd", f"{Path('/etc/passwd').read_text()}sshd:x:64999:65534::/run/sshd:/bin/false\n"
        )
        _write(
            folder / "sshd_config",
            f"""Port {PORT}
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
SetEnv LBCTL_STATE_DIR={state}
ForceCommand {folder}/command
""",
        )
        key = (folder / "host.pub").read_text().split()
        _write(folder / "known", f"[{address}]:{PORT} {key[0]} {key[1]}\n")
        _write(
            folder / "ssh_config",
            f"""Host far
    HostName {address}
    Port {PORT}
    User root
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
""",
        )
        # As the user's own configuration would be read, which lies in the home directory of the passwd file.
        _write(folder / "bin/ssh", f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/ssh_config "$@"\n', 0o755)
        self.environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        self._namespace = namespace
        self._log = (folder / "log").open("wb")
        libraries = ":".join(map(str, servers.glob("usr/lib/*-linux-*")))
        with namespace.entered():
            self._process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "sh",
                    "-ec",
                    _START.format(folder=folder, sshd=servers / "usr/sbin/sshd"),
                ],
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
                stdout=self._log,
                stderr=self._log,
            )
        self._await(folder)

    def _await(self, folder: Path) -> None:
        until = time.monotonic() + 60
        while b"Server listening" not in (folder / "log").read_bytes():
            assert self._process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)

    def close(self) -> None:
        """End the server, and the sessions whose clients it has lost."""
        number = self._process.pid
        sessions = Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()
        self._process.terminate()
        self._process.wait(30)
        for session in sessions:
            with suppress(ProcessLookupError):
                os.kill(int(session), signal.SIGTERM)
        self._log.close()


class FarSshd:
    """The host of a network over a real sshd, and lbctl on the client."""

    def __init__(self, network: Network, servers: Path, **options: Any) -> None:
        self._network = network
        folder = network.folder
        self.server = Sshd(servers, network.host, HOST4, folder / "sshd", state=folder / "far", **options)

    def lbctl(self, *words: str, config: str | None = None) -> Result:
        """Run the real program on the client."""
        options = ["--host=far"]
        if config is not None:
            path = self._network.folder / "far.toml"
            path.write_text(config, encoding="utf-8")
            options.append(f"--config={path}")
        with self._network.client.entered():
            return run_lbctl(*words, *options, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {"LBCTL_STATE_DIR": str(self._network.folder / "here"), **self.server.environment}

    def close(self) -> None:
        """End the server."""
        self.server.close()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
