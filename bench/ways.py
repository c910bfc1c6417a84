"""The ways of balancing a port of a host over processes there: lbctl, rules by hand, proxies.

Each is started in a site's host, names the processes that do the work, and can change its backends meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nftlb
from programs import absent, comes, nginx_stream, running, wait_until
from timing import descendants
from traffic import HOSTS, PORT, Site

from lbctl import engine
from lbctl.host.netns import Namespace, PrivateHost
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service

#: Seconds that a proxy's new process gets before the next change.
RELOAD = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancer:
    """One that is at work."""

    change: Callable[[Sequence[int]], None]
    pids: Callable[[], Sequence[int]] = tuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    name: str
    #: How its backends are changed, in words.
    changed_by: str
    start: Callable[[Site, Sequence[int]], AbstractContextManager[Balancer]]
    #: Why it cannot be measured here.
    missing: Callable[[], str | None] = lambda: None


def lbctl(backend: str, driver: str) -> Way:
    @contextmanager
    def start(site: Site, ports: Sequence[int]) -> Iterator[Balancer]:
        with site.host.entered():
            session = engine.open_session(PrivateHost(), backend=backend, driver=driver)

        def change(ports: Sequence[int]) -> None:
            service = Service(
                name="web",
                listeners=(Listener(protocol=Protocol.TCP, port=PORT),),
                endpoints=tuple(Endpoint(port=port) for port in ports),
            )
            with site.host.entered():
                engine.apply(session, (engine.plan(session, Intent(services=(service,))),))

        change(ports)
        yield Balancer(change=change)
        with site.host.entered():
            engine.remove(session, Intent().owner)

    return Way(name=f"lbctl, {backend}", changed_by="lbctl", start=start)


def rules(
    name: str,
    changed_by: str,
    load: Callable[[Namespace, Sequence[int]], None],
    clear: Callable[[Namespace], object],
) -> Way:
    """Rules by hand, loaded anew for each change."""

    @contextmanager
    def start(site: Site, ports: Sequence[int]) -> Iterator[Balancer]:
        load(site.host, ports)
        yield Balancer(change=lambda ports: load(site.host, ports))
        clear(site.host)

    return Way(name=name, changed_by=changed_by, start=start)


def clear_iptables(host: Namespace) -> object:
    return host.run("iptables-legacy", "--table", "nat", "--flush")


def nft(name: str, pick: str) -> Way:
    def load(host: Namespace, ports: Sequence[int]) -> None:
        slots = ", ".join(f"{i} : {port}" for i, port in enumerate(ports))
        rule = f"tcp dport {PORT} redirect to : numgen {pick} mod {len(ports)} map {{ {slots} }}"
        hook = "type nat hook prerouting priority -100"
        text = f"flush ruleset\ntable ip hand {{\n\tchain prerouting {{\n\t\t{hook}\n\t\t{rule}\n\t}}\n}}\n"
        host.run("nft", "-f", "-", stdin=text)

    return rules(name, "nft -f, with flush ruleset", load, lambda host: host.run("nft", "flush", "ruleset"))


def round_robin(place: int, ports: int) -> str:
    left = ports - place
    return f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""


def by_probability(place: int, ports: int) -> str:
    left = ports - place
    return f"-m statistic --mode random --probability {1 / left:.11f} " if left > 1 else ""


def alike(_: int, ports: int) -> str:
    """The same on each line, as it is often copied."""
    return f"-m statistic --mode nth --every {ports} --packet 0 "


def iptables(name: str, pick: Callable[[int, int], str], *, restore: bool = True) -> Way:
    def load(host: Namespace, ports: Sequence[int]) -> None:
        lines = [
            f"-A PREROUTING -p tcp --dport {PORT} {pick(i, len(ports))}-j REDIRECT --to-ports {port}"
            for i, port in enumerate(ports)
        ]
        if restore:
            host.run("iptables-legacy-restore", stdin="\n".join(["*nat", *lines, "COMMIT\n"]))
            return
        clear_iptables(host)
        for line in lines:
            host.run("iptables-legacy", "--table", "nat", *line.split())

    how = "iptables-restore of the table" if restore else "iptables -F, then -A for each endpoint"
    return rules(name, how, load, clear_iptables)


def haproxy_config(ports: Sequence[int], folder: Path) -> str:
    servers = "".join(f"    server b{port} 127.0.0.1:{port}\n" for port in ports)
    return f"""\
global
    nbthread {len(os.sched_getaffinity(0))}
    maxconn 4000
    stats socket {folder}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen web
    bind :{PORT}
    balance roundrobin
{servers}"""


def nginx_config(ports: Sequence[int], folder: Path) -> str:
    servers = "".join(f"        server 127.0.0.1:{port};\n" for port in ports)
    return f"""\
load_module {nginx_stream()};
daemon off;
user root;
pid {folder}/nginx.pid;
worker_processes {len(os.sched_getaffinity(0))};
events {{
    worker_connections 8192;
}}
stream {{
    upstream web {{
        zone web 64k;
{servers}    }}
    server {{
        listen {PORT} backlog=4096;
        proxy_pass web;
    }}
}}
"""


@contextmanager
def farming(site: Site, ports: Sequence[int]) -> Iterator[Balancer]:
    farm = nftlb.farm("web", HOSTS, HOSTS[:1] * len(ports), ports=ports)

    def change(ports: Sequence[int]) -> None:
        daemon.post([nftlb.change("web", number, {"port": str(port)}) for number, port in enumerate(ports)])

    with nftlb.daemon(site.host, site.folder, [farm]) as daemon:
        yield Balancer(change=change)


def listens(host: Namespace) -> bool:
    """Return True when a process listens on the port (state 0A)."""
    with host.entered():
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    return any(f[1].endswith(f":{PORT:04X}") and f[3] == "0A" for f in map(str.split, lines))


def proxy(
    name: str,
    config: Callable[[Sequence[int], Path], str],
    argv: Callable[[Path], Sequence[str]],
    reload: signal.Signals,
    missing: Callable[[], str | None],
) -> Way:
    @contextmanager
    def start(site: Site, ports: Sequence[int]) -> Iterator[Balancer]:
        file = site.folder / f"{name}.conf"
        file.write_text(config(ports, site.folder))
        log = site.folder / f"{name}.log"
        with running(site.host, argv(file), ready=lambda: listens(site.host), log=log) as process:

            def change(ports: Sequence[int]) -> None:
                file.write_text(config(ports, site.folder))
                before = set(descendants(process.pid))

                def reloaded() -> bool:
                    # A process that has just started may miss its signal.
                    process.send_signal(reload)
                    return comes(lambda: not before.issuperset(descendants(process.pid)), process, 1.0)

                wait_until(reloaded, process, log)
                time.sleep(RELOAD)

            yield Balancer(change=change, pids=lambda: descendants(process.pid))

    return Way(name=name, changed_by="reload", start=start, missing=missing)


def no_nginx() -> str | None:
    return absent("nginx") or (None if nginx_stream() else "nginx has no stream module")


LBCTL_NFTABLES = lbctl("nftables", "libnftables")
LBCTL_IPTABLES = lbctl("iptables", "legacy")
HAPROXY = proxy(
    "HAProxy",
    haproxy_config,
    lambda file: ("haproxy", "-W", "-f", str(file)),
    signal.SIGUSR2,
    partial(absent, "haproxy"),
)
NGINX = proxy(
    "nginx stream",
    nginx_config,
    lambda file: ("nginx", "-p", str(file.parent), "-e", "stderr", "-c", str(file)),
    signal.SIGHUP,
    no_nginx,
)
NFTLB = Way(name="nftlb, DNAT", changed_by="its API", start=farming, missing=partial(absent, nftlb.PROGRAM))
NFT = nft("nft rule, round robin", "inc")
NFT_RANDOM = nft("nft rule, random, as kube-proxy picks", "random")
IPTABLES = iptables("iptables rules, round robin", round_robin)
IPTABLES_RANDOM = iptables("iptables rules, random, as kube-proxy picks", by_probability)
IPTABLES_ALIKE = iptables("iptables rules, the same nth on each line", alike)
IPTABLES_COMMANDS = iptables("iptables commands", round_robin, restore=False)
