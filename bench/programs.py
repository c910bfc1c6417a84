"""The programs of the bench: our own in C, and other balancers, installed or unpacked beside the environment.

The Makefile unpacks Debian's packages of balancers instead of installing them: an installed proxy starts a
daemon that takes port 80, now and after every boot.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host.netns import Namespace

SOURCES = Path(__file__).parent
#: By `make bench-deps`, and by `make test-servers`.
UNPACKED = (Path(sys.prefix) / "debian", Path(sys.prefix) / "servers")
#: Where Debian's packages have libraries that programs find by themselves: not those of plugins.
LIBRARIES = "usr/lib/*/*.so.*"
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of our own programs."""

    sender: Path
    client: Path
    server: Path


def compiled(folder: Path) -> Programs:
    """Our programs in C, compiled."""
    made = Programs(*(folder / name for name in ("sender", "client", "server")))
    for path in (made.sender, made.client, made.server):
        source = SOURCES / f"{path.name}.c"
        subprocess.run(["cc", "-O2", "-o", str(path), str(source)], check=True)
    return made


def use_unpacked() -> None:
    """Have unpacked programs found if none is installed, and their libraries with them."""
    folders = [f"{root}/{folder}" for root in UNPACKED for folder in ("usr/sbin", "usr/bin", "sbin")]
    os.environ["PATH"] = ":".join([os.environ["PATH"], *folders])
    libraries = dict.fromkeys(str(path.parent) for root in UNPACKED for path in sorted(root.glob(LIBRARIES)))
    given = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [*given, *libraries]))


def nginx_stream() -> Path | None:
    """Return the module with which nginx balances connections."""
    for root in (*UNPACKED, Path("/")):
        path = root / "usr/lib/nginx/modules/ngx_stream_module.so"
        if path.exists():
            return path
    return None


def absent(program: str) -> str | None:
    """Return why a program cannot be run, or None."""
    return None if shutil.which(program) else f"{program} is not installed"


def version(*argv: str) -> str | None:
    """Return the version that a program reports, or None if it is missing."""
    if not shutil.which(argv[0]):
        return None
    done = subprocess.run(argv, capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else None


@contextmanager
def running(
    namespace: Namespace,
    argv: Sequence[str],
    *,
    ready: Callable[[], bool] | None = None,
    log: Path | None = None,
    patience: float = PATIENCE,
) -> Iterator[subprocess.Popen[str]]:
    """Run a program in a namespace until the end of the block; it ends with this process too.

    Without `ready` it has to print a line once it is ready.
    """
    with namespace.entered():
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("a") if log else None,
            text=True,
            # Out of reach of the terminal's Ctrl-C: this process ends it.
            start_new_session=True,
        )
        try:
            printed = lambda: bool(process.stdout and process.stdout.readline())  # noqa: E731
            wait_until(ready or printed, process, log, patience)
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def wait_until(
    ready: Callable[[], bool],
    process: subprocess.Popen[str],
    log: Path | None = None,
    patience: float = PATIENCE,
) -> None:
    """Wait for a program; raise `OSError` if it ends before, or takes too long."""
    if not comes(ready, process, patience):
        raise OSError(f"{process.args!r} is not ready: {log.read_text() if log else ''}")


def comes(ready: Callable[[], bool], process: subprocess.Popen[str], patience: float) -> bool:
    """Return True once it is ready, False if the program ends before, or after so many seconds."""
    end = time.monotonic() + patience
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
