"""HTTP checks: one GET on a connection of its own. The protocol is h11's, and TLS Python's.

h11 rather than a whole client: a check needs no pool, redirects, cookies or encodings, and such a client
takes several times the CPU time of a request.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import h11

from lbctl.agent.checks import outcomes
from lbctl.model import Family

if TYPE_CHECKING:
    from lbctl.agent.health import Outcome, Target
    from lbctl.model import Address, HttpProbe, TlsOptions

#: Bytes of an answer that are searched for `body`, that its head may have, and that are read at all.
_BODY, _HEAD, _ANSWER = 64 * 1024, 16 * 1024, 128 * 1024
#: Parts of an answer, e.g. chunks: each takes time, however small it is.
_PARTS = 1024
#: Bytes that are read at once.
_PART = 64 * 1024
_END = h11.EndOfMessage()
_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_TYPE = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


class _Connection(Protocol):
    """A connection that is made; all raise OSError."""

    async def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Return the next part of the answer; b"" at its end."""

    def close(self) -> None: ...


async def check(target: Target, probe: HttpProbe, where: Address) -> Outcome:
    """Return how a request ended; raises OSError."""
    began = asyncio.get_running_loop().time()
    name = probe.host or (f"[{where}]" if where.version == 6 else str(where))
    connection: _Connection
    if probe.tls is None:
        connection = await _Plain.made(target.family, (str(where), target.port or 0))
    else:
        try:
            context = _context(probe.tls)
        except OSError as error:
            return outcomes.undecided(f"not checked: certificates: {error.strerror or error}")
        server = probe.tls.sni or probe.host or str(where)
        connection = await _Secure.made((str(where), target.port or 0), context, server)
    try:
        answer = _Answer(probe, began)
        await connection.send(answer.request(name))
        while (found := answer.receive(await connection.receive())) is None:
            pass
        return found
    finally:
        connection.close()


class _Plain:
    """A connection without TLS. asyncio's transports would take half as much CPU time again."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop, self._socket = asyncio.get_running_loop(), sock

    @classmethod
    async def made(cls, family: Family, place: tuple[str, int]) -> _Plain:
        """Return a connection to an address and port."""
        made = cls(socket.socket(_FAMILY[family], _TYPE))
        try:
            await made._loop.sock_connect(made._socket, place)
        except BaseException:
            made.close()
            raise
        return made

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        return await self._loop.sock_recv(self._socket, _PART)

    def close(self) -> None:
        self._socket.close()


class _Secure:
    """A connection with TLS, of asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def made(cls, place: tuple[str, int], context: ssl.SSLContext, server: str) -> _Secure:
        """Return a connection to an address and port, and to a server of this name."""
        return cls(*await asyncio.open_connection(*place, ssl=context, server_hostname=server))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> bytes:
        return await self._reader.read(_PART)

    def close(self) -> None:
        self._writer.transport.abort()


class _Answer:
    """The answer to one request, as far as it was read."""

    def __init__(self, probe: HttpProbe, began: float) -> None:
        self._probe, self._began = probe, began
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        self._status: int | None = None
        self._body = bytearray()
        self._left, self._parts = _ANSWER, 0
        self._loop = asyncio.get_running_loop()

    def request(self, host: str) -> bytes:
        """Return what is to be sent."""
        request = _request(self._probe.path, host)
        return (self._http.send(request) or b"") + (self._http.send(_END) or b"")

    def receive(self, data: bytes) -> Outcome | None:
        """Read the next part of the answer, b"" at its end; return the outcome once it is known."""
        read = data[: self._left]
        self._left -= len(read)
        self._http.receive_data(read)
        found = self._read()
        if found is None and not self._left:
            return self._too_long()
        if found is None and not data:
            return outcomes.failed("closed without an answer", self._seconds())
        return found

    def _read(self) -> Outcome | None:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                # Without what h11 quotes: the text of one fault is the same each time.
                fault = str(error).partition(":")[0].partition(" (")[0]
                return outcomes.failed(f"not HTTP: {fault}", self._seconds())
            self._parts += 1
            if self._parts > _PARTS:
                return self._too_long()
            match event:
                case h11.Response():
                    self._status = event.status_code
                    found = self._judged_status()
                case h11.Data():
                    found = self._judged_body(event.data)
                case h11.EndOfMessage():
                    found = self._judged_body(None)
                case h11.InformationalResponse():
                    continue
                case _:
                    return None
            if found is not None:
                return found

    def _judged_status(self) -> Outcome | None:
        good = any(self._status in each for each in self._probe.status if self._status is not None)
        if not good:
            return outcomes.failed(f"HTTP {self._status}", self._seconds())
        if self._probe.body is None:
            return outcomes.passed(f"HTTP {self._status}", self._seconds())
        return None

    def _judged_body(self, data: bytes | None) -> Outcome | None:
        """Look at the next part of the body, or at its end."""
        if self._probe.body is None:
            return None
        wanted = self._probe.body.encode()
        searched = max(0, len(self._body) - len(wanted))
        self._body += (data or b"")[: _BODY - len(self._body)]
        if self._body.find(wanted, searched) >= 0:
            return outcomes.passed(f"HTTP {self._status}, body matches", self._seconds())
        if data is None or len(self._body) >= _BODY:
            return outcomes.failed(f"HTTP {self._status}, body does not match", self._seconds())
        return None

    def _too_long(self) -> Outcome:
        return outcomes.failed("the answer is too long", self._seconds())

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
