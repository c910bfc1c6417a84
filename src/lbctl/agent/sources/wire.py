"""HTTP for sources: one request on a connection of its own, its answer read as a whole or line by line.

The protocol is h11's: a watch is one long answer of JSON lines, and needs nothing else of a client. What is
received is bounded in size, and each step that waits has a limit in time.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h11

from lbctl.agent.sources.source import SourceFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

#: Seconds for a connection and the head of an answer, and for each further part of one that has an end.
PATIENCE = 5.0
#: Bytes of a head, of an answer, and of one line of a long one.
_HEAD, _BODY, _LINE = 16 << 10, 16 << 20, 4 << 20
_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is asked: a host and a port, or a unix socket; with `tls` for https."""

    host: str = ""
    port: int = 0
    path: str | None = None
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{'https' if self.tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. `body` is sent as JSON by POST; None for a GET."""

    target: str
    body: object | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Reply:
    """The answer to a request; its body is read once."""

    def __init__(self, status: int, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> None:
        self.status, self.headers, self._body = status, headers, body

    async def document(self) -> Any:
        """Return the body as JSON; raises `SourceFailed` for any other, or a large one."""
        data = bytearray()
        async with asyncio.timeout(2 * PATIENCE):
            async for part in self._body:
                data += part
                if len(data) > _BODY:
                    raise SourceFailed(f"an answer of more than {_BODY >> 20} MiB")
        return _json(bytes(data))

    async def lines(self, patience: float) -> AsyncGenerator[Any, None]:
        """Yield the JSON values of a body with one in each line; ends with it.

        Raises `TimeoutError` if nothing comes in `patience` seconds.
        """
        left = b""
        while True:
            try:
                async with asyncio.timeout(patience):
                    part = await anext(self._body)
            except StopAsyncIteration:
                return
            *lines, left = (left + part).split(b"\n")
            if len(left) > _LINE:
                raise SourceFailed(f"a line of more than {_LINE >> 20} MiB")
            for line in lines:
                if line.strip():
                    yield _json(line)


@asynccontextmanager
async def exchange(peer: Peer, ask: Ask) -> AsyncIterator[Reply]:
    """Send a request, and have its answer read inside; raises `SourceFailed`, OSError or TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await _connect(peer)
    try:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD)
        async with asyncio.timeout(PATIENCE):
            writer.write(_encoded(connection, peer, ask))
            await writer.drain()
            head = await _event(connection, reader)
            while isinstance(head, h11.InformationalResponse):
                head = await _event(connection, reader)
        if not isinstance(head, h11.Response):
            raise SourceFailed(f"{peer}: no answer")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        yield Reply(head.status_code, headers, _parts(connection, reader))
    except h11.RemoteProtocolError as error:
        raise SourceFailed(f"{peer}: not HTTP: {error}") from error
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _connect(peer: Peer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if peer.path is not None:
            return await asyncio.open_unix_connection(peer.path)
        return await asyncio.open_connection(peer.host, peer.port, ssl=peer.tls)
    except ssl.SSLCertVerificationError as error:
        raise SourceFailed(f"{peer}: the certificate is not valid: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise SourceFailed(f"{peer}: TLS: {error.reason or error}") from error
    except OSError as error:
        raise SourceFailed(f"{peer}: {error.strerror or error}") from error


def _encoded(connection: h11.Connection, peer: Peer, ask: Ask) -> bytes:
    body = b"" if ask.body is None else json.dumps(ask.body).encode()
    host = "localhost" if peer.path is not None else str(peer).partition("//")[2]
    headers = {"Host": host, "User-Agent": "lbctl", "Accept": "application/json", **ask.headers}
    if ask.body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    method = "GET" if ask.body is None else "POST"
    request = h11.Request(method=method, target=ask.target, headers=list(headers.items()))
    parts = [connection.send(request), connection.send(h11.Data(data=body)) if body else b""]
    return b"".join(part or b"" for part in (*parts, connection.send(h11.EndOfMessage())))


async def _event(connection: h11.Connection, reader: asyncio.StreamReader) -> object:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await reader.read(_CHUNK))
    return event


async def _parts(connection: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while isinstance(event := await _event(connection, reader), h11.Data):
        yield bytes(event.data)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SourceFailed(f"an answer is not JSON: {error}") from error
