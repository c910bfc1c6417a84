"""Which dialect of nftables a host gets: what versions suggest, and what became of what its nft wrote."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, cast

import pytest

from lbctl.engine import Session, open_session
from lbctl.errors import Unsupported
from lbctl.host import Completed
from lbctl.host.fake import FakeHost, Ran
from lbctl.model import Endpoint, Intent, Listener, Program, Protocol, Service, diff
from lbctl.spi import Backend
from lbctl_nftables import backend as nftables, dialect, layout, script, tool
from lbctl_nftables.layout import Dialect

if TYPE_CHECKING:
    from collections.abc import Callable

WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=(Endpoint(address=ip_address("10.0.0.1"), port=80),),
)
INTENT = Intent(services=(WEB,))


@pytest.mark.parametrize(
    ("nft", "kernel", "name", "reason"),
    [
        ("1.0.6", "6.18.5", "modern", "nft 1.0.6, Linux 6.18.5"),
        ("1.0.6", "5.7.0-rc1", "modern", "nft 1.0.6, Linux 5.7.0-rc1"),
        ("1.1.3", "", "modern", "nft 1.1.3"),
        ("1.1.7", "6.18.5", "mark", "nft 1.1.7, Linux 6.18.5"),
        ("1.2", "6.18.5", "mark", "nft 1.2, Linux 6.18.5"),
        (None, "6.1.0-18-amd64", "modern", "Linux 6.1.0-18-amd64"),
        (None, "", "modern", "no version is known"),
        ("1.0.6", "4.18.0-553.el8", "classic", "Linux 4.18.0-553.el8 is older than 5.7"),
        (None, "5.4.0", "classic", "Linux 5.4.0 is older than 5.7"),
    ],
)
def test_versions_suggest_a_dialect(nft: str | None, kernel: str, name: str, reason: str) -> None:
    assert dialect.hint(nft, kernel) == dialect.DialectChoice(name=name, reason=reason)


@pytest.mark.parametrize("nft", ["0.9.8", "0.9.3", "0.9"])
def test_an_old_nft_suggests_the_classic_dialect(nft: str) -> None:
    found = dialect.hint(nft, "6.18")
    assert found.name == "classic"
    assert found.reason.startswith(f"nft {nft} is older than ")


class Nft:
    """A host whose nft refuses scripts with one of some words, and what its kernel then holds."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        version: str = "1.0.6",
        refuses: tuple[str, ...] = (),
        becomes: Callable[[Program], Program] = lambda written: written,
        privileged: bool = True,
    ) -> None:
        self.host = FakeHost(files={"/proc/modules": "nf_tables 1 0 - Live 0x0\n"}, privileged=privileged)
        self.host.answer("nft", "--version", out=f"nftables v{version} (Name)\n")
        self.host.answer_with(self._load, "nft", "--file")
        self.refuses = refuses
        self.becomes = becomes
        self.held: dict[str, Program] = {}
        self.tables = {("ip", "filter"): 0}
        monkeypatch.setattr(dialect.objects, "tables", lambda _: self.tables)
        monkeypatch.setattr(dialect, "observe", self._observe)

    def _load(self, ran: Ran) -> Completed:
        for number, line in enumerate(ran.stdin.splitlines(), 1):
            if any(word in line for word in self.refuses):
                err = f"/dev/stdin:{number}:3-8: Error: syntax error, unexpected string\n{line}\n"
                return Completed(code=1, out="", err=err)
        owner = ran.stdin.split()[2].removeprefix("lbctl-")
        written = [dialect.program(name, owner) for name in Dialect]
        found = [each for each in written if script.render(each) == ran.stdin]
        self.held = {owner: found[0]} if found else {}
        return Completed(code=0, out="", err="")

    def _observe(self, _host: object, _driver: str, owner: str) -> Program:
        return self.becomes(self.held[owner]) if owner in self.held else Program(owner)

    @property
    def session(self) -> Session:
        return open_session(self.host, driver="nft", installed=[cast("Backend", nftables)])

    @property
    def spoken(self) -> str:
        return self.session.capabilities.dialect


def other_byte_order(written: Program) -> Program:
    """What nft 1.1.7 makes of the keys of maps that are declared `typeof numgen`."""
    declared = {item.key[2]: item.text for item in written.of_kind("map")}
    return Program(
        written.owner,
        [
            item._replace(
                key=(
                    *item.key[:3],
                    str(int.from_bytes(int(item.key[3]).to_bytes(4, "little"), "big")),
                )
            )
            if item.key[1] == "element" and "typeof numgen" in declared.get(item.key[2], "")
            else item
            for item in written.items
        ],
    )


def test_probing_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    on = Nft(monkeypatch).host
    found = nftables.probe(on)
    assert found.facts["dialect"].startswith("modern (nft 1.0.6)")
    assert found.capabilities.dialect == "modern"
    assert [ran.argv[1:] for ran in on.ran] == [("--version",)]
    old = nftables.probe(Nft(monkeypatch, version="0.9.3").host)
    assert old.facts["dialect"].startswith("classic (nft 0.9.3 is older than ")
    assert (old.capabilities.dialect, old.capabilities.affinity) == ("classic", False)


@pytest.mark.parametrize(
    ("version", "refuses", "name"),
    [
        ("1.0.6", (), "modern"),
        # Carried back by the distribution: the version says less than there is.
        ("0.9.3", (), "modern"),
        ("1.0.6", ("typeof numgen",), "mark"),
        ("1.0.6", ("typeof",), "classic"),
        ("1.0.6", ("comment",), "classic"),
        ("1.0.6", (" map @",), "classic"),
        # All is refused, so the reason is another one: nothing is learnt.
        ("1.0.6", ("table",), "modern"),
        ("0.9.3", ("table",), "classic"),
        ("1.1.7", ("table",), "mark"),
    ],
)
def test_what_nft_takes_counts_more_than_its_version(
    monkeypatch: pytest.MonkeyPatch, version: str, refuses: tuple[str, ...], name: str
) -> None:
    assert Nft(monkeypatch, version=version, refuses=refuses).spoken == name


@pytest.mark.parametrize("version", ["1.0.6", "1.1.7"])
def test_what_became_of_it_counts_more_than_what_nft_takes(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    on = Nft(monkeypatch, version=version, becomes=other_byte_order)
    assert on.spoken == "mark"
    record = tool.recall(on.host, "nft")
    assert record is not None
    assert record.reason.startswith("nft writes something else than requested: ip element ")
    # A table without hooks, of which nothing is left.
    assert on.held == {}
    assert not any("hook" in ran.stdin for ran in on.host.writes if "--check" not in ran.argv)
    on = Nft(monkeypatch, version=version, becomes=other_byte_order, refuses=("typeof meta",))
    assert on.spoken == "classic"


def test_flowtables_are_asked_for_once_and_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    on = Nft(monkeypatch, refuses=("flowtable",))
    for _ in range(2):
        can = on.session.capabilities
        assert (can.dialect, can.offload) == ("modern", False)
        assert can.offload_refusal.startswith("this host takes no flowtable: nft refused: ")
        assert can.offload_refusal.endswith(": flowtable flows {")
    [asked] = [ran for ran in on.host.writes if "flowtable" in ran.stdin]
    assert "--check" in asked.argv
    assert Nft(monkeypatch).session.capabilities.offload


def test_a_tool_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    on = Nft(monkeypatch, becomes=other_byte_order)
    assert on.spoken == "mark"
    writes = len(on.host.writes)
    assert on.spoken == "mark"
    assert len(on.host.writes) == writes
    # Another file in its place: an upgrade.
    monkeypatch.setattr(on.host, "fingerprint", lambda path: f"new {path}")
    on.becomes = lambda written: written
    assert on.spoken == "modern"
    assert len(on.host.writes) > writes


def test_the_table_of_a_probe_that_was_killed_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    on = Nft(monkeypatch)
    on.host.files["/proc/7"] = "another probe, at work"
    on.tables |= {("ip", "lbctl-.probe-7"): 0, ("ip", "lbctl-.probe-8"): 0, ("ip", "lbctl"): 0}
    assert on.spoken == "modern"
    removed = [ran.stdin for ran in on.host.writes if ran.stdin.startswith("delete")]
    assert removed == ["delete table ip lbctl-.probe-8\n"]


@pytest.mark.parametrize("version", ["1.0.6", "0.9.3"])
def test_without_privilege_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    on = Nft(monkeypatch, version=version, privileged=False)
    assert on.spoken == ("modern" if version == "1.0.6" else "classic")
    assert on.host.writes == []


def test_the_reason_is_what_nft_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dialect.ask(Nft(monkeypatch, refuses=("typeof",)).host, "nft")
    assert found is not None
    assert found.name == "classic"
    assert found.reason.startswith("nft refused: Error: syntax error, unexpected string in line ")
    assert ": typeof ip daddr . meta l4proto . th dport" in found.reason


def test_the_program_of_a_probe_has_all_that_a_dialect_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Dialect:
        text = script.render(dialect.program(name))
        assert "hook" not in text
        for remote in ("redirect to :", "dnat "):
            assert remote in text
        assert ("typeof meta mark : th dport" in text) == (name is Dialect.MARK)
        assert ("typeof numgen inc mod 2 : ip daddr . udp dport" in text) == (name is Dialect.MODERN)
        assert ("@affinity-remote" in text) == (name is not Dialect.CLASSIC)
        can = dialect.speaking(dialect.CAPABILITIES, name)
        written = {line.strip() for line in script.render(nftables.compile(INTENT, can)).splitlines()}
        declared = {line for line in written if line.startswith("type") and " hook " not in line}
        assert declared
        assert declared <= {line for kind in layout.declarations("ip", name).values() for line in kind}


def test_the_classic_dialect_refuses_affinity_by_name() -> None:
    can = replace(dialect.CAPABILITIES, affinity=True)
    kept = replace(WEB, affinity=60)
    with pytest.raises(Unsupported, match="affinity"):
        nftables.compile(Intent(services=(kept,)), dialect.speaking(can, Dialect.CLASSIC))


def test_another_dialect_without_other_keys_rebuilds_no_table() -> None:
    """A table that is made anew has a moment in which a connection finds nothing; a delta has none."""
    programs = {
        name: nftables.compile(INTENT, dialect.speaking(dialect.CAPABILITIES, name)) for name in Dialect
    }
    for one, other in ((Dialect.MODERN, Dialect.CLASSIC), (Dialect.CLASSIC, Dialect.MARK)):
        changes = diff(programs[one], programs[other])
        assert changes
        assert script.is_delta(changes)
        text = "".join(script.transactions("lbctl", changes, programs[other]))
        assert "delete table" not in text
        assert "map services" not in text
    # The keys of the same pages, declared otherwise, are other maps to the kernel.
    assert not script.is_delta(diff(programs[Dialect.MODERN], programs[Dialect.MARK]))


def test_a_standing_table_gets_maps_and_sets_by_commands_of_their_own() -> None:
    """nft 0.9.8 crashes when it adds elements to what a block declares in a table that the kernel has."""
    classic = dialect.speaking(dialect.CAPABILITIES, Dialect.CLASSIC)
    strict = replace(WEB, allow=(ip_network("192.0.2.66"),))
    other = replace(strict, name="strict", listeners=(Listener(protocol=Protocol.TCP, port=81),))
    before = nftables.compile(INTENT, classic)
    for services in ((WEB, other), (strict,)):
        after = nftables.compile(Intent(services=services), classic)
        changes = diff(before, after)
        assert script.is_delta(changes)
        text = "".join(script.transactions("lbctl", changes, after))
        assert "add set ip lbctl allow-" in text
        assert "add map ip lbctl refused-ports {\n" in text
        assert "\tmap " not in text
        assert "\tset " not in text
    # A table that is new declares them itself.
    new = "".join(script.transactions("lbctl", diff(Program("lbctl"), before), before))
    assert "\tmap ports " in new
    assert "add map " not in new
