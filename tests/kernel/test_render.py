"""Rendered texts, loaded by the tools themselves on a host without lbctl: once, twice, and away again."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.errors import Unsupported
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Endpoint, Family, Intent, Listener, Protocol, Service, SourceNat
from lbctl_iptables import layout
from support.hosts import OldIptables, WithoutIp6tables

HERE = Endpoint(port=8001)
WEB = Service(
    name="web", listeners=(Listener(protocol=Protocol.TCP, port=80),), endpoints=(HERE, Endpoint(port=8002))
)
AWAY = Service(
    name="away",
    listeners=(
        Listener(protocol=Protocol.TCP, port=81, address=ip_address("192.0.2.1")),
        Listener(protocol=Protocol.TCP, port=81, address=ip_address("2001:db8::1")),
    ),
    endpoints=(
        Endpoint(port=81, address=ip_address("10.0.0.1")),
        Endpoint(port=81, address=ip_address("fd00::1")),
    ),
    source_nat=SourceNat.ALWAYS,
)
CLOSED = replace(
    WEB,
    name="closed",
    listeners=(Listener(protocol=Protocol.TCP, port=82),),
    allow=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    local_clients=False,
)
INTENTS = {"open": Intent(services=(WEB, AWAY)), "refusing": Intent(services=(WEB, AWAY, CLOSED))}
#: Something that stands in the same chains.
FOREIGN = """*nat
-A PREROUTING -p tcp -m tcp --dport 9 -j ACCEPT
COMMIT
*filter
-A INPUT -p tcp -j ACCEPT
COMMIT
"""
TARGETS = ("iptables=1.4.21", "iptables=1.8.9", "iptables-nft=1.8.9")


@pytest.fixture(autouse=True)
def _space(tmp_path: Path) -> Iterator[None]:
    made = Namespace(LocalHost(tmp_path))
    try:
        with made.entered():
            yield
    finally:
        made.close()


def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, input=stdin, text=True, check=False, capture_output=True)


def restore(word: str, flavour: str, text: str) -> int:
    # Other tests hold the lock of all namespaces now and then.
    return run(f"{word}-{flavour}-restore", "--noflush", "--wait", "20", stdin=text).returncode


def saved(word: str, flavour: str) -> list[str]:
    lines = run(f"{word}-{flavour}-save").stdout.splitlines()
    # Policies' counters are no rules. A built-in chain stays once it was used.
    return [line for line in lines if (line[:1] != "#" and not line.startswith(":")) or " - " in line]


def rendered(target: str, intent: Intent, family: Family | None = None, *, remove: bool = False) -> str:
    networks = [ip_network("10.0.0.0/24")]
    host = LocalHost()
    return engine.render(host, intent, target=target, family=family, remove=remove, networks=networks).rules


def flavour_of(target: str) -> tuple[str, str]:
    return ("nft", "nf_tables") if "nft" in target else ("legacy", "legacy")


@pytest.mark.parametrize("families", [(None,), (Family.IPV4,), (Family.IPV6,), tuple(Family)], ids=str)
@pytest.mark.parametrize("intent", INTENTS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_text_is_loaded_once_and_removed(
    target: str, intent: str, families: tuple[Family | None, ...], tmp_path: Path
) -> None:
    meant = INTENTS[intent]
    flavour, driver = flavour_of(target)
    loads = [
        (word, rendered(target, meant, family), rendered(target, meant, family, remove=True))
        for family in families
        for word in (layout.WORD.values() if family is None else [layout.WORD[family]])
    ]
    for word, _, _ in loads:
        assert restore(word, flavour, FOREIGN) == 0
    before = {word: saved(word, flavour) for word, _, _ in loads}
    for word, text, _ in loads:
        assert restore(word, flavour, text) == 0, text
    once = {word: saved(word, flavour) for word, _, _ in loads}
    for word, text, removal in loads:
        assert restore(word, flavour, text) != 0
        assert saved(word, flavour) == once[word]
        # Both as one file replace what is there.
        assert restore(word, flavour, removal + text) == 0
        assert saved(word, flavour) == once[word]
    if len({word for word, _, _ in loads}) == len(layout.WORD):
        session = engine.open_session(LocalHost(tmp_path), backend="iptables", driver=driver)
        networks = replace(session.capabilities, networks=(ip_network("10.0.0.0/24"),))
        vars(session)["capabilities"] = networks
        assert not engine.plan(session, meant).changed
    for word, _, removal in loads:
        assert restore(word, flavour, removal) == 0, removal
        assert saved(word, flavour) == before[word]
        assert restore(word, flavour, removal) != 0
        assert saved(word, flavour) == before[word]


@pytest.mark.parametrize("families", [(None,), (Family.IPV4,), (Family.IPV6,), tuple(Family)], ids=str)
@pytest.mark.parametrize("target", ["nft=0.9.8", "nft=1.0.6"])
def test_a_text_of_nft_is_loaded_as_often_as_wanted(
    target: str, families: tuple[Family | None, ...], tmp_path: Path
) -> None:
    meant = INTENTS["refusing"]
    assert run("nft", "add", "table", "ip", "foreign").returncode == 0
    before = run("nft", "list", "ruleset").stdout
    for _ in range(2):
        for family in families:
            assert run("nft", "-f", "-", stdin=rendered(target, meant, family)).returncode == 0
    tables = run("nft", "list", "tables").stdout
    wanted = {"ip" if f is Family.IPV4 else "ip6" for each in families for f in ([each] if each else Family)}
    assert {line.split()[1] for line in tables.splitlines() if line.endswith(" lbctl")} == wanted
    if target == "nft=1.0.6" and len(wanted) == 2:
        session = engine.open_session(LocalHost(tmp_path), driver="nft")
        assert not engine.plan(session, meant).changed
    for _ in range(2):
        for family in families:
            assert run("nft", "-f", "-", stdin=rendered(target, meant, family, remove=True)).returncode == 0
    assert run("nft", "list", "ruleset").stdout == before


@pytest.mark.parametrize(
    ("version", "carried_back"), [("1.4.21", ()), ("1.4.21", ("--wait",)), ("1.6.1", ()), ("1.6.2", ())]
)
def test_an_old_iptables_does_all_of_it(version: str, carried_back: tuple[str, ...], tmp_path: Path) -> None:
    host = OldIptables(tmp_path, version, carried_back=carried_back)
    session = engine.open_session(host, backend="iptables", driver="legacy")
    assert session.choice.driver.version == version
    meant = INTENTS["refusing"]
    engine.apply(session, (engine.plan(session, meant),))
    assert not engine.plan(session, meant).changed
    targets = {line.partition(" -j ")[2] for line in saved("iptables", "legacy")}
    assert ("MASQUERADE --random-fully" in targets) == (version == "1.6.2")
    assert ("MASQUERADE" in targets) == (version != "1.6.2")
    # An upgrade of the tool is no reason to write what is there anew.
    later = engine.open_session(LocalHost(tmp_path), backend="iptables", driver="legacy")
    assert not engine.plan(later, meant).changed
    engine.apply(later, (engine.plan(later, Intent(services=(WEB,))),))
    # Nor is a downgrade.
    engine.apply(later, (engine.plan(later, meant),))
    again = engine.open_session(host, backend="iptables", driver="legacy")
    assert not engine.plan(again, meant).changed
    engine.apply(again, (engine.plan(again, Intent()),))
    assert [line for line in saved("iptables", "legacy") if "LBCTL" in line] == []


@pytest.mark.parametrize("driver", ["legacy", "nf_tables"])
def test_a_host_without_ip6tables_is_balanced_for_ipv4(driver: str, tmp_path: Path) -> None:
    # The kernel may have tables of IPv6 all the same.
    assert restore("ip6tables", "legacy" if driver == "legacy" else "nft", FOREIGN) == 0
    session = engine.open_session(WithoutIp6tables(tmp_path), backend="iptables", driver=driver)
    assert session.capabilities.families == {Family.IPV4}
    assert "IPv4 only" in session.choice.probe.facts["families"]
    meant = Intent(services=(WEB,))
    made = engine.plan(session, meant)
    assert any("IPv6 connections to web are not balanced" in note for note in made.notes)
    engine.apply(session, (made,))
    assert not engine.plan(session, meant).changed
    with pytest.raises(Unsupported, match=r"ipv6 \(listener \[2001:db8::1\]:81/tcp\)"):
        engine.plan(session, Intent(services=(AWAY,)))
