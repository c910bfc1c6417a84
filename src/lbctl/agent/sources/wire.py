"""HTTP for sources: one request on a connection of its own, its answer read as a whole or line by line.

The protocol is h11's: a watch is one long answer of JSON lines, and needs nothing else of a client. What is
received is bounded in size, each step that waits has a limit in time, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import field
from typing import TYPE_CHECKING, Any

import h11

from lbctl.agent.sources.source import SourceFailed
from lbctl.agent.sources.strict import document
from lbctl.agent.sources.text import shown
from lbctl.model import server_place
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

#: Seconds for a connection and for the head of an answer, and twice that for a body that has an end.
PATIENCE = 5.0
#: Seconds between two lists of lines of one long answer.
PACE = 0.1
#: Bytes of a head, of an answer, and of one line of a long one.
_HEAD, _BODY, _LINE = 16 << 10, 8 << 20, 4 << 20
#: Bytes of an answer that says what is wrong, and characters of it that are shown.
_TROUBLE, _SHOWN = 4 << 10, 120
_CHUNK = 64 << 10
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPeer:
    """Who is asked: a host and a port, or a unix socket; with `tls` for https."""

    host: str = ""
    port: int = 0
    path: str | None = None
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str, context: Callable[[], ssl.SSLContext]) -> HttpPeer:
        """Return the server of a URL; `context` is called if it is one of https."""
        secure, host, port = server_place(url)
        return cls(host=host, port=port, tls=context() if secure else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. `body` is sent as JSON by POST; None for a GET.

    `patience` are the seconds that the head of the answer may take.
    """

    target: str
    body: object | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    patience: float = PATIENCE


class Reply:
    """The answer to a request; its body is read once."""

    def __init__(
        self,
        peer: HttpPeer,
        status: int,
        headers: Mapping[str, str],
        part: Callable[[], Awaitable[bytes | None]],
    ) -> None:
        self.status, self.headers, self._peer = status, headers, peer
        #: Returns the next bytes of the body, None at its end. To cancel it loses nothing.
        self._part = part

    async def document(self) -> Any:
        """Return the body as JSON; raises `SourceFailed` for any other, a large one, or another status."""
        await self.succeed()
        return document(await self._body(_BODY), f"{self._peer}: the answer")

    async def succeed(self) -> None:
        """Raise `SourceFailed` with what the server says, unless the status is 200."""
        if self.status != _OK:
            body = b""
            with suppress(SourceFailed, TimeoutError):
                body = await self._body(_TROUBLE)
            raise SourceFailed(_trouble(self._peer, self.status, body))

    async def lines(self, patience: float) -> AsyncGenerator[list[Any], None]:
        """Yield the JSON values of a body with one in each line, in lists; ends with it.

        What arrives first after a while is there at once, what follows it together: at most ten lists a
        second, however many lines there are. Raises `TimeoutError` if no line arrives in `patience` seconds.
        """
        await self.succeed()
        clock = asyncio.get_running_loop().time
        left, until, ended = b"", 0.0, False
        silent = clock() + patience
        while not ended:
            async with asyncio.timeout_at(silent):
                ended = not (part := await self._part())
            found = bytearray(part or b"")
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    while not ended and len(found) < _BODY:
                        ended = not (part := await self._part())
                        found += part or b""
            *lines, left = (left + found).split(b"\n")
            if len(left) > _LINE:
                raise SourceFailed(f"{self._peer}: a line of more than {_LINE >> 20} MiB")
            what = f"{self._peer}: a line of the answer"
            if values := [document(line, what) for line in lines if line.strip()]:
                yield values
                until, silent = clock() + PACE, clock() + patience

    async def _body(self, limit: int) -> bytes:
        data = bytearray()
        async with asyncio.timeout(2 * PATIENCE):
            while part := await self._part():
                data += part
                if len(data) > limit:
                    raise SourceFailed(f"{self._peer}: the answer has more than {limit >> 10} KiB")
        return bytes(data)


@asynccontextmanager
async def exchange(peer: HttpPeer, ask: Ask) -> AsyncIterator[Reply]:
    """Send a request, and have its answer read inside; raises `SourceFailed`, OSError or TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await _connect(peer)
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)

    async def part() -> bytes | None:
        event = await _event(peer, connection, reader)
        return bytes(event.data) if isinstance(event, h11.Data) else None

    try:
        async with asyncio.timeout(ask.patience):
            writer.write(_encoded(connection, peer, ask))
            await writer.drain()
            head = await _event(peer, connection, reader)
            while isinstance(head, h11.InformationalResponse):
                head = await _event(peer, connection, reader)
        if not isinstance(head, h11.Response):
            raise SourceFailed(f"{peer}: no answer")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        yield Reply(peer, head.status_code, headers, part)
    except h11.RemoteProtocolError as error:
        raise SourceFailed(f"{peer}: not HTTP: {error}") from error
    except ssl.SSLError as error:  # with TLS 1.3, a certificate of ours is refused only here
        raise SourceFailed(f"{peer}: TLS: {error.reason or error}") from error
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _connect(peer: HttpPeer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if peer.path is not None:
            return await asyncio.open_unix_connection(peer.path)
        return await asyncio.open_connection(peer.host, peer.port, ssl=peer.tls)
    except ssl.SSLCertVerificationError as error:
        raise SourceFailed(f"{peer}: the certificate is not valid: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise SourceFailed(f"{peer}: TLS: {error.reason or error}") from error
    except OSError as error:
        # asyncio puts "Connect call failed" and an address in place of the reason.
        number = error.errno or 0
        reason = os.strerror(number) if number in errno.errorcode else error.strerror or error
        raise SourceFailed(f"{peer}: {reason}") from error


def _encoded(connection: h11.Connection, peer: HttpPeer, ask: Ask) -> bytes:
    body = b"" if ask.body is None else json.dumps(ask.body).encode()
    host = "localhost" if peer.path is not None else str(peer).partition("//")[2]
    headers = {"Host": host, "User-Agent": "lbctl", "Accept": "application/json", **ask.headers}
    if ask.body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    method = "GET" if ask.body is None else "POST"
    request = h11.Request(method=method, target=ask.target, headers=list(headers.items()))
    parts = [connection.send(request), connection.send(h11.Data(data=body)) if body else b""]
    return b"".join(part or b"" for part in (*parts, connection.send(h11.EndOfMessage())))


async def _event(peer: HttpPeer, connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        data = await reader.read(_CHUNK)
        connection.receive_data(data)
        if not data:
            with suppress(h11.RemoteProtocolError):
                return connection.next_event()
            raise SourceFailed(f"{peer}: the connection was closed")
    return event


def _trouble(peer: HttpPeer, status: int, body: bytes) -> str:
    """Return one sentence for an error: what `message` or `error` says, or the first line of a text."""
    try:
        found = document(body)
    except SourceFailed:
        found = None
    text = (found.get("message") or found.get("error")) if isinstance(found, dict) else None
    if not isinstance(text, str):
        first = body.decode(errors="replace").strip().partition("\n")[0]
        # e.g. a page for people of a proxy
        text = shown(first) if found is None and first and not first.startswith("<") else "no reason given"
    if 300 <= status < 400:
        text = "redirects are not followed"
    return f"{peer}: HTTP {status}: {text[:_SHOWN]}"
