"""Checks that need the kernel's help: programs run by the rules, and local sockets that close."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lbctl.agent.checks import Prober, program
from lbctl.agent.health import Ending, Outcome, Target
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl.model import Check, ExecProbe, Family, Probe, TcpProbe, UdpProbe

PASSED, FAILED, UNDECIDED = Ending.PASSED, Ending.FAILED, Ending.UNDECIDED


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory with only root's directories above it: /tmp is everybody's."""
    with TemporaryDirectory(dir="/var/lib") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def checked(*argv: str | Path, user: str = "nobody", timeout: int = 3000, count: int = 1) -> list[Outcome]:
    """The outcomes of a program that is run `count` times at once."""
    probe = ExecProbe(argv=tuple(map(str, argv)), user=user)
    targets = [
        Target(
            family=Family.IPV4,
            address=None,
            port=8001,
            check=Check(probe=probe, timeout=timeout, interval=10_000),
            subject=("web", f"e{number}", Family.IPV4),
        )
        for number in range(count)
    ]
    found: list[Outcome] = []

    async def run() -> None:
        prober, finished = Prober(LocalHost()), asyncio.Event()

        def done(_: Target, outcome: Outcome) -> None:
            found.append(outcome)
            if len(found) == count:
                finished.set()

        prober.start(targets, done)
        await finished.wait()
        prober.close()

    asyncio.run(run())
    return found


def check(*argv: str | Path, user: str = "nobody", timeout: int = 3000) -> tuple[Ending, str]:
    [found] = checked(*argv, user=user, timeout=timeout)
    return found.ending, found.text


def test_a_program_decides_by_its_exit_code(private: Path) -> None:
    assert check("/bin/true") == (PASSED, "exit 0")
    assert check("/bin/false") == (FAILED, "exit 1")
    assert check(script(private / "check", "echo no space left; exit 3")) == (FAILED, "exit 3: no space left")
    assert check(script(private / "kill", "kill -9 $$")) == (FAILED, "ended by signal 9")


def test_it_runs_as_its_user_with_nothing_but_what_it_is_told(private: Path) -> None:
    report = private / "report"
    report.write_text("")
    report.chmod(0o666)
    path = script(
        private / "check",
        f'{{ id -u; id -G; /usr/bin/env | sort; pwd; grep -E "^(NoNewPrivs|CapEff|CapPrm|CapAmb)" '
        f'/proc/self/status; ls -l /proc/self/fd; echo "$@"; }} > {report}',
    )
    assert check(path, "a b", "$HOME; reboot") == (PASSED, "exit 0")
    said = report.read_text()
    account = pwd.getpwnam("nobody")
    assert said.startswith(f"{account.pw_uid}\n{account.pw_gid}\n")
    for line in ("LBCTL_ADDRESS=127.0.0.1", "LBCTL_ENDPOINT=e0", "LBCTL_PORT=8001", "LBCTL_SERVICE=web"):
        assert f"\n{line}\n" in said
    # The shell sets these itself.
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line and " " not in line}
    assert {n for n in names if not n.startswith("LBCTL_")} <= {"PWD", "OLDPWD", "SHLVL", "_"}
    assert "NoNewPrivs:\t1" in said
    assert said.count("\t0000000000000000") == 3
    assert said.endswith("a b $HOME; reboot\n")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.chmod(0o775), "can be written by other users than root"),
        (lambda path: path.chmod(0o757), "can be written by other users than root"),
        (lambda path: path.chmod(0o644), "is not executable"),
        (lambda path: os.chown(path, 65534, 0), "does not belong to root"),
        (lambda path: path.parent.chmod(0o777), "can be written by other users than root"),
        (lambda path: os.chown(path.parent, 65534, 0), "does not belong to root"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path, 0o755)), "is not a regular file"),
        (lambda path: path.unlink(), "no such file or directory"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "too many symbolic links"),
        (lambda path: (path.unlink(), path.symlink_to("/tmp/../bin/true")), "can be written by other users"),
    ],
)
def test_what_others_could_change_is_not_run(private: Path, spoil: object, reason: str) -> None:
    ran = private / "ran"
    folder = private / "bin"
    folder.mkdir()
    path = script(folder / "check", f"touch {ran}")
    private.chmod(0o755)
    assert callable(spoil)
    spoil(path)
    ending, text = check(path)
    assert ending is UNDECIDED
    assert reason in text
    assert not ran.exists()


def test_a_program_that_sets_its_user_gains_nothing(private: Path) -> None:
    program = private / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o6755)
    assert check(program, "-un") == (PASSED, "exit 0: nobody")
    assert check(program, "-Gn") == (PASSED, f"exit 0: {grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name}")


def test_a_link_that_is_swapped_leads_nowhere_that_was_not_checked(private: Path) -> None:
    """A link of root goes to and fro between a program and one that others can write."""
    ran, link = private / "ran", private / "check"
    good = script(private / "good", "exit 0")
    loose = script(private / "loose", f"touch {ran}")
    loose.chmod(0o777)
    private.chmod(0o755)
    ended = threading.Event()

    def swap() -> None:
        for number in itertools.count():
            fresh = private / f"link{number % 2}"
            fresh.symlink_to((good, loose)[number % 2])
            fresh.rename(link)
            if ended.is_set():
                return

    swapping = threading.Thread(target=swap)
    swapping.start()
    while not link.is_symlink():
        pass
    try:
        found = checked(link, count=200, timeout=10_000)
    finally:
        ended.set()
        swapping.join()
    assert {each.ending for each in found} <= {PASSED, UNDECIDED}
    assert not ran.exists()


def test_links_of_root_are_followed(private: Path) -> None:
    script(private / "real", "exit 0")
    (private / "relative").symlink_to("real")
    (private / "absolute").symlink_to(private / "relative")
    (private / "up").symlink_to(f"../{private.name}/real")
    for name in ("relative", "absolute", "up"):
        assert check(private / name) == (PASSED, "exit 0")


def test_root_and_unknown_users_are_refused(private: Path) -> None:
    assert check("/bin/true", user="no-such-user") == (UNDECIDED, "not run: there is no user no-such-user")
    with pytest.raises(ValueError, match="other than root"):
        ExecProbe(argv=("/bin/true",), user="root")


def test_at_the_timeout_the_whole_process_group_ends(private: Path) -> None:
    pids = private / "pids"
    pids.write_text("")
    pids.chmod(0o666)
    path = script(private / "check", f"sleep 600 & echo $! $$ > {pids}; wait")
    assert check(path, timeout=500) == (FAILED, "timeout")
    numbers = [int(word) for word in pids.read_text().split()]
    assert len(numbers) == 2
    assert not any(alive(number) for number in numbers)


def test_an_agent_that_stops_ends_its_programs_and_does_not_wait_for_them(private: Path) -> None:
    pids = private / "pids"
    pids.write_text("")
    pids.chmod(0o666)
    path = script(private / "check", f"trap '' TERM; sleep 600 & echo $! $$ > {pids}; wait")
    probe = ExecProbe(argv=(str(path),), user="nobody")
    slow = Check(probe=probe, timeout=600_000, interval=600_000)
    target = Target(
        family=Family.IPV4, address=None, port=8001, check=slow, subject=("web", "a", Family.IPV4)
    )
    reported: list[Outcome] = []

    async def run() -> None:
        prober = Prober(LocalHost())
        prober.start([target], lambda _, outcome: reported.append(outcome))
        while len(pids.read_text().split()) < 2:
            await asyncio.sleep(0.01)
        prober.close()

    asyncio.run(run())
    for thread in threading.enumerate():
        if thread.name.startswith("program"):
            thread.join(60)
            assert not thread.is_alive()
    assert not any(alive(int(word)) for word in pids.read_text().split())
    assert reported == []


def test_a_program_that_cannot_start_says_nothing_of_its_endpoint(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a fork bomb has filled what the unit allows: `TasksMax`, or the memory."""

    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(program.subprocess, "Popen", full)
    assert check(script(private / "check", "exit 0")) == (
        UNDECIDED,
        "not run: Resource temporarily unavailable",
    )


def test_a_program_that_starts_itself_again_and_again_ends_with_its_check(private: Path) -> None:
    """Until 60 run: the rest of a fork bomb is the unit's to bound."""
    pids = private / "pids"
    pids.mkdir()
    pids.chmod(0o777)
    path = private / "check"
    script(path, f'[ "$(ls {pids} | wc -l)" -lt 60 ] || sleep 600\ntouch {pids}/$$\n{path} &\n{path} &\nwait')
    assert check(path, timeout=1000) == (FAILED, "timeout")
    numbers = [int(each.name) for each in pids.iterdir()]
    assert len(numbers) > 20
    assert not any(alive(number) for number in numbers)


def test_what_a_program_leaves_behind_ends_with_it(private: Path) -> None:
    pids = private / "pids"
    pids.write_text("")
    pids.chmod(0o666)
    path = script(private / "check", f"sleep 600 & echo $! > {pids}; exit 0")
    assert check(path) == (PASSED, "exit 0")
    assert not alive(int(pids.read_text()))


def alive(number: int) -> bool:
    """True while a process is there that has not ended; a moment is left for the kernel to end it."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state in "ZX":
            return False
        time.sleep(0.01)
    return True


def test_much_output_is_read_to_its_end_and_not_kept(private: Path) -> None:
    path = script(private / "check", "head -c 1000000 /dev/zero | tr '\\0' x; exit 4")
    ending, text = check(path)
    assert ending is FAILED
    assert text == "exit 4: " + "x" * 80


def test_output_is_shown_inert(private: Path) -> None:
    ending, text = check(script(private / "check", "printf '\\033[31mred\\007\\377'; exit 1"))
    assert ending is FAILED
    assert text.isprintable()
    assert text.startswith("exit 1: \\x1b[31mred\\x07")


def test_at_most_64_programs_run_at_once(private: Path) -> None:
    seen = private / "seen"
    seen.mkdir()
    seen.chmod(0o777)
    path = script(private / "check", f"touch {seen}/$$; ls {seen} | wc -l; sleep 0.2; rm {seen}/$$; exit 1")
    found = checked(path, count=100, timeout=10_000)
    counts = [int(each.text.removeprefix("exit 1: ")) for each in found]
    assert len(counts) == 100
    assert max(counts) <= program.MOST


def test_a_program_that_is_replaced_while_it_is_opened_is_still_the_checked_one(private: Path) -> None:
    path = script(private / "check", "echo first; exit 1")
    with program.opened(str(path)) as number:
        path.rename(private / "old")
        script(path, "echo second; exit 1")
        said = subprocess.run(
            [f"/proc/self/fd/{number}"], pass_fds=(number,), capture_output=True, check=False
        )
    assert said.stdout == b"first\n"


LISTENER = """
import socket, sys, time
sockets = []
for word in sys.argv[1:]:
    kind, host, port = word.split(",")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind((host, int(port)))
    if kind == "tcp":
        s.listen()
    sockets.append(s)
print("ready", flush=True)
time.sleep(600)
"""


class Listener:
    """A process that listens at places like "tcp,0.0.0.0,8001"."""

    def __init__(self, *places: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", LISTENER, *places], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def local(*ports: int, probe: Probe | None = None) -> list[Target]:
    check = Check(probe=probe or TcpProbe())
    return [
        Target(family=family, address=None, port=port, check=check) for port in ports for family in Family
    ]


@contextlib.contextmanager
def watching(
    *ports: int, later: Sequence[int] = (), probe: Probe | None = None
) -> Iterator[tuple[asyncio.Runner, list[Target]]]:
    """A loop in a private network in which these ports are watched, in both families; what was reported.

    `later` ports are watched after them, in their place.
    """
    namespace = Namespace(LocalHost())
    with namespace.entered(), asyncio.Runner() as runner:
        closed: list[Target] = []

        async def begin() -> Prober:
            prober = Prober(LocalHost())
            prober.watch(local(*ports, probe=probe), closed.append)
            if later:
                prober.watch(local(*later, probe=probe), closed.append)
            return prober

        prober = runner.run(begin())
        runner.run(asyncio.sleep(0.1))
        yield runner, closed
        runner.run(stop(prober))
    namespace.close()


async def stop(prober: Prober) -> None:
    prober.close()


def reported(
    runner: asyncio.Runner, closed: list[Target], *, least: int = 1, seconds: float = 30
) -> set[tuple[Family, int | None]]:
    """What was reported once it was so many, or after so long; and forget it."""

    async def some() -> None:
        until = time.monotonic() + seconds
        while len(closed) < least and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    runner.run(some())
    found = {(target.family, target.port) for target in closed}
    closed.clear()
    return found


def nothing_reported(runner: asyncio.Runner, closed: list[Target]) -> bool:
    return not reported(runner, closed, seconds=0.5)


def test_a_process_that_is_killed_is_noticed_without_a_check() -> None:
    with watching(8001, 8002) as (runner, closed):
        one = Listener("tcp,0.0.0.0,8001")
        both = Listener("tcp,::,8002")
        one.kill()
        assert reported(runner, closed, least=2) == {(Family.IPV4, 8001), (Family.IPV6, 8001)}
        both.kill()
        assert reported(runner, closed, least=2) == {(Family.IPV4, 8002), (Family.IPV6, 8002)}
        again = Listener("tcp,127.0.0.1,8001")
        again.kill()
        assert (Family.IPV4, 8001) in reported(runner, closed)


def test_a_port_at_which_another_process_listens_is_not_reported() -> None:
    with watching(8001) as (runner, closed):
        first, second = Listener("tcp,::,8001"), Listener("tcp,::,8001")
        first.kill()
        assert nothing_reported(runner, closed)
        second.kill()
        assert reported(runner, closed, least=2) == {(Family.IPV4, 8001), (Family.IPV6, 8001)}


def test_a_socket_that_a_living_process_closes_is_noticed_once_no_other_has_it() -> None:
    with watching(8001) as (runner, closed):
        listening = socket.create_server(("127.0.0.1", 8001))
        heir = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[listening.fileno()]
        )
        runner.run(asyncio.sleep(0.1))
        listening.close()
        assert nothing_reported(runner, closed)
        heir.communicate(b"\n")
        assert (Family.IPV4, 8001) in reported(runner, closed)


def test_connections_that_end_are_no_listeners_that_end() -> None:
    with watching(8001) as (runner, closed):
        listener = Listener("tcp,::,8001")
        for _ in range(50):
            socket.create_connection(("127.0.0.1", 8001)).close()
        assert nothing_reported(runner, closed)
        listener.kill()
        assert len(reported(runner, closed, least=2)) == 2


@pytest.mark.parametrize("count", [1, 600])
def test_ports_that_are_watched_later_are_reported(count: int) -> None:
    later = range(9000, 9000 + count)
    with watching(8001, later=later) as (runner, closed):
        before, last = Listener("tcp,127.0.0.1,8001"), Listener(f"tcp,127.0.0.1,{later[-1]}")
        last.kill()
        assert (Family.IPV4, later[-1]) in reported(runner, closed)
        before.kill()
        assert nothing_reported(runner, closed)


def test_a_process_bound_to_one_address_is_checked_there() -> None:
    namespace = Namespace(LocalHost())
    namespace.ip("address", "add", "192.0.2.10/24", "dev", "lo")
    with namespace.entered(), asyncio.Runner() as runner:
        listener = Listener("tcp,192.0.2.10,8001", "tcp,127.0.0.1,8002", "tcp,192.0.2.10,8002")
        target, both = (
            Target(family=Family.IPV4, address=None, port=port, check=Check(probe=TcpProbe()))
            for port in (8001, 8002)
        )

        async def run() -> list[tuple[int | None, Ending]]:
            prober = Prober(LocalHost())
            found: list[tuple[int | None, Ending]] = []
            prober.watch([target, both], lambda _: None)
            prober.start([target], lambda each, outcome: found.append((each.port, outcome.ending)))
            await asyncio.sleep(0.2)
            prober.start([target, both], lambda each, outcome: found.append((each.port, outcome.ending)))
            await asyncio.sleep(0.2)
            prober.close()
            return found

        first, *later = runner.run(run())
        # Before it is known where the process listens, loopback is tried.
        assert first == (8001, FAILED)
        assert sorted(later) == [(8001, PASSED), (8002, PASSED)]
        listener.kill()
    namespace.close()


def test_sockets_of_datagrams_are_watched_for_their_checks() -> None:
    with watching(8053, probe=UdpProbe()) as (runner, closed):
        listener = Listener("udp,::,8053", "tcp,::,8053")
        listener.kill()
        assert reported(runner, closed, least=2) == {(Family.IPV4, 8053), (Family.IPV6, 8053)}
