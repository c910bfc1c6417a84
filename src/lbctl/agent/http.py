"""A small HTTP server for one process that looks after a host: bounded in size, time and connections.

The protocol is h11's. Each connection carries one request. It is closed if it is open for longer than
`_PATIENCE`, or sends more than `_HEAD` bytes of headers or `_BODY` of a body. At most `_CONNECTIONS` are
open: a new one then takes the place of the oldest one of the client that has most, so that a client that
holds connections open keeps no other client out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from dataclasses import field
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

import h11

from lbctl.errors import LbctlError
from lbctl.model import inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_HEAD = 8 * 1024
_BODY = 64 * 1024
_CONNECTIONS = 64
#: Seconds for a whole request and its response.
_PATIENCE = 10.0
#: Small, since a head is only measured while it is incomplete.
_CHUNK = 4096
#: Bytes of a response that are handed to the kernel at a time: a client that does not read holds no more.
_SLICE = 64 * 1024
#: struct ucred of unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who asks: the user and group behind a unix socket; None for both over TCP."""

    user: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `path` has no query; header names are in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response; what each one has in common is added when it is sent."""

    body: bytes
    status: int = HTTPStatus.OK
    type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = "Callable[[Request], Awaitable[Response]]"


class RequestRefused(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.response = Response(body=f"{message}\n".encode(), status=status, headers=headers or {})


_FAULT = RequestRefused(HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error of lbctl: see its log")


class Server:
    """Answers requests with a handler, on as many listening sockets as it is given."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._servers: list[asyncio.Server] = []
        #: The open connections, oldest first, and whose they are.
        self._open: dict[asyncio.WriteTransport, object] = {}

    async def listen(self, listening: socket.socket) -> None:
        """Take connections of a bound TCP or unix socket until `close`."""
        unix = listening.family == socket.AF_UNIX
        start = asyncio.start_unix_server if unix else asyncio.start_server
        self._servers.append(await start(self._serve, sock=listening, limit=_HEAD))

    async def close(self) -> None:
        """Stop listening. What is being answered is not waited for."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _CONNECTIONS:
            self._make_room()
        self._open[writer.transport] = _client(writer)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._exchange(reader, writer)
        except (TimeoutError, OSError):
            pass  # slow or gone: no answer would arrive
        finally:
            self._open.pop(writer.transport, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _make_room(self) -> None:
        """Close the oldest connection of the client that has most."""
        [(busiest, _)] = Counter(self._open.values()).most_common(1)
        oldest = next(transport for transport, client in self._open.items() if client == busiest)
        del self._open[oldest]
        oldest.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)
        head = False
        try:
            request = await _read(connection, reader, _peer(writer))
            head = request.method == "HEAD"
            response = await self._handler(request)
        except RequestRefused as refused:
            response = refused.response
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            response = Response(body=f"{status.phrase}\n".encode(), status=status)
        except ConnectionError:
            return
        except LbctlError as error:
            response = RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, inert(error.message)).response
        except Exception:
            await _send(writer, _encoded(connection, _FAULT.response, head=head))
            raise
        await _send(writer, _encoded(connection, response, head=head))


async def _read(connection: h11.Connection, reader: asyncio.StreamReader, peer: Peer) -> Request:
    """Return a request; raises `h11.RemoteProtocolError`, `RequestRefused` or `ConnectionError`."""
    asked: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            received = await reader.read(_CHUNK)
            connection.receive_data(received)
            if not received and asked is None:
                raise ConnectionError
        elif isinstance(event, h11.Request):
            asked = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _BODY:
                raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too long")
        elif isinstance(event, h11.EndOfMessage) and asked is not None:
            return Request(
                method=asked.method.decode("ascii"),
                path=asked.target.decode("ascii").partition("?")[0],
                headers={name.decode("ascii"): value.decode("latin-1") for name, value in asked.headers},
                body=bytes(body),
                peer=peer,
            )
        else:
            raise ConnectionError


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    whole = memoryview(data)
    for start in range(0, len(whole), _SLICE):
        writer.write(whole[start : start + _SLICE])
        await writer.drain()


def _encoded(connection: h11.Connection, response: Response, *, head: bool) -> bytes:
    if connection.our_state not in {h11.SEND_RESPONSE, h11.IDLE}:
        return b""
    headers = {
        "Content-Type": response.type,
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **response.headers,
    }
    start = h11.Response(status_code=int(response.status), headers=list(headers.items()))
    parts = [connection.send(start)]
    if not head:
        parts.append(connection.send(h11.Data(data=response.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part or b"" for part in parts)


def _peer(writer: asyncio.StreamWriter) -> Peer:
    found = writer.get_extra_info("socket")
    if found is None or found.family != socket.AF_UNIX:
        return Peer()
    _, user, group = _CREDENTIALS.unpack(
        found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return Peer(user=user, group=group)


def _client(writer: asyncio.StreamWriter) -> object:
    """Return what tells one client from another: the user of a unix socket, else the address.

    Of an IPv6 address the first 64 bits: the others are its host's to choose.
    """
    peer = writer.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return _peer(writer).user
    address = ip_address(peer[0].partition("%")[0])
    return address if address.version == 4 else int(address) >> 64
