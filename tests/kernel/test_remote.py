"""Work on a host over ssh: whatever lbctl does here it does there, where nothing of it is installed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4
from lbctl.host.remote.session import script
from support.far_hosts import FarHost, trips
from support.network import Network, intent, service

PORTS = (8001, 8002, 8003)
WEB = intent(service("web", "80/tcp", "8001", "8002"))
WIDER = intent(service("web", "80/tcp", "8001", "8002", "8003"))
BOTH = f'{WEB}\n[hosts]\none = "far"\ntwo = "root@far2:2222"\n'
#: Connections that are cut here; more over a real sshd, in tests/servers.
KILLS = int(os.environ.get("LBCTL_KILLS", "3"))


@pytest.fixture
def far(network: Network) -> FarHost:
    network.local_endpoints(PORTS)
    return FarHost(network)


def test_a_service_is_managed_from_elsewhere(network: Network, far: FarHost) -> None:
    before, options = network.rules(), ("--driver", "nft")
    assert far.lbctl("apply", "--yes", *options, config=WEB).code == 0
    assert Counter(network.ask(network.client, HOST4, 80, 8)) == {"8001": 4, "8002": 4}
    assert far.lbctl("drain", "web/8002", "--yes").code == 0
    assert set(network.ask(network.client, HOST4, 80, 4)) == {"8001"}
    assert far.lbctl("activate", "web/8002", "--yes").code == 0
    assert far.lbctl("weight", "web/8001", "3", "--yes").code == 0
    assert Counter(network.ask(network.client, HOST4, 80, 8)) == {"8001": 6, "8002": 2}
    shown = far.lbctl("status", "--output", "json", *options).json
    assert [each["wanted"] for each in shown["services"][0]["endpoints"]] == ["3/4", "1/4"]
    assert far.lbctl("apply", "--yes", *options, config=WIDER).code == 0
    assert far.lbctl("rollback", "--yes").code == 0
    assert [line.split()[0] for line in far.lbctl("history").out.splitlines()[1:]] == ["1", "2", "3"]
    assert far.lbctl("remove", "--yes").code == 0
    assert network.rules() == before


@pytest.mark.parametrize(("shell", "driver"), [("bash", "legacy"), ("dash", "nf_tables")])
def test_a_poor_host_is_enough(network: Network, shell: str, driver: str) -> None:
    network.local_endpoints(PORTS)
    far, options = FarHost(network, shell, poor=True), ("--backend", "iptables", "--driver", driver)
    first = far.lbctl("apply", "--yes", *options, config=WEB)
    assert (first.code, 1 < trips(first) <= 25) == (0, True), first.err
    assert Counter(network.ask(network.client, HOST4, 80, 8)) == {"8001": 4, "8002": 4}
    same = far.lbctl("plan", *options, config=WEB)
    assert "Nothing to change" in same.out
    assert 1 < trips(same) <= 12, same.err
    assert far.lbctl("remove", "--yes").code == 0
    assert "LBCTL" not in network.rules()


#: The user of ssh is not root until sudo has made it root, without asking.
_USER = {
    "id": '[ -z "$IS_ROOT" ] || exec /usr/bin/id "$@"\necho 1000',
    "sudo": '[ "$1 $2" = "-n --" ] || exit 1\nshift 2\nIS_ROOT=yes exec "$@"',
}


def test_a_user_becomes_root_by_sudo(network: Network) -> None:
    network.local_endpoints(PORTS)
    far = FarHost(network, programs=_USER)
    assert far.lbctl("apply", "--yes", config=WEB).code == 0
    assert Counter(network.ask(network.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}
    assert "Nothing to change" in far.lbctl("plan", config=WEB).out


@pytest.mark.parametrize(
    ("sudo", "said"),
    [
        ("echo sudo: a password is required >&2; exit 1", "a password is required"),
        ('shift 2; exec "$@"', "sudo did not make it root"),
    ],
)
def test_a_user_that_sudo_does_not_make_root_is_refused(network: Network, sudo: str, said: str) -> None:
    far = FarHost(network, programs={**_USER, "sudo": sudo})
    refused = far.lbctl("apply", "--yes", config=WEB)
    assert (refused.code, said in refused.err, "without a password" in refused.err) == (3, True, True)
    assert "web" not in network.rules()


def test_lbctl_on_that_host_sees_the_same_state(network: Network, far: FarHost) -> None:
    assert far.lbctl("apply", "--yes", config=WEB).code == 0
    assert "Nothing to change" in network.lbctl("plan", config=WEB).out
    assert network.lbctl("history").out == far.lbctl("history").out
    assert network.lbctl("apply", "--yes", config=WIDER).code == 0
    assert far.lbctl("rollback", "--yes").code == 0
    assert Counter(network.ask(network.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}


def test_few_round_trips(far: FarHost) -> None:
    first = far.lbctl("apply", "--yes", config=WEB)
    assert first.code == 0
    assert 1 < trips(first) <= 25, first.err
    same = far.lbctl("plan", config=WEB)
    assert "Nothing to change" in same.out
    assert 1 < trips(same) <= 12, same.err


def start(far: FarHost, network: Network, *words: str) -> subprocess.Popen[str]:
    """Start the real program on the client, in a process of its own."""
    with network.client.entered():
        return subprocess.Popen(
            [sys.executable, "-sP", "-m", "lbctl", *words, "--host=far"],
            env={**os.environ, **far.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.parametrize(("driver", "poor"), [("nft", False), ("legacy", True)])
def test_a_trial_reverts_by_itself_after_the_connection_is_lost(
    network: Network, driver: str, *, poor: bool
) -> None:
    network.local_endpoints(PORTS)
    far = FarHost(network, poor=poor)
    options = ("--backend", "nftables" if driver == "nft" else "iptables", "--driver", driver)
    assert far.lbctl("apply", "--yes", *options, config=WEB).code == 0
    before = network.rules()
    path = network.folder / "wider.toml"
    path.write_text(WIDER, encoding="utf-8")
    trial = start(far, network, "apply", "--yes", "--trial=3s", *options, f"--config={path}")
    assert trial.stdout
    assert any("Applied on trial" in line for line in trial.stdout)
    assert "8003" in network.rules()
    os.kill(ssh_of(far), signal.SIGKILL)
    trial.kill()
    trial.communicate()
    await_rules(network, before)
    assert "trial, reverted" in far.lbctl("history").out
    assert "Nothing to change" in far.lbctl("plan", *options, config=WEB).out


def test_a_trial_is_confirmed_from_elsewhere(network: Network, far: FarHost) -> None:
    assert far.lbctl("apply", "--yes", config=WEB).code == 0
    path = network.folder / "wider.toml"
    path.write_text(WIDER, encoding="utf-8")
    trial = start(far, network, "apply", "--yes", "--trial=60s", f"--config={path}")
    assert trial.stdout
    assert any("Applied on trial" in line for line in trial.stdout)
    assert far.lbctl("confirm").code == 0
    trial.communicate()
    assert trial.returncode == 0
    assert "trial, confirmed" in far.lbctl("history").out
    assert "8003" in network.rules()


#: Rules as administrators write them, and one that is none of lbctl's business in front of them.
_MATCH = "-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80"
_BY_HAND = f"""*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 192.0.2.9/32 -p tcp -j REDIRECT --to-ports 99
{_MATCH} -m statistic --mode nth --every 2 --packet 0 -j REDIRECT --to-ports 8001
{_MATCH} -j REDIRECT --to-ports 8002
COMMIT
"""


def test_a_migration_on_trial_restores_the_rules_that_were_written_by_hand(
    network: Network, far: FarHost
) -> None:
    network.tool("iptables-legacy-restore", stdin=_BY_HAND)
    before = network.rules()
    tried = far.lbctl("migrate", "--to", "nftables", "--yes", "--trial", "2s")
    assert (tried.code, "by that host itself" in tried.err) == (8, True), tried.err
    assert network.rules() == before
    assert far.lbctl("migrate", "--to", "nftables", "--yes").code == 0
    assert Counter(network.ask(network.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}


def test_what_a_cut_connection_leaves_is_old_or_new(network: Network, far: FarHost) -> None:
    states = {}
    for text in (WEB, WIDER):
        assert far.lbctl("apply", "--yes", config=text).code == 0
        states[text] = network.rules()
    rng = random.Random(7)
    began = time.monotonic()
    assert far.lbctl("apply", "--yes", config=WEB).code == 0
    usual = time.monotonic() - began
    current, cut = WEB, 0
    for number in range(KILLS):
        wanted = WIDER if current == WEB else WEB
        path = network.folder / f"kill-{number}.toml"
        path.write_text(wanted, encoding="utf-8")
        lines = count(far)
        process = start(far, network, "apply", "--yes", f"--config={path}")
        while process.poll() is None and count(far) == lines:
            time.sleep(0.005)
        time.sleep(rng.random() * usual)
        if process.poll() is None:
            os.kill(ssh_of(far), signal.SIGKILL)
            cut += 1
        said = process.communicate()[0]
        assert process.returncode in {0, 3, 6}, said
        assert network.rules() in states.values(), said
        done = far.lbctl("apply", "--yes", config=wanted)
        assert done.code == 0, done.err
        assert network.rules() == states[wanted]
        current = wanted
    assert cut
    assert set(network.ask(network.client, HOST4, 80, 6)) <= {"8001", "8002", "8003"}


def count(far: FarHost) -> int:
    return len(far.pids.read_text().splitlines()) if far.pids.exists() else 0


def ssh_of(far: FarHost) -> int:
    """The process that was started last in the place of ssh."""
    return int(far.pids.read_text().splitlines()[-1])


def await_rules(network: Network, wanted: str) -> None:
    until = time.monotonic() + 60
    while network.rules() != wanted:
        assert time.monotonic() < until, network.rules()
        time.sleep(0.2)


def test_a_lock_is_respected_and_one_of_a_dead_process_is_not(network: Network) -> None:
    network.local_endpoints(PORTS)
    far = FarHost(network, poor=True)
    assert far.lbctl("apply", "--yes", config=WEB).code == 0
    inode = network.host.run("readlink", "/proc/self/ns/net").strip()[5:-1]
    lock = network.folder / "run" / f"lbctl.{inode}.lock.d"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    for place in (lock, lock.with_name(f"{lock.name}.gone.1")):
        place.write_text(f"{os.getpid()} {boot} {start}\n")
        held = far.lbctl("apply", "--yes", config=WIDER)
        assert held.code == 7, held.err
        assert "is changing" in held.err
        assert place.exists()
        place.unlink()
    gone = (
        f"{os.getpid()} 00000000-0000-0000-0000-000000000000 {start}",
        f"{os.getpid()} {boot} 1",  # another process had the number
        f"999999999 {boot} {start}",
        "",  # the disk was full, or the host crashed
    )
    for text, config in zip(gone, (WIDER, WEB, WIDER, WEB), strict=True):
        lock.write_text(f"{text}\n")
        assert far.lbctl("apply", "--yes", config=config).code == 0
        assert not list(lock.parent.glob(f"{lock.name}*"))


def test_of_many_processes_that_find_a_lock_of_a_dead_one_one_takes_it(tmp_path: Path) -> None:
    (tmp_path / "work").write_text(
        f"""{script("locks.sh").decode()}
set -f
boot=1-2-3
tries=0
until claim {tmp_path}/lock; do
    tries=$((tries + 1))
    [ "$tries" -lt 3000 ] || exit 2
done
# It is alone for as long as it lives; and it dies with the lock.
mkdir {tmp_path}/alone && rmdir {tmp_path}/alone
""",
        encoding="utf-8",
    )
    again = f"for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sh {tmp_path}/work || exit; done"
    started = [subprocess.Popen(["sh", "-c", again], stderr=subprocess.PIPE, text=True) for _ in range(5)]
    assert [(p.communicate()[1], p.returncode) for p in started] == [("", 0)] * 5


def test_state_behind_a_link_or_for_others_is_refused(network: Network, far: FarHost) -> None:
    elsewhere = network.folder / "elsewhere"
    elsewhere.mkdir()
    (network.folder / "run").symlink_to(elsewhere)
    refused = far.lbctl("apply", "--yes", config=WEB)
    assert (refused.code, "is a symbolic link" in refused.err) == (4, True), refused.err
    assert not list(elsewhere.iterdir())
    (network.folder / "run").unlink()
    (network.folder / "run").mkdir(mode=0o777)
    (network.folder / "run").chmod(0o777)
    assert far.lbctl("plan", config=WEB).code == 4
    assert "web" not in network.rules()
    (network.folder / "run").rmdir()
    (network.folder / "run").touch()
    refused = far.lbctl("plan", config=WEB)
    assert (refused.code, "run is no directory" in refused.err) == (5, True), refused.err


def test_a_listing_that_the_disk_cuts_short_is_not_taken_for_a_whole_one(network: Network) -> None:
    """iptables-save ends with 0 however much of its output is lost."""
    rules = "".join(f"-A FOREIGN -p tcp --dport {port} -j DROP\n" for port in range(1, 3000))
    network.tool("iptables-legacy-restore", stdin=f"*filter\n:FOREIGN - [0:0]\n{rules}COMMIT\n")
    far = FarHost(network, "small", programs={"small": _on_a_file_system("size=128k,mode=755")})
    for words in (["status"], ["plan", "--backend=iptables"], ["import", "--from=iptables-legacy"]):
        refused = far.lbctl(*words, config=WEB if words[0] != "import" else None)
        assert (refused.code, "no space is left" in refused.err) == (5, True), refused.err


def test_what_cannot_be_written_is_not_called_untrusted(network: Network) -> None:
    far = FarHost(network, "fixed", programs={"fixed": _on_a_file_system("ro")})
    refused = far.lbctl("plan", config=WEB)
    assert (refused.code, "Read-only file system" in refused.err) == (5, True), refused.err


def _on_a_file_system(options: str) -> str:
    """A shell whose state is on a file system of its own."""
    start = f'mkdir -p "$LBCTL_STATE_DIR" && mount -t tmpfs -o {options} tmpfs "$LBCTL_STATE_DIR"'
    return f'exec unshare --mount sh -ec \'{start} && exec sh "$@"\' sh "$@"'


def test_who_holds_the_lock_is_named(network: Network) -> None:
    network.local_endpoints(PORTS)
    far = FarHost(network, programs={"nft": f'{_WAIT_ONCE}\nexec /usr/sbin/nft "$@"'})
    assert far.lbctl("apply", "--yes", "--driver=nft", config=WEB).code == 0
    path = network.folder / "first.toml"
    path.write_text(WIDER, encoding="utf-8")
    words = ["apply", "--yes", "--driver=nft", "--host=far", f"--config={path}"]
    (network.folder / "armed").touch()
    with network.client.entered():
        command = [sys.executable, "-sP", "-m", "lbctl", *words]
        first = subprocess.Popen(command, env={**os.environ, **far.env})
    try:
        _await(network.folder / "waits")
        refused = [
            far.lbctl("remove", "--yes", "--driver=nft"),
            network.lbctl("remove", "--yes", "--driver=nft"),
        ]
    finally:
        (network.folder / "goes").touch()
        assert first.wait(60) == 0
    for each in refused:
        said = r"another lbctl \(process \d+: over ssh, for \S+@\S+\) is changing"
        assert (each.code, bool(re.search(said, each.err))) == (7, True), each.err


#: Have a program wait, once, before it loads what comes by standard input, until the test goes on.
_WAIT_ONCE = """cd "$LBCTL_STATE_DIR"
if [ "$*" = "--file -" ] && [ -e armed ]; then
    rm armed
    touch waits
    until [ -e goes ]; do sleep 0.05; done
fi"""


def _await(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.05)


_NO_SPACE = 'echo "No space left on device" >&2; exit 1'
#: Programs of a host with a fault → what a command reports; "" if the fault does not matter.
FAULTS = {
    "disk full": (
        {"dd": f'case "$*" in *.new*) {_NO_SPACE} ;; esac\nexec /usr/bin/dd "$@"'},
        "No space left on device",
    ),
    "cannot be written": (
        {"mkdir": 'case "$*" in *session*) exit 1 ;; esac\nexec /usr/bin/mkdir "$@"'},
        "cannot be written: no space is left there, or it is read-only",
    ),
    "clock of 1970": ({"date": "echo 86400"}, ""),
    "clock that lies": ({"date": f"echo {'9' * 300}"}, "does not report its time"),
    "no clock": ({"date": "echo never"}, "does not report its time"),
    "no mktemp": ({"mktemp": "exit 1"}, ""),
}


@pytest.mark.parametrize(("programs", "reported"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_a_host_is_reported_and_nothing_is_half_applied(
    network: Network, programs: dict[str, str], reported: str
) -> None:
    network.local_endpoints(PORTS)
    done = FarHost(network, programs=programs).lbctl("apply", "--yes", config=WEB)
    if reported:
        assert (done.code != 0, reported in done.err) == (True, True), done.err
        assert "8001" not in network.rules()
    else:
        assert done.code == 0, done.err
        assert Counter(network.ask(network.client, HOST4, 80, 4)) == {"8001": 2, "8002": 2}


def test_several_hosts_end_in_a_table(network: Network, far: FarHost) -> None:
    done = far.lbctl("plan", "--parallel=2", "--output=json", config=BOTH, host="all")
    assert (done.code, [each["exit"] for each in done.json["hosts"]]) == (0, [0, 0])
    assert [each["document"]["changed"] for each in done.json["hosts"]] == [True, True]
    text = far.lbctl("plan", "--exit-code", "--parallel=2", config=BOTH, host="all")
    assert (text.code, "two   not begun" in text.err or "two   1" in text.err) == (1, True), text.err


def test_hosts_are_found_in_the_file_that_an_argument_names(network: Network, far: FarHost) -> None:
    path = network.folder / "both.toml"
    path.write_text(BOTH, encoding="utf-8")
    for words in (["plan", str(path)], ["check", "--kernel", str(path)]):
        done = far.lbctl(*words, host="all")
        assert (done.code, done.err.count("0 done")) == (0, 2), done.err
    assert far.lbctl("apply", str(path), "--yes", host="two").code == 0
    # Of a plan file it is not.
    plan = network.folder / "web.plan"
    assert far.lbctl("plan", str(path), "-o", str(plan), host="one").code == 0
    assert far.lbctl("apply", str(plan), "--yes", host="far").code == 0


def test_a_file_for_several_hosts_is_refused(network: Network, far: FarHost) -> None:
    plan = network.folder / "web.plan"
    refused = far.lbctl("plan", f"--out={plan}", config=BOTH, host="all")
    assert (refused.code, plan.exists(), "several hosts" in refused.err) == (2, False, True), refused.err
    refused = far.lbctl("migrate", "--to=iptables", "--yes", f"--save={plan}", config=BOTH, host="all")
    assert (refused.code, plan.exists()) == (2, False), refused.err


@pytest.mark.parametrize("options", [["--keep-going"], ["--parallel=2", "--output=json"]])
def test_an_interruption_shows_how_each_host_ended(network: Network, options: list[str]) -> None:
    network.local_endpoints(PORTS)
    far = FarHost(network, programs={"nft": f'{_WAIT_ONCE}\nexec /usr/sbin/nft "$@"'})
    assert far.lbctl("apply", "--yes", "--driver=nft", config=WEB).code == 0
    path = network.folder / "both.toml"
    path.write_text(BOTH.replace('"8002"]', '"8002", "8003"]'), encoding="utf-8")
    (network.folder / "armed").touch()
    words = ["apply", "--yes", "--driver=nft", "--host=all", f"--config={path}", *options]
    with network.client.entered():
        process = subprocess.Popen(
            [sys.executable, "-sP", "-m", "lbctl", *words],
            env={**os.environ, **far.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    _await(network.folder / "waits")
    os.killpg(process.pid, signal.SIGINT)
    (network.folder / "goes").touch()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    if "--output=json" in options:
        assert 130 in {each["exit"] for each in json.loads(said)["hosts"]}, said
    else:
        assert re.search(r"one +130 interrupted", said), said
        assert re.search(r"two +not begun", said), said
