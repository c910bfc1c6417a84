"""Each file of tests/cli/bad holds one mistake; here is where it is, what is said, and what is advised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lbctl.config import load, load_merged, loads
from lbctl.errors import ConfigProblem, IntentError

BAD = Path(__file__).parents[1] / "cli" / "bad"

EXPECTED = [
    ("affinity-too-long.toml", 7, 'service "web": affinity "31d" is longer than 30 days', "30d"),
    ("affinity-without-unit.toml", 7, 'service "web": affinity 90 is not a duration', '"90s"'),
    ("affinity-zero.toml", 7, 'service "web": affinity "0s" is not a duration', "shortest is 1s"),
    ("allow-empty.toml", 7, 'service "web": `allow` is empty', "leave `allow` out"),
    (
        "allow-host-bits.toml",
        7,
        'service "web": allow: "198.51.100.7/24" has bits set beyond its prefix',
        '"198.51.100.0/24"',
    ),
    ("allow-host-name.toml", 7, 'service "web": allow: "example.org" is not a network', "not resolved"),
    ("allow-is-text.toml", 7, 'service "web": `allow` is "10.0.0.0/8", not a list', "allow = ["),
    (
        "allow-netmask.toml",
        7,
        'service "web": allow: "10.0.0.0/255.0.0.0": the part after the slash',
        "not a netmask",
    ),
    (
        "duplicate-endpoint-names.toml",
        10,
        'service "web": two endpoints are named "a", the first on line 6',
        "a name of its own",
    ),
    (
        "duplicate-listeners-in-service.toml",
        5,
        'service "web": listener 80/tcp is given twice, first by this service on line 5',
        "write it once",
    ),
    (
        "duplicate-listeners.toml",
        10,
        'service "api": listener 80/tcp is given twice, first by service "web" on line 5',
        "one listener leads to one service",
    ),
    (
        "duplicate-service-names.toml",
        9,
        'service "web": the name is taken by the service on line 4',
        "a name of its own",
    ),
    ("empty-file.toml", 1, "`schema` is missing", "schema = 1"),
    (
        "endpoint-address-is-a-range.toml",
        7,
        'service "web": endpoint 1: address "8001-8003" is more than one port',
        'endpoints = ["8001-8003"]',
    ),
    ("endpoint-address-missing.toml", 6, 'service "web": endpoint "a": `address` is missing', "address = "),
    (
        "endpoint-bad-ipv4.toml",
        6,
        'service "web": endpoint "10.0.0.256:80" has a bad IPv4 address',
        "0 to 255",
    ),
    (
        "endpoint-bad-ipv6.toml",
        6,
        'service "web": endpoint "[2001:db8:::1]:80" has a bad IPv6 address',
        "[2001:db8::1]:80",
    ),
    (
        "endpoint-bad-name.toml",
        7,
        'service "web": endpoint 1: the endpoint name "A b" is not a name',
        '"a-b" would do',
    ),
    (
        "endpoint-broadcast.toml",
        6,
        'service "web": endpoint "255.255.255.255:80" is a broadcast address',
        "one host",
    ),
    (
        "endpoint-host-name.toml",
        6,
        'service "web": endpoint "db.example:5432": "db.example" is not an address',
        "not resolved",
    ),
    (
        "endpoint-in-single-brackets.toml",
        6,
        'service "web": `endpoint` is a table, not a list',
        "[[service.endpoint]]",
    ),
    (
        "endpoint-ipv4-mapped.toml",
        6,
        'service "web": endpoint "[::ffff:10.0.0.1]:80" is an IPv4-mapped IPv6 address',
        '"10.0.0.1"',
    ),
    (
        "ipv4-compatible-address.toml",
        5,
        'service "web": listener "[::1.2.3.4]:80/tcp" has an IPv4-compatible IPv6 address',
        "1.2.3.4",
    ),
    ("endpoint-is-a-float.toml", 6, 'service "web": endpoint 8001.5 is not a text', "8001"),
    (
        "endpoint-leading-zero.toml",
        6,
        'service "web": endpoint "08001": the port has leading zeros',
        '"8001"',
    ),
    (
        "endpoint-multicast-ipv6.toml",
        6,
        'service "web": endpoint "[ff02::1]:80" is a multicast address',
        "one host",
    ),
    (
        "endpoint-octal-ipv4.toml",
        6,
        'service "web": endpoint "10.0.0.011:80" has a bad IPv4 address',
        '"10.0.0.11"',
    ),
    ("endpoint-plus-sign.toml", 6, 'service "web": endpoint "+8001": the port has a plus sign', '"8001"'),
    ("endpoint-port-0.toml", 6, 'service "web": endpoint "0": port 0 is not between', "1 to 65535"),
    (
        "endpoint-port-70000.toml",
        6,
        'service "web": endpoint 70000: a port is between 1 and 65535',
        "1 to 65535",
    ),
    ("endpoint-port-negative.toml", 6, 'service "web": endpoint "-5": port -5 is not between', "1 to 65535"),
    ("endpoint-range-backwards.toml", 6, 'service "web": endpoints "8008-8001" run backwards', '"8001-8008"'),
    (
        "endpoint-range-beyond-65535.toml",
        6,
        'service "web": endpoints "65000-66000": port 66000',
        "1 to 65535",
    ),
    (
        "endpoint-range-of-address.toml",
        6,
        'service "web": endpoint "10.0.0.1:80-90" is more than one port',
        "one entry",
    ),
    (
        "endpoint-range-too-long.toml",
        6,
        'service "web": endpoints "1000-3000" are 2001 ports, more than 1024',
        '"1000-2023"',
    ),
    ("endpoint-scope-id.toml", 6, 'service "web": endpoint "[fe80::1%eth0]:80" has a scope id', "no scope"),
    ("endpoint-twice-by-range.toml", 6, 'service "web": endpoint 8002 is given twice', "`weight`"),
    ("endpoint-twice.toml", 6, 'service "web": endpoint 8001 is given twice, first on line 6', "`weight`"),
    (
        "endpoint-unknown-key.toml",
        9,
        'service "web": endpoint "a": unknown key `wieght`',
        "did you mean `weight`?",
    ),
    (
        "endpoint-unspecified.toml",
        6,
        'service "web": endpoint "0.0.0.0:80" has the unspecified address',
        'just the port: "80"',
    ),
    ("endpoint-url.toml", 6, 'service "web": endpoint "http://10.0.0.1:80" is a URL', "8001"),
    ("endpoint-with-protocol.toml", 6, 'service "web": endpoint "8001/tcp" has a protocol', '"8001"'),
    ("endpoint-with-space.toml", 6, 'service "web": endpoint " 8001" contains blanks', '"8001"'),
    ("endpoint-without-port.toml", 6, 'service "web": endpoint "10.0.0.1" has no port', '"10.0.0.1:80"'),
    ("endpoints-empty.toml", 6, 'service "web": there are no endpoints', 'endpoints = ["8001", "8002"]'),
    ("endpoints-missing.toml", 3, 'service "web": there are no endpoints', 'endpoints = ["8001", "8002"]'),
    (
        "endpoints-not-a-list.toml",
        6,
        'service "web": `endpoints` is "8001", not a list',
        'endpoints = ["8001", "8002"]',
    ),
    ("json-key-twice.json", 4, "not valid JSON: the key `owner` is given twice", "first is on line 3"),
    ("json-not-a-number.json", 4, "not valid JSON: NaN is no number", "whole number"),
    ("json-not-an-object.json", 1, "the document is a list, not an object", '"schema": 1'),
    (
        "json-null-instead-of-nothing.json",
        4,
        'service "web": seed null is not a whole number',
        "leave it out",
    ),
    (
        "json-trailing-comma.json",
        2,
        "not valid JSON: no comma may stand before the closing }",
        "double quotes",
    ),
    (
        "json-trailing-comma-in-list.json",
        6,
        "not valid JSON: no comma may stand before the closing ]",
        "double quotes",
    ),
    ("json-weight-0.json", 6, 'service "web": endpoint 2: weight 0 is not a whole number', "drain"),
    ("listen-empty-list.toml", 5, 'service "web": `listen` is empty', 'listen = "80/tcp"'),
    ("listen-list-second-bad.toml", 7, 'service "web": listener "81" has no protocol', '"81/tcp"'),
    ("listen-missing.toml", 3, 'service "web": `listen` is missing', 'listen = "80/tcp"'),
    (
        "listener-family-without-endpoint.toml",
        5,
        'service "web": listener [2001:db8::10]:443/tcp has no endpoint: none has an IPv6 address',
        "IPv6",
    ),
    (
        "listener-host-name.toml",
        5,
        'service "web": listener "localhost:80/tcp": "localhost" is not an address',
        "not resolved",
    ),
    (
        "listener-ipv6-without-brackets.toml",
        5,
        'service "web": listener "2001:db8::1:80/tcp": an IPv6 address needs brackets',
        '"[2001:db8::1]:80/tcp"',
    ),
    ("listener-is-a-number.toml", 5, 'service "web": listener 80 is not a text', '"80/tcp"'),
    (
        "listener-multicast.toml",
        5,
        'service "web": listener "224.0.0.1:80/tcp" is a multicast address',
        "one host",
    ),
    (
        "listener-port-0.toml",
        5,
        'service "web": listener "0/tcp": port 0 is not between 1 and 65535',
        "1 to 65535",
    ),
    (
        "listener-port-70000.toml",
        5,
        'service "web": listener "70000/tcp": port 70000 is not between',
        "1 to 65535",
    ),
    (
        "listener-port-range.toml",
        5,
        'service "web": listener "80-90/tcp" is more than one port',
        "one entry for each port",
    ),
    (
        "listener-protocol-icmp.toml",
        5,
        'service "web": listener "80/icmp": the protocol "icmp" is not known',
        "t",
    ),
    (
        "listener-protocol-upper-case.toml",
        5,
        'service "web": listener "80/TCP": the protocol "TCP"',
        'did you mean "80/tcp"?',
    ),
    (
        "listener-star.toml",
        5,
        'service "web": listener "*:80/tcp" has no address before the colon',
        'just the port: "80/tcp"',
    ),
    (
        "listener-unicode-digits.toml",
        5,
        'service "web": listener "\\u0668\\u0660/tcp" contains a character that is not ASCII',
        "digits 0-9",
    ),
    (
        "listener-unspecified-ipv4.toml",
        5,
        'service "web": listener "0.0.0.0:80/tcp" has the unspecified address',
        'just the port: "80/tcp"',
    ),
    (
        "listener-unspecified-ipv6.toml",
        5,
        'service "web": listener "[::]:80/tcp" has the unspecified address',
        'just the port: "80/tcp"',
    ),
    (
        "listener-with-newline.toml",
        5,
        'service "web": listener "80/tcp\\n" contains blanks',
        'write "80/tcp"',
    ),
    ("listener-without-protocol.toml", 5, 'service "web": listener "80" has no protocol', '"80/tcp"'),
    (
        "local-clients-is-text.toml",
        7,
        'service "web": `local-clients` is "yes", not true or false',
        "without quotes",
    ),
    (
        "mixed-endpoint-kinds.toml",
        6,
        'service "web": endpoints of two kinds: 10.0.0.1:80 is an address, but 8001 is a port',
        "only ports or only addresses",
    ),
    ("name-empty.toml", 4, 'service 1: the service name "" is not a name', "1 to 63"),
    ("name-ends-with-hyphen.toml", 4, 'service 1: the service name "web-" is not a name', '"web" would do'),
    ("name-is-a-number.toml", 4, "service 1: the service name 7 is not a name", "1 to 63"),
    ("name-missing.toml", 3, "service 1: `name` is missing", 'name = "web"'),
    ("name-too-long.toml", 4, 'service 1: the service name "aaaaaaaaaaaaaaaaaaaa', "1 to 63"),
    ("name-upper-case.toml", 4, 'service 1: the service name "Web" is not a name', '"web" would do'),
    (
        "name-with-drop.toml",
        4,
        'service 1: the service name "web; drop" is not a name',
        "1 to 63 of a-z, 0-9",
    ),
    ("name-with-newline.toml", 4, 'service 1: the service name "web\\n" is not a name', '"web" would do'),
    ("name-with-quotes.toml", 4, 'service 1: the service name "we\\"b" is not a name', '"we-b" would do'),
    ("name-with-space.toml", 4, 'service 1: the service name "my web" is not a name', '"my-web" would do'),
    (
        "name-with-terminal-escape.toml",
        4,
        'service 1: the service name "\\x1b[2Jweb" is not a name',
        "1 to 63",
    ),
    ("not-toml.toml", 3, "not valid TOML: Expected '=' after a key", "key = value"),
    (
        "overlapping-listeners-wide-last.toml",
        10,
        'service "api": listener 80/tcp overlaps 192.0.2.10:80/tcp of service "web" on line 5',
        "every address of this host",
    ),
    (
        "overlapping-listeners.toml",
        10,
        'service "api": listener 192.0.2.10:80/tcp overlaps 80/tcp of service "web" on line 5',
        "every address of this host",
    ),
    ("mark-33-bits.toml", 2, "mark 0x100000001 is not two bits of 32", "`mark = 0x3000`"),
    ("mark-below-service.toml", 7, 'service "web": unknown key `mark`', "above the first [[service]]"),
    ("mark-is-text.toml", 2, 'mark "0x3000" is not two bits of 32', "`mark = 0x3000`"),
    ("mark-is-true.toml", 2, "mark true is not two bits of 32", "`mark = 0x3000`"),
    ("mark-negative.toml", 2, "mark -3 is not two bits of 32", "`mark = 0x3000`"),
    ("mark-one-bit.toml", 2, "mark 0x1000 is not two bits of 32", "nothing else on this host uses"),
    ("mark-three-bits.toml", 2, "mark 0x7 is not two bits of 32", "nothing else on this host uses"),
    ("owner-below-service.toml", 7, 'service "web": unknown key `owner`', "above the first [[service]]"),
    ("owner-too-long.toml", 2, 'owner "a-very-long-owner" is not a name of at most 12', "a-z"),
    ("owner-upper-case.toml", 2, 'owner "LBCTL" is not a name', "a-z"),
    (
        "scheduler-unknown.toml",
        7,
        'service "web": scheduler "roundrobin" is not known',
        'did you mean "round-robin"?',
    ),
    ("schema-from-the-future.toml", 1, "schema 2 is not known", "this lbctl reads schema 1"),
    ("schema-is-true.toml", 1, "schema true is not known", "schema = 1"),
    ("schema-missing.toml", 1, "`schema` is missing", "schema = 1"),
    ("seed-33-bits.toml", 7, 'service "web": seed 4294967296 is not a whole number', "leave it out"),
    (
        "seed-negative.toml",
        7,
        'service "web": seed -1 is not a whole number from 0 to 4294967295',
        "leave it out",
    ),
    ("service-in-single-brackets.toml", 3, "`service` is a table, not a list", "[[service]]"),
    (
        "service-key-below-endpoint.toml",
        8,
        'service "web": endpoint 1: unknown key `scheduler`',
        "above the first [[service.endpoint]]",
    ),
    ("services-instead-of-service.toml", 3, "unknown key `services`", "did you mean `service`?"),
    ("source-nat-unknown.toml", 7, 'service "web": source-nat "masquerade" is not known', '"always"'),
    (
        "state-unknown.toml",
        9,
        'service "web": endpoint "a": state "drained" is not known',
        'did you mean "drain"?',
    ),
    ("toml-key-twice.toml", 3, "not valid TOML: Cannot overwrite a value", "only once"),
    ("toml-text-without-quotes.toml", 4, "not valid TOML: Invalid value", "double quotes"),
    ("toml-unclosed-list.toml", 4, "not valid TOML: Invalid value", "double quotes"),
    ("unknown-key-far-from-any.toml", 7, 'service "web": unknown key `zzz`', "known here: `name`, `listen`"),
    (
        "unknown-key-underscore.toml",
        7,
        'service "web": unknown key `local_clients`',
        "did you mean `local-clients`?",
    ),
    ("unknown-key-with-escape.toml", 7, 'service "web": unknown key `\\x1b[31m`', "known here"),
    ("unknown-key.toml", 7, 'service "web": unknown key `schedular`', "did you mean `scheduler`?"),
    ("unknown-top-level-key.toml", 2, "unknown key `ownr`", "did you mean `owner`?"),
    (
        "weight-0.toml",
        9,
        'service "web": endpoint "a": weight 0 is not a whole number from 1 to 4096',
        "drain",
    ),
    (
        "weight-fraction.toml",
        9,
        'service "web": endpoint "a": weight 1.5 is not a whole number from 1 to 4096',
        "relative",
    ),
    (
        "weight-huge.toml",
        9,
        'service "web": endpoint "a": weight 1000000000 is not a whole number from 1 to 4096',
        "relative",
    ),
    ("weight-in-service.toml", 7, 'service "web": unknown key `weight`', "belongs to a [[service.endpoint]]"),
    (
        "weight-negative.toml",
        9,
        'service "web": endpoint "a": weight -1 is not a whole number from 1 to 4096',
        "relative",
    ),
    (
        "weight-text.toml",
        9,
        'service "web": endpoint "a": weight "3" is not a whole number from 1 to 4096',
        "relative",
    ),
    (
        "weight-true.toml",
        9,
        'service "web": endpoint "a": weight true is not a whole number from 1 to 4096',
        "relative",
    ),
    (
        "weights-need-too-many-slots.toml",
        12,
        'service "web": exact shares of these weights need 8191 slots, more than 4096',
        "common divisor",
    ),
]


def problems_of(path: Path) -> tuple[ConfigProblem, ...]:
    with pytest.raises(IntentError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    return caught.value.problems


def only(path: Path) -> ConfigProblem:
    (problem,) = problems_of(path)
    return problem


def test_every_bad_file_is_expected() -> None:
    assert sorted(path.name for path in BAD.iterdir()) == sorted(row[0] for row in EXPECTED)


@pytest.mark.parametrize(("file", "line", "message", "hint"), EXPECTED, ids=[row[0] for row in EXPECTED])
def test_one_mistake_is_named_once(file: str, line: int, message: str, hint: str) -> None:
    problem = only(BAD / file)
    assert problem.file == str(BAD / file)
    assert message in problem.message
    assert problem.line == line, problem
    assert problem.hint is not None
    assert hint in problem.hint
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
address = "10.0.0.2"
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
        ':19: service 3: endpoint 1: address "10.0.0.2" has no port',
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
        "missing.toml:1: no such file",
        f'a.toml:3: service "web": the name is taken by the service at {first}:5',
        f'a.toml:4: service "web": listener 80/tcp is given twice, first by service "web" at {first}:6',
        f'c.toml:2: owner "two" is not the "one" of {first}:2',
        f"c.toml:3: mark 0x30 is not the 0x3 of {first}:3",
    ]
