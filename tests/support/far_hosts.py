"""A host that lbctl reaches by ssh only: the middle one of the three, seen from the client."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from support.network import Network, Result, put, run_lbctl

#: Stands for ssh: the command runs in the network namespace of the host, and does not end with this process.
_SSH = f"""#!{sys.executable} -IS
import os, subprocess, sys, threading
words = sys.argv[sys.argv.index("--") + 2:]
command = [{{words}}, words[-1]]
environment = {{{{**os.environ, **{{environment}}}}}}
far = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
open({{pids!r}}, "a").write(f"{{{{os.getpid()}}}}\\n")
threading.Thread(target=lambda: os._exit(far.wait()), daemon=True).start()
while data := os.read(0, 65536):
    try:
        far.stdin.write(data)
        far.stdin.flush()
    except BrokenPipeError:
        break
far.stdin.close()
sys.exit(far.wait())
"""
EMPTY: Mapping[str, str] = MappingProxyType({})
#: Programs of a host that has only the oldest: they refuse what newer ones can do, or are not there.
_POOR = {
    "dd": 'case "$*" in *iflag=* | *conv=fsync*) exit 1 ;; esac\nexec /usr/bin/dd "$@"',
    "flock": "exit 1",
    "head": "exit 1",
    "stat": "exit 1",
    "readlink": "exit 1",
}


class FarHost:
    """What stands for the ssh to the host of a network; `lbctl` runs on the client, with `--host`.

    `programs` are found there before all others: name → text of a script.
    """

    def __init__(
        self, network: Network, shell: str = "sh", *, poor: bool = False, programs: Mapping[str, str] = EMPTY
    ) -> None:
        self._network = network
        self._folder = network.folder / "far"
        self.pids = self._folder / "pids"
        (self._folder / "bin").mkdir(parents=True)
        (self._folder / "poor").mkdir()
        own = {**(_POOR if poor else {}), **programs}
        for name, text in own.items():
            _program(self._folder / "poor" / name, f"#!/bin/sh\n{text}\n")
        path = os.environ["PATH"]
        environment = {
            "LBCTL_STATE_DIR": str(network.folder),
            "PATH": f"{self._folder / 'poor'}:{path}",
        }
        words = ["nsenter", f"--net={network.host.path}", shell, "-c"]
        text = _SSH.format(words=", ".join(map(repr, words)), environment=environment, pids=str(self.pids))
        _program(self._folder / "bin/ssh", text)
        self.env = {
            "PATH": f"{self._folder / 'bin'}:{path}",
            "LBCTL_STATE_DIR": str(self._folder / "here"),
        }

    def lbctl(self, *words: str, config: str | None = None, host: str = "far") -> Result:
        """Run the real program on the client."""
        options = [f"--host={host}"]
        if config is not None:
            path = self._network.folder / "far.toml"
            put(path, config)
            options.append(f"--config={path}")
        with self._network.client.entered():
            return run_lbctl(*words, *options, env=self.env)


def trips(result: Result) -> int:
    """How many round trips a command took, by what it says of itself under LBCTL_DEBUG=1."""
    return len(re.findall(r"(?m)^round trip \d+: ", result.err))


def received(result: Result) -> int:
    """How many bytes came from the host, by what a command says of itself under LBCTL_DEBUG=1."""
    found = re.search(r"(?m)^received (\d+) bytes", result.err)
    return int(found[1]) if found else 0


def _program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
