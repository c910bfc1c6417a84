"""Mistakes in intent files and arguments, as the program reports them: no kernel is needed for that."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lbctl.cli import app
from lbctl.errors import IntentError
from support.bad_intents import BAD_INTENTS, BadIntent
from support.network import run_lbctl


@pytest.mark.parametrize("bad", BAD_INTENTS, ids=lambda bad: bad.name)
def test_check_names_the_mistake(bad: BadIntent, tmp_path: Path) -> None:
    file = bad.write(tmp_path)
    runner = CliRunner()
    checked = runner.invoke(app, ["check", "--config", str(file)])
    # The program's `main` prints the error; here it arrives as it is.
    assert isinstance(checked.exception, IntentError)
    assert checked.output == ""
    document = json.loads(runner.invoke(app, ["check", "--config", str(file), "--output", "json"]).stdout)
    assert (document["format_version"], document["valid"], document["services"]) == (1, False, [])
    assert [(p.line, p.message, p.hint) for p in checked.exception.problems] == [
        (e["line"], e["message"], e["hint"]) for e in document["errors"]
    ]
    for mistake in document["errors"]:
        assert mistake["file"] == str(file)
        assert 1 <= mistake["line"] <= len(file.read_bytes().splitlines()) + 1
        assert mistake["message"]
        assert mistake["hint"]


def test_mistakes_are_json_on_stdout(tmp_path: Path) -> None:
    path = tmp_path / "many.toml"
    path.write_text(
        'schema = 1\n[[service]]\nname = "Web"\nlisten = "80"\nendpoints = []\nwieght = 3\n', encoding="utf-8"
    )
    done = run_lbctl("check", "--output", "json", "--config", str(path))
    assert done.code == 2
    assert done.json["valid"] is False
    assert [(e["file"], e["line"]) for e in done.json["errors"]] == [(str(path), n) for n in (3, 4, 5, 6)]
    assert all(set(e) >= {"file", "line", "message", "hint"} for e in done.json["errors"])


def test_init_says_what_is_wrong_with_its_words() -> None:
    for words, said in (
        (("--listen", "80", "--to", "8001"), '"80/tcp"'),
        (("--listen", "80/tcp", "--to", "8001-80011"), "65535"),
        (("--listen", "80/tcp", "--to", "8001", "--name", "My Web"), '"my-web"'),
        (("--listen", "80/tcp", "--to", ""), "endpoint"),
        (("--listen", "2001:db8::1:80/tcp", "--to", "8001"), "["),
        (("--listen", "80/tcp", "--to", "8001,10.0.0.1:80"), "two kinds"),
    ):
        done = run_lbctl("init", *words)
        assert (done.code, done.out == "" or "error" in done.json) == (2, True), words
        assert said in done.err, words
        assert "hint: " in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pause", "--for", "0s"), "not between one second and a day"),
        (("pause", "--for", "25h"), "not between one second and a day"),
        (("--listen-name", "lb1.example"), "--listen-name without --listen"),
        (("--listen", "9099"), "not an address and a port"),
    ],
)
def test_the_agent_says_what_is_wrong_with_its_words(words: tuple[str, ...], said: str) -> None:
    done = run_lbctl("agent", *words)
    assert done.code == 2
    assert said in done.err
    assert "hint: e.g. " in done.err
