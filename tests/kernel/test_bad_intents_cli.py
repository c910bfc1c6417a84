"""A file with a mistake, given to the program itself: file, line and hint, and the kernel untouched."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support.bad_intents import BAD_INTENTS
from support.network import Network, Result, intent, service
from support.users import as_user

BAD = {bad.name: bad for bad in BAD_INTENTS}
#: One of each kind of mistake, for whole processes.
SAMPLE = (
    "duplicate-listeners.toml",
    "json-trailing-comma.json",
    "listener-ipv6-without-brackets.toml",
    "name-with-drop.toml",
    "name-with-newline.toml",
    "name-with-terminal-escape.toml",
    "toml-unclosed-list.toml",
    "weights-need-too-many-slots.toml",
)
GOOD = intent(service("web", "80/tcp", "8001", "8002"))


def regular(text: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(text)

    return make


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(b"schema = 1\n")
        stream.truncate(50 * 1024 * 1024)


def loop(path: Path) -> None:
    path.symlink_to(path)


GENERATED: dict[str, tuple[Callable[[Path], None], str]] = {
    "not-utf-8": (regular(b"schema = 1\n# caf\xe9\n"), ":2: not UTF-8"),
    "utf-16": (regular("schema = 1\n".encode("utf-16")), ":1: not UTF-8"),
    "zeros": (regular(b"schema = 1\n\0"), ":2: "),
    "gzip": (regular(b"\x1f\x8b\x08\0\0\0\0\0"), ":1: "),
    "huge": (huge, "larger than"),
    "deep": (regular(b"schema = 1\nservice = " + b"[" * 100_000), ":2: nested too deeply"),
    "long-number": (regular(b"schema = " + b"9" * 100_000), ":1: "),
    "fifo": (os.mkfifo, "a pipe, not a regular file"),
    "loop": (loop, "cannot be read"),
    "missing": (lambda path: None, ": no such file"),
    "dangling": (lambda path: path.symlink_to("nowhere"), ": no such file"),
}


def lbctl(network: Network, *words: str, before: tuple[str, ...] = (), **options: object) -> Result:
    """As a process, that must end soon."""
    with network.host.entered():
        done = subprocess.run(
            [*before, sys.executable, "-m", "lbctl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={**os.environ, "LBCTL_STATE_DIR": str(network.folder)},
            **options,
        )
    return Result(done.returncode, done.stdout, done.stderr)


def refused(result: Result, file: str) -> None:
    """Exit code 2, no data but the error itself; each mistake with file and hint, and line if it has one."""
    assert (result.code, result.out == "" or "error" in result.json) == (2, True)
    assert "Traceback" not in result.err
    assert not re.search(r"[^\x20-\x7e\n\u00a0-\uffff]", result.err), "control characters reach a terminal"
    lines = result.err.splitlines()
    mistakes = [i for i, line in enumerate(lines) if re.match(re.escape(file) + r"(:[1-9]\d*)?: \S", line)]
    assert mistakes
    for place in mistakes:
        assert lines[place + 1].startswith("    hint: ")
    assert re.fullmatch(r"lbctl: \d+ mistakes? in .*", lines[-1])


def test_no_command_takes_a_bad_file(network: Network) -> None:
    assert network.lbctl("apply", "--yes", config=GOOD).code == 0
    full = network.rules()
    for name in SAMPLE:
        bad = BAD[name].write(network.folder)
        refused(lbctl(network, "apply", "--yes", "--config", str(bad)), str(bad))
        assert network.rules() == full, name
    for words in (
        ("check",),
        ("check", "--kernel"),
        ("render",),
        ("plan",),
        ("plan", "--output", "json"),
        ("status", "--output", "json"),
        ("remove", "--yes"),
    ):
        done = lbctl(network, *words, "--config", str(bad))
        assert (done.code, done.out == "" or "error" in done.json) == (2, True), words
        assert f"{bad}:" in done.err
    assert network.rules() == full


@pytest.mark.parametrize("kind", GENERATED)
def test_files_that_are_no_intent(network: Network, kind: str) -> None:
    make, said = GENERATED[kind]
    make(network.folder / kind)
    done = lbctl(network, "apply", "--yes", "--config", kind, cwd=network.folder)
    refused(done, kind)
    assert said in done.err
    assert network.rules() == ""


def test_a_directory_without_intent_files(network: Network) -> None:
    (network.folder / "empty").mkdir()
    done = lbctl(network, "apply", "--yes", "--config", "empty", cwd=network.folder)
    assert (done.code, done.out, network.rules()) == (2, "", "")
    assert done.err.startswith("lbctl: empty is a directory without intent files\n    hint: ")


@pytest.mark.parametrize(
    "mode",
    [
        0o755,
        0o700,
    ],
)
def test_a_file_that_the_user_may_not_read(network: Network, mode: int) -> None:
    # Not below pytest's own folders: those are closed to other users.
    with tempfile.TemporaryDirectory() as name:
        secret = Path(name, "lbctl.toml")
        secret.write_text(GOOD)
        secret.chmod(0o600)
        Path(name).chmod(mode)
        done = lbctl(
            network, "check", "--config", str(secret), before=as_user("--bounding-set=-all"), cwd="/"
        )
        refused(done, str(secret))
        assert "permission denied" in done.err.lower()
