"""Plan files: carried out as they are or refused with what moved, and never believed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from lbctl.cli import app
from lbctl.engine.change import planfile
from lbctl.errors import ApplyFailed, IntentError, LbctlError, Stale
from lbctl.host import LocalHost
from support.backends import Paper, install

if TYPE_CHECKING:
    from pathlib import Path

WEB = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001", "8002"]\n'
MORE = WEB + '[[service]]\nname = "api"\nlisten = "81/tcp"\nendpoints = ["8001"]\n'


class Desk:
    """A backend on paper, an intent file and a plan of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paper = Paper()
        install(monkeypatch, folder / "state", self.paper)
        self.config = folder / "lbctl.toml"
        self.config.write_text(WEB)
        self.plan = folder / "web.plan"

    def run(self, *words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, LbctlError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def make(self) -> dict[str, Any]:
        self.run("plan", "-o", str(self.plan), "--config", str(self.config))
        document: dict[str, Any] = json.loads(self.plan.read_text())
        return document

    def apply(self, *words: str) -> str:
        return self.run("apply", str(self.plan), "--yes", *words)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def test_a_plan_is_carried_out_as_it_stands_and_once(desk: Desk) -> None:
    document = desk.make()
    assert (document["format_version"], document["kind"], document["backend"]) == (1, "plan", "paper")
    assert desk.plan.stat().st_mode & 0o777 == 0o600
    desk.apply()
    assert list(desk.paper.held["lbctl"].services) == ["web"]
    with pytest.raises(Stale, match='the kernel changed since the plan was made: service "web"') as caught:
        desk.apply()
    assert caught.value.exit_code == 7


def test_a_moved_intent_is_refused_by_the_names_of_what_moved(desk: Desk) -> None:
    desk.make()
    desk.config.write_text(MORE)
    with pytest.raises(Stale, match=r'the intent in .*lbctl.toml changed since.*: service "api"$'):
        desk.apply()
    desk.config.write_text(WEB.replace('"8002"', '"8003"'))
    with pytest.raises(Stale, match='service "web"'):
        desk.apply()
    desk.config.write_text("# other words\n" + WEB.replace("endpoints", "endpoints "))
    desk.apply()


def test_an_intent_that_is_gone_has_moved_and_another_may_be_named(desk: Desk, tmp_path: Path) -> None:
    desk.make()
    other = tmp_path / "other.toml"
    desk.config.rename(other)
    with pytest.raises(Stale, match="changed"):
        desk.apply()
    desk.apply("--config", str(other))


def test_another_network_namespace_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.make()
    monkeypatch.setattr(LocalHost, "namespace", lambda _: "elsewhere")
    with pytest.raises(Stale, match="network namespace"):
        desk.apply()
    assert desk.paper.held == {}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"kind": "state"}, IntentError),
        ({"format_version": 2}, IntentError),
        ({"lbctl": "9.9\x1b[2J", "format_version": 2}, IntentError),
        ({"lbctl": "0.1.0", "after": [[["service", "web"], "flush everything", "web"]]}, Stale),
        ({"digest": "0" * 64}, IntentError),
        ({"owner": "other"}, IntentError),
        ({"intent": "schema = 1\n[[service]]\nname = 7\n"}, IntentError),
        ({"intent": 7}, IntentError),
        ({"intent": MORE}, IntentError),
        ({"backend": "nonsense"}, IntentError),
        ({"driver": "nonsense"}, IntentError),
        ({"backend": ["paper"]}, IntentError),
        ({"sources": 7}, IntentError),
        ({"sources": ["\0"]}, Stale),
        ({"sources": ["/dev/zero"]}, Stale),
        ({"before": None}, IntentError),
        ({"before": [[["service", "x"], "text"]]}, IntentError),
        ({"before": [[["service", "x"], "text", "x\x1b[2J"]]}, Stale),
        ({"after": [[["service", "web"], "flush everything", "web"]]}, Stale),
        ({"after": [[["service", "a"], "", None]] * 2}, IntentError),
        ({"after": []}, Stale),
    ],
    ids=str,
)
def test_what_is_not_what_the_intent_gives_is_refused(
    desk: Desk, change: dict[str, Any], error: type[LbctlError]
) -> None:
    desk.plan.write_text(json.dumps(desk.make() | change))
    with pytest.raises(error) as caught:
        desk.apply()
    assert desk.paper.held == {}
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"kind": "plan"}', "\0", '{"a": NaN}'])
def test_what_is_no_plan_is_refused(desk: Desk, text: str) -> None:
    desk.plan.write_text(text)
    with pytest.raises(IntentError):
        desk.apply()


def test_a_field_that_lacks_is_refused(desk: Desk) -> None:
    document = desk.make()
    for field in document:
        desk.plan.write_text(json.dumps({k: v for k, v in document.items() if k != field}))
        if field == "allow_remap":
            continue
        with pytest.raises(IntentError):
            desk.apply()


def test_a_plan_names_its_own_backend(desk: Desk) -> None:
    desk.make()
    with pytest.raises(IntentError, match="names its own"):
        desk.apply("--backend", "paper")


def test_only_a_file_is_written_over(desk: Desk, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    desk.plan = pipe
    with pytest.raises(ApplyFailed, match="not a regular file"):
        desk.make()
    assert pipe.is_fifo()
    desk.plan = tmp_path / "none" / "web.plan"
    with pytest.raises(ApplyFailed, match="No such file"):
        desk.make()


@pytest.mark.parametrize("head", [b'{"a": [', b"[1, ", b"", b'{"format_version": 1, "kind": "other"'])
def test_a_large_file_that_is_no_plan_is_not_even_read(
    head: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    path.write_bytes(head)
    os.truncate(path, 400 * 1024 * 1024)
    monkeypatch.setattr(planfile, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(IntentError, match="is not a plan of lbctl"):
        planfile.read_plan(path)


def test_a_large_plan_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.make()
    monkeypatch.setattr(planfile, "_SMALL", 10)
    desk.apply()


def test_a_plan_file_and_an_intent_file_are_told_apart_by_content(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    file.write_text(WEB)
    assert f"Intent: {file}" in desk.run("apply", str(file), "--yes")
    assert list(desk.paper.held["lbctl"].services) == ["web"]
    # Written by another tool: not as lbctl writes it, but still a plan.
    document = desk.make()
    desk.plan.write_text(json.dumps(document, indent=2, sort_keys=True))
    assert desk.apply() is not None
    with pytest.raises(IntentError, match="no such file") as caught:
        desk.run("apply", str(tmp_path / "none"))
    assert caught.value.hint is not None
    assert "lbctl plan -o" in caught.value.hint
    with pytest.raises(IntentError, match="two intent files"):
        desk.run("apply", str(file), "--config", str(file))


def test_a_plan_file_is_not_named_by_mistake(desk: Desk) -> None:
    for name in ("json", "text"):
        with pytest.raises(IntentError, match="a format") as caught:
            desk.run("plan", "-o", name, "--config", str(desk.config))
        assert f"--output {name}" in (caught.value.hint or "")
