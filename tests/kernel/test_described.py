"""What nft reports of a table is what netlink reads of it: for hosts on which no program speaks netlink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lbctl.errors import ApplyFailed
from lbctl.host import Completed, LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Intent
from lbctl_nftables import stats
from lbctl_nftables.kernel import objects
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.layout import Dialect
from lbctl_nftables.observe import observe
from support.intents import forgetful, intents
from support.written import differences

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*/nftables.nft"))
PATIENT = settings(deadline=None, suppress_health_check=list(HealthCheck))
_NETFILTER = 12


class Mute(LocalHost):
    """This host, as if nft alone spoke to nf_tables; listings are kept, as those of a remote host."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._listings: dict[tuple[str, ...], Completed] = {}

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        self._listings = {}
        return super().run(argv, stdin=stdin)

    def listing(self, argv: Sequence[str]) -> Completed:
        words = tuple(argv)
        if words not in self._listings:
            self._listings[words] = super().run(words)
        return self._listings[words]

    def speaks_netlink(self) -> bool:
        return False

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        return None if protocol == _NETFILTER else super().netlink(protocol, request)


class Kernel:
    """A network namespace whose nf_tables is empty at first, read in both ways."""

    def __init__(self, folder: Path) -> None:
        self.speaking, self.mute = LocalHost(folder), Mute(folder)

    def nft(self, text: str) -> None:
        done = self.speaking.run(["nft", "-f", "-"], stdin=text)
        assert done.code == 0, (text, done.err)

    def alike(self) -> None:
        both = (observe(host, "nft", "lbctl") for host in (self.mute, self.speaking))
        described, read = (dict(program.by_key) for program in both)
        assert described == read


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    namespace = Namespace(LocalHost(tmp_path))
    with namespace.entered():
        yield Kernel(tmp_path)
    namespace.close()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_a_program_is_read_as_by_netlink(kernel: Kernel, path: Path) -> None:
    kernel.nft(path.read_text(encoding="utf-8"))
    kernel.alike()
    counts = [stats.stats(host, "nft", "lbctl") for host in (kernel.mute, kernel.speaking)]
    assert counts[0] == counts[1]


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("speaking", [Dialect.MODERN, Dialect.CLASSIC])
@settings(PATIENT, max_examples=5)
@given(intent=intents(everything=True, selective=True))
def test_any_intent_is_read_as_it_was_compiled(folder: Path, speaking: str, intent: Intent) -> None:
    intent = intent if speaking != Dialect.CLASSIC else forgetful(intent)
    assert differences(Mute(folder), intent, nft="nft", speaking=speaking) == {}


#: What lbctl never writes, in its table.
FOREIGN = """
table ip lbctl {
    flags dormant
    counter hits {
        packets 3 bytes 180
    }
    set timed {
        type ipv4_addr
        timeout 1h
        gc-interval 5m
        elements = { 192.0.2.1 timeout 1h comment "a, b: {c}", 192.0.2.2 timeout 30m }
    }
    set networks {
        type ipv4_addr
        flags interval
        elements = { 10.0.0.0/8, 192.0.2.7, 198.51.100.1-198.51.100.9 }
    }
    map counted {
        type inet_service : verdict
        counter
        elements = { 80 comment "web" : accept, 81 : jump other }
    }
    chain first {
        type filter hook forward priority -5; policy drop;
        ct mark set meta mark
        meta mark set 0x11
        tcp dport 80-90 return
        ip saddr 10.128.0.0/9 accept
        ct state established,related accept
        iifname "eth*" counter packets 7 bytes 700 drop
        ip daddr != 192.0.2.1 tcp flags & (fin | syn) == syn return
        tcp dport 80 reject with tcp reset
        jump other comment "a } chain"
    }
    chain other {
        dnat to 192.0.2.9:80
        redirect to :81
        masquerade random,persistent
    }
}
"""


def test_what_lbctl_never_writes_is_read_too(kernel: Kernel) -> None:
    text = FOREIGN.replace("dnat", "counter #").replace("redirect", "#").replace("masquerade", "#")
    kernel.nft(text)
    kernel.alike()


def test_foreign_tables_beside_are_left_alone(kernel: Kernel) -> None:
    kernel.nft(
        'table ip lbctl {\n}\ntable inet lbctl {\n chain c {\n  accept comment "table ip lbctl {"\n }\n}\n'
    )
    kernel.alike()
    assert set(objects.tables(kernel.mute)) == {("ip", "lbctl"), ("inet", "lbctl")}
    assert len(list(objects.rules(kernel.mute, KernelTable("inet", "lbctl")))) == 1
    assert not objects.sets(kernel.mute, KernelTable("ip", "missing"))


def test_what_nft_does_not_list_is_an_error(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.mute, "which", lambda _: "/bin/false")
    with pytest.raises(ApplyFailed, match="does not list"):
        observe(kernel.mute, "nft", "lbctl")
