"""Servers that speak real HTTP over real sockets, with the answers that a test decides."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Mood(Enum):
    """How a server answers every request."""

    GOOD = auto()
    #: With what is no answer.
    GARBAGE = auto()
    #: It takes the request, and keeps silent.
    SILENT = auto()
    #: Byte by byte, one each second.
    TRICKLE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    path: str
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer; `lines` are documents of a long one, each sent when it is there."""

    document: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: AsyncIterator[object] | None = None
    #: The very bytes of an answer, head included.
    raw: bytes | None = None


class WebServer:
    """One server on a port of loopback, or on a unix socket. Each connection is for one request.

    It can go, and be there again at the same place.
    """

    def __init__(self, *, path: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.path, self.tls = path, tls
        self.port = 0
        self.mood = Mood.GOOD
        self.requests: list[Request] = []
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[object]] = set()

    async def answer(self, request: Request) -> Response:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._serve, self.path)
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        await self.cut()

    async def cut(self) -> None:
        """Cut all connections."""
        tasks = tuple(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._exchange(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read(reader)
        self.requests.append(request)
        match self.mood:
            case Mood.SILENT:
                await asyncio.sleep(1e6)
            case Mood.GARBAGE:
                response = Response(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
            case Mood.TRICKLE:
                writer.write(b"HTTP/1.1 200 OK\r\nX-Consul-Index: 1\r\nContent-Length: 1000000\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b"[")
                    await writer.drain()
                    await asyncio.sleep(1)
                return
            case Mood.GOOD:
                response = await self.answer(request)
        writer.write(_encoded(response))
        if response.lines is not None:
            async for line in response.lines:
                data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.splitlines()
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
    parts = urlsplit(target)
    return Request(
        method=method,
        path=parts.path,
        parameters={key: values[0] for key, values in parse_qs(parts.query).items()},
        headers=headers,
        body=await reader.readexactly(int(headers.get("content-length", 0))),
    )


def _encoded(response: Response) -> bytes:
    if response.raw is not None:
        return response.raw
    headers = {"Content-Type": "application/json", **response.headers}
    body = b""
    if response.lines is not None:
        headers["Transfer-Encoding"] = "chunked"
    else:
        found = response.document
        body = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        headers["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {response.status} -\r\n{head}\r\n".encode() + body
