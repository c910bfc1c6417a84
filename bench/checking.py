"""What checking endpoints costs, and how soon rules follow: the agent, compared with HAProxy.

Processes as users run them, in private network namespaces; the CPU time is that of the checking process.

- checks: many endpoints, each of an address of its own on another host, which all pass. The agent and HAProxy
  (one thread, the same interval) take turns; TCP and HTTP;
- idle: three endpoints on this host, checked by TCP with the default interval;
- local: from the end of a process on this host to changed rules (the kernel's own message);
- remote: the same on another host, whose port then refuses connections: what it takes beyond fall times
  interval, which is the time that the settings ask for;
- change: one endpoint of many services fails. CPU time from there until the agent rests again, with all that
  belongs to it: detection, verdicts on record, plan, transaction, verification. All endpoints have a check,
  but once a day, so that checks are no part of these figures;
- killed: one of three processes is killed under new connections at a steady rate. Lost connections until the
  checker has reacted, and after that. The agent sees the end of a process on its own host without a check, as
  a proxy does that retries elsewhere; settings are alike.

keepalived cannot be compared if the kernel lacks IPVS: 2.2.7 initializes that before its first check, and
ends with "IPVS: Can't initialize ipvs" (`keepalived --check --dont-fork --log-console --use-file FILE`).
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

from programs import Programs, running
from timing import processor, rounded
from traffic import BACKENDS, HOSTS, PORT, Load, Site, targets
from ways import HAPROXY, haproxy_config, listens

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace

if TYPE_CHECKING:
    from sizes import Size

AGENT, PROXY = "lbctl agent", "HAProxy"
#: The port on which the agent shows that it runs.
SEEN = 9099
#: The port of all endpoints on the other host.
CHECKED = 8000
#: Seconds that nothing here takes.
PATIENCE = 30.0
#: Seconds in which the agent applies a large intent for the first time, on a slow machine.
LOADING = 120.0
#: Milliseconds, and failures: the settings with which a failure is timed.
INTERVAL, FALL = 500, 3
TCP, HTTP = "tcp", "http"
_NETFILTER, _ADD_MEMBERSHIP, _NFTABLES_GROUP, _SOL_NETLINK = 12, 1, 7, 270
#: The agent rests when it used less than this part of a second's tick.
_REST, _TICK = 0.02, 0.5


@dataclass(slots=True, kw_only=True)
class Place:
    """The host on which endpoints are checked, and another one, which has all of 10.1.0.0/16."""

    host: Namespace
    other: Namespace
    programs: Programs
    folder: Path

    def server(self, where: Namespace, port: int) -> Any:
        return running(where, [str(self.programs.server), str(port)])

    @contextmanager
    def agent(self, text: str, *words: str) -> Iterator[Popen[str]]:
        """Run an agent with an intent, which it applies first."""
        file = self.folder / "lbctl.toml"
        file.write_text(text)
        with agent(self.host, file, self.folder / "agent.log", *words) as process:
            yield process


@contextmanager
def agent(where: Namespace, file: Path, log: Path, *words: str) -> Iterator[Popen[str]]:
    """Run the agent in a namespace where nothing was applied before, and take its rules out at the end."""
    with tempfile.TemporaryDirectory(dir=file.parent) as state:
        command = ("env", f"LBCTL_STATE_DIR={state}", sys.executable, "-m", "lbctl", "agent")
        argv = [*command, "--listen", f"127.0.0.1:{SEEN}", "--config", str(file), *words]
        with running(where, argv, ready=lambda: answers(where), log=log, patience=LOADING) as process:
            yield process
        where.run("nft", "flush", "ruleset")


def answers(where: Namespace) -> bool:
    """Return True once the agent runs."""
    with where.entered():
        connection = HTTPConnection("127.0.0.1", SEEN, timeout=10)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def place(programs: Programs, folder: Path) -> Iterator[Place]:
    """Two hosts, joined by a cable."""
    host = LocalHost()
    with ExitStack() as stack:
        here, other = Namespace(host), Namespace(host)
        for namespace in (here, other):
            stack.callback(namespace.close)
            namespace.write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")
        here.connect("out", other, "in")
        here.address("out", "10.8.0.1/24")
        other.address("in", "10.8.0.2/24")
        here.ip("route", "add", "10.1.0.0/16", "via", "10.8.0.2")
        other.ip("route", "add", "local", "10.1.0.0/16", "dev", "lo")
        folder.mkdir(exist_ok=True)
        yield Place(host=here, other=other, programs=programs, folder=folder)


def address(number: int) -> str:
    return f"10.1.{number // 250}.{number % 250 + 1}"


def intent(endpoints: int, kind: str, interval: int) -> str:
    """Return an intent of services of ten endpoints on the other host, all checked."""
    check = '"tcp"' if kind == TCP else '"http:///"'
    lines = ["schema = 1"]
    for first in range(0, endpoints, 10):
        ends = ", ".join(
            f'"{address(number)}:{CHECKED}"' for number in range(first, min(first + 10, endpoints))
        )
        listen = f"10.100.{first // 10 // 250}.{first // 10 % 250 + 1}:80/tcp"
        lines += [f'[[service]]\nname = "s{first // 10}"\nlisten = "{listen}"\nendpoints = [{ends}]']
        lines += [
            f'[service.check]\nkind = "{kind}"\ninterval = "{interval}ms"' if interval else f"check = {check}"
        ]
    return "\n".join(lines) + "\n"


def proxy_config(endpoints: int, kind: str, interval: int) -> str:
    """Return HAProxy's file with the same checks, spread as by the agent."""
    lines = ["global\n    nbthread 1\n    maxconn 1000\n    spread-checks 10\ndefaults\n    mode tcp"]
    lines += ["    timeout connect 1s\n    timeout client 60s\n    timeout server 60s\n    timeout check 1s"]
    lines += ["listen probe\n    bind 127.0.0.1:80"]
    for first in range(0, endpoints, 10):
        lines += [f"backend s{first // 10}"]
        lines += ["    option httpchk GET /\n    mode http"] if kind == HTTP else []
        for number in range(first, min(first + 10, endpoints)):
            lines += [
                f"    server e{number} {address(number)}:{CHECKED} check inter {interval}ms fall 3 rise 2"
            ]
    return "\n".join(lines) + "\n"


@contextmanager
def haproxy(where: Place, text: str) -> Iterator[Popen[str]]:
    file = where.folder / "haproxy.cfg"
    file.write_text(text)
    argv = ["haproxy", "-db", "-f", str(file)]
    log = where.folder / "haproxy.log"
    with running(where.host, argv, ready=lambda: listens(where.host), log=log) as process:
        yield process


def memory(pid: int) -> int:
    """Return the bytes of memory that a process occupies (RSS)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def opened(where: Namespace) -> int:
    """Return how many TCP connections the kernel of a namespace has opened so far."""
    with where.entered():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, numbers = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(numbers[names.index("ActiveOpens")])


def watched(where: Place, process: Popen[str], seconds: float) -> tuple[float, float]:
    """Return the part of a processor that a process used, and the connections a second that were opened."""
    before, began, count = processor([process.pid]), time.monotonic(), opened(where.host)
    time.sleep(seconds)
    passed = time.monotonic() - began
    return (processor([process.pid]) - before) / passed, (opened(where.host) - count) / passed


def checks(where: Place, endpoints: int, kind: str, interval: int, rounds: int) -> dict[str, Any]:
    """Return CPU, memory and checks a second of both sides."""
    sides: dict[str, Callable[[], Any]] = {
        AGENT: lambda: where.agent(intent(endpoints, kind, interval)),
        PROXY: lambda: haproxy(where, proxy_config(endpoints, kind, interval)),
    }
    found: dict[str, Any] = {
        side: {"cpu": [], "memory": [], "checks_per_second": []}
        for side in sides
        if side == AGENT or not HAPROXY.missing()
    }
    seconds = interval / 1000
    for _ in range(rounds):
        for side in random.sample(list(found), len(found)):
            with where.server(where.other, CHECKED), sides[side]() as process:
                time.sleep(1.5 * seconds + 1)  # the first check of each endpoint is over
                cpu, rate = watched(where, process, max(2 * seconds, 10.0) if endpoints >= 100 else seconds)
                found[side]["cpu"].append(cpu)
                found[side]["checks_per_second"].append(rate)
                found[side]["memory"].append(memory(process.pid))
    sides_found = {
        side: {"cpu": rounded(row["cpu"]), "memory": row["memory"], **_rate(row)}
        for side, row in found.items()
    }
    return {"endpoints": endpoints, "kind": kind, "interval": interval, "sides": sides_found}


def _rate(row: dict[str, list[float]]) -> dict[str, list[float]]:
    return {"checks_per_second": rounded(row["checks_per_second"])}


def local_text(services: int, ports: Sequence[int], check: str, hosts: Sequence[str] = ("10.8.0.1",)) -> str:
    """Return an intent of a service of processes on this host, and of others with ten endpoints each."""
    ends = ", ".join(f'"{port}"' for port in ports)
    listen = ", ".join(f'"{host}:{PORT}/tcp"' for host in hosts)
    lines = [f'schema = 1\n[[service]]\nname = "web"\nlisten = [{listen}]\nendpoints = [{ends}]\n{check}']
    for number in range(1, services):
        listen = f"10.{100 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}:80/tcp"
        first = 1 + number * 10 % 240
        others = ", ".join(
            f'"10.1.{number % 250}.{first + each}:{8000 + number // 250}"' for each in range(10)
        )
        lines += [f'[[service]]\nname = "s{number}"\nlisten = "{listen}"\nendpoints = [{others}]\n{check}']
    return "\n".join(lines) + "\n"


def table(interval: int, fall: int = FALL, **more: str) -> str:
    times = {"interval": interval, "fast-interval": interval, "timeout": min(interval, 1000)}
    lines = [f'{key} = "{value}ms"' for key, value in times.items()]
    lines += [f'{key} = "{value}"' for key, value in more.items()]
    return "\n".join(["[service.check]", 'kind = "tcp"', f"fall = {fall}", "rise = 1", *lines])


class Messages:
    """The kernel's messages of changed rules in a namespace. Use as a context manager."""

    def __init__(self, where: Namespace) -> None:
        with where.entered():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, struct.pack("i", _NFTABLES_GROUP))
        self._socket.settimeout(PATIENCE)

    def __enter__(self) -> Messages:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def forget(self) -> None:
        """Drop the messages so far."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(1 << 16):
                pass
        except BlockingIOError:
            pass
        self._socket.settimeout(PATIENCE)

    def wait(self) -> float:
        """Return when rules change next (`time.monotonic`)."""
        self._socket.recv(1 << 16)
        return time.monotonic()


def reactions(where: Place, text: str, servers: Namespace, ports: Sequence[int]) -> list[float]:
    """Return the seconds from the end of each endpoint's process, but the last one's, to changed rules.

    Each is ended once: one that returned a moment before would count as flapping.
    """
    found = []
    with ExitStack() as stack:
        processes = [stack.enter_context(where.server(servers, port)) for port in ports]
        stack.enter_context(where.agent(text))
        messages = stack.enter_context(Messages(where.host))
        for process in processes[:-1]:
            # All have passed, and no check of this one is due at a moment that the last failure set.
            time.sleep(random.uniform(2.0, 3.0))
            messages.forget()
            began = time.monotonic()
            process.kill()
            found.append(messages.wait() - began)
    return found


def rest(process: Popen[str]) -> float:
    """Return the CPU time of a process once it has nothing to do."""
    end = time.monotonic() + PATIENCE * 10
    last = processor([process.pid])
    while time.monotonic() < end:
        time.sleep(_TICK)
        now = processor([process.pid])
        if now - last < _REST * _TICK:
            return now
        last = now
    raise OSError("the agent does not come to rest")


def change(where: Place, backend: str, driver: str, services: int, ports: Sequence[int]) -> list[float]:
    """Return the CPU seconds of the agent for each endpoint that fails, but the last."""
    check = '[service.check]\nkind = "tcp"\ninterval = "24h"\ntimeout = "1s"\nfast-interval = "1s"\nrise = 1'
    found = []
    with ExitStack() as stack:
        processes = [stack.enter_context(where.server(where.host, port)) for port in ports]
        # Those of all other endpoints: the checked port is the endpoint's.
        for port in sorted({8000 + number // 250 for number in range(services)}):
            stack.enter_context(where.server(where.other, port))
        text = local_text(services, ports, check)
        process = stack.enter_context(where.agent(text, "--backend", backend, "--driver", driver))
        before = rest(process)
        for ended in processes[:-1]:
            ended.kill()
            time.sleep(1.0)
            now = rest(process)
            found.append(now - before)
            before = now
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """How a checker is started, and how it shows that it takes an endpoint to be down."""

    start: Callable[[Site], Any]
    is_down: Callable[[Site, int], bool]


def proxy_of(site: Site) -> Any:
    text = haproxy_config(BACKENDS, site.folder)
    settings = f"default-server check inter {INTERVAL}ms fall {FALL} rise 1"
    file = site.folder / "checking.cfg"
    file.write_text(text.replace("    balance", f"    {settings}\n    balance"))
    return running(
        site.host,
        ["haproxy", "-W", "-f", str(file)],
        ready=lambda: listens(site.host),
        log=site.folder / "haproxy.log",
    )


def proxy_is_down(site: Site, port: int) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(site.folder / "haproxy.sock"))
        connection.sendall(b"show stat\n")
        text = b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()
    return any(line.split(",")[1] == f"b{port}" and ",DOWN," in line for line in text.splitlines() if line)


def agent_of(site: Site) -> Any:
    file = site.folder / "lbctl.toml"
    file.write_text(local_text(1, BACKENDS, table(INTERVAL), HOSTS))
    return agent(site.host, file, site.folder / "agent.log")


def agent_is_down(site: Site, port: int) -> bool:
    listed = site.host.run("nft", "list", "table", "ip", "lbctl")
    return f'"web/{port}"' not in listed


REACTIONS = {
    AGENT: Reaction(start=agent_of, is_down=agent_is_down),
    PROXY: Reaction(start=proxy_of, is_down=proxy_is_down),
}


def killed(programs: Programs, folder: Path, side: str, size: Size) -> dict[str, Any]:
    """Return what became of connections while one of three processes was killed, and after that was seen."""
    reaction = REACTIONS[side]
    with Site(programs, folder) as site, ExitStack() as stack:
        processes = [
            stack.enter_context(running(site.host, [str(programs.server), str(p)])) for p in BACKENDS
        ]
        stack.enter_context(reaction.start(site))
        time.sleep(2.0)
        load = Load(rate=size.rate, concurrency=4_000)
        clients = site.start(load, targets())
        time.sleep(1.0)
        processes[0].kill()
        began = time.monotonic()
        while not reaction.is_down(site, BACKENDS[0]):
            if time.monotonic() > began + PATIENCE:
                raise OSError(f"{side} does not see that a process has ended")
        detected = time.monotonic() - began
        until = clients.stop()
        clients = site.start(load, targets())
        time.sleep(2.0)
        after = clients.stop()
    return {
        "detected": detected,
        "until": {"connections": until.counts["started"], "lost": until.lost},
        "after": {"connections": after.counts["started"], "lost": after.lost},
    }


def part(size: Size, programs: Programs, folder: Path) -> dict[str, Any]:
    """All that the head of this file names."""
    many = size.checked
    locals_ = tuple(range(9001, 9002 + size.failures))
    with place(programs, folder / "place") as where:
        found: dict[str, Any] = {
            "checks": [
                checks(where, many, TCP, 2000, size.check_rounds),
                checks(where, many, HTTP, 2000, size.check_rounds),
                checks(where, many * 10, TCP, size.long_interval, 1),
            ]
        }
        with ExitStack() as stack:
            for port in BACKENDS:
                stack.enter_context(where.server(where.host, port))
            with where.agent(local_text(1, BACKENDS, 'check = "tcp"')) as process:
                time.sleep(3.0)
                found["idle"] = watched(where, process, size.idle_seconds)[0]
        found["local"] = rounded(
            reactions(where, local_text(1, locals_, 'check = "tcp"'), where.host, locals_)
        )
        text = local_text(1, locals_, table(INTERVAL))
        for port in locals_:
            text = text.replace(f'"{port}"', f'"{address(0)}:{port}"')
        seconds = reactions(where, text, where.other, locals_)
        found["remote"] = {
            "settings": FALL * INTERVAL / 1000,
            "seconds": rounded(seconds),
            "beyond": rounded(each - FALL * INTERVAL / 1000 for each in seconds),
        }
        found["change"] = {
            "services": size.services,
            "endpoints": (size.services - 1) * 10 + len(locals_),
            "cpu": {
                backend: rounded(change(where, backend, driver, size.services, locals_))
                for backend, driver in (("nftables", "libnftables"), ("iptables", "legacy"))
            },
        }
    found["rate"] = size.rate
    found["killed"] = {
        side: killed(programs, folder, side, size)
        for side in REACTIONS
        if side == AGENT or not HAPROXY.missing()
    }
    return found
