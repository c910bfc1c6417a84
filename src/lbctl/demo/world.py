"""Two private network namespaces, a client's and a host's, with real processes and real connections.

Nothing has a name outside and nothing is written to disk: all of it goes with this process.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.errors import LbctlError
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace, PrivateHost, become_root_of_user_namespace
from lbctl.model import Check, Endpoint, Family, Intent, Listener, Protocol, Service, TcpProbe
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from fractions import Fraction

    from lbctl.model import Plan

HOST_ADDRESS = "192.0.2.1"
CLIENT_ADDRESS = "192.0.2.2"
_TIMEOUT = 5.0
#: Connections that may run into the time limit before no more are made.
_PATIENCE = 2
#: Seconds between two looks at the kernel's rules.
_LOOK = 0.01
#: Bytes of the agent's log that are read.
_LOG = 1 << 16
_NAMES = {"lbctl.demo.endpoint": "endpoint on port {}", "lbctl.demo.agent": "agent"}


def demo_intent() -> Intent:
    """Port 80 over three processes and port 443 over three others."""
    return Intent(
        services=tuple(
            Service(
                name=name,
                listeners=(Listener(protocol=Protocol.TCP, port=port),),
                endpoints=tuple(Endpoint(port=first + i) for i in range(3)),
            )
            for name, port, first in (("http", 80, 8001), ("https", 443, 8101))
        )
    )


def checked_intent() -> Intent:
    """Port 80 of the host's address over three processes, checked by TCP every 500 ms."""
    service = Service(
        name="http",
        listeners=(Listener(protocol=Protocol.TCP, address=ip_address(HOST_ADDRESS), port=80),),
        endpoints=tuple(Endpoint(port=8001 + i) for i in range(3)),
        check=Check(probe=TcpProbe(), interval=500, fast_interval=125, timeout=500),
    )
    return Intent(services=(service,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of some connections to one port, and how long they took.

    `counts` is endpoint → connections that it answered, `failures` what went wrong → connections.
    """

    port: int
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    seconds: float

    @property
    def made(self) -> int:
        """All connections that were tried."""
        return self.answered + sum(self.failures.values())

    @property
    def answered(self) -> int:
        """The connections that an endpoint answered."""
        return sum(self.counts.values())


def private() -> bool:
    """Make sure that this process may make namespaces; True where it needed a user namespace for it.

    Raises `OSError` where the kernel forbids that.
    """
    if LocalHost().may_change_network():
        return False
    become_root_of_user_namespace()
    return True


class World:
    """The two namespaces and the endpoints of an intent. Use as a context manager."""

    def __init__(self, intent: Intent | None = None) -> None:
        self.intent = demo_intent() if intent is None else intent
        self.host = PrivateHost()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self._server = Namespace(self.host)
            stack.callback(self._server.close)
            self._client = Namespace(self.host)
            stack.callback(self._client.close)
            self._server.connect("client", self._client, "host")
            self._server.address("client", f"{HOST_ADDRESS}/24")
            self._client.address("host", f"{CLIENT_ADDRESS}/24")
            for service in self.intent.services:
                for endpoint in service.endpoints:
                    stack.enter_context(self._endpoint(int(endpoint.to)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def applied(self, backend: str, driver: str | None) -> Iterator[tuple[engine.Session, Plan]]:
        """Apply the intent in the host's namespace through one backend, and take it out again."""
        with self._server.entered():
            session = engine.open_session(self.host, backend=backend, driver=driver)
            plan = engine.plan(session, self.intent)
            engine.apply(session, (plan,))
        try:
            yield session, plan
        finally:
            with self._server.entered():
                engine.remove(session, self.intent.owner)

    @contextmanager
    def agent(self, backend: str, driver: str) -> Iterator[engine.Session]:
        """Run an agent of the intent in the host's namespace; yields a session that reads its rules."""
        with self._server.entered():
            session = engine.open_session(self.host, backend=backend, driver=driver)
        self._log = os.memfd_create("agent")
        try:
            with self._process("lbctl.demo.agent", backend, driver, log=self._log):
                yield session
        finally:
            os.close(self._log)

    def agent_log(self) -> list[str]:
        """Return what the agent that runs has logged so far."""
        return os.pread(self._log, _LOG, 0).decode(errors="replace").splitlines()

    def shares(self, session: engine.Session) -> Mapping[str, Fraction]:
        """Return the shares of new IPv4 connections, as the kernel's rules have them; {} without rules."""
        with self._server.entered():
            found = session.backend.lift(session.observe(self.intent.owner)).services
        return next((each.shares for each in found if each.family is Family.IPV4), {})

    def kill(self, port: int) -> None:
        """End an endpoint's process as a crash does."""
        process = self._processes.pop(port)
        process.kill()
        process.communicate()

    def start(self, port: int) -> None:
        """Start an endpoint's process again."""
        self._stack.enter_context(self._endpoint(port))

    @contextmanager
    def waiting(self, session: engine.Session, shares: Mapping[str, Fraction]) -> Iterator[threading.Event]:
        """Watch the kernel's rules beside the block; the event is set once they have these shares."""
        reached, over = threading.Event(), threading.Event()

        def look() -> None:
            while not over.is_set() and not reached.is_set():
                if self.shares(session) == shares:
                    reached.set()
                over.wait(_LOOK)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield reached
        finally:
            over.set()
            thread.join()

    def connections(self, port: int, count: int, until: Callable[[], bool] = lambda: False) -> Run:
        """Make connections from the client, one after the other, and note who answers or what goes wrong.

        Ends early if connections keep running into the time limit, or once `until` returns True.
        """
        counts: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        with self._client.entered():
            start = time.perf_counter()
            for _ in range(count):
                if until():
                    break
                try:
                    counts[_answer(port)] += 1
                except TimeoutError:
                    failures["timed out"] += 1
                    if failures["timed out"] == _PATIENCE:
                        break
                except ConnectionRefusedError:
                    failures["refused"] += 1
                except OSError as error:
                    failures[f"ended with: {error.strerror or error}"] += 1
            seconds = time.perf_counter() - start
        return Run(port=port, counts=dict(sorted(counts.items())), failures=dict(failures), seconds=seconds)

    @contextmanager
    def _endpoint(self, port: int) -> Iterator[None]:
        with self._process("lbctl.demo.endpoint", str(port)) as process:
            self._processes[port] = process
            yield

    @contextmanager
    def _process(self, module: str, *words: str, log: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run a module of the demo on the host until the end of the block."""
        with self._server.entered():
            process = subprocess.Popen(
                [sys.executable, "-sP", "-m", module, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Out of reach of the terminal's Ctrl-C: it ends with its standard input.
                start_new_session=True,
            )
        try:
            if process.stdout and not process.stdout.readline():
                raise LbctlError(f"the demo's {_NAMES[module].format(*words)} did not start")
            yield process
        finally:
            if process.stdin is not None and not process.stdin.closed:
                try:
                    # Closes its standard input, which ends it.
                    process.communicate(timeout=_TIMEOUT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()


def _answer(port: int) -> str:
    """Who answers one connection to a port. Raises `OSError` if no endpoint does."""
    with socket.create_connection((HOST_ADDRESS, port), timeout=_TIMEOUT) as connection:
        answer = connection.recv(16)
    if not answer:
        raise ConnectionError("no answer")
    return answer.decode()
