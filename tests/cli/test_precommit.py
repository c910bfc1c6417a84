"""The hook for pre-commit, and what init prints for editors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lbctl.config import SCHEMA_ID, loads
from support.network import intent, run_lbctl, service

HOOK = dict(
    re.findall(
        r"(?m)^(?:- |  )(\w+): (.*)$",
        (Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"),
    )
)


@pytest.mark.parametrize(
    ("path", "checked"),
    [
        ("lbctl.toml", True),
        ("hosts/a/lbctl.toml", True),
        ("etc/lbctl/conf.d/web.toml", True),
        ("pyproject.toml", False),
        ("other-lbctl.toml", False),
        ("lbctl.toml.bak", False),
    ],
)
def test_the_hook_is_for_intent_files(path: str, checked: bool) -> None:
    assert bool(re.search(HOOK["files"], path)) is checked


def test_the_hook_is_a_command_that_takes_files(tmp_path: Path) -> None:
    program, *words = HOOK["entry"].split()
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(intent(service("web", "80/tcp", "8001")))
    bad.write_text("schema = 2")
    assert program == "lbctl"
    assert run_lbctl(*words, str(good), str(good)).code == 0
    done = run_lbctl(*words, str(good), str(bad))
    assert (done.code, f"{bad}:1: " in done.err) == (2, True)


def test_init_names_the_schema_for_editors() -> None:
    text = run_lbctl("init", "--listen", "80/tcp", "--to", "8001").out
    assert text.splitlines()[0] == f"#:schema {SCHEMA_ID}"
    assert loads(text).service("web").endpoints[0].to == "8001"
