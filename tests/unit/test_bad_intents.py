"""What is reported of intent files with mistakes: where, what is wrong, and what is advised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lbctl.config import load, load_merged, loads
from lbctl.errors import ConfigProblem, IntentError
from support.bad_intents import BAD_INTENTS, BadIntent


def problems_of(path: Path) -> tuple[ConfigProblem, ...]:
    with pytest.raises(IntentError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    return caught.value.problems


def only(path: Path) -> ConfigProblem:
    (problem,) = problems_of(path)
    return problem


@pytest.mark.parametrize("bad", BAD_INTENTS, ids=lambda bad: bad.name)
def test_one_mistake_is_named_once(bad: BadIntent, tmp_path: Path) -> None:
    path = bad.write(tmp_path)
    problem = only(path)
    assert problem.file == str(path)
    assert bad.message in problem.message
    assert problem.line == bad.line, problem
    assert problem.hint is not None
    assert bad.hint in problem.hint
    assert f"{problem}{problem.hint}".isprintable()
    assert len(problem.message) < 250


def test_every_mistake_of_a_file_is_reported() -> None:
    text = """\
schema = 1
colour = "blue"

[[service]]
name = "web"
listen = ["80/tcp", "81"]
endpoints = ["8001", "8001", "0"]
scheduler = "fastest"

[[service]]
name = "web"
listen = "80/tcp"
endpoints = ["8001", "10.0.0.1:80"]

[[service]]
name = "Bad Name"
listen = "80/tcp"
[[service.endpoint]]
address = "[10.0.0.2"
weight = 0
nmae = "x"
"""
    with pytest.raises(IntentError) as caught:
        loads(text, "many.toml")
    found = [str(problem) for problem in caught.value.problems]
    expected = [
        ":2: unknown key `colour`",
        ':6: service "web": listener "81" has no protocol',
        ':7: service "web": endpoint "0": port 0',
        ':7: service "web": endpoint 8001 is given twice',
        ':8: service "web": scheduler "fastest" is not known',
        ':11: service "web": the name is taken by the service on line 5',
        ':12: service "web": listener 80/tcp is given twice, first by service "web" on line 6',
        ':13: service "web": endpoints of two kinds',
        ":16: service 3: the service name",
        ":17: service 3: listener 80/tcp is given twice",
        ':19: service 3: endpoint 1: address "[10.0.0.2": the bracket is not closed',
        ":20: service 3: endpoint 1: weight 0",
        ":21: service 3: endpoint 1: unknown key `nmae`",
    ]
    assert len(found) == len(expected), "\n".join(found)
    for line, part in zip(found, expected, strict=True):
        assert line.startswith(f"many.toml{part}")
    assert all(problem.hint for problem in caught.value.problems)
    assert caught.value.message == "13 mistakes in many.toml"


def test_fifty_megabytes_are_refused_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    with path.open("wb") as stream:
        stream.truncate(50 * 1024 * 1024)
    problem = only(path)
    assert "larger than 16 MiB" in problem.message
    assert problem.hint


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "{}"])
def test_an_empty_file_is_named_as_one(text: str) -> None:
    with pytest.raises(IntentError) as caught:
        loads(text, "lbctl.toml")
    [problem] = caught.value.problems
    assert str(problem) == "lbctl.toml:1: the file is empty"


@pytest.mark.parametrize(
    ("listen", "message", "hint"),
    [
        ("tcp", "has no port", 'write "80/tcp"'),
        ("80", "has no protocol", 'write "80/tcp"'),
        ("192.0.2.1/tcp", "has no port", 'write "192.0.2.1:80/tcp"'),
        ("*:80/tcp", ': "*" is not an address', 'write just the port: "80/tcp"'),
        (":80/tcp", "has no address before the colon", 'write just the port: "80/tcp"'),
    ],
)
def test_a_listener_without_a_part_of_it(listen: str, message: str, hint: str) -> None:
    with pytest.raises(IntentError) as caught:
        loads(f'schema = 1\n[[service]]\nname = "a"\nlisten = "{listen}"\nendpoints = ["1"]\n')
    [problem] = caught.value.problems
    assert problem.message.endswith(f'listener "{listen}"{message if message[0] == ":" else f" {message}"}')
    assert problem.hint == hint


@pytest.mark.parametrize(
    ("raw", "line", "message"),
    [
        (b'schema = 1\n# caf\xe9\nowner = "a"\n', 2, "not UTF-8 text: byte 0xe9"),
        ("schema = 1\n".encode("utf-16"), 1, "not UTF-8 text: byte 0xff"),
        (b"schema = 1\n\n# a\0b\n", 3, r'the control character "\x00"'),
        (b"schema = 1\n# \x1b[31mred\n", 2, r'the control character "\x1b"'),
        (b"schema = 1\rowner = 1", 1, r'the control character "\r"'),
        (b"\x7fELF\x02\x01\x01", 1, r'the control character "\x7f"'),
    ],
)
def test_binary_files_are_refused(tmp_path: Path, raw: bytes, line: int, message: str) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(raw)
    problem = only(path)
    assert (problem.line, message in problem.message, bool(problem.hint)) == (line, True, True)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "a pipe, not a regular file" in only(fifo).message
    assert "a directory, not a regular file" in only(tmp_path).message
    assert "a device, not a regular file" in only(Path("/dev/zero")).message
    assert "no such file" in only(tmp_path / "missing.toml").message
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "cannot be read" in only(loop).message
    assert "not a file name" in only(Path("a\0b")).message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")  # root would be let in

    path = tmp_path / "secret.toml"
    path.touch()
    monkeypatch.setattr(os, "open", refuse)
    problem = only(path)
    assert "permission denied" in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("schema = 1\n\nservice = " + "[" * 20000 + "]" * 20000, 3),
        ("schema = 1\nservice = " + "{a=" * 20000 + "1" + "}" * 20000, 2),
        ("schema = 1\n" + "a." * 100_000 + "b = 1\n", 2),
        ("schema = 1\n" + "a." * 20_000 + "b = 1\n", 2),
        ("schema = 1\n" + r'"\"".' * 20_000 + "b = 1\n", 2),
        ("schema = 1\n[" + "a . " * 100_000 + "b]\n", 2),
        ('{"schema": 1,\n"service": ' + "[" * 200_000 + "]" * 200_000 + "}", 2),
        ('{"schema": 1,\n"service": ' + '{"a":' * 200_000 + "1" + "}" * 200_000 + "}", 2),
    ],
)
def test_deep_nesting_is_refused(text: str, line: int) -> None:
    with pytest.raises(IntentError) as caught:
        loads(text)
    (problem,) = caught.value.problems
    assert problem.message.startswith("nested too deeply")
    assert problem.line == line


@pytest.mark.parametrize(
    "text", ["schema = 1\nowner = " + "9" * 5000, '{"schema": 1,\n"owner": ' + "9" * 5000 + "}"]
)
def test_numbers_that_python_refuses(text: str) -> None:
    with pytest.raises(IntentError) as caught:
        loads(text)
    (problem,) = caught.value.problems
    assert (problem.line, "more than 4000 digits" in problem.message) == (2, True)


def test_a_long_hexadecimal_number_can_be_reported() -> None:
    with pytest.raises(IntentError) as caught:
        loads("schema = 0x" + "f" * 20000)
    assert "more than 30 digits" in caught.value.problems[0].message


def test_long_values_are_cut() -> None:
    with pytest.raises(IntentError) as caught:
        loads('schema = 1\nowner = "' + "é" * 5000 + '"')
    assert len(caught.value.problems[0].message) < 150


def test_problems_of_all_files_are_reported(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("b.toml", "a.toml", "c.toml"))
    first.write_text(
        'schema = 1\nowner = "one"\nmark = 3\n'
        '[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["1"]\n'
    )
    second.write_text('schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["2"]\n')
    third.write_text('schema = 1\nowner = "two"\nmark = 0x30\n')
    with pytest.raises(IntentError) as caught:
        load_merged((first, tmp_path / "missing.toml", second, third))
    assert [str(p).removeprefix(f"{tmp_path}/") for p in caught.value.problems] == [
        "missing.toml: no such file",
        f'a.toml:3: service "web": the name is taken by the service at {first}:5',
        f'a.toml:4: service "web": listener 80/tcp is given twice, first by service "web" at {first}:6',
        f'c.toml:2: owner "two" is not the "one" of {first}:2',
        f"c.toml:3: mark 0x30 is not the 0x3 of {first}:3",
    ]
