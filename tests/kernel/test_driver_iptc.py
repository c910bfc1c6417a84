"""Driver iptc against the kernel, with driver legacy as the second witness of everything it does."""

import fcntl
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lbctl.errors import ApplyFailed
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import (
    Endpoint,
    Family,
    Intent,
    Listener,
    Plan,
    Program,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    diff,
)
from lbctl.spi import Capabilities
from lbctl_iptables import apply, drivers, layout, script, spelling
from lbctl_iptables.compile import compile_intent
from lbctl_iptables.drivers import iptc
from lbctl_iptables.observe import observe
from lbctl_iptables.xtables import child as iptc_child

pytestmark = pytest.mark.kernel

#: Not the real one's: other tests look at what is left there.
STATE = TemporaryDirectory()
HOST = LocalHost(Path(STATE.name))
ABLE = Capabilities(
    protocols=frozenset({Protocol.TCP, Protocol.UDP}),
    schedulers=frozenset({Scheduler.ROUND_ROBIN}),
    source_nat=frozenset(SourceNat),
    networks=(ip_network("10.0.0.0/24"), ip_network("192.168.0.0/16"), ip_network("fd00::/64")),
)


@pytest.fixture(autouse=True)
def space() -> Iterator[Namespace]:
    made = Namespace(HOST)
    try:
        with made.entered():
            yield made
    finally:
        made.close()


def listener(port: int, address: str | None = None, protocol: Protocol = Protocol.TCP) -> Listener:
    return Listener(protocol=protocol, port=port, address=ip_address(address) if address else None)


def remote(port: int, address: str, weight: int = 1) -> Endpoint:
    return Endpoint(port=port, address=ip_address(address), weight=weight)


def local(*ports: int) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(port=port) for port in ports)


WEB = Service(name="web", listeners=(listener(80),), endpoints=local(8001, 8002, 8003))
API = Service(name="api", listeners=(listener(81),), endpoints=local(9001, 9002, 9003))
NAMED = Service(
    name="a-service-whose-name-is-too-long-for-a-chain",
    listeners=(listener(443, "10.0.0.1"), listener(444, "fd00::1"), listener(445)),
    endpoints=(Endpoint(port=1, name="first", weight=3), Endpoint(port=2, name="second", weight=2)),
    local_clients=False,
)
BOTH = Service(
    name="dns",
    listeners=(listener(53), listener(53, protocol=Protocol.UDP)),
    endpoints=(
        remote(5353, "10.0.0.7", 3),
        remote(5353, "10.0.0.8", 2),
        remote(53, "fd00::7"),
        remote(53, "fd00::8"),
    ),
)


def variant(source_nat: SourceNat) -> Service:
    return Service(
        name=f"far-{source_nat}",
        listeners=(listener(90, "10.0.0.1"), listener(91), listener(92, protocol=Protocol.UDP)),
        endpoints=(remote(1, "10.0.0.9"), remote(2, "172.16.0.9"), remote(3, "fd00::9")),
        source_nat=source_nat,
    )


PROGRAMS = {
    "nothing": (),
    "two-services": (WEB, API),
    "source-nat-never": (variant(SourceNat.NEVER),),
    "all": (WEB, API, NAMED, BOTH, *map(variant, SourceNat)),
}


def program(name: str, owner: str = "lbctl") -> Program:
    services = tuple(
        # One owner's listeners do not overlap.
        Service(
            **{
                **{field: getattr(service, field) for field in Service.__slots__},
                "listeners": tuple(
                    Listener(protocol=x.protocol, port=x.port + 100 * place, address=x.address)
                    for x in service.listeners
                ),
            }
        )
        for place, service in enumerate(PROGRAMS[name])
    )
    return compile_intent(Intent(services=services, owner=owner), ABLE)


def texts(observed: Program) -> dict[tuple[str, ...], str]:
    return {item.key: item.text for item in observed.items}


def assert_holds(wanted: Program) -> None:
    for driver in ("iptc", "legacy"):
        assert texts(observe(HOST, driver, wanted.owner)) == texts(wanted), driver


def change(after: Program) -> None:
    before = observe(HOST, "iptc", after.owner)
    plan = Plan(
        backend="iptables",
        driver="iptc",
        before=before,
        after=after,
        changes=diff(before, after),
        services=(),
    )
    apply.apply(HOST, plan)


def saved(driver: str, word: str = "iptables") -> list[str]:
    """The table without the comments around it."""
    return [line for line in drivers.save(HOST, driver, word).splitlines() if not line.startswith("#")]


def run(*argv: str, stdin: str = "") -> str:
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True).stdout


def load(lines: str, word: str = "iptables", *, check: bool = False) -> None:
    drivers.load(HOST, "iptc", word, f"*nat\n{lines}\nCOMMIT\n", check=check)


def tables() -> set[str]:
    names = [Path(f"/proc/thread-self/net/{word}_tables_names").read_text().split() for word in ("ip", "ip6")]
    return {f"{place}/{name}" for place, found in enumerate(names) for name in found}


#: Rules of others, with what trips a writer: counters, negations, masks, quotes, an unusual chain, no target.
FOREIGN = """\
*nat
:PREROUTING ACCEPT [11:12]
:OUTPUT ACCEPT [13:14]
:DOCKER - [0:0]
:f2b-ssh - [0:0]
[5:600] -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
[6:700] -A PREROUTING ! -s {odd} ! -p tcp -i eth+ -j RETURN
[7:800] -A PREROUTING -s {net} ! -i lo -p 253 -j ACCEPT
[0:0] -A PREROUTING ! -d {net} -p tcp -m multiport --dports 1,2,3:9 -m comment --comment "a \\"b\\" \\\\ c" \
-j DNAT --to-destination {host}
[3:4] -A PREROUTING -p tcp
[0:0] -A PREROUTING -m state --state NEW -j LOG --log-prefix "x y " --log-level 7
[0:0] -A PREROUTING -m conntrack ! --ctstate NEW,ESTABLISHED --ctexpire 1:4 -j ACCEPT
[9:9] -A PREROUTING -m statistic --mode random --probability 0.33332999982 -j MARK --set-xmark 0x1/0xff
[0:0] -A DOCKER -p tcp -m tcp ! --dport 80 --tcp-flags FIN,SYN SYN -j REDIRECT --to-ports 5-9 --random
[0:0] -A OUTPUT -p udp -m udp --sport 5 -g f2b-ssh
[8:9] -A POSTROUTING -o ppp+ -j MASQUERADE --random-fully
COMMIT
"""
PLACES = {
    "iptables": {"odd": "10.0.0.1/255.0.255.255", "net": "10.0.0.0/8", "host": "10.0.0.1-10.0.0.9:80-90"},
    "ip6tables": {"odd": "fd00::1/ffff::ffff", "net": "fd00::/8", "host": "[fd00::1]:80"},
}


def others() -> dict[str, list[str]]:
    """Put the rules of others into both families; what iptables-legacy-save says of them."""
    for word, places in PLACES.items():
        run(f"{word}-legacy-restore", "--counters", stdin=FOREIGN.format(**places))
    return {word: saved("legacy", word) for word in PLACES}


def test_what_it_loads_is_what_both_read() -> None:
    wanted = program("all")
    for word in layout.WORD.values():
        drivers.load(HOST, "iptc", word, script.render(wanted))
    assert_holds(wanted)
    for word in layout.WORD.values():
        assert saved("iptc", word) == saved("legacy", word)


def test_it_reads_what_iptables_restore_loaded() -> None:
    wanted = program("all")
    for word in layout.WORD.values():
        drivers.load(HOST, "legacy", word, script.render(wanted))
    assert_holds(wanted)


def test_deltas_arrive_and_others_keep_their_rules_and_counters() -> None:
    foreign = others()
    for name in ("two-services", "all", "source-nat-never", "nothing"):
        change(program(name))
        assert_holds(program(name))
        for word in PLACES:
            kept = [line for line in saved("legacy", word) if "LBCTL" not in line]
            # Not the counters of the policies, which libiptc loses with every write, whoever calls it.
            assert [line for line in kept if line[0] != ":"] == [x for x in foreign[word] if x[0] != ":"]
            assert {line.split()[0] for line in kept} >= {":DOCKER", ":f2b-ssh"}


def test_two_owners_do_not_touch_each_other() -> None:
    change(program("all"))
    change(program("two-services", "other"))
    change(program("nothing"))
    assert_holds(program("two-services", "other"))
    assert_holds(program("nothing"))


@pytest.mark.parametrize("word", PLACES)
def test_rules_of_others_are_spelled_as_iptables_save_spells_them(word: str) -> None:
    foreign = others()
    assert saved("iptc", word) == foreign[word]
    for line in foreign[word]:
        # A rule's spelling also finds it, matches, target and all.
        _, _, rule = line.partition("] -A ")
        if " -j " in rule or " -g " in rule:
            load(f"-D {rule}", word, check=True)


@pytest.mark.parametrize("family", Family)
def test_what_nobody_can_spell_is_named_at_least(family: Family) -> None:
    word = layout.WORD[family]
    load("-I PREROUTING 1 -m comment --comment lost -m addrtype --dst-type LOCAL -j RETURN", word)
    nowhere = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XTABLES_LIBDIR": "/nonexistent"}
    child = [*iptc.command(), "save", word, "nat"]
    done = subprocess.run(child, env=nowhere, check=False, capture_output=True, text=True)
    assert "[0:0] -A PREROUTING -m comment -m addrtype -j RETURN" in done.stdout.splitlines()


def served(listeners: dict[int, socket.socket], port: int, address: str = "127.0.0.1") -> int:
    """Which listener a new connection to `port` reaches."""
    with socket.create_connection((address, port), timeout=5):
        ready, _, _ = select.select(list(listeners.values()), [], [], 5)
        (one,) = ready
        one.accept()[0].close()
        return next(number for number, listening in listeners.items() if listening is one)


def test_services_balance_one_to_one_to_one_and_keep_their_turn() -> None:
    change(compile_intent(Intent(services=(WEB, API)), ABLE))
    ports = [e.port for service in (WEB, API) for e in service.endpoints]
    listeners = {port: socket.create_server(("127.0.0.1", port)) for port in ports}
    try:
        web = [served(listeners, 80) for _ in range(7)]
        api = [served(listeners, 81) for _ in range(9)]
        assert web == [8001, 8002, 8003, 8001, 8002, 8003, 8001]
        assert api == [9001, 9002, 9003] * 3
        # The write restarts the counter of every rule of the table: the script carries the turns on.
        change(compile_intent(Intent(services=(WEB,)), ABLE))
        assert [served(listeners, 80) for _ in range(3)] == [8002, 8003, 8001]
        rules = [line for line in saved("legacy") if " -A LBCTL-web " in line]
        assert [int(line[1 : line.index(":")]) for line in rules] == [4, 3, 3]
        with pytest.raises(ConnectionRefusedError):
            served(listeners, 81)
    finally:
        for one in listeners.values():
            one.close()


def test_it_balances_ipv6() -> None:
    change(compile_intent(Intent(services=(WEB,)), ABLE))
    listeners = {e.port: socket.create_server(("::1", e.port), family=socket.AF_INET6) for e in WEB.endpoints}
    try:
        assert [served(listeners, 80, "::1") for _ in range(6)] == [8001, 8002, 8003] * 2
    finally:
        for one in listeners.values():
            one.close()


def test_reading_makes_no_table_and_writing_makes_one() -> None:
    before = tables()
    assert drivers.save(HOST, "iptc", "iptables") == drivers.save(HOST, "iptc", "ip6tables") == ""
    assert observe(HOST, "iptc", "lbctl") == Program("lbctl")
    assert tables() == before
    load("-I PREROUTING 1 -m comment --comment x -j RETURN")
    saved("iptc")
    assert tables() == before | {"0/nat"}


def test_an_interface_of_ipv6_is_compared_whole() -> None:
    # The binding's own mask lets `lo` match every name whose bytes have the same lowest bits.
    rule = "POSTROUTING ! -o lo -m comment --comment x -j ACCEPT"
    load(f"-A {rule}", "ip6tables")
    run("ip6tables-legacy", "--table", "nat", "--delete", *rule.split())


def test_a_check_changes_nothing() -> None:
    others()
    before = saved("legacy")
    wanted = script.render(program("all"))
    drivers.load(HOST, "iptc", "iptables", wanted, check=True)
    assert saved("legacy") == before


MISTAKES = {
    "-A LBCTL -p tcp -m tcp --dport 99999 -j ACCEPT": "tcp does not take --dport 99999",
    "-A LBCTL -p tcp -m tcp --dport 80 --dport 81 -j ACCEPT": "tcp takes --dport only once",
    "-A LBCTL -p tcp -m tcp --no-such 80 -j ACCEPT": "tcp has no option --no-such",
    "-A LBCTL -p tcp --dport 80 -j ACCEPT": "--dport does not belong to a -m or -j",
    "-A LBCTL -m comment -j ACCEPT": "comment needs --comment",
    "-A LBCTL -m ../../../tmp/evil -j ACCEPT": "../../../tmp/evil is neither a chain nor an extension",
    "-A LBCTL -j /tmp/evil": "/tmp/evil is neither a chain nor an extension",
    "-A LBCTL -j NOPE": "NOPE",
    "-A LBCTL -g ACCEPT": "ACCEPT is not a chain",
    "-A LBCTL -j ACCEPT -p tcp -m tcp": "after the target",
    "-A LBCTL -m comment --comment x": "a rule without a target",
    "-A LBCTL -m comment --comment": "the rule ends too early",
    '-A LBCTL -m comment --comment "x -j ACCEPT': "not spelled as iptables-save spells it",
    "-A LBCTL  -j ACCEPT": "not spelled as iptables-save spells it",
    "-A LBCTL -s 10.0.0.0/33 -j ACCEPT": "10.0.0.0/33 is not an address of this family",
    "-A LBCTL -s fd00::1 -j ACCEPT": "fd00::1 is not an address of this family",
    "-A LBCTL -s example.org -j ACCEPT": "example.org is not an address of this family",
    "-A LBCTL -o an-interface-name-that-is-long -j ACCEPT": "cannot be the name of an interface",
    "-A LBCTL -p 256 -j ACCEPT": "unknown protocol 256",
    "-A LBCTL -m comment --comment x\0y -j ACCEPT": "cannot be quoted",
    "-A LBCTL -m comment --comment \udce9 -j ACCEPT": "cannot be quoted",
    "[18446744073709551616:0] -A LBCTL -j ACCEPT": "a counter has 64 bits",
    "[1:1] -I PREROUTING 1 -j ACCEPT": "unknown command",
    "-A NOWHERE -j ACCEPT": "can't append entry to chain NOWHERE",
    "-D PREROUTING -j LBCTL": "can't delete entry from chain PREROUTING",
    "-X LBCTL-other": "can't delete chain LBCTL-other",
    "-F PREROUTING": "unknown command",
    "-P PREROUTING DROP": "unknown command",
    ":PREROUTING DROP [0:0]": "not the declaration of a chain managed by lbctl",
    ":PREROUTING - [0:0]": "not the declaration of a chain managed by lbctl",
    "-A *filter -j ACCEPT": "not spelled as iptables-save spells it",
    "-A LBCTL -m statistic --mode nth --every 0 --packet 0 -j ACCEPT": "statistic does not take --every 0",
    "-A LBCTL -j REDIRECT --to-ports 80": "REDIRECT does not take --to-ports 80",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named_with_its_line_and_changes_nothing(line: str) -> None:
    others()
    before = saved("legacy")
    text = f"*nat\n:LBCTL - [0:0]\n-A LBCTL -j RETURN\n{line}\nCOMMIT\n"
    done = drivers.ALL["iptc"].load(HOST, "iptables", text, check=False)
    assert done.code == 1
    assert done.err.startswith("line 4: ")
    assert done.err.count("\n") == 1
    assert MISTAKES[line] in done.err
    assert saved("legacy") == before


@pytest.mark.parametrize(
    "text", ["", "*nat\n:LBCTL - [0:0]\n", "*nat\nCOMMIT\n*raw\nCOMMIT\n", ":LBCTL - [0:0]\nCOMMIT\n"]
)
def test_a_script_is_made_of_whole_sections(text: str) -> None:
    assert drivers.ALL["iptc"].load(HOST, "iptables", text, check=False).code == 1
    assert not any("LBCTL" in line for line in saved("legacy"))


def test_each_section_is_a_transaction_of_its_table() -> None:
    text = "".join(f"*{table}\n:LBCTL - [0:0]\n-A LBCTL -j RETURN\nCOMMIT\n" for table in ("filter", "nat"))
    assert drivers.ALL["iptc"].load(HOST, "iptables", text, check=False).code == 0
    assert saved("legacy").count("[0:0] -A LBCTL -j RETURN") == 2
    # The second section may build on the first.
    text = "*nat\n-A LBCTL -j ACCEPT\nCOMMIT\n*nat\n-D LBCTL -j ACCEPT\nCOMMIT\n"
    assert drivers.ALL["iptc"].load(HOST, "iptables", text, check=False).code == 0
    assert saved("legacy").count("[0:0] -A LBCTL -j RETURN") == 2
    assert saved("iptc") == saved("legacy")


def test_what_only_the_kernel_refuses_changes_nothing() -> None:
    others()
    before = saved("legacy")
    # A loop: nothing looks for loops but the kernel, and only where a hook leads into one.
    with pytest.raises(ApplyFailed, match=r"in line 5: COMMIT"):
        load(":LBCTL - [0:0]\n-A LBCTL -j LBCTL\n-I PREROUTING 1 -j LBCTL")
    assert saved("legacy") == before


def test_a_comment_is_never_read_as_anything_else() -> None:
    words = ["!", "!x", "--dport", "-j", "a b", 'q"q', "b\\s", "it's", "*", "é", "COMMIT", "# x", "x" * 255]
    load("\n".join([":LBCTL - [0:0]", *(f"-A LBCTL {spelling.join(comment(word))}" for word in words)]))
    for driver in ("iptc", "legacy"):
        dump = drivers.save(HOST, driver, "iptables")
        found = [spelling.split(line)[6] for line in dump.splitlines() if " -A LBCTL " in line]
        assert found == words


def comment(word: str) -> tuple[str, ...]:
    return ("-m", "comment", "--comment", word, "-j", "RETURN")


def test_the_lock_of_iptables_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        released = threading.Event()

        def release() -> None:
            released.set()
            fcntl.flock(held, fcntl.LOCK_UN)

        thread = threading.Timer(0.5, release)
        thread.start()
        load("-I PREROUTING 1 -m comment --comment x -j RETURN")
        assert released.is_set()
        thread.join()


def test_the_lock_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    monkeypatch.setattr(iptc_child, "LOCK_SECONDS", 0.2)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(iptc_child.BindingRefused, match="another program has held"), iptc_child._lock():
            pass


def test_its_words_are_those_of_the_layout() -> None:
    assert tuple(layout.WORD.values()) == (iptc_child.FOUR, iptc_child.SIX)
    assert (iptc_child.TABLES, iptc_child.HOOKS) == (layout.TABLES, layout.HOOKS)


def test_its_process_imports_nothing_of_lbctl() -> None:
    shown = [word.replace("sys.exit(main(sys.argv[3:]))", "print(*sys.modules)") for word in iptc.command()]
    brought = HOST.run(shown).out.split()
    assert "lbctl_iptables.xtables.child" in brought
    assert not [name for name in brought if name.partition(".")[0] in {"lbctl", "site"}]


def test_finding_it_imports_nothing() -> None:
    found = drivers.ALL["iptc"].find(HOST)
    assert found.reason == ""
    assert found.version is not None
    assert found.version.startswith("1.")
    assert not any(name == "iptc" or name.startswith("iptc.") for name in sys.modules)


def test_the_current_directory_is_no_place_for_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("iptc", "lbctl", "lbctl_iptables", "fcntl"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current directory')\n")
    paths = [Path(sys.modules[name].__file__ or "").parents[1] for name in ("lbctl", "lbctl_iptables")]
    monkeypatch.setenv("PYTHONPATH", ":".join(str(path.resolve()) for path in paths))
    monkeypatch.chdir(tmp_path)
    load(":LBCTL - [0:0]")
    assert ":LBCTL - [0:0]" in saved("iptc")
