"""The command line as a stranger meets it: real processes, held to what the commands promise."""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lbctl.conformance.network import HOST4
from support.network import Network, Result, intent, service

COMMANDS = ("init", "check", "render", "plan", "apply", "status", "remove", "backends", "schema", "demo")
WEB = intent(service("web", "80/tcp", "8001", "8002", "8003"))
LBCTL = str(Path(sys.executable).with_name("lbctl"))
BACKENDS = ("nftables", "iptables")
ESCAPE = "\x1b["
#: What a command that changes something says first.
NAMED = "Intent: ./lbctl.toml\n"

PLANNED = {
    "format_version": 1,
    "backend": "nftables",
    "changed": True,
    "services": [
        {
            "name": "web",
            "action": "add",
            "endpoints": [{"to": to, "before": "0/1", "after": "1/3"} for to in ("8001", "8002", "8003")],
        }
    ],
}


def environment(**changes: str) -> dict[str, str]:
    """What a fresh shell has, with `changes`."""
    unwanted = {"LBCTL_CONFIG", "NO_COLOR", "COLUMNS", "FORCE_COLOR"}
    kept = {k: v for k, v in os.environ.items() if k not in unwanted}
    return {**kept, "TERM": "xterm", **changes}


def start(network: Network, *words: str, cwd: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start the installed program on the host, in a folder of its own."""
    env = environment(LBCTL_STATE_DIR=str(network.folder / "state"), **options.pop("env", {}))
    standard = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with network.host.entered():
        return subprocess.Popen(
            [LBCTL, *words], cwd=cwd or network.folder, env=env, text=True, **{**standard, **options}
        )


def run(network: Network, *words: str, **options: Any) -> Result:
    process = start(network, *words, **options)
    out, err = process.communicate(timeout=60)
    return Result(process.returncode, out, err)


def run_all(network: Network, *calls: tuple[str, ...], **options: Any) -> list[Result]:
    """As `run`, of commands that do not disturb each other, all at once."""
    processes = [start(network, *words, **options) for words in calls]
    done = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        done.append(Result(process.returncode, out, err))
    return done


def on_terminal(
    network: Network,
    *words: str,
    answer: bytes = b"",
    meanwhile: Callable[[], object] | None = None,
    whole: bool = False,
    **env: str,
) -> Result:
    """Run with a terminal: standard input and error are it, and standard output too if `whole`.

    Types a line of `answer` at each question, the first after `meanwhile`. Returns what the terminal showed
    as `err`.
    """
    answers = answer.splitlines(keepends=True)
    master, slave = pty.openpty()
    try:
        streams = {"stdin": slave, "stderr": slave, "stdout": slave if whole else subprocess.PIPE}
        process = start(network, *words, env=env, **streams)
    finally:
        os.close(slave)
    shown = b""
    deadline = time.monotonic() + 30
    try:
        while select.select([master], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                part = os.read(master, 4096)
            except OSError:  # how a terminal says that nobody is left on the other side
                break
            if not part:
                break
            shown += part
            if answers and shown.endswith(b"[y/N] "):
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                os.write(master, answers.pop(0))
        out = process.stdout.read() if process.stdout else ""
        return Result(process.wait(10), out, shown.decode().replace("\r\n", "\n"))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()
        os.close(master)


def promised(found: Any, wanted: Any) -> Any:
    """The part of `found` that `wanted` speaks of: fields may be added, none may change or go."""
    match wanted:
        case dict():
            return {key: promised(found[key], value) for key, value in wanted.items()}
        case list():
            return [promised(f, w) for f, w in zip(found, wanted, strict=True)]
        case _:
            return found


@pytest.fixture
def web(network: Network) -> Path:
    """The intent file where lbctl looks first without options."""
    path = network.folder / "lbctl.toml"
    path.write_text(WEB)
    return path


# -- beginning


def test_no_command_and_wrong_words(network: Network) -> None:
    bare = run(network)
    assert bare.code == 2
    for command in COMMANDS:
        assert command in bare.out + bare.err
    mistakes = {
        ("aply",): "apply",
        ("plan", "--nonsense"): "--nonsense",
        ("plan", "--output", "yaml"): "json",
        ("plan", "--color", "sometimes"): "always",
        ("init",): "--listen",
    }
    for (words, said), wrong in zip(mistakes.items(), run_all(network, *mistakes), strict=True):
        assert (wrong.code, wrong.out) == (2, ""), words
        assert said in wrong.err, words
    version = run(network, "--version")
    assert re.fullmatch(r"lbctl \d+\.\d+\.\d+\S*\n", version.out), version.out


def test_names_of_other_tools_are_understood(network: Network, web: Path) -> None:
    for words, driver in (
        (("--backend", "nft"), "libnftables"),
        (("--driver", "nftables"), "libnftables"),
        (("--backend", "iptables-legacy"), "legacy"),
        (("--backend", "iptables-nft"), "nf_tables"),
        (("--driver", "iptables-legacy"), "legacy"),
    ):
        assert run(network, "plan", *words, "--output", "json").json["driver"] == driver, words
    for name, same in (("nft", "nftables"), ("legacy", "iptables-legacy")):
        found = run(network, "compare", f"live:{name}", f"live:{same}")
        assert (found.code, found.err) == (0, ""), name


def test_wrong_names_are_told_the_right_ones(network: Network, web: Path) -> None:
    for words in (
        ("--backend", "nonesuch"),
        ("--driver", "nonesuch"),
        ("--backend", "iptables", "--driver", "nft"),
    ):
        wrong = run(network, "plan", *words)
        assert (wrong.code, wrong.out) == (2, ""), words
        assert f'"{words[-1]}"' in wrong.err
        assert "hint: one of " in wrong.err


def test_a_driver_of_another_backend_is_not_offered(network: Network, web: Path) -> None:
    wrong = run(network, "plan", "--backend", "nftables", "--driver", "legacy")
    assert wrong.code == 2
    hint = wrong.err.partition("hint:")[2]
    assert "libnftables" in hint
    assert "legacy" not in hint


def test_init_prints_a_file_that_apply_takes(network: Network) -> None:
    made = run(network, "init", "--listen", "80/tcp", "--listen", "81/udp", "--to", "8001-8003,8005")
    assert (made.code, made.err) == (0, "")
    (network.folder / "lbctl.toml").write_text(made.out)
    checked = run(network, "check", "--output", "json")
    assert (checked.code, checked.json["services"]) == (0, ["web"])
    assert run(network, "apply", "--yes").code == 0
    status = run(network, "status", "--output", "json").json
    assert status["services"][0]["listen"] == ["80/tcp", "81/udp"]
    assert [e["to"] for e in status["services"][0]["endpoints"]] == ["8001", "8002", "8003", "8005"]
    wrong = run(network, "init", "--listen", "80", "--to", "8001")
    assert (wrong.code, wrong.out) == (2, "")
    assert "80/tcp" in wrong.err


def test_check_and_schema(network: Network, web: Path) -> None:
    good = run(network, "check")
    assert (good.code, good.err) == (0, "")
    assert "valid" in good.out
    document = run(network, "check", "--kernel", "--output", "json")
    assert (document.code, document.err) == (0, "")
    assert document.json == {
        "format_version": 1,
        "valid": True,
        "services": ["web"],
        "errors": [],
        "notes": [],
    }
    schema = run(network, "schema")
    assert (schema.code, schema.err) == (0, "")
    assert "json-schema.org" in schema.json["$schema"]


def test_the_intent_file_is_looked_for_in_order(network: Network) -> None:
    for name in ("option", "variable", "here"):
        folder = network.folder / name
        folder.mkdir()
        (folder / "lbctl.toml").write_text(intent(service(name, "80/tcp", "8001")))
    here = network.folder / "here"
    option = ("--config", "../option/lbctl.toml")
    variable = {"LBCTL_CONFIG": str(network.folder / "variable" / "lbctl.toml")}
    for words, env, name in (
        (option, variable, "option"),
        (option, {}, "option"),
        ((), variable, "variable"),
        ((), {"LBCTL_CONFIG": "../variable/lbctl.toml"}, "variable"),
        ((), {"LBCTL_CONFIG": ""}, "here"),
        ((), {}, "here"),
    ):
        found = run(network, "check", "--output", "json", *words, cwd=here, env=env)
        assert found.json["services"] == [name]
    # What was named and is not there is a mistake, not a reason to look further.
    for words, env in ((("--config", "no.toml"), {}), ((), {"LBCTL_CONFIG": "no.toml"})):
        lost = run(network, "check", *words, cwd=here, env=env)
        assert (lost.code, lost.out) == (2, "")
        assert "no.toml: no such file" in lost.err
    for lost in run_all(network, ("check",), ("render",), ("plan",), ("apply",), ("status",)):
        assert (lost.code, lost.out) == (2, "")
        assert "lbctl init" in lost.err


def test_check_names_a_missing_file_in_json_too(network: Network) -> None:
    lost = run(network, "check", "--output", "json")
    assert lost.code == 2
    assert lost.json["valid"] is False
    assert "no intent file" in lost.json["errors"][0]["message"]


# -- looking


@pytest.mark.parametrize(
    ("backend", "driver", "loaders"),
    [
        ("nftables", "nft", [("nft", "-f", "-")]),
        *(
            ("iptables", driver, [(f"{w}-{infix}-restore", "--noflush") for w in ("iptables", "ip6tables")])
            for driver, infix in (("legacy", "legacy"), ("nf_tables", "nft"))
        ),
    ],
)
def test_rendered_rules_load_without_lbctl(
    network: Network, web: Path, backend: str, driver: str, loaders: list[tuple[str, ...]]
) -> None:
    text = run(network, "render", "--backend", backend)
    assert (text.code, text.err) == (0, "")
    document = run(network, "render", "--backend", backend, "--output", "json").json
    assert document == {"format_version": 1, "backend": backend, "rules": text.out}
    for loader in loaders:
        network.tool(*loader, stdin=text.out)
    same = run(network, "plan", "--exit-code", "--rules", "--backend", backend, "--driver", driver)
    assert same.code == 0, same.out


def test_rules_for_another_host(network: Network, web: Path) -> None:
    old = ("render", "--for", "iptables=1.4.21", "--family", "ipv4")
    text, document = run(network, *old), run(network, *old, "--output", "json").json
    assert (text.code, text.err) == (0, "")
    assert document == {
        "format_version": 1,
        "backend": "iptables",
        "rules": text.out,
        "for": "iptables=1.4.21",
        "family": "ipv4",
    }
    network.tool("iptables-legacy-restore", "--noflush", stdin=text.out)
    network.tool("iptables-legacy-restore", "--noflush", stdin=run(network, *old, "--remove").out)
    assert "LBCTL" not in network.tool("iptables-legacy-save")
    only4 = web.with_name("only4.toml")
    only4.write_text(
        'schema = 1\n[[service]]\nname = "a"\nlisten = "192.0.2.1:80/tcp"\nendpoints = ["8001"]\n'
    )
    six = ("--family", "ipv6", "--config", str(only4))
    nothing = run(network, "render", "--for", "iptables=1.4.21", *six)
    assert (nothing.code, nothing.out) == (0, "")
    assert nothing.err == "Note: no service of this intent is balanced for ipv6\n"
    # The whole host is not looked at: there is nothing on it.
    assert run(network, "render", "--for", "nft=0.9.8", env={"PATH": "/nonexistent"}).code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--for", "ipfw=1.0"), 2, "one of iptables, iptables-nft, nft"),
        (("--for", "nft"), 2, "TOOL=VERSION"),
        (("--for", "nft=new"), 2, '"new" is not a version'),
        (("--for", "iptables=1.8", "--backend", "iptables"), 2, "--for names the tool"),
        (("--for", "iptables=1.4.3"), 3, "the oldest is iptables=1.4.4"),
        (("--for", "nft=0.8"), 3, "the oldest is nft=0.9.2"),
        (("--family", "ipv5"), 2, "ipv4"),
        (("--network", "10.0.0.1/8"), 2, "host bits"),
    ],
)
def test_a_host_that_nothing_is_written_for(
    network: Network, web: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    refused = run(network, "render", *words)
    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err


def test_plan_json_and_exit_code(network: Network, web: Path) -> None:
    clean = network.rules()
    made = run(network, "plan", "--output", "json")
    assert (made.code, made.err) == (0, NAMED)
    assert promised(made.json, PLANNED) == PLANNED
    assert set(made.json["rules"]) == {"before", "after"}
    assert made.json["rules"]["after"] == run(network, "render").out
    for output in ("text", "json"):
        assert run(network, "plan", "--exit-code", "--output", output).code == 1
    assert network.rules() == clean
    assert run(network, "apply", "--yes").code == 0
    for output in ("text", "json"):
        assert run(network, "plan", "--exit-code", "--output", output).code == 0
    web.write_text(
        intent(service("web", "80/tcp", "8001", "8004"), service("dns", "53/udp", "8053"))
        + "\n[[service]]\nname = 'big'\nlisten = '90/tcp'\n"
        + "\n".join(f'[[service.endpoint]]\naddress = "{9000 + w}"\nweight = {w}' for w in (4, 2))
    )
    changed = run(network, "plan", "--output", "json").json
    wanted = {
        "changed": True,
        "services": [
            {
                "name": "web",
                "action": "change",
                "endpoints": [
                    {"to": "8001", "before": "1/3", "after": "1/2"},
                    {"to": "8004", "before": "0/1", "after": "1/2"},
                    {"to": "8002", "before": "1/3", "after": "0/1"},
                    {"to": "8003", "before": "1/3", "after": "0/1"},
                ],
            },
            {"name": "dns", "action": "add", "endpoints": [{"to": "8053", "before": "0/1", "after": "1/1"}]},
            {
                "name": "big",
                "action": "add",
                "endpoints": [
                    {"to": "9004", "before": "0/1", "after": "2/3"},
                    {"to": "9002", "before": "0/1", "after": "1/3"},
                ],
            },
        ],
    }
    assert promised(changed, wanted) == wanted
    assert run(network, "apply", "--yes").code == 0
    web.write_text(intent(service("web", "80/tcp", "8001", "8004")))
    gone = run(network, "plan", "--output", "json").json
    assert [(s["name"], s["action"]) for s in gone["services"]] == [
        ("web", "none"),
        ("dns", "remove"),
        ("big", "remove"),
    ]


def test_plan_in_words(network: Network, web: Path) -> None:
    text = run(network, "plan")
    assert (text.code, text.err) == (0, NAMED)
    lines = [line.split() for line in text.out.splitlines()]
    assert ["+", "web", "80/tcp"] in lines
    assert ["8002", "0", "→", "1/3"] in lines
    assert "table ip" not in text.out


def apply_diff(text: str, before: list[str]) -> list[str]:
    """`before` with the unified diff `text` applied; each context line must be where it says."""
    after, at, hunk = [], 0, False
    for line in text.splitlines():
        if line.startswith("@@"):
            begin = re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@", line)
            assert begin, line
            place = int(begin[1]) - (begin[2] != "0")
            after += before[at:place]
            at, hunk = place, True
        elif hunk and line.startswith("+"):
            after.append(line[1:])
        elif hunk:
            assert before[at] == line[1:], line
            if line.startswith(" "):
                after.append(line[1:])
            at += 1
    return after + before[at:]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_rules_of_a_plan_are_a_unified_diff(network: Network, web: Path, backend: str) -> None:
    for text in (WEB, intent(service("web", "80/tcp", "8001", "8009"), service("dns", "53/udp", "8053"))):
        web.write_text(text)
        rules = run(network, "plan", "--output", "json", "--backend", backend).json["rules"]
        shown = run(network, "plan", "--rules", "--backend", backend).out
        head, mark, diff = shown.partition("--- ")
        assert head == run(network, "plan", "--backend", backend).out + "\n"
        assert re.match(r"\S+\n\+\+\+ \S+\n@@ -", diff)
        assert apply_diff(mark + diff, rules["before"].splitlines()) == rules["after"].splitlines()
        assert run(network, "apply", "--yes", "--backend", backend).code == 0
    # Nothing to show: no diff without differences.
    assert "---" not in run(network, "plan", "--rules", "--backend", backend).out


@pytest.mark.parametrize("backend", BACKENDS)
def test_status_json(network: Network, web: Path, backend: str) -> None:
    before = run(network, "status", "--output", "json", "--backend", backend)
    assert (before.code, before.json["in_sync"], before.err) == (0, False, "")
    assert run(network, "apply", "--yes", "--backend", backend).code == 0
    sockets = []
    try:
        with network.host.entered():
            # Never accepted, so the connections stay established.
            everywhere = {"family": socket.AF_INET6, "dualstack_ipv6": True}
            sockets += [socket.create_server(("", port), **everywhere) for port in (8001, 8002, 8003)]
        with network.client.entered():
            sockets += [socket.create_connection((HOST4, 80), timeout=5) for _ in range(4)]
        found = run(network, "status", "--output", "json", "--backend", backend)
        text = run(network, "status", "--backend", backend, env={"COLUMNS": "100"})
    finally:
        for each in sockets:
            each.close()
    assert (found.code, found.err) == (0, "")
    wanted = {
        "format_version": 1,
        "backend": backend,
        "in_sync": True,
        "services": [
            {
                "name": "web",
                "listen": ["80/tcp"],
                "scheduler": "round-robin",
                "connections": 4,
                "endpoints": [
                    {
                        "name": to,
                        "to": to,
                        "state": "active",
                        "weight": 1,
                        "wanted": "1/3",
                        "actual": actual,
                        "connections": count,
                        "established": count,
                        "packets": count,
                        "bytes": 60 * count,
                    }
                    for to, count, actual in (("8001", 2, "1/2"), ("8002", 1, "1/4"), ("8003", 1, "1/4"))
                ],
            }
        ],
    }
    assert promised(found.json, wanted) == wanted
    assert "in sync" in text.out.splitlines()[0]
    row = next(line.split() for line in text.out.splitlines() if line.split()[:1] == ["8001"])
    assert row == ["8001", "active", "1", "1/3", "50.0%", "2", "2", "2", "120"]


def test_status_says_where_kernel_and_file_differ(network: Network, web: Path) -> None:
    assert run(network, "apply", "--yes").code == 0
    web.write_text(WEB.replace("8003", "8004"))
    assert run(network, "status", "--output", "json").json["in_sync"] is False
    text = run(network, "status")
    assert (text.code, "NOT in sync" in text.out) == (0, True)


def test_backends_json(network: Network) -> None:
    found = run(network, "backends", "--output", "json")
    assert (found.code, found.err) == (0, "")
    document = found.json
    assert document["format_version"] == 1
    assert document["chosen"] == "nftables"
    assert document["reason"]
    drivers = {b["name"]: {d["name"] for d in b["drivers"]} for b in document["backends"]}
    assert drivers["nftables"] == {"libnftables", "nft"}
    assert drivers["iptables"] == {"legacy", "nf_tables", "iptc"}
    assert all(d["usable"] for b in document["backends"] for d in b["drivers"])
    text = run(network, "backends", "--backend", "iptables", "--driver", "legacy").out
    assert "chosen: iptables through legacy (asked for)" in text
    for backend in document["backends"]:
        assert backend["name"] in text
        for driver in backend["drivers"]:
            assert driver["name"] in text


# -- changing


def test_apply_and_remove_json(network: Network, web: Path) -> None:
    clean = network.rules()
    applied = run(network, "apply", "--yes", "--output", "json")
    assert (applied.code, applied.err) == (0, NAMED)
    assert promised(applied.json, PLANNED | {"applied": True}) == PLANNED | {"applied": True}
    again = run(network, "apply", "--output", "json")
    assert (again.code, again.err) == (0, NAMED)
    assert (again.json["changed"], again.json["applied"]) == (False, False)
    removed = run(network, "remove", "--yes", "--output", "json")
    assert removed.code == 0
    wanted = {
        "format_version": 1,
        "owner": "lbctl",
        "changed": True,
        "removed": True,
        "plans": [{"backend": "nftables", "services": [{"name": "web", "action": "remove"}]}],
    }
    assert promised(removed.json, wanted) == wanted
    assert network.rules() == clean


def test_text_of_changes_is_split_between_data_and_talk(network: Network, web: Path) -> None:
    planned = run(network, "plan").out
    applied = run(network, "apply", "--yes")
    assert (applied.code, applied.out) == (0, planned)
    assert applied.err == f"{NAMED}Applied.\n"
    again = run(network, "apply")
    assert (again.code, again.err) == (0, NAMED)
    assert "Nothing to change" in again.out
    removed = run(network, "remove", "--yes")
    assert (removed.code, removed.err.splitlines()[-1]) == (0, "Removed.")
    assert "- web" in removed.out
    assert "Removed." not in removed.out
    gone = run(network, "remove")
    assert (gone.code, gone.err) == (0, NAMED)
    assert "Nothing to remove" in gone.out


def test_without_a_terminal_nothing_is_changed_unasked(network: Network, web: Path) -> None:
    clean = network.rules()
    for words in (("apply",), ("apply", "--output", "json")):
        refused = run(network, *words)
        assert refused.code == 2
        assert "--yes" in refused.err
        assert "Traceback" not in refused.err
    # A yes from a pipe is no answer of a person.
    piped = start(network, "apply", stdin=subprocess.PIPE)
    _, err = piped.communicate("y\n", timeout=20)
    assert (piped.returncode, "--yes" in err) == (2, True)
    assert network.rules() == clean
    assert run(network, "apply", "--yes").code == 0
    full = network.rules()
    assert run(network, "remove").code == 2
    assert network.rules() == full


def test_a_closed_standard_input_is_no_terminal(network: Network, web: Path) -> None:
    with network.host.entered():
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec {LBCTL} apply 0<&-"],
            cwd=network.folder,
            env=environment(LBCTL_STATE_DIR=str(network.folder / "state")),
            capture_output=True,
            text=True,
            check=False,
        )
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(("answer", "goes"), [(b"Yes\n", True), (b"\n", False), (b"\x04", False)])
def test_a_terminal_is_asked(network: Network, web: Path, answer: bytes, goes: bool) -> None:
    clean = network.rules()
    done = on_terminal(network, "apply", answer=answer)
    assert done.code == (0 if goes else 1)
    assert "[y/N]" in done.err
    assert "[y/N]" not in done.out
    assert "+ web" in done.out
    assert ("Applied." if goes else "Nothing was changed.") in done.err
    assert (network.rules() != clean) is goes
    if goes:
        full = network.rules()
        kept = on_terminal(network, "remove", answer=b"no\n")
        assert (kept.code, network.rules()) == (1, full)
        assert on_terminal(network, "remove", answer=answer).code == 0
        assert "web" not in network.rules()


def test_json_and_a_question_do_not_mix(network: Network, web: Path) -> None:
    done = on_terminal(network, "apply", "--output", "json", answer=b"y\n")
    assert (done.code, done.json["applied"]) == (0, True)
    done = on_terminal(network, "remove", "--output", "json", answer=b"n\n")
    assert (done.code, done.json["removed"]) == (1, False)


def test_who_agreed_to_a_plan_that_was_overtaken_is_asked_again(network: Network, web: Path) -> None:
    assert run(network, "apply", "--yes").code == 0
    web.write_text(WEB.replace("8001", "8009"))
    asked = on_terminal(
        network,
        "apply",
        answer=b"y\ny\n",
        meanwhile=lambda: network.tool("nft", "delete", "table", "ip", "lbctl"),
    )
    assert (asked.code, asked.err.count("[y/N]")) == (0, 2), asked.err
    assert "changed since the plan was made" in asked.err
    assert "Nothing was changed; this is the plan now:" in asked.err
    assert run(network, "plan", "--exit-code").code == 0


def test_who_agreed_to_a_migration_that_was_overtaken_is_asked_again(network: Network, web: Path) -> None:
    assert run(network, "apply", "--yes", "--backend", "nftables").code == 0

    def another_person() -> None:
        web.write_text(WEB.replace("8001", "8009"))
        assert run(network, "apply", "--yes", "--backend", "nftables").code == 0

    asked = on_terminal(network, "migrate", "--to", "iptables", answer=b"y\ny\n", meanwhile=another_person)
    assert (asked.code, asked.err.count("[y/N]")) == (0, 2), asked.err
    assert run(network, "plan", "--exit-code", "--backend", "iptables").code == 0


def test_who_refuses_the_plan_that_is_shown_again_changes_nothing(network: Network, web: Path) -> None:
    assert run(network, "apply", "--yes").code == 0
    web.write_text(WEB.replace("8001", "8009"))
    left: list[str] = []

    def another_program() -> None:
        network.tool("nft", "flush", "ruleset")
        left.append(network.rules())

    done = on_terminal(network, "apply", answer=b"y\nn\n", meanwhile=another_program)
    assert (done.code, done.err.count("[y/N]")) == (1, 2)
    assert network.rules() == left[0]


def test_ctrl_c_at_the_question_changes_nothing(network: Network, web: Path) -> None:
    clean = network.rules()
    master, slave = pty.openpty()
    process = start(network, "apply", stdin=slave, stderr=subprocess.PIPE)
    os.close(slave)
    assert process.stderr
    asked = f"{NAMED}Apply this? [y/N] "
    assert process.stderr.read(len(asked)) == asked
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    os.close(master)
    assert (process.returncode, err) == (130, "\nlbctl: interrupted: nothing was changed\n")
    assert network.rules() == clean


def test_remove_without_an_intent_file(network: Network, web: Path) -> None:
    clean = network.rules()
    assert run(network, "apply", "--yes").code == 0
    full = network.rules()
    web.write_text("schema = ?")
    broken = run(network, "remove", "--yes")
    assert broken.code == 2
    assert "--owner" in broken.err
    lost = run(network, "remove", "--yes", "--config", "no.toml")
    assert (lost.code, lost.out) == (2, "")
    bad = run(network, "remove", "--yes", "--owner", "Not A Name")
    assert (bad.code, bad.out) == (2, "")
    assert network.rules() == full
    assert run(network, "remove", "--yes", "--owner", "other").code == 0
    assert network.rules() == full
    web.unlink()
    gone = run(network, "remove", "--yes")
    assert gone.code == 0, gone.err
    assert network.rules() == clean


FEATURES = {
    "scheduler random": 'scheduler = "random"',
    "scheduler source-hash": 'scheduler = "source-hash"',
    "scheduler maglev": 'scheduler = "maglev"',
    "affinity": 'affinity = "3h"',
    "allow": 'allow = ["198.51.100.0/24"]',
    "protocol sctp": 'listen = "81/sctp"',
    "state drain": '[[service.endpoint]]\naddress = "8009"\nstate = "drain"',
    "state backup": '[[service.endpoint]]\naddress = "8009"\nstate = "backup"',
}


def lacking(capabilities: dict[str, Any]) -> set[str]:
    """Those of FEATURES that a backend says it has not."""
    return {
        name
        for name in FEATURES
        for kind, _, value in [name.partition(" ")]
        if not (value in capabilities[f"{kind}s"] if value else capabilities[kind])
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_backend_cannot_do_is_refused_by_name(network: Network, web: Path, backend: str) -> None:
    clean = network.rules()
    found = run(network, "backends", "--output", "json").json["backends"]
    missing = lacking(next(b["capabilities"] for b in found if b["name"] == backend))
    for name, text in FEATURES.items():
        head = 'schema = 1\n[[service]]\nname = "odd-one"\n'
        listen = "" if text.startswith("listen") else 'listen = "81/tcp"\n'
        endpoints = '[[service.endpoint]]\naddress = "8001"\n' if "[[" in text else 'endpoints = ["8001"]\n'
        (network.folder / f"{name}.toml").write_text(f"{head}{listen}{endpoints}{text}\n")
    calls = [("plan", "--backend", backend, "--config", f"{name}.toml") for name in FEATURES]
    for feature, planned in zip(FEATURES, run_all(network, *calls), strict=True):
        assert planned.code == (3 if feature in missing else 0), planned.err
        if feature in missing:
            assert planned.out == ""
            for word in ("odd-one", feature, backend):
                assert word in planned.err
    for name in sorted(missing)[:1]:
        config = ("--config", f"{name}.toml")
        assert run(network, "check", *config).code == 0, "a file is valid whatever this host can do"
        # Not status: it tells of what is there, whatever map of clients that has.
        commands = (("render",), ("apply", "--yes"), ("check", "--kernel"))
        calls = [(*words, "--backend", backend, *config) for words in commands]
        for refused in run_all(network, *calls):
            assert (refused.code, refused.out) == (3, "")
            assert "odd-one" in refused.err
    assert network.rules() == clean


@pytest.mark.parametrize(
    ("first", "second"),
    [("nft", "legacy"), ("legacy", "nft"), ("legacy", "nf_tables"), ("nf_tables", "libnftables")],
)
def test_two_stores_never_hold_one_owner(network: Network, web: Path, first: str, second: str) -> None:
    assert run(network, "apply", "--yes", "--driver", first).code == 0
    full = network.rules()
    refused = run(network, "apply", "--yes", "--driver", second)
    assert (refused.code, refused.out) == (5, "")
    assert "migrate" in refused.err
    assert network.rules() == full


def test_two_stores_may_hold_two_owners(network: Network, web: Path) -> None:
    first, second = "legacy", "nft"
    assert run(network, "apply", "--yes", "--driver", first).code == 0
    web.write_text(intent(service("dns", "53/udp", "8053"), owner="blue"))
    assert run(network, "apply", "--yes", "--driver", second).code == 0
    assert run(network, "remove", "--yes", "--owner", "lbctl").code == 0
    assert run(network, "apply", "--yes", "--driver", second).code == 0
    assert run(network, "remove", "--yes").code == 0


def test_one_lbctl_at_a_time(network: Network, web: Path) -> None:
    folder = network.folder / "state" / "run"
    folder.mkdir(parents=True)
    clean = network.rules()
    with (folder / f"lbctl.{os.fstat(network.host.fd).st_ino}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write("4711\n")
        handle.flush()
        for words in (("apply", "--yes"), ("apply", "--yes", "--output", "json")):
            busy = run(network, *words)
            assert busy.code == 7
            assert "4711" in busy.err
        assert network.rules() == clean
        # Looking needs no lock.
        assert run(network, "plan").code == 0
        assert run(network, "status").code == 0
    assert run(network, "apply", "--yes").code == 0
    assert run(network, "apply", "--yes").code == 0


# -- printing


def test_colours(network: Network, web: Path) -> None:
    plain = run(network, "plan", "--rules")
    painted = run(network, "plan", "--rules", "--color", "always")
    assert ESCAPE not in plain.out
    assert ESCAPE in painted.out
    assert re.sub(r"\x1b\[[\d;]*m", "", painted.out) == plain.out
    assert run(network, "plan", "--output", "json", "--color", "always").json["changed"] is True
    assert ESCAPE in run(network, "plan", "--color", "always", env={"NO_COLOR": "1"}).out
    for words, env, coloured in (
        ((), {}, True),
        ((), {"NO_COLOR": "1"}, False),
        ((), {"NO_COLOR": ""}, True),
        ((), {"TERM": "dumb"}, False),
        (("--color", "never"), {}, False),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
    ):
        shown = on_terminal(network, "plan", *words, whole=True, **env).err
        assert "web" in shown
        # A slow machine shows progress too, which moves the cursor.
        assert (re.search(r"\x1b\[[\d;]*m", shown) is not None) is coloured, (words, env)


@pytest.mark.parametrize(
    ("words", "env", "coloured"),
    [
        ((), {}, True),
        ((), {"NO_COLOR": "1"}, False),
        (("--color", "never"), {}, False),
    ],
)
def test_colours_of_complaints(
    network: Network, words: tuple[str, ...], env: dict[str, str], coloured: bool
) -> None:
    shown = on_terminal(network, "plan", "--config", "no.toml", *words, **env).err
    assert "no such file" in shown
    assert (ESCAPE in shown) is coloured


def many(count: int = 100) -> str:
    return intent(*(service(f"s{i}", f"{1000 + i}/tcp", str(20000 + i)) for i in range(count)))


@pytest.mark.parametrize(
    "command", [("render", "--output", "json"), ("plan", "--rules"), ("plan", "--output", "json")]
)
def test_a_reader_that_goes_away_is_no_failure(network: Network, web: Path, command: tuple[str, ...]) -> None:
    web.write_text(many())
    process = start(network, *command, pipesize=4096)
    assert process.stdout
    assert process.stderr
    assert process.stdout.read(1)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ("" if command[0] == "render" else NAMED)
    assert process.wait(20) == 0


def test_a_reader_that_never_came_is_no_failure(network: Network, web: Path) -> None:
    for command in (("schema",), ("backends",), ("plan",), ("--help",)):
        process = start(network, *command)
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        with process.stderr:
            assert process.stderr.read() == (NAMED if command == ("plan",) else ""), command
        assert process.wait(20) == 0, command


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_without_a_traceback(network: Network, web: Path, unbuffered: str) -> None:
    for command in (("render",), ("check",)):
        with Path("/dev/full").open("w") as full:
            process = start(network, *command, stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
            _, err = process.communicate(timeout=20)
        assert process.returncode != 0, command
        assert "No space left" in err, command
        assert "Traceback" not in err, command


def test_a_terminal_that_knows_no_arrows(network: Network, web: Path) -> None:
    done = run(network, "apply", "--yes", env={"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    assert "Traceback" not in done.err
    assert done.code == 0


def test_a_working_folder_that_is_gone(network: Network, web: Path) -> None:
    folder = network.folder / "gone"
    folder.mkdir()
    with network.host.entered():
        done = subprocess.run(
            ["/bin/sh", "-c", f"rmdir {folder}; exec {LBCTL} plan --config {web}"],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0


# -- help


def test_every_command_explains_itself(network: Network) -> None:
    texts = dict(zip(COMMANDS, run_all(network, *((command, "-h") for command in COMMANDS)), strict=True))
    for command, done in texts.items():
        assert (done.code, done.err) == (0, ""), command
    for command in ("check", "render", "plan", "apply", "status", "remove"):
        for option in ("--config", "--backend", "--driver", "--output"):
            assert option in texts[command].out, (command, option)
