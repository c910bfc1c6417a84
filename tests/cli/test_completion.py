"""Completion: what the program offers to each shell, and what its functions in the shells make of that."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from lbctl import engine
from lbctl.cli import app
from support.backends import Paper, install
from support.network import intent, run_lbctl, service

LBCTL = Path(sys.executable).with_name("lbctl")
COMMANDS = [name for name, each in get_command(app).commands.items() if not each.hidden]  # type: ignore[attr-defined]
WEB = intent(
    service("web", "80/tcp", "8001", "8002"), service("api", "[2001:db8::1]:81/tcp", "[2001:db8::2]:80")
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an intent file, and with the state of a host."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LBCTL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{LBCTL.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("LBCTL_CONFIG", raising=False)
    Path("lbctl.toml").write_text(WEB)
    return tmp_path


def complete(shell: str, *words: str) -> list[str]:
    """What the program offers a shell for the last of `words`."""
    env = {
        "_LBCTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(("lbctl", *words)),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": " ".join(("lbctl", *words)),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = run_lbctl(env=env)
    assert (done.code, done.err) == (0, "")
    if shell == "zsh":
        found = re.findall(r'(?:^|\(\()"(.*?)"(?:$|:|\))', done.out, re.MULTILINE)
        return [name.replace("\\\\:", ":") for name in found]
    return [line.partition("\t")[0] for line in done.out.splitlines() if line]


def in_bash(*words: str) -> list[str]:
    """What bash's own function makes of words, as it splits them."""
    script = (
        'eval "$(_LBCTL_COMPLETE=source_bash lbctl)"\n'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '_lbctl_completion lbctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script, "bash", "lbctl", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_offered_the_same(shell: str) -> None:
    assert set(complete(shell, "")) == set(COMMANDS)
    assert complete(shell, "re") == ["remove", "register", "render"]
    assert complete(shell, "plan", "--backend", "") == ["auto", "nftables", "iptables"]
    assert complete(shell, "plan", "--backend", "i") == ["iptables"]
    assert complete(shell, "migrate", "--to", "") == ["nftables", "iptables"]
    assert complete(shell, "apply", "--driver", "n") == ["nft", "nf_tables"]
    stores = ["nftables", "iptables-nft", "iptables-legacy"]
    assert complete(shell, "import", "--from", "") == stores
    assert complete(shell, "compare", "live:") == [f"live:{store}" for store in stores]
    assert complete(shell, "compare", "x", "live:iptables-") == ["live:iptables-nft", "live:iptables-legacy"]
    assert complete(shell, "explain", "80/tcp", "lb") == ["lbctl.toml"]
    assert complete(shell, "plan", "--output", "j") == ["json"]
    assert complete(shell, "render", "--back") == ["--backend"]
    assert complete(shell, "schema", "--of", "pl") == ["plan"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_endpoints_are_those_that_were_applied_or_of_the_file(
    shell: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complete(shell, "drain", "web/") == ["web/8001", "web/8002"]
    assert complete(shell, "drain", "web/8001", "a") == ["api/[2001:db8::2]:80"]
    assert complete(shell, "status", "") == ["web", "api"]
    assert complete(shell, "status", "web", "a") == ["api"]
    Path("bad.toml").write_text("bad")
    assert complete(shell, "drain", "--config", "bad.toml", "") == []
    install(monkeypatch, folder / "state", Paper())
    from lbctl.config import loads
    from lbctl.host import LocalHost

    session = engine.open_session(LocalHost(folder / "state"))
    for owner, port in (("lbctl", "8003"), ("other", "8004")):
        text = intent(service("web", "80/tcp", port)).replace("schema = 1", f'schema = 1\nowner = "{owner}"')
        engine.apply(session, (engine.plan(session, loads(text)),), record=True)
    assert complete(shell, "drain", "web/") == ["web/8003"]
    assert complete(shell, "drain", "--owner", "other", "web/") == ["web/8004"]
    assert complete(shell, "drain", "--owner", "") == ["lbctl", "other"]


def test_bash_splits_words_at_colons() -> None:
    assert in_bash("plan", "--backend", "ip") == ["iptables"]
    assert in_bash("compare", "live", ":") == ["nftables", "iptables-nft", "iptables-legacy"]
    assert in_bash("compare", "live", ":", "n") == ["nftables"]
    assert in_bash("compare", "live", ":", "nftables", "live", ":", "iptables-l") == ["iptables-legacy"]
    assert in_bash("compare", "live", ":", "nftables", "lb") == ["lbctl.toml"]
    # A bash that is told not to split there.
    assert in_bash("compare", "live:n") == ["live:nftables"]
    assert in_bash("drain", "web/8001", "api/[2001", ":", "db8", "::", "2]", ":", "8") == ["80"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("words", [["--show-completion", "{}"], ["--show-completion={}"]])
def test_the_script_is_that_of_the_shell_that_is_named(shell: str, words: list[str]) -> None:
    found = subprocess.run(
        [LBCTL, *(word.format(shell) for word in words)], capture_output=True, text=True, check=True
    )
    assert f"complete_{shell}" in found.stdout
    assert found.stderr == ""


def test_an_unknown_shell_is_refused() -> None:
    found = subprocess.run([LBCTL, "--show-completion", "tcsh"], capture_output=True, text=True)
    assert (found.returncode, found.stdout, "bash, zsh, fish" in found.stderr) == (2, "", True)
