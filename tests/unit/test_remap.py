"""`--allow-remap` reaches the backend's compile from every command that compiles, and only by consent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from lbctl.cli import app
from lbctl.engine import open_session
from lbctl.errors import Unsupported
from lbctl.host.fake import FakeHost
from support.backends import Paper, install

if TYPE_CHECKING:
    from pathlib import Path

FILE = """schema = 1
[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "8002"]
scheduler = "source-hash"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    install(monkeypatch, tmp_path, Paper())
    path = tmp_path / "lbctl.toml"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize("command", [["plan"], ["apply", "--yes"], ["check", "--kernel"], ["render"]])
def test_another_map_is_taken_by_consent_alone(config: str, command: list[str]) -> None:
    words = [*command, "--config", config, "--backend", "paper"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, Unsupported)
    assert refused.exception.hint == "--allow-remap"
    assert CliRunner().invoke(app, [*words, "--allow-remap"]).exit_code == 0


def test_status_shows_what_was_applied_by_consent(config: str) -> None:
    CliRunner().invoke(app, ["apply", "--yes", "--allow-remap", "--config", config])
    shown = CliRunner().invoke(app, ["status", "--config", config, "--output", "json"])
    assert json.loads(shown.stdout)["in_sync"] is True


def test_consent_is_no_finding_of_a_probe() -> None:
    paper = Paper()
    assert not open_session(FakeHost(), installed=[paper]).capabilities.remap
    session = open_session(FakeHost(), installed=[paper], allow_remap=True)
    assert session.capabilities.remap
    assert not session.choice.probe.capabilities.remap
