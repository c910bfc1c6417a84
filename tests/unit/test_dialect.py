"""Which dialect of nftables a host gets: what versions suggest, and what its nft says when it is asked."""

from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest

from lbctl.engine import Session, open_session
from lbctl.errors import Unsupported
from lbctl.host import Completed
from lbctl.host.fake import FakeHost, Ran
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service
from lbctl.spi import Backend, Refining
from lbctl_nftables import backend as nftables
from lbctl_nftables import dialect, layout, script

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
        ("0.9.5", "", "modern", "nft 0.9.5"),
        (None, "6.1.0-18-amd64", "modern", "Linux 6.1.0-18-amd64"),
        (None, "", "modern", "no version is known"),
        ("0.9.3", "6.18", "classic", "nft 0.9.3 is older than 0.9.5"),
        ("0.9", "6.18", "classic", "nft 0.9 is older than 0.9.5"),
        ("1.0.6", "4.18.0-553.el8", "classic", "Linux 4.18.0-553.el8 is older than 5.7"),
        (None, "5.4.0", "classic", "Linux 5.4.0 is older than 5.7"),
    ],
)
def test_versions_suggest_a_dialect(nft: str | None, kernel: str, name: str, reason: str) -> None:
    assert dialect.hint(nft, kernel) == dialect.Dialect(name=name, reason=reason)


def host(*, version: str = "1.0.6", refuses: tuple[str, ...] = (), privileged: bool = True) -> FakeHost:
    """A host whose nft refuses every script with one of some words, as one that is too old for them."""
    made = FakeHost(files={"/proc/modules": "nf_tables 1 0 - Live 0x0\n"}, privileged=privileged)
    made.answer("nft", "--version", out=f"nftables v{version} (Name)\n")

    def check(ran: Ran) -> Completed:
        for number, line in enumerate(ran.stdin.splitlines(), 1):
            if any(word in line for word in refuses):
                err = f"/dev/stdin:{number}:3-8: Error: syntax error, unexpected string\n{line}\n"
                return Completed(code=1, out="", err=err)
        return Completed(code=0, out="", err="")

    made.answer_with(check, "nft", "--check")
    return made


def session(on: FakeHost) -> Session:
    return open_session(on, driver="nft", installed=[cast("Backend", nftables)])


def spoken(on: FakeHost) -> str:
    program = session(on).compile(INTENT)
    return "modern" if any(layout.is_page(item.key[2]) for item in program.of_kind("map")) else "classic"


def test_probing_asks_nobody() -> None:
    on = host()
    found = nftables.probe(on)
    assert found.facts["dialect"].startswith("modern (nft 1.0.6)")
    assert found.capabilities.dialect == "modern"
    assert [ran.argv[1:] for ran in on.ran] == [("--version",)]
    old = nftables.probe(host(version="0.9.3"))
    assert old.facts["dialect"].startswith("classic (nft 0.9.3 is older than 0.9.5)")
    assert (old.capabilities.dialect, old.capabilities.affinity) == ("classic", False)


@pytest.mark.parametrize(
    ("version", "refuses", "name"),
    [
        ("1.0.6", (), "modern"),
        # Carried back by the distribution: the version says less than there is.
        ("0.9.3", (), "modern"),
        ("1.0.6", ("typeof",), "classic"),
        ("1.0.6", ("comment",), "classic"),
        ("1.0.6", (" map @",), "classic"),
        # All is refused, so the reason is another one: nothing is learnt.
        ("1.0.6", ("table",), "modern"),
        ("0.9.3", ("table",), "classic"),
    ],
)
def test_what_nft_takes_counts_more_than_its_version(
    version: str, refuses: tuple[str, ...], name: str
) -> None:
    assert spoken(host(version=version, refuses=refuses)) == name


@pytest.mark.parametrize("version", ["1.0.6", "0.9.3"])
def test_without_privilege_nothing_is_asked(version: str) -> None:
    on = host(version=version, privileged=False)
    assert spoken(on) == ("modern" if version == "1.0.6" else "classic")
    assert on.writes == []


def test_the_reason_is_what_nft_said() -> None:
    found = dialect.ask(host(refuses=("typeof",)), "nft")
    assert found == dialect.Dialect(
        name="classic",
        reason="nft refused: Error: syntax error, unexpected string in line 3: "
        "typeof numgen inc mod 2 : ip daddr . tcp dport",
    )


def test_the_library_is_asked_too() -> None:
    assert isinstance(nftables, Refining)
    can = nftables.probe(host()).capabilities
    assert nftables.refine(host(refuses=("typeof",)), "nft", can).dialect == "classic"


def test_what_is_checked_is_what_is_written() -> None:
    """Each kind of line of a program that one dialect needs stands in its check."""
    for name, text in (
        (dialect.Dialect.MODERN, dialect.modern()),
        (dialect.Dialect.CLASSIC, dialect.classic()),
    ):
        can = dialect.speaking(nftables.probe(host()).capabilities, name)
        written = {line.strip() for line in script.render(nftables.compile(INTENT, can)).splitlines()}
        checked = {line.strip() for line in text.splitlines()}
        assert "hook" not in text
        if name == dialect.Dialect.MODERN:
            assert set(layout.declarations("ip")["page-addresses-tcp"]) <= checked & written
            pick = "meta l4proto tcp dnat ip to numgen inc mod 1 offset "
            for lines in (checked, written):
                assert any(line.startswith(pick) and " map @" in line for line in lines)
                assert any(' comment "web/10.0.0.1:80" : 10.0.0.1 . 80' in line for line in lines)
        else:
            assert "chain endpoint-web/10.0.0.1_80 {" in checked & written
            assert "meta l4proto tcp counter dnat to 10.0.0.1:80" in checked & written
            pick = "meta l4proto tcp numgen inc mod 1 offset 0 vmap { 0 : goto endpoint-web/10.0.0.1_80 }"
            assert pick in checked & written


def test_the_classic_dialect_refuses_affinity_by_name() -> None:
    can = replace(nftables.probe(host()).capabilities, affinity=True)
    kept = replace(WEB, affinity=60)
    with pytest.raises(Unsupported, match="affinity"):
        nftables.compile(Intent(services=(kept,)), dialect.speaking(can, dialect.Dialect.CLASSIC))
