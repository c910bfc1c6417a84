"""Faults: what a host in memory lets fail, and what is then said, undone and left alone."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
import resource
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from errno import EPERM
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest

import lbctl_nftables.apply
from lbctl import engine
from lbctl.engine import Session
from lbctl.engine.record.memory import SessionMemory
from lbctl.errors import ApplyFailed, LbctlError, NoBackend, PermissionDenied, Stale, StateUnknown
from lbctl.host import Completed, Host, LocalHost, ModuleState, kernel_module
from lbctl.host.fake import FakeHost, Ran
from lbctl.model import Endpoint, Intent, Listener, Plan, Program, Protocol, Service
from lbctl.spi import Backend, Driver, Selection
from lbctl.spi.selection import Candidate
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables, drivers
from support.hosts import knows_nft, with_iptc
from support.netlink import DUMP, GENERATION, MULTI, TABLE, attribute, done, failure, has_tables, message

if TYPE_CHECKING:
    from collections.abc import Iterator

WEB = Service(
    name="web",
    listeners=(Listener(protocol=Protocol.TCP, port=80),),
    endpoints=(Endpoint(port=8001), Endpoint(port=8002)),
)
INTENT = Intent(services=(WEB,))
MODULES = {
    "/proc/modules": "nf_tables 1 0 - Live 0x0\nip_tables 1 0 - Live 0x0\n",
    "/proc/thread-self/net/if_inet6": f"{1:032x} 01 80 10 80       lo\n",
}
LEGACY_TABLES = {
    "/proc/thread-self/net/ip_tables_names": "nat\n",
    "/proc/thread-self/net/ip6_tables_names": "nat\n",
}
EMPTY_DUMP = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


def nft_host(**options: Any) -> FakeHost:
    """A host with an empty nftables that takes everything."""
    host = FakeHost(files=MODULES, **options)
    host.answer("nft", "--file")
    host.answer("nft", "--version", out="nftables v1.0.6 (Lester Gooch #5)\n")
    has_tables(host)
    knows_nft(host)
    return host


def loads(host: FakeHost) -> list[Ran]:
    """The writes that were no checks."""
    return [ran for ran in host.writes if "--check" not in ran.argv]


def legacy_host(**options: Any) -> FakeHost:
    """A host with empty legacy tables that takes everything."""
    host = with_iptc(FakeHost(files=MODULES | LEGACY_TABLES, **options))
    for word in ("iptables", "ip6tables"):
        host.answer(f"{word}-legacy-restore")
        host.answer(f"{word}-legacy-restore", "--version", out="iptables v1.8.9 (legacy)\n")
        host.answer(f"{word}-legacy-save", out=EMPTY_DUMP)
    return host


def that_keeps(host: FakeHost, word: str) -> FakeHost:
    """The host, keeping the one script that `word`-legacy-restore loads into an empty table."""
    loaded: list[str] = []

    def load(ran: Ran) -> Completed:
        if "--test" not in ran.argv:
            lines = ran.stdin.replace("-I OUTPUT 1 ", "[0:0] -A OUTPUT ").splitlines()
            loaded.extend(lines)
        return Completed(code=0, out="", err="")

    def save(_: Ran) -> Completed:
        return Completed(code=0, out="\n".join(loaded) if loaded else EMPTY_DUMP, err="")

    host.answer_with(load, f"{word}-legacy-restore", "--noflush")
    host.answer_with(save, f"{word}-legacy-save")
    return host


def session(host: Host, backend: Any, driver: str) -> Session:
    """A session with one backend: what other backends hold is not the question here."""
    probe = backend.probe(host)
    one = Driver(name=driver, store=driver, usable=True, reason="usable")
    probe = replace(probe, drivers=(one,))
    candidate = Candidate(backend=cast("Backend", backend), probe=probe)
    choice = Selection(backend=candidate.backend, driver=one, probe=probe, reason="asked for")
    return Session(host=host, candidates=(candidate,), choice=choice, memory=SessionMemory(host))


def plan(host: Host, backend: Any, driver: str, intent: Intent = INTENT) -> Plan:
    return engine.plan(session(host, backend, driver), intent)


# The host in memory itself.


def test_the_fake_is_a_host() -> None:
    host: Host = FakeHost(programs=["nft"], files={"/a": "text"}, modules={"m": ModuleType("m")})
    assert (host.which("nft"), host.which("other")) == ("/usr/sbin/nft", None)
    assert (host.read("/a"), host.read("/b")) == ("text", None)
    assert host.module("m") is not None
    assert host.module("n") is None
    assert host.may_change_network()


def test_the_fake_answers_as_it_was_told_and_remembers() -> None:
    host = FakeHost()
    host.answer("tool", out="any")
    host.answer("tool", "--list", out="list")
    host.answer_with(lambda ran: Completed(code=3, out=ran.stdin, err=""), "tool", "-")
    assert host.run(["/usr/sbin/tool", "x"]).out == "any"
    assert host.run(["tool", "--list", "x"]).out == "list"
    assert host.run(["tool", "-"], stdin="text") == Completed(code=3, out="text", err="")
    with pytest.raises(LookupError, match="no answer was announced for: other -v"):
        host.run(["other", "-v"])
    assert host.ran[0] == Ran(argv=("/usr/sbin/tool", "x"), stdin="")
    assert [ran.program for ran in host.ran] == ["tool", "tool", "tool", "other"]
    assert [ran.stdin for ran in host.writes] == ["text"]


def test_the_fake_fails_the_write_with_the_number() -> None:
    host = FakeHost()
    host.answer("tool")
    host.fail_write(2, err="no room", code=9)
    codes = [host.run(["tool"], stdin=text).code for text in ("one", "", "two", "three")]
    assert codes == [0, 0, 9, 0]


def test_the_fakes_locks_are_held_by_one_at_a_time() -> None:
    host = FakeHost()
    with host.lock("a"), host.lock("b"), pytest.raises(Stale), host.lock("a"):
        pass
    with host.lock("a"):
        pass
    assert host.locked == ["a", "b", "a"]


# nftables


def test_nft_refuses_and_the_message_shows_our_line() -> None:
    host = nft_host()
    made = plan(host, nftables, "nft")
    host.fail_write(1, err="/dev/stdin:3:9-12: Error: Could not process rule: No such file\n\tmap x {\n")
    with pytest.raises(ApplyFailed) as caught:
        engine.apply(session(host, nftables, "nft"), (made,))
    assert caught.value.exit_code == 5
    [write] = loads(host)
    line = write.stdin.splitlines()[2].strip()
    assert line
    expected = f"nft refused: Error: Could not process rule: No such file in line 3: {line}"
    assert caught.value.message == expected
    # The lock is free again.
    assert (host.locked, host.busy) == (["lbctl"], set())


@pytest.mark.parametrize(
    ("err", "message"),
    [
        ("", "nft refused: no reason given"),
        (
            "Operation not permitted (you must be root)\n",
            "nft refused: Operation not permitted (you must be root)",
        ),
        ("internal:0:0-0: Error: broken\n", "nft refused: internal:0:0-0: Error: broken"),
        ("/dev/stdin:99999:1-1: Error: beyond\n", "nft refused: /dev/stdin:99999:1-1: Error: beyond"),
    ],
)
def test_nft_refuses_without_a_line_of_ours(err: str, message: str) -> None:
    host = nft_host()
    made = plan(host, nftables, "nft")
    host.fail_write(1, err=err)
    with pytest.raises(ApplyFailed) as caught:
        engine.apply(session(host, nftables, "nft"), (made,))
    assert caught.value.message == message


@pytest.mark.parametrize("answer", [None, failure(EPERM)])
def test_a_kernel_that_does_not_report_its_rules(answer: bytes | None) -> None:
    host = nft_host()
    host.asked = lambda _, __: answer
    with pytest.raises(ApplyFailed, match=r"the kernel (cannot be asked for|does not report) its rules"):
        plan(host, nftables, "nft")
    assert loads(host) == []


def test_rules_that_never_keep_still() -> None:
    host, asked = nft_host(), []

    def answer(_: int, request: bytes) -> bytes:
        asked.append(request)
        return message(TABLE, attribute(1, b"lbctl\0"), family=2, flags=MULTI | 0x10) + done()

    host.asked = answer
    with pytest.raises(ApplyFailed, match="other processes keep changing them"):
        plan(host, nftables, "nft")
    assert len(asked) < 100


def test_another_table_came_between_plan_and_apply() -> None:
    host = nft_host()
    made = plan(host, nftables, "nft")
    has_tables(host, ("ip", "lbctl"))
    with pytest.raises(Stale) as caught:
        engine.apply(session(host, nftables, "nft"), (made,))
    assert caught.value.exit_code == 7
    assert "ip table" in caught.value.message
    assert caught.value.hint == "run lbctl plan again"
    assert loads(host) == []


def test_nft_takes_the_rules_but_lists_others() -> None:
    host = nft_host()
    with pytest.raises(ApplyFailed) as caught:
        engine.apply(session(host, nftables, "nft"), (plan(host, nftables, "nft"),))
    assert caught.value.exit_code == 5
    assert caught.value.message == (
        "what was written differs when read back: ip table; the kernel holds the rules from before"
    )
    assert len(loads(host)) == 1


CHILD = (
    Path(sys.executable).name,
    "-S",
    "-P",
    str(Path(drivers.__file__).with_name("libnftables_child.py")),
    "",
)


def test_the_library_refuses_in_a_process_of_its_own() -> None:
    host = FakeHost(files=MODULES, modules={"nftables": ModuleType("nftables")})
    host.answer(*CHILD, "check", code=1, err="<cmdline>:1:1-5: Error: syntax error\n")
    with pytest.raises(ApplyFailed, match=re.escape("nft refused: Error: syntax error in line 1: a")):
        drivers.load(host, "libnftables", "a\nb\n", check=True)
    assert [(ran.argv[1:], ran.stdin) for ran in host.ran] == [((*CHILD[1:], "check"), "a\nb\n")]


@pytest.mark.parametrize("driver", ["nft", "libnftables"])
def test_a_table_that_crashes_what_lists_it(driver: str) -> None:
    host = FakeHost(files=MODULES, programs=[])
    has_tables(host, ("ip", "bad"), ("ip", "good"))
    lister = ("nft", "--numeric-priority") if driver == "nft" else CHILD
    if driver == "nft":
        host.answer("nft", "--version", out="nftables v1.0.6 (Lester Gooch #5)\n")
    host.answer(*lister, "list", "table", "ip", "bad", code=-11)
    host.answer(*lister, "list", "table", "ip", "good", out="table ip good {\n}\n")
    text = nftables.dump(host, driver)
    tool = "nft 1.0.6 (driver nft)" if driver == "nft" else "nft (version unknown) (driver libnftables)"
    assert text == f"list table ip bad # {tool} was ended by signal 11 (SIGSEGV)\ntable ip good {{\n}}\n"
    [found] = nftables.read(text).findings
    assert (found.code, found.rule) == ("partial-dump", "list table ip bad")
    # What is to be removed must be known: a table that cannot be listed is not one without rules.
    record = json.dumps({"tables": [], "objects": [[["ip", "bad", "chain", "c"], True, [], []]]})
    with pytest.raises(ApplyFailed, match="was ended by signal 11") as caught:
        nftables.removal_text(host, driver, record)
    assert "another version of nft" in (caught.value.hint or "")


# iptables: one transaction per family


def applied_to_legacy(host: FakeHost) -> None:
    made = plan(host, iptables, "legacy")
    engine.apply(session(host, iptables, "legacy"), (made,))


def test_the_second_family_is_checked_before_the_first_is_touched() -> None:
    host = legacy_host()
    host.fail_write(1, err="ip6tables-legacy-restore: line 2 failed\n")
    with pytest.raises(ApplyFailed) as caught:
        applied_to_legacy(host)
    [write] = host.writes
    assert write.program == "ip6tables-legacy-restore"
    assert "--test" in write.argv
    line = write.stdin.splitlines()[1]
    assert (
        caught.value.message
        == f"ip6tables refused: ip6tables-legacy-restore: line 2 failed in line 2: {line}"
    )


def test_the_first_family_is_taken_back_where_the_second_fails() -> None:
    host = that_keeps(legacy_host(), "iptables")
    host.fail_write(3, err="ip6tables-legacy-restore: line 9 failed\n")
    with pytest.raises(ApplyFailed) as caught:
        applied_to_legacy(host)
    assert caught.value.exit_code == 5
    assert "ip6tables refused" in caught.value.message
    check, first, second, back = host.writes
    assert "--test" in check.argv
    assert [ran.program.split("-")[0] for ran in (first, second, back)] == [
        "iptables",
        "ip6tables",
        "iptables",
    ]
    assert "--test" not in {*first.argv, *second.argv, *back.argv}
    # What came goes: the jumps, then the chains, emptied first.
    assert sorted(back.stdin.splitlines()) == [
        "*nat",
        "-D OUTPUT -j LBCTL",
        "-X LBCTL",
        "-X LBCTL-web",
        ":LBCTL - [0:0]",
        ":LBCTL-web - [0:0]",
        "COMMIT",
    ]


def test_what_cannot_be_taken_back_is_said() -> None:
    host = that_keeps(legacy_host(), "iptables")
    host.fail_write(3, err="ip6tables-legacy-restore: line 9 failed\n")
    host.fail_write(4, err="Another app is currently holding the xtables lock.\n", code=4)
    with pytest.raises(StateUnknown) as caught:
        applied_to_legacy(host)
    assert caught.value.exit_code == 6
    assert "ip6tables refused" in caught.value.message
    assert "then iptables could not be reverted" in caught.value.message
    assert "holding the xtables lock" in caught.value.message
    assert "lbctl plan" in (caught.value.hint or "")


def test_the_first_family_fails_and_the_second_is_not_tried() -> None:
    host = legacy_host()
    host.fail_write(2, err="iptables-legacy-restore: line 5 failed\n")
    with pytest.raises(ApplyFailed):
        applied_to_legacy(host)
    assert [("--test" in ran.argv, ran.program) for ran in host.writes] == [
        (True, "ip6tables-legacy-restore"),
        (False, "iptables-legacy-restore"),
    ]


def test_a_chain_of_ours_came_between_plan_and_apply() -> None:
    host = legacy_host()
    made = plan(host, iptables, "legacy")
    host.answer("ip6tables-legacy-save", out="*nat\n:LBCTL-web - [0:0]\nCOMMIT\n")
    with pytest.raises(Stale) as caught:
        engine.apply(session(host, iptables, "legacy"), (made,))
    assert "ip6tables chain nat LBCTL-web" in caught.value.message
    assert host.writes == []


def test_rules_of_others_may_come_between_plan_and_apply() -> None:
    host = legacy_host()
    made = plan(host, iptables, "legacy")
    other = "*nat\n:DOCKER - [0:0]\n[1:2] -A PREROUTING -j DOCKER\nCOMMIT\n"
    host.answer("iptables-legacy-save", out=other)
    with pytest.raises(ApplyFailed):  # this host takes everything and keeps nothing
        engine.apply(session(host, iptables, "legacy"), (made,))
    assert len(host.writes) == 3


def test_tables_that_cannot_be_read() -> None:
    host = legacy_host()
    host.answer(
        "iptables-legacy-save", code=1, err="iptables-save v1.8.9: Cannot initialize: Permission denied\n"
    )
    with pytest.raises(ApplyFailed, match=r"iptables cannot be read: .*Permission denied"):
        plan(host, iptables, "legacy")


def test_a_table_that_is_not_there_is_not_read() -> None:
    """Reading a legacy table makes it."""
    host = legacy_host()
    for path in LEGACY_TABLES:
        host.files[path] = "mangle\n"
    plan(host, iptables, "legacy")
    assert {ran.argv[1:] for ran in host.ran if ran.program.endswith("-save")} == {("--counters",)}
    host = legacy_host()
    for path in LEGACY_TABLES:
        host.files[path] = ""
    plan(host, iptables, "legacy")
    assert [ran for ran in host.ran if ran.program.endswith("-save")] == []


# Privilege and locks


def test_without_the_capability_nothing_is_read_or_written() -> None:
    for host, backend, driver in (
        (nft_host(privileged=False), nftables, "nft"),
        (legacy_host(privileged=False), iptables, "legacy"),
    ):
        made = session(host, backend, driver)
        ran = len(host.ran)
        program = made.compile(INTENT)
        for use in (
            lambda made=made: engine.plan(made, INTENT),
            lambda made=made: engine.status(made, INTENT),
            lambda made=made: engine.removal(made, "lbctl", everywhere=True),
            lambda made=made, program=program: made.check(program),
        ):
            with pytest.raises(PermissionDenied) as caught:
                use()
            assert caught.value.exit_code == 4
            assert "CAP_NET_ADMIN" in caught.value.message
        assert len(host.ran) == ran


def test_another_lbctl_is_at_work() -> None:
    host = nft_host()
    made = plan(host, nftables, "nft")
    host.busy.add("lbctl")
    with pytest.raises(Stale) as caught:
        engine.apply(session(host, nftables, "nft"), (made,))
    assert caught.value.exit_code == 7
    assert loads(host) == []


def test_two_owners_may_be_at_work() -> None:
    host = nft_host()
    made = plan(host, nftables, "nft", replace(INTENT, owner="blue"))
    host.busy.add("lbctl")
    with pytest.raises(ApplyFailed):  # this host takes everything and keeps nothing
        engine.apply(session(host, nftables, "nft"), (made,))
    assert host.locked == ["blue"]


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock of a real file, as another process holds it."""
    handle = os.open(path, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def test_a_real_lock(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    with host.lock("lbctl"):
        [file] = (tmp_path / "run").iterdir()
        assert file.name.startswith("lbctl.")
        assert file.read_text().strip() == str(os.getpid())
        with pytest.raises(Stale) as caught, LocalHost(tmp_path).lock("lbctl"):
            pass
        assert caught.value.exit_code == 7
        assert str(os.getpid()) in caught.value.message
        with host.lock("blue"):
            pass
    # The file stays; its lock does not, and who held it before is not named again.
    file.write_text("1234567\n")
    with host.lock("lbctl"):
        assert file.read_text().split() == [str(os.getpid())]
    with held(file), pytest.raises(Stale), host.lock("lbctl"):
        pass


def test_a_lock_ends_with_its_process_and_what_that_runs(tmp_path: Path) -> None:
    """Rules that a program is still loading for an lbctl that was killed are no state to plan from."""
    work = (
        "import sys; from pathlib import Path; from lbctl.host import LocalHost\n"
        "host = LocalHost(Path(sys.argv[1]))\n"
        'program = \'echo > "$1"; read end < "$2"\'\n'
        "with host.lock('lbctl'): host.run(['/bin/sh', '-c', program, 'sh', *sys.argv[2:]])"
    )
    started, ended = tmp_path / "started", tmp_path / "ended"
    for pipe in (started, ended):
        os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, "-c", work, str(tmp_path), str(started), str(ended)])
    started.read_text()
    process.kill()
    process.wait()
    host = LocalHost(tmp_path)
    with pytest.raises(Stale, match=f"process {process.pid}, or a program that it ran"), host.lock("lbctl"):
        pass
    ended.write_text("")
    with host.lock("lbctl", patience=10):
        pass


def test_a_lock_ends_with_the_error_in_it(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    with pytest.raises(ApplyFailed), host.lock("lbctl"):
        raise ApplyFailed("refused")
    with host.lock("lbctl"):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """In a directory that others can write to, a link would let them have any file overwritten."""
    host = LocalHost(tmp_path)
    with host.lock("lbctl"):
        [file] = (tmp_path / "run").iterdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    file.unlink()
    file.symlink_to(victim)
    with pytest.raises(LbctlError), host.lock("lbctl"):
        pass
    assert victim.read_text() == "precious"


def test_a_lock_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(LbctlError) as caught, LocalHost(tmp_path).lock("lbctl"):
        pass
    assert str(tmp_path / "run") in caught.value.message
    assert "LBCTL_STATE_DIR" in (caught.value.hint or "")


def test_what_is_kept_is_for_one_thread_one_process_and_one_work_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = LocalHost()

    def thing() -> object:
        with host.kept("thing", object) as kept:
            return kept

    first = thing()
    assert thing() is first
    with host.kept("other", object) as other:
        assert other is not first
    with host.kept("thing", object) as outer:
        inner = thing()
        assert (outer is first, inner is first) == (True, False)
    assert thing() is first
    elsewhere: list[object] = []
    thread = threading.Thread(target=lambda: elsewhere.append(thing()))
    thread.start()
    thread.join()
    assert elsewhere != [first]
    with pytest.raises(ApplyFailed), host.kept("thing", object):
        raise ApplyFailed("no answer")
    second = thing()
    assert second is not first
    monkeypatch.setattr(os, "getpid", lambda: 0)
    assert thing() is not second


# What a host offers


@pytest.mark.parametrize(
    ("files", "state"),
    [
        (
            {"/proc/modules": "other 1 0 - Live 0x0\nnf_tables 323584 9 nft_chain_nat, Live 0x0\n"},
            ModuleState.LOADED,
        ),
        ({"/lib/modules/6.1/modules.builtin": "kernel/net/netfilter/nf_tables.ko\n"}, ModuleState.BUILT_IN),
        (
            {
                "/lib/modules/6.1/modules.builtin": "",
                "/lib/modules/6.1/modules.dep": "kernel/net/netfilter/nf_tables.ko.xz: kernel/x.ko.xz\n",
            },
            ModuleState.LOADABLE,
        ),
        (
            {"/lib/modules/6.1/modules.dep": "kernel/net/netfilter/nf_tables_ipv4.ko:\n"},
            ModuleState.MISSING,
        ),
        ({"/lib/modules/6.1/modules.dep": ""}, ModuleState.MISSING),
        # A name that only begins alike.
        (
            {"/proc/modules": "nf_tables_set 1 0 - Live 0x0\n", "/lib/modules/6.1/modules.dep": ""},
            ModuleState.MISSING,
        ),
        # A container has no module files: nothing says more than that.
        ({}, ModuleState.BUILT_IN),
        ({"/proc/modules": "other 1 0 - Live 0x0\n"}, ModuleState.BUILT_IN),
    ],
)
def test_where_a_kernel_module_is(files: dict[str, str], state: ModuleState) -> None:
    host = FakeHost(files={"/proc/sys/kernel/osrelease": "6.1\n", **files})
    assert kernel_module(host, "nf_tables") is state


NO_KERNEL = {"/proc/sys/kernel/osrelease": "6.1\n", "/lib/modules/6.1/modules.dep": ""}


def reasons(backend: Any, host: Host) -> dict[str, str]:
    return {driver.name: driver.reason for driver in backend.probe(host).drivers}


def test_tools_that_are_missing_are_named() -> None:
    host = FakeHost(files=MODULES)
    assert reasons(nftables, host) == {
        "libnftables": "Python module nftables is not installed",
        "nft": "command nft is not in PATH",
    }
    found = reasons(iptables, host)
    assert found["legacy"] == "no iptables-restore of flavour legacy is in PATH"
    assert found["nf_tables"] == "no iptables-restore of flavour nf_tables is in PATH"
    with pytest.raises(NoBackend) as caught:
        engine.open_session(host, installed=[cast("Backend", nftables)])
    assert caught.value.exit_code == 3
    assert caught.value.message == (
        "no usable backend: nftables (libnftables): Python module nftables is not installed; "
        "nftables (nft): command nft is not in PATH"
    )
    assert caught.value.hint == "install nftables (Debian: apt install nftables python3-nftables)"


def test_a_kernel_without_the_module() -> None:
    host = nft_host()
    host.files = dict(NO_KERNEL)
    assert reasons(nftables, host)["nft"] == "this kernel has no nf_tables"
    host = legacy_host()
    host.files = dict(NO_KERNEL)
    assert reasons(iptables, host)["legacy"] == "this kernel has no ip_tables"


def test_a_command_that_tells_no_version() -> None:
    host = nft_host()
    host.answer("nft", "--version", out="Segmentation fault")
    assert reasons(nftables, host)["nft"] == "/usr/sbin/nft does not report its version"


def test_only_one_half_of_a_tool_is_there() -> None:
    host = legacy_host()
    host.programs -= {"iptables-legacy-save"}
    assert reasons(iptables, host)["legacy"] == "no iptables-save of flavour legacy is in PATH"


@pytest.mark.parametrize(
    ("version", "first", "usable"),
    [
        ("iptables-restore v1.8.9 (nf_tables)\n", "nf_tables", {"nf_tables"}),
        ("iptables-restore v1.8.9 (legacy)\n", "legacy", {"legacy"}),
        # Before 1.8 there was one flavour, and no name for it.
        ("iptables-restore v1.6.2\n", "legacy", {"legacy"}),
    ],
)
def test_the_flavour_of_a_plain_command(version: str, first: str, usable: set[str]) -> None:
    host = with_iptc(FakeHost(files=MODULES | LEGACY_TABLES))
    for program in ("iptables-restore", "iptables-save"):
        host.answer(program, "--version", out=version)
    drivers = [d for d in iptables.probe(host).drivers if d.name != "iptc"]
    assert drivers[0].name == first
    assert {d.name for d in drivers if d.usable} == usable


def test_probing_writes_nothing_and_needs_no_privilege() -> None:
    for host, backend in ((nft_host(privileged=False), nftables), (legacy_host(privileged=False), iptables)):
        assert any(d.usable for d in backend.probe(host).drivers)
        assert host.writes == []
        assert {ran.argv[-1] for ran in host.ran} <= {"--version", "bpf --bytecode"}


def test_the_other_store_holds_our_rules() -> None:
    host = legacy_host()
    host.answer("nft", "--version", out="nftables v1.0.6 (Lester Gooch #5)\n")
    has_tables(host)
    knows_nft(host)
    jump = "[0:0] -A PREROUTING -j LBCTL\n"
    host.answer("iptables-legacy-save", out=f"*nat\n:LBCTL - [0:0]\n{jump}COMMIT\n")
    both = [cast("Backend", nftables), cast("Backend", iptables)]
    made = engine.open_session(host, driver="nft", installed=both)
    with pytest.raises(ApplyFailed) as caught:
        engine.plan(made, INTENT)
    assert caught.value.message == 'iptables-legacy still holds the rules of owner "lbctl"'
    assert "lbctl migrate --to nftables" in (caught.value.hint or "")
    # Somebody else's owner is no obstacle.
    assert engine.plan(made, replace(INTENT, owner="blue")).changed


def counting_host() -> tuple[FakeHost, list[bytes]]:
    """A host whose kernel counts its transactions, with what it was asked for."""
    host = nft_host()
    asked: list[bytes] = []

    def answer(_: int, request: bytes) -> bytes:
        asked.append(request)
        if struct.unpack_from("=IHH", request)[2] & DUMP:
            return done()
        return message(GENERATION, attribute(1, len(loads(host)).to_bytes(4, "big")))

    host.asked = answer
    return host, asked


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that holds what was written: what reading it back finds is not the question here."""

    def as_planned(_: Host, plan: Plan, __: object, expected: object) -> Program:
        return plan.after.at(str(expected))

    monkeypatch.setattr(lbctl_nftables.apply, "_read_back", as_planned)


@pytest.mark.usefixtures("obedient")
def test_what_is_remembered_costs_one_question() -> None:
    host, asked = counting_host()
    kept = session(host, nftables, "nft")
    assert engine.plan(kept, INTENT).changed
    # To look for what is known, before and after what is then read, and for the tables that there are.
    assert len(asked) == 4
    engine.apply(kept, (engine.plan(kept, INTENT),))
    kept.memory.save()
    for each in (kept, session(host, nftables, "nft")):
        asked.clear()
        listed = len(host.ran)
        assert not engine.plan(each, INTENT).changed
        assert (len(asked), [ran for ran in host.ran[listed:] if "list" in ran.argv]) == (1, [])


@pytest.mark.usefixtures("obedient")
def test_planning_a_small_change_does_not_have_python_look_for_cycles() -> None:
    """With 10,000 services, that takes a third of a second; 700 new objects bring it nearer."""
    host, _ = counting_host()
    kept = session(host, nftables, "nft")
    many = [
        replace(WEB, name=f"s{port}", listeners=(Listener(protocol=Protocol.TCP, port=port),))
        for port in range(1, 5001)
    ]
    engine.apply(kept, (engine.plan(kept, Intent(services=tuple(many))),))
    many[2500] = replace(many[2500], endpoints=(Endpoint(port=9),))
    changed = Intent(services=tuple(many))
    looks: list[str] = []
    gc.callbacks.append(lambda phase, _: looks.append(phase))
    try:
        made = engine.plan(kept, changed)
    finally:
        gc.callbacks.pop()
    assert [service.name for service in made.services] == ["s2501"]
    assert looks.count("start") <= 1


@pytest.mark.usefixtures("obedient")
@pytest.mark.parametrize(
    ("failing", "error", "said"),
    [
        (1, ApplyFailed, "nft refused"),
        (2, StateUnknown, "the old rules are in force, beside new elements"),
        (3, StateUnknown, "the new rules are in force, but"),
    ],
)
def test_which_rules_are_in_force_where_a_transaction_fails(
    failing: int, error: type[LbctlError], said: str
) -> None:
    host, _ = counting_host()
    kept = session(host, nftables, "nft")
    engine.apply(kept, (engine.plan(kept, INTENT),))
    # The listener moves to another service: its chain is prepared, and its old slots are cleared away.
    moves = engine.plan(kept, Intent(services=(replace(WEB, name="other"),)))
    host.fail_write(len(host.writes) + failing, err="Error: no room\n")
    with pytest.raises(LbctlError, match=said) as caught:
        engine.apply(kept, (moves,))
    assert type(caught.value) is error


def test_another_store_is_looked_at_again_where_ours_was_empty() -> None:
    host, _ = counting_host()
    with_iptc(host).files |= LEGACY_TABLES
    for word in ("iptables", "ip6tables"):
        host.answer(f"{word}-legacy-restore", "--version", out="iptables v1.8.9 (legacy)\n")
        host.answer(f"{word}-legacy-save", out=EMPTY_DUMP)
    both = [cast("Backend", nftables), cast("Backend", iptables)]
    made = engine.open_session(host, driver="nft", installed=both)
    assert not engine.plan(made, Intent()).changed
    jump = "[0:0] -A PREROUTING -j LBCTL\n"
    host.answer("iptables-legacy-save", out=f"*nat\n:LBCTL - [0:0]\n{jump}COMMIT\n")
    with pytest.raises(ApplyFailed, match="iptables-legacy still holds"):
        engine.plan(made, INTENT)


def test_endpoints_elsewhere_of_one_family_leave_the_other_alone() -> None:
    host = legacy_host()
    elsewhere = replace(WEB, endpoints=(Endpoint(port=1, address=ip_address("10.0.0.1")),))
    made = plan(host, iptables, "legacy", Intent(services=(elsewhere,)))
    with pytest.raises(ApplyFailed):  # this host takes everything and keeps nothing
        engine.apply(session(host, iptables, "legacy"), (made,))
    assert [ran.program for ran in host.writes] == ["iptables-legacy-restore"]


def test_a_lock_is_waited_for_and_its_holder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = LocalHost(tmp_path)
    with host.lock("lbctl"):
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1].decode()
        pauses: list[float] = []
        with monkeypatch.context() as clock:
            clock.setattr(time, "monotonic", lambda: sum(pauses))
            clock.setattr(time, "sleep", pauses.append)
            with pytest.raises(Stale) as caught, LocalHost(tmp_path).lock("lbctl", patience=60):
                pass
        assert 60 <= sum(pauses) < 61
        assert words.rpartition("/")[2] in caught.value.message
        [file] = (tmp_path / "run").iterdir()
    with ExitStack() as other:
        other.enter_context(held(file))
        threading.Timer(0.1, other.close).start()
        with host.lock("lbctl", patience=10):
            pass


def test_a_program_that_does_not_start_is_an_error_with_its_cause(tmp_path: Path) -> None:
    host = LocalHost(tmp_path)
    with pytest.raises(ApplyFailed, match="/nonexistent does not start: No such file or directory"):
        host.run(["/nonexistent"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # No new number is free where the limit is that of the lowest free one.
    with Path("/dev/null").open() as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(ApplyFailed, match="true does not start: Too many open files"):
            host.run(["true"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert host.run(["true"]).code == 0
