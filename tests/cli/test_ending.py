"""How commands end: exit codes, error documents, and no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lbctl import errors
from lbctl.cli import main
from support.network import run_lbctl

INTENT = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8003"]\n'


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "lbctl.toml"
    path.write_text(INTENT)
    return str(path)


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of a command that may end as a bug."""
    monkeypatch.setattr(sys, "argv", ["lbctl", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


class Odd:
    """What a command stumbles over."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd\x1b[31m\nline"),
        KeyError("x"),
        MemoryError(),
        RecursionError(),
        OSError(24, "Too many files"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("debug", ["", "1"])
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_bug_ends_with_70_and_one_line(
    error: Exception,
    debug: str,
    output: str,
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lbctl.config.load_merged", Odd(error))
    monkeypatch.setenv("LBCTL_DEBUG", debug)
    words = ("check", "--config", config, "--output", output)
    code, out, err = run(monkeypatch, capsys, *words)
    *before, line = err.splitlines()
    assert (code, bool(before), "Traceback" in err) == (70, bool(debug), bool(debug))
    assert line.startswith("lbctl: this is a bug in lbctl, or this host is out of resources: ")
    assert "LBCTL_DEBUG=1" in line
    assert line.isprintable()
    if output == "json":
        document = json.loads(out)
        assert (document["format_version"], document["error"]["code"], document["error"]["exit"]) == (
            1,
            "bug",
            70,
        )
    else:
        assert out == ""


def test_ctrl_c_ends_with_130(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lbctl.config.load_merged", Odd(KeyboardInterrupt()))
    code, out, err = run(monkeypatch, capsys, "check", "--config", config)
    assert (code, out, err) == (130, "", "\nlbctl: interrupted\n")
    code, out, err = run(monkeypatch, capsys, "check", "--config", config, "--output=json")
    assert (code, json.loads(out)["error"]["code"]) == (130, "interrupted")


def _tree(kind: type[errors.LbctlError]) -> list[type[errors.LbctlError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _tree(below))]


def test_each_error_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in _tree(errors.LbctlError) if kind.__module__ == "lbctl.errors"]
    # To who reads documents, a plan that was overtaken is a stale one.
    codes = [kind.code for kind in kinds if kind is not errors.Overtaken]
    assert len(set(codes)) == len(codes) > 10
    assert {kind.exit_code for kind in kinds[1:]} == {2, 3, 4, 5, 6, 7, 8}


def test_an_error_is_a_document_too(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(INTENT.replace("8001-8003", "x"))
    for words in (["plan", "--config", str(bad)], ["plan", "--config", str(tmp_path / "none.toml")]):
        done = run_lbctl(*words, "--output", "json")
        error = done.json["error"]
        assert (done.code, error["code"], error["exit"]) == (2, "invalid-input", 2)
        assert [e["file"] for e in error["errors"]] == [words[-1]]
        assert set(error["errors"][0]) == {"file", "line", "message", "hint"}
        assert error["message"] in done.err
    done = run_lbctl("plan", "--backend", "nonesuch", "--config", str(tmp_path / "bad.toml"), "--output=json")
    assert done.json["error"]["exit"] == done.code


def test_a_usage_error_is_one_too() -> None:
    for words in (["plan", "--nonesuch"], ["nonesuch"], ["apply", "--wait", "soon"]):
        done = run_lbctl(*words, "--output", "json")
        assert (done.code, done.json["error"]["code"]) == (2, "usage")
        assert run_lbctl(*words).out == ""


def test_a_command_prints_one_document(config: str) -> None:
    # `check` has said all in its own.
    done = run_lbctl("check", "--config", config, "--output", "json")
    assert (done.code, done.json["valid"]) == (0, True)
    Path(config).write_text(INTENT.replace("8001-8003", "x"))
    done = run_lbctl("check", "--config", config, "--output", "json")
    assert (done.code, done.json["valid"]) == (2, False)


INTERRUPTED = """\
import os, signal, sys

module = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, *where):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from lbctl.__main__ import start
start()
"""


@pytest.mark.parametrize("module", ["typer", "lbctl.cli.check", "lbctl.config", "lbctl.cli.ending"])
def test_ctrl_c_at_any_import_shows_no_traceback(module: str, config: str) -> None:
    words = [sys.executable, "-sP", "-c", INTERRUPTED, module, "check", "--config", config]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (130, False), done.stderr


def test_a_program_that_was_started_deaf_to_ctrl_c_stays_so(config: str) -> None:
    words = [sys.executable, "-sP", "-c", INTERRUPTED, "lbctl.config", "check", "--config", config]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_no_launcher_of_ours_runs_code_of_a_home_directory(tmp_path: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / ".local" / "lib" / version / "site-packages"
    site.mkdir(parents=True)
    marker = tmp_path / "marker"
    (site / "evil.pth").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n")
    env = {**os.environ, "HOME": str(tmp_path)}
    lbctl = Path(sys.executable).with_name("lbctl")
    subprocess.run([lbctl, "--version"], check=True, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert not marker.exists()
    # The bad case: Python as it is, which systems other than ours may start lbctl by.
    subprocess.run([sys.executable, "-c", ""], check=True, env=env)
    assert marker.exists()


def test_each_python_that_lbctl_starts_is_kept_from_it() -> None:
    root = Path(__file__).parents[2]
    started = [
        line.strip()
        for path in (*(root / "src").rglob("*.py"), *(root / "backends").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if "sys.executable" in line
    ]
    assert len(started) >= 4
    # -S leaves out all packages, and a user's with them.
    assert [
        line for line in started if not any(word in line for word in ('"-sP"', '"-S", "-P"', "*_CHILD"))
    ] == []
    for unit in (root / "examples" / "systemd").glob("*.service"):
        assert "Environment=PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1" in unit.read_text(encoding="utf-8")
