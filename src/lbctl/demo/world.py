"""Two private network namespaces, a client's and a host's, with real processes and real connections.

Nothing has a name outside and nothing is written to disk: all of it goes with this process.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbctl import engine
from lbctl.errors import LbctlError
from lbctl.host import LocalHost
from lbctl.host.netns import Namespace, PrivateHost, become_root_of_user_namespace
from lbctl.model import Endpoint, Intent, Listener, Protocol, Service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.model import Plan

HOST_ADDRESS = "192.0.2.1"
CLIENT_ADDRESS = "192.0.2.2"
_TIMEOUT = 5.0
#: Connections that may run into the time limit before no more are made.
_PATIENCE = 2


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
    """The two namespaces and the endpoints of `demo_intent`. Use as a context manager."""

    def __init__(self) -> None:
        self.host = PrivateHost()
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
            for service in demo_intent().services:
                for endpoint in service.endpoints:
                    stack.enter_context(self._process(int(endpoint.to)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def applied(self, backend: str, driver: str | None) -> Iterator[tuple[engine.Session, Plan]]:
        """Apply the intent in the host's namespace through one backend, and take it out again."""
        with self._server.entered():
            session = engine.open_session(self.host, backend=backend, driver=driver)
            plan = engine.plan(session, demo_intent())
            engine.apply(session, (plan,))
        try:
            yield session, plan
        finally:
            with self._server.entered():
                engine.remove(session, demo_intent().owner)

    def connections(self, port: int, count: int) -> Run:
        """Make connections from the client, one after the other, and note who answers or what goes wrong.

        Ends early if connections keep running into the time limit.
        """
        counts: Counter[str] = Counter()
        failures: Counter[str] = Counter()
        with self._client.entered():
            start = time.perf_counter()
            for _ in range(count):
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
    def _process(self, port: int) -> Iterator[None]:
        with self._server.entered():
            process = subprocess.Popen(
                [sys.executable, "-sP", "-m", "lbctl.demo.endpoint", str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Out of reach of the terminal's Ctrl-C: it ends with its standard input.
                start_new_session=True,
            )
        try:
            if process.stdout and not process.stdout.readline():
                raise LbctlError(f"the demo's endpoint on port {port} did not start")
            yield
        finally:
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
