"""The kernel is read only where it may have changed, and whoever changed it, that is seen."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from lbctl import engine
from lbctl.errors import ApplyFailed, Stale
from lbctl.host import Completed, LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service
from lbctl_nftables import drivers, generation, observe as reader
from lbctl_nftables.kernel import netlink

#: What a request for all chains begins with behind its length: type and flags.
#: Counters are read without chains.
ALL_CHAINS = struct.pack("=HH", 10 << 8 | netlink.GET_CHAIN, 0x301)


class Watched(LocalHost):
    """This host; counts how often our table of IPv4, the only one, is read as a whole."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir)
        self.readings = 0

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        self.readings += request[4:8] == ALL_CHAINS
        return super().netlink(protocol, request)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Watched]:
    namespace = Namespace(LocalHost())
    with namespace.entered():
        yield Watched(tmp_path)
    namespace.close()


def session(host: LocalHost) -> engine.Session:
    return engine.open_session(host, backend="nftables", driver="nft")


def to(last: int, weight: int = 1) -> Endpoint:
    return Endpoint(address=IPv4Address(f"10.0.0.{last}"), port=80, weight=weight)


def service(name: str, port: int, *endpoints: Endpoint) -> Service:
    listener = Listener(protocol=Protocol.TCP, port=port, address=IPv4Address("192.0.2.1"))
    return Service(name=name, listeners=(listener,), endpoints=endpoints)


WEB, OTHER = service("web", 80, to(1), to(2)), service("other", 81, to(3))
BOTH = Intent(services=(WEB, OTHER))


def apply(session: engine.Session, intent: Intent) -> bool:
    plan = engine.plan(session, intent)
    engine.apply(session, (plan,))
    session.memory.save()
    return plan.changed


def nft(host: LocalHost, *words: str) -> None:
    done = host.run(["nft", *words])
    assert done.code == 0, done.err


def test_each_transaction_moves_the_generation_on_by_one(host: Watched) -> None:
    before = generation.read(host)
    assert before is not None
    nft(host, "add", "table", "ip", "others")
    assert generation.read(host) == before.after(1)
    nft(host, "list", "ruleset")
    nft(host, "--check", "add", "table", "ip", "others2")
    assert host.run(["nft", "add", "chain", "ip", "nowhere", "c"]).code == 1
    assert generation.read(host) == before.after(1)
    assert host.run(["iptables-nft", "-t", "nat", "-N", "others"]).code == 0
    assert generation.read(host) != before.after(1)


def test_the_kernel_tells_its_tables_however_many(host: Watched) -> None:
    assert netlink.tables(host) == {}
    names = [(family, f"{'x' * 60}{number}") for number in range(300) for family in ("ip", "ip6", "inet")]
    drivers.load(host, "nft", "".join(f"add table {family} {name}\n" for family, name in names))
    nft(host, "add", "table", "ip", "asleep", "{ flags dormant; }")
    assert netlink.tables(host) == {**dict.fromkeys(names, 0), ("ip", "asleep"): 1}
    # An answer that was read to its end leaves nothing for the next question.
    assert generation.read(host) == generation.read(host)
    assert len(netlink.tables(host)) == 901


def test_another_namespace_has_another_mark(host: Watched) -> None:
    here = generation.generation(host, "nft")
    other = Namespace(LocalHost())
    with other.entered():
        assert generation.generation(host, "nft") not in {here, None}
    other.close()


def test_what_a_driver_keeps_stays_in_its_namespace(host: Watched) -> None:
    def loaded(name: str) -> str:
        drivers.load(host, "libnftables", f"add table ip {name}\n")
        return host.run(["nft", "list", "tables"]).out

    assert loaded("here") == "table ip here\n"
    other = Namespace(LocalHost())
    with other.entered():
        assert loaded("there") == "table ip there\n"
        with pytest.raises(ApplyFailed):
            drivers.load(host, "libnftables", "delete table ip here\n")
        # What was refused is no obstacle, nor is what somebody else did meanwhile.
        nft(host, "delete", "table", "ip", "there")
        assert loaded("there") == "table ip there\n"
    other.close()
    assert loaded("more") == "table ip here\ntable ip more\n"


def test_what_is_known_is_not_read_again(host: Watched) -> None:
    first = session(host)
    assert apply(first, BOTH)
    read = host.readings
    # In the same session, and in a later process, which knows it from a file.
    assert not apply(first, BOTH)
    assert not apply(session(host), BOTH)
    assert apply(first, replace(BOTH, services=(replace(WEB, endpoints=(to(1), to(4))), OTHER)))
    assert apply(session(host), BOTH)
    assert host.readings == read
    # It is what the kernel holds indeed.
    assert first.observe("lbctl").by_key == first.compile(BOTH).by_key


@pytest.mark.parametrize("again", [False, True], ids=["same session", "later process"])
def test_what_somebody_changed_is_read_again(host: Watched, again: bool) -> None:
    first = session(host)
    apply(first, BOTH)
    nft(host, "flush", "chain", "ip", "lbctl", "service-web")
    now = session(host) if again else first
    plan = engine.plan(now, BOTH)
    assert [change.key for change in plan.changes] == [("ip", "rules", "service-web")]
    assert apply(now, BOTH)
    assert now.observe("lbctl").by_key == now.compile(BOTH).by_key


def test_looking_for_drift_reads_what_may_have_changed_and_once(host: Watched) -> None:
    apply(session(host), BOTH)

    def drifted() -> tuple[bool, int]:
        now, read = session(host), host.readings
        found = engine.drift(now, BOTH, follow=True)
        now.memory.save()
        return not found.in_sync, host.readings - read

    assert drifted() == (False, 0)
    nft(host, "add", "table", "ip", "others")
    assert [drifted(), drifted()] == [(False, 1), (False, 0)]
    nft(host, "flush", "chain", "ip", "lbctl", "service-web")
    assert [drifted(), drifted()] == [(True, 1), (True, 1)]


def test_a_change_between_plan_and_apply_is_seen(host: Watched) -> None:
    here = session(host)
    apply(here, BOTH)
    plan = engine.plan(here, Intent(services=(WEB,)))
    nft(host, "flush", "chain", "ip", "lbctl", "service-web")
    with pytest.raises(Stale, match="changed since"):
        engine.apply(here, (plan,))


def test_a_strangers_change_between_plan_and_apply_is_no_matter(host: Watched) -> None:
    here = session(host)
    apply(here, BOTH)
    plan = engine.plan(here, Intent(services=(WEB,)))
    nft(host, "add", "table", "ip", "others")
    engine.apply(here, (plan,))
    assert here.observe("lbctl").by_key == here.compile(Intent(services=(WEB,))).by_key


class Meddled(Watched):
    """Somebody flushes a chain of ours right behind the first transaction."""

    meddle = False

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        done = super().run(argv, stdin=stdin)
        if self.meddle and stdin and "--check" not in argv:
            self.meddle = False
            nft(self, "flush", "chain", "ip", "lbctl", "service-other")
        return done


def test_what_came_between_our_transactions_is_told(host: Watched, tmp_path: Path) -> None:
    meddled = Meddled(tmp_path)
    here = session(meddled)
    apply(here, BOTH)
    meddled.meddle = True
    plan = engine.plan(here, replace(BOTH, services=(service("web", 80, to(1), to(5)), OTHER)))
    with pytest.raises(ApplyFailed, match="ip rules service-other; the state before is restored"):
        engine.apply(here, (plan,))


def test_files_of_memory_are_believed_only_if_they_are_ours_and_whole(host: Watched, tmp_path: Path) -> None:
    apply(session(host), BOTH)
    [path] = tmp_path.glob("run/lbctl.nftables*.known")
    text = path.read_text()
    for spoil in (
        lambda: path.write_text(text[: len(text) // 2]),
        lambda: path.write_text(text.replace("10.0.0.1", "10.0.0.9")) and path.chmod(0o622),
        lambda: path.write_bytes(b"\xff\xfe"),
        path.unlink,
    ):
        read = host.readings
        spoil()
        assert not engine.plan(session(host), BOTH).changed
        assert host.readings == read + 1


def test_removing_forgets(host: Watched, tmp_path: Path) -> None:
    here = session(host)
    apply(here, BOTH)
    apply(here, Intent())
    assert not list(tmp_path.glob("run/lbctl.nftables*.known"))
    assert not reader.observe(host, "nft", "lbctl")
