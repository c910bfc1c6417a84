"""Where `lbctl.pyz` unpacks itself: `packages/start.py` is its first module."""

from __future__ import annotations

import os
import pwd
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

_START = Path(__file__).parents[2] / "packages/start.py"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The module, beside one that stands for shiv's and prints where it would unpack."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "__main__.py").write_bytes(_START.read_bytes())
    (folder / "_bootstrap.py").write_text(
        'import os\n\n\ndef bootstrap():\n    print(os.environ["SHIV_ROOT"])\n', encoding="utf-8"
    )
    return folder


def start(program: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "SHIV_ROOT"} | environment
    return subprocess.run([sys.executable, program], env=env, capture_output=True, text=True)


def test_a_directory_that_a_variable_names_is_used(program: Path, tmp_path: Path) -> None:
    done = start(program, SHIV_ROOT=str(tmp_path / "of/mine"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/of/mine\n"), done.stderr


def test_home_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may have that of another user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(runpy.run_path(str(_START))["_home"]()) == pwd.getpwuid(os.geteuid()).pw_dir


@pytest.mark.parametrize("reason", ["other users can write there", "Not a directory"])
def test_what_cannot_be_trusted_or_written_is_refused(program: Path, tmp_path: Path, reason: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "file").touch()
    place = folder if reason == "other users can write there" else tmp_path / "file/folder"
    done = start(program, SHIV_ROOT=str(place))
    assert (done.returncode, done.stdout) == (5, "")
    assert reason in done.stderr
    assert "hint: have SHIV_ROOT name" in done.stderr
