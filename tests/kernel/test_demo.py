"""The demonstration shows exact shares and leaves nothing behind, however it ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.network import Network
from support.users import as_user

LBCTL = Path(sys.executable).with_name("lbctl")
#: Loses all privileges, but keeps the bounding set, which a user namespace needs.
USER = as_user("--inh-caps=-all")
CONNECTIONS = 300
#: By its path: some demos have an empty PATH.
NSENTER = shutil.which("nsenter") or "nsenter"
#: Seconds that nothing here may take, on the slowest machine.
PATIENCE = 120
#: More than are made until a signal comes.
ENDLESS = "1000000"


def processes(marker: str) -> set[int]:
    """Those that were started by or below a process with `marker` in its environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:  # it ended in between
            continue
    return found


def endpoints(marker: str) -> set[int]:
    found = set()
    for pid in processes(marker):
        try:
            if b"lbctl.demo.endpoint" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


class Demo:
    """Demos in namespaces of their own, so that nothing that happens elsewhere is taken for theirs."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.marker = f"DEMO_OF_TEST={folder}"
        # A folder that everybody may write to, as /tmp.
        folder.chmod(0o1777)
        # /run has the named network namespaces and the state of lbctl: theirs is empty at first.
        mount = "mount -t tmpfs lbctl /run && echo && exec sleep 3600"
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount], stdout=subprocess.PIPE
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == b"\n"
        self.run = Path(f"/proc/{self.keeper.pid}/root/run")

    def close(self) -> None:
        self.keeper.kill()
        self.keeper.communicate()

    def start(self, *options: str, before: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
        name, _, value = self.marker.partition("=")
        inherited = {k: v for k, v in os.environ.items() if k not in {"LBCTL_CONFIG", "LBCTL_STATE_DIR"}}
        with self.network.host.entered():
            return subprocess.Popen(
                [NSENTER, f"--mount=/proc/{self.keeper.pid}/ns/mnt", *before, str(LBCTL), "demo", *options],
                cwd="/",
                env={**inherited, name: value, "TMPDIR": str(self.folder), "HOME": str(self.folder), **env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def outside(self) -> dict[str, object]:
        """What is visible outside of the demo."""
        return {
            "links": re.sub(r"\d+: ", "", self.network.tool("ip", "-o", "link")).split("qlen")[0],
            "rules": self.network.rules(),
            "temporary files": sorted(self.folder.iterdir()),
            "/run": sorted(str(path) for path in self.run.rglob("*")),
        }

    @contextmanager
    def leaves_nothing(self) -> Iterator[None]:
        before = self.outside()
        yield
        deadline = time.monotonic() + PATIENCE
        while left := processes(self.marker):
            assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
            time.sleep(0.02)
        assert self.outside() == before


@pytest.fixture
def demo(network: Network) -> Iterator[Demo]:
    with tempfile.TemporaryDirectory() as name:
        made = Demo(network, Path(name))
        yield made
        made.close()


def halves(text: str) -> dict[str, str]:
    """What is shown of each backend."""
    _, *parts = re.split(r"(?m)^== (\w+)", text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def shows_exact_shares(half: str) -> None:
    for port, first in ((80, 8001), (443, 8101)):
        assert f"{CONNECTIONS} connections to 192.0.2.1:{port} " in half
        for to in range(first, first + 3):
            assert re.search(rf"(?m)^ +{to} +0 +→ +1/3$", half), "the plan"
            assert re.search(rf"(?m)^ +{to} █+ 100 \(33\.3%\)$", half), "the bars"
    assert half.count("exact: round robin") == 2
    assert "NOT" not in half


def test_both_halves(demo: Demo) -> None:
    with demo.leaves_nothing():
        out, err = (process := demo.start("--connections", str(CONNECTIONS))).communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
    shown = halves(out)
    assert list(shown) == ["nftables", "iptables"]
    for half in shown.values():
        shows_exact_shares(half)
    assert "\x1b" not in out


def test_counts_that_do_not_divide(demo: Demo) -> None:
    process = demo.start("--connections", "10", "--color", "always")
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "\x1b[" in out
    assert out.count(" 4 (40.0%)") == 4
    assert out.count(" 3 (30.0%)") == 8


def test_without_root(demo: Demo) -> None:
    with demo.leaves_nothing():
        process = demo.start("--connections", str(CONNECTIONS), before=USER)
        out, err = process.communicate(timeout=PATIENCE)
    allowed = subprocess.run(
        [*USER, "unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True, check=False
    )
    if allowed.returncode:
        assert (process.returncode, out) == (4, "")
        assert "no network namespace" in err
        assert "as root" in err
        return
    assert process.returncode == 0, err
    assert "iptables" in err
    assert "left out" in err
    assert list(halves(out)) == ["nftables"]
    shows_exact_shares(out)


def test_where_user_namespaces_are_forbidden(demo: Demo) -> None:
    # A namespace that may have no further ones below, entered and then stripped of all privileges.
    limit = ("unshare", "--user", "--map-root-user", "sh", "-c")
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all "$@"'
    process = demo.start(before=(*limit, forbid, "sh", "--inh-caps=-all"))
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (4, ""), err
    assert "as root" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["before", "amid"])
def test_whatever_ends_it(demo: Demo, number: signal.Signals, moment: str) -> None:
    with demo.leaves_nothing():
        process = demo.start("--connections", ENDLESS, PYTHONUNBUFFERED="1")
        assert process.stdout
        if moment == "amid":
            # The plan is shown when the rules are in; then the connections are made.
            while "8103" not in process.stdout.readline():
                assert process.poll() is None
            assert len(endpoints(demo.marker)) == 6
            time.sleep(0.1)
        else:
            while len(endpoints(demo.marker)) < 3:
                assert process.poll() is None
                time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode not in {0, 1}
        # An endpoint that finds its parent gone while it starts may complain.
        assert moment == "before" or "Traceback" not in err


def test_ctrl_c_reaches_the_whole_group(demo: Demo) -> None:
    # A terminal sends the signal to every process of the group, the endpoints among them.
    with demo.leaves_nothing():
        process = demo.start("--connections", ENDLESS, PYTHONUNBUFFERED="1")
        assert process.stdout
        while "8103" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode not in {0, 1}
        assert "Traceback" not in err


def test_a_user_s_demo_that_is_killed(demo: Demo) -> None:
    with demo.leaves_nothing():
        process = demo.start("--connections", ENDLESS, before=USER, PYTHONUNBUFFERED="1")
        assert process.stdout
        while "8103" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
        process.communicate(timeout=PATIENCE)


def hidden(demo: Demo, *modules: str) -> dict[str, str]:
    """The environment of a host without any tool but `ip`, and without `modules`."""
    folder = demo.folder / "empty"
    folder.mkdir()
    (folder / "ip").symlink_to("/usr/sbin/ip" if Path("/usr/sbin/ip").exists() else "/sbin/ip")
    (folder / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        f"PathFinder.find_spec = lambda name, *where: None if name in {modules!r} else find(name, *where)\n"
    )
    return {"PATH": str(folder), "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def test_nothing_usable(demo: Demo) -> None:
    env = hidden(demo, "nftables", "iptc")
    with demo.leaves_nothing():
        process = demo.start("--connections", "30", **env)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (3, "")
        assert "apt install nftables" in err
        assert "Traceback" not in err


def test_what_is_missing_is_said(demo: Demo) -> None:
    env = hidden(demo, "iptc")
    process = demo.start("--connections", "30", **env)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert list(halves(out)) == ["nftables"]
    assert "iptables is left out" in err


def test_without_the_ip_command(demo: Demo) -> None:
    env = hidden(demo)
    (demo.folder / "empty" / "ip").unlink()
    process = demo.start("--connections", "30", **env)
    _, err = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in err
    assert process.returncode == 3
    assert "iproute2" in err


def altered(demo: Demo, customization: str) -> dict[str, str]:
    """The environment of a host whose Pythons run a text when they start, with a folder first in PATH."""
    folder = demo.folder / "altered"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(customization)
    path = f"{folder}:{os.environ['PATH']}:/usr/sbin"
    return {"PATH": path, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def verdicts(err: str) -> list[str]:
    assert "Traceback" not in err
    return [line.removeprefix("lbctl: demo failed: ") for line in err.splitlines()]


def test_an_nft_that_writes_another_key_is_found_out(demo: Demo) -> None:
    env = altered(
        demo,
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *where: None if name == 'nftables' else find(name, *where)\n",
    )
    nft = demo.folder / "altered" / "nft"
    real = shutil.which("nft", path=env["PATH"])
    nft.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *-f*) sed -E \'s,[0-9]+( comment "http/8002"),7\\1,\' | {real} "$@" ;;\n'
        f'*) exec {real} "$@" ;; esac\n'
    )
    nft.chmod(0o755)
    with demo.leaves_nothing():
        process = demo.start("--connections", str(CONNECTIONS), **env)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    [verdict] = verdicts(err)
    assert verdict.startswith("nftables (driver nft)")
    assert "what was written differs when read back" in verdict
    shown = halves(out)
    assert "exact" not in shown["nftables"].partition("192.0.2.1:443")[0]
    shows_exact_shares(shown["iptables"])


def test_an_endpoint_that_refuses_is_counted(demo: Demo) -> None:
    env = altered(
        demo,
        "import os, sys\n"
        "if sys.orig_argv[-2:] == ['lbctl.demo.endpoint', '8002']:\n"
        "    print('listening', flush=True)\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n",
    )
    with demo.leaves_nothing():
        process = demo.start("--connections", str(CONNECTIONS), **env)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    for verdict, driver in zip(verdicts(err), ("nftables (driver ", "iptables (driver "), strict=True):
        assert verdict.startswith(driver)
        assert verdict.endswith("port 80: of 300 connections: 100 refused, 200 answered")
    assert out.count("exact: round robin") == 2


def test_an_endpoint_that_does_not_start_ends_it_with_a_message(demo: Demo) -> None:
    env = altered(demo, "import sys\nif sys.orig_argv[-1] == '8002': sys.exit(3)\n")
    with demo.leaves_nothing():
        process = demo.start("--connections", str(CONNECTIONS), **env)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "lbctl: the demo's endpoint on port 8002 did not start" in err


def steps(half: str) -> list[str]:
    """What is shown of each thing that happens to the endpoints."""
    titles = r"(?m)^(?:The agent starts|Process 8002 is killed|Process 8002 starts again)\.$"
    _, *parts = re.split(titles, half)
    return parts


def shows_an_agent(half: str) -> None:
    start, killed, back = steps(half)
    for step in (start, back):
        assert re.search(r"rules changed after [\d.]+ s; until then \d+ connections?: none failed", step)
        for to in (8001, 8002, 8003):
            assert re.search(rf"(?m)^ +{to} █+ 100 \(33\.3%\)$", step), step
    for to in (8001, 8003):
        assert re.search(rf"(?m)^ +{to} █+ 150 \(50\.0%\)$", killed), killed
    assert "8002 █" not in killed
    assert "agent: http/8002 (ipv4) is down: nothing listens there any more" in killed
    assert "agent: http: 8001 1/2 -> 1/3, 8002 0 -> 1/3, 8003 1/2 -> 1/3" in back


def test_the_agent(demo: Demo) -> None:
    with demo.leaves_nothing():
        process = demo.start("--agent", "--connections", str(CONNECTIONS))
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, ""), out
    shown = halves(out)
    assert list(shown) == ["nftables", "iptables"]
    for half in shown.values():
        shows_an_agent(half)


def test_the_agent_without_root(demo: Demo) -> None:
    allowed = subprocess.run(
        [*USER, "unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True, check=False
    )
    with demo.leaves_nothing():
        process = demo.start("--agent", "--connections", str(CONNECTIONS), before=USER)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == (4 if allowed.returncode else 0), err
    if not allowed.returncode:
        [half] = halves(out).values()
        shows_an_agent(half)


def test_the_agent_s_demo_that_is_killed(demo: Demo) -> None:
    with demo.leaves_nothing():
        process = demo.start("--agent", "--connections", ENDLESS, PYTHONUNBUFFERED="1")
        assert process.stdout
        while "rules changed" not in process.stdout.readline():
            assert process.poll() is None
        process.kill()
        process.communicate(timeout=PATIENCE)


def test_connections_that_fail_after_the_agent_noticed_are_a_fault(demo: Demo) -> None:
    # A process that listens to checks and answers no client: no TCP check can see that.
    env = altered(
        demo,
        "import socket, sys, time\n"
        "if sys.orig_argv[-2:] == ['lbctl.demo.endpoint', '8001']:\n"
        "    socket.socket.sendall = lambda *_: None\n",
    )
    with demo.leaves_nothing():
        process = demo.start("--agent", "--connections", str(CONNECTIONS), **env)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, out
    for verdict, driver in zip(verdicts(err), ("nftables (driver ", "iptables (driver "), strict=True):
        assert verdict.startswith(driver)
        assert "connections failed" in verdict or "200 answered" in verdict
