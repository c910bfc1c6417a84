"""HTTP checks: one GET on a connection of its own. The protocol is h11's, and TLS Python's.

h11 rather than a whole client: a check needs no pool, redirects, cookies or encodings, and such a client
takes several times the CPU time of a request.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import h11

from lbctl.agent.checks import outcomes

if TYPE_CHECKING:
    from lbctl.agent.health import Outcome, Target
    from lbctl.model import Address, HttpProbe, TlsOptions

#: Bytes of an answer that are searched for `body`, that its head may have, and that are read at all.
_BODY, _HEAD, _ANSWER = 64 * 1024, 16 * 1024, 128 * 1024
#: Parts of an answer, e.g. chunks: each takes time, however small it is.
_PARTS = 1024
_END = h11.EndOfMessage()


async def check(target: Target, probe: HttpProbe, where: Address) -> Outcome:
    """Return how a request ended; raises OSError."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    name = probe.host or (f"[{where}]" if where.version == 6 else str(where))
    answer: asyncio.Future[Outcome] = loop.create_future()
    server = (probe.tls.sni or probe.host or str(where)) if probe.tls else None
    try:
        context = _context(probe.tls) if probe.tls else None
    except OSError as error:
        return outcomes.undecided(f"not checked: certificates: {error.strerror or error}")
    transport, _ = await loop.create_connection(
        lambda: _Request(probe, name, answer, began),
        str(where),
        target.port or 0,
        ssl=context,
        server_hostname=server,
    )
    try:
        return await answer
    finally:
        transport.abort()


class _Request(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, probe: HttpProbe, name: str, answer: asyncio.Future[Outcome], began: float) -> None:
        self._probe, self._name, self._answer, self._began = probe, name, answer, began
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        self._status: int | None = None
        self._body = bytearray()
        self._left, self._parts = _ANSWER, 0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        request = _request(self._probe.path, self._name)
        data = (self._http.send(request) or b"") + (self._http.send(_END) or b"")
        cast("asyncio.Transport", transport).write(data)

    def data_received(self, data: bytes) -> None:
        read = data[: self._left]
        self._left -= len(read)
        if read:
            self._http.receive_data(read)
            self._read()
        if not self._left:
            self._too_long()

    def eof_received(self) -> None:
        self._http.receive_data(b"")
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            error = exc if isinstance(exc, OSError) else ConnectionResetError("closed without an answer")
            self._answer.set_result(outcomes.of_error(error, self._seconds()))

    def _read(self) -> None:
        while not self._answer.done():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                # Without what h11 quotes: the text of one fault is the same each time.
                fault = str(error).partition(":")[0].partition(" (")[0]
                self._end(outcomes.failed(f"not HTTP: {fault}", self._seconds()))
                return
            self._parts += 1
            if self._parts > _PARTS:
                self._too_long()
            match event:
                case h11.Response():
                    self._status = event.status_code
                    self._judge_status()
                case h11.Data():
                    self._judge_body(event.data)
                case h11.EndOfMessage():
                    self._judge_body(None)
                case h11.InformationalResponse():
                    continue
                case _:
                    return

    def _judge_status(self) -> None:
        good = any(self._status in each for each in self._probe.status if self._status is not None)
        if not good:
            self._end(outcomes.failed(f"HTTP {self._status}", self._seconds()))
        elif self._probe.body is None:
            self._end(outcomes.passed(f"HTTP {self._status}", self._seconds()))

    def _judge_body(self, data: bytes | None) -> None:
        """Look at the next part of the body, or at its end."""
        if self._probe.body is None:
            return
        wanted = self._probe.body.encode()
        searched = max(0, len(self._body) - len(wanted))
        self._body += (data or b"")[: _BODY - len(self._body)]
        if self._body.find(wanted, searched) >= 0:
            self._end(outcomes.passed(f"HTTP {self._status}, body matches", self._seconds()))
        elif data is None or len(self._body) >= _BODY:
            self._end(outcomes.failed(f"HTTP {self._status}, body does not match", self._seconds()))

    def _too_long(self) -> None:
        self._end(outcomes.failed("the answer is too long", self._seconds()))

    def _end(self, outcome: Outcome) -> None:
        if not self._answer.done():
            self._answer.set_result(outcome)

    def _seconds(self) -> float:
        return self._loop.time() - self._began


@lru_cache(maxsize=4096)
def _request(path: str, host: str) -> h11.Request:
    """Return a request; h11 0.16 takes longer to validate one than to read its answer."""
    headers = [
        (b"host", host.encode()),
        (b"user-agent", b"lbctl"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"identity"),
        (b"connection", b"close"),
    ]
    return h11.Request(method="GET", target=path, headers=headers)


def _context(options: TlsOptions) -> ssl.SSLContext:
    """Return the TLS of a check; files are read again when they change."""
    return _loaded(options, tuple(map(_version, (options.ca, options.cert, options.key))))


@lru_cache(maxsize=256)
def _loaded(options: TlsOptions, _versions: tuple[object, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = options.ca is not None
    context.verify_mode = ssl.CERT_NONE if options.ca is None else ssl.CERT_REQUIRED
    if options.ca is not None:
        context.load_verify_locations(options.ca)
    if options.cert is not None:
        # Without a password, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(options.cert, options.key, password="")
    return context


def _version(path: str | None) -> object:
    """Return what changes with a file."""
    if path is None:
        return None
    found = Path(path).stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
