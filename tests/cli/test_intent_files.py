"""Intent files as arguments, from standard input and from directories: none of it needs root or a kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lbctl.cli.intents import announce
from lbctl.config import find
from support.network import intent, run_lbctl, service

WEB = intent(service("web", "80/tcp", "8001", "8002"))
MORE = intent(service("web", "80/tcp", "8001", "8002", "8003"))
API = intent(service("api", "81/tcp", "8001"))
BAD = intent(service("web", "80", "8001"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"web.toml": WEB, "more.toml": MORE, "api.toml": API, "bad.toml": BAD}.items():
        Path(name).write_text(text)
    return tmp_path


def test_check_reads_each_file_by_itself() -> None:
    # Merged, these would have one name twice.
    done = run_lbctl("check", "web.toml", "more.toml")
    assert (done.code, done.out.splitlines()) == (
        0,
        ["web.toml: valid: 1 service, 2 endpoints", "more.toml: valid: 1 service, 3 endpoints"],
    )
    done = run_lbctl("check", "bad.toml", "web.toml", "none.toml", "--output", "json")
    assert (done.code, done.json["valid"]) == (2, False)
    assert [error["file"] for error in done.json["errors"]] == ["bad.toml", "none.toml"]
    assert "2 mistakes in bad.toml, none.toml" in done.err


def test_a_service_without_an_endpoint_in_rotation_is_noted() -> None:
    drained = WEB.replace('"8001", "8002"', '{ address = "8001-8002", state = "drain" }')
    assert drained != WEB
    done = run_lbctl("check", "-", stdin=drained)
    assert (done.code, done.out) == (0, "valid: 1 service, 2 endpoints\n")
    assert done.err == "Note: web: all endpoints are drained: new connections are refused\n"
    assert run_lbctl("check", "-", "--output", "json", stdin=drained).json["notes"] == [
        "web: all endpoints are drained: new connections are refused"
    ]
    assert run_lbctl("check", "-", stdin=WEB).err == ""


def test_a_backend_that_is_named_has_to_express_it() -> None:
    text = intent(service("web", "80/tcp", "8001", scheduler="maglev"))
    assert run_lbctl("check", "-", stdin=text).code == 0
    assert run_lbctl("check", "-", "--backend", "nftables", stdin=text).code == 0
    refused = run_lbctl("check", "-", "--backend", "iptables", stdin=text)
    assert (refused.code, "backend iptables does not support scheduler maglev" in refused.err) == (3, True)


def test_a_plan_file_is_not_named_as_a_format() -> None:
    done = run_lbctl("plan", "web.toml", "-o", "json")
    assert (done.code, done.out) == (2, "")
    assert "--output json prints it in that format" in done.err


@pytest.mark.parametrize("command", ["check", "render"])
def test_an_intent_file_is_named_once(command: str) -> None:
    done = run_lbctl(command, "web.toml", "--config", "api.toml")
    assert (done.code, "two intent files: web.toml and --config api.toml" in done.err) == (2, True)


def test_an_argument_is_what_config_names(folder: Path) -> None:
    for words in ([], ["--backend", "iptables"]):
        by_argument = run_lbctl("render", "web.toml", *words)
        assert by_argument == run_lbctl("render", "--config", str(folder / "web.toml"), *words)
        assert by_argument == run_lbctl("render", "-", *words, stdin=WEB)
        assert by_argument.code == 0
        assert by_argument.out


def test_standard_input_is_an_intent_file_too() -> None:
    for words in (["-"], ["--config", "-"], ["-f", "-"]):
        done = run_lbctl("check", *words, stdin=WEB)
        assert (done.code, done.out) == (0, "valid: 1 service, 2 endpoints\n")
    done = run_lbctl("check", "-", stdin=BAD)
    assert (done.code, done.err.startswith("<stdin>:4: ")) == (2, True), done.err
    document = {"schema": 1, "service": [{"name": "a", "listen": "80/tcp", "endpoints": ["1"]}]}
    assert run_lbctl("check", "-", stdin=json.dumps(document)).code == 0
    assert run_lbctl("check", env={"LBCTL_CONFIG": "-"}, stdin=WEB).code == 0


def test_a_directory_is_merged(folder: Path) -> None:
    parts = folder / "etc" / "conf.d"
    parts.mkdir(parents=True)
    (parts / "api.toml").write_text(API)
    (parts / "ignored.txt").write_text(BAD)
    (folder / "etc" / "lbctl.toml").write_text(WEB)
    # As in /etc/lbctl.
    (folder / "etc" / "old.toml").write_text(BAD)
    for words in (["etc"], ["--config", "etc"]):
        done = run_lbctl("check", *words, "--output", "json")
        assert (done.code, done.json["services"]) == (0, ["web", "api"])
    # Where there is nothing of that, its *.toml.
    assert run_lbctl("check", "etc/conf.d", "--output", "json").json["services"] == ["api"]
    (folder / "empty").mkdir()
    done = run_lbctl("check", "empty")
    assert (done.code, "a directory without intent files" in done.err) == (2, True)


def test_files_of_a_directory_that_are_not_read_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def announced(config: str) -> list[str]:
        announce(find(Path(config), {}, folder), Path(config))
        return capsys.readouterr().err.splitlines()

    etc = folder / "etc"
    etc.mkdir()
    (etc / "lbctl.toml").write_text(WEB)
    assert announced("etc") == ["Intent: etc/lbctl.toml"]
    (etc / "old.toml").write_text(WEB)
    assert announced("etc") == [
        "Intent: etc/lbctl.toml",
        "Note: not read: etc/old.toml; of etc, lbctl.toml and conf.d/*.toml are the intent",
    ]
    assert announced("etc/old.toml") == ["Intent: etc/old.toml"]
    (etc / "lbctl.toml").unlink()
    assert announced("etc") == ["Intent: etc/old.toml"]


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_plan_between_two_files(backend: str) -> None:
    words = ["plan", "more.toml", "--against", "web.toml", "--backend", backend]
    done = run_lbctl(*words, "--exit-code", "--rules")
    assert (done.code, done.err) == (1, "")
    head, *lines = done.out.splitlines()
    assert (
        head
        == f"{backend} (compared with web.toml): 0 services to add, 1 to change, 0 to remove, 0 unchanged"
    )
    assert [line.split() for line in lines if "→" in line] == [
        ["8001", "1/2", "→", "1/3"],
        ["8002", "1/2", "→", "1/3"],
        ["8003", "0", "→", "1/3"],
    ]
    assert "--- web.toml" in lines
    document = run_lbctl(*words, "--output", "json").json
    assert (document["backend"], document["changed"]) == (backend, True)
    assert [row["after"] for row in document["services"][0]["endpoints"]] == ["1/3"] * 3
    assert "8003" not in document["rules"]["before"]
    assert "8003" in document["rules"]["after"]
    done = run_lbctl("plan", "-", "--against", "web.toml", "--exit-code", stdin=WEB)
    assert (done.code, done.out) == (0, "Nothing changes: web.toml has the same rules (1 service).\n")


def test_a_new_service_shows_its_settings() -> None:
    Path("none.toml").write_text("schema = 1\n")
    Path("api.toml").write_text(
        intent(service("api", "81/tcp", "8001", scheduler="source-hash", affinity="3h", deny=["10.0.0.0/8"]))
    )
    done = run_lbctl("plan", "api.toml", "--against", "none.toml")
    assert done.out.partition("+ api  81/tcp\n")[2] == (
        "    scheduler  source-hash\n    affinity   3h\n    deny       10.0.0.0/8\n    8001  0  →  1\n"
    ), done
    done = run_lbctl("plan", "api.toml", "--against", "none.toml", "--output", "json")
    assert [each["key"] for each in done.json["services"][0]["changes"]] == ["scheduler", "affinity", "deny"]


def test_what_no_plan_between_files_can_be() -> None:
    other = intent(service("web", "80/tcp", "8001")).replace("schema = 1", 'schema = 1\nowner = "other"')
    Path("other.toml").write_text(other)
    Path("web.plan").write_text('{"format_version": 1, "kind": "plan"}')
    for words, said in (
        (["other.toml", "--against", "web.toml"], "the owners differ"),
        (["-", "--against", "-"], "standard input can be read once only"),
        (["web.toml", "--against", "web.toml", "-o", "x.plan"], "cannot be applied"),
        (["web.toml", "--against", "bad.toml"], "bad.toml:4: "),
        (["web.toml", "--against", "web.toml", "--backend", "x"], 'there is no backend "x"'),
        (["web.toml", "--against", "web.plan"], "web.plan is a plan file, and --against takes an intent"),
    ):
        done = run_lbctl("plan", *words, stdin=WEB)
        assert (done.code, done.out, said in done.err) == (2, "", True), (words, done.err)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_intent_files_are_compared_and_explained(backend: str) -> None:
    done = run_lbctl("compare", "web.toml", "web.toml", "--backend", backend)
    assert (done.code, done.err) == (0, ""), done.out
    done = run_lbctl("compare", "web.toml", "-", "--backend", backend, "--output", "json", stdin=MORE)
    assert done.code == 1
    assert {share["to"]: (share["a"], share["b"]) for share in done.json["services"][0]["backends"]} == {
        "8001": ("1/2", "1/3"),
        "8002": ("1/2", "1/3"),
        "8003": ("0/1", "1/3"),
    }
    rules = Path("rules")
    rules.write_text(run_lbctl("render", "web.toml", "--backend", backend).out)
    assert run_lbctl("compare", "web.toml", str(rules), "--backend", backend).code == 0
    for words in (["more.toml"], ["--from", "more.toml"]):
        done = run_lbctl("explain", "80/tcp", *words, "--backend", backend)
        assert (done.code, done.out.count("8003  1/3")) == (0, 2), done.out
    done = run_lbctl("compare", "web.toml", "bad.toml")
    assert (done.code, "bad.toml:4: " in done.err) == (2, True)


def test_explain_names_rules_that_are_not_understood_where_no_other_balances(tmp_path: Path) -> None:
    cards = "{ 0 : 02:00:00:00:00:01, 1 : 02:00:00:00:00:02 }"
    rule = f"ether daddr set jhash ip id mod 2 map {cards} fwd to eth1"
    hook = "type filter hook ingress device eth0 priority 0;"
    file = tmp_path / "rules.nft"
    file.write_text(f"table netdev t {{\nchain c {{\n{hook}\ntcp dport 80 {rule}\n}}\n}}\n")
    done = run_lbctl("explain", "80/tcp", str(file))
    assert (done.code, done.out) == (1, "no rule that is understood balances 80/tcp\n")
    assert f"line 4, may match: tcp dport 80 {rule} (not understood: jhash ip id)" in done.err
