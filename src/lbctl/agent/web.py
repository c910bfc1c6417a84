"""What the agent answers over HTTP: read-only, and only to who asks for it by an address or a known name."""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from lbctl.agent import metrics, page
from lbctl.agent.http import Request, RequestRefused, Response
from lbctl.documents import FORMAT_VERSION
from lbctl.model import inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from lbctl.agent.http import Handler
    from lbctl.documents.agent import AgentStatusDocument
    from lbctl.documents.status import AgentSummaryDocument

#: The part of time that is spent on making a page at most.
_PART = 0.1
_JSON = "application/json"
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?\Z")


class Documents(Protocol):
    """What the pages show."""

    async def document(self) -> AgentStatusDocument:
        """Return the whole status; expensive."""

    def summary(self) -> AgentSummaryDocument:
        """Return what the agent says of itself; cheap."""


class Pages:
    """The pages of an agent. Each is kept for a while, so that asking often costs little.

    Pages are made in a thread, one at a time: checks go on meanwhile.
    """

    def __init__(self, source: Documents) -> None:
        self._source = source
        self._making = asyncio.Lock()
        self._kept: dict[str, _Kept] = {}

    async def at(self, path: str) -> Response:
        """Return the page at a path; raises `RequestRefused` for a path that is none of ours."""
        if path == "/healthz":
            return Response(body=b"ok\n")
        if path == "/ready":
            return _readiness(self._source.summary())
        if path not in _RENDERED:
            raise RequestRefused(HTTPStatus.NOT_FOUND, "no such page")
        async with self._making:
            kept = self._kept.get(path)
            if kept is not None and monotonic() < kept.until:
                return kept.page
            document = await self._source.document()
            if kept is None or kept.document is not document:
                kept = self._kept[path] = await asyncio.to_thread(_Kept.made, path, document)
            return kept.page


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A page, the document that it shows, and the time until which it is not made anew."""

    document: AgentStatusDocument
    page: Response
    until: float

    @classmethod
    def made(cls, path: str, document: AgentStatusDocument) -> _Kept:
        began = monotonic()
        page = _RENDERED[path](document)
        now = monotonic()
        return cls(document=document, page=page, until=now + (now - began) / _PART)


def reader(pages: Pages, names: Collection[str] = ()) -> Handler:
    """Return the handler of the pages; `names` are host names that it answers to, beside addresses.

    A page that a stranger made for a browser can lead a name of its own to our address, and read the answer:
    so only names that were configured are answered.
    """
    known = {name.lower() for name in names}

    async def handle(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", {"Allow": "GET, HEAD"})
        if not _is_known(request.headers.get("host", ""), known):
            raise RequestRefused(
                HTTPStatus.MISDIRECTED_REQUEST, "unknown host name: see lbctl agent --listen-name"
            )
        return await pages.at(request.path)

    return handle


def _page(document: AgentStatusDocument) -> Response:
    return Response(body=page.render(document), type="text/html; charset=utf-8", headers=page.HEADERS)


def _metrics(document: AgentStatusDocument) -> Response:
    return Response(body=metrics.exposition(document), type=metrics.CONTENT_TYPE)


def _status(document: AgentStatusDocument) -> Response:
    text = json.dumps({"format_version": FORMAT_VERSION, **document})
    return Response(body=f"{text}\n".encode(), type=_JSON)


_RENDERED: Mapping[str, Callable[[AgentStatusDocument], Response]] = {
    "/": _page,
    "/metrics": _metrics,
    "/status": _status,
}


def _readiness(agent: AgentSummaryDocument) -> Response:
    """Whether rules are in place and followed: not whether endpoints are well, which is another question."""
    if agent["ready"]:
        return Response(body=b"ready\n")
    text = "; ".join(map(inert, agent["problems"])) or "not ready"
    return Response(body=f"{text}\n".encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)


def _is_known(host: str, names: Collection[str]) -> bool:
    found = _HOST.match(host)
    if found is None:
        return False
    name = found["name"].lower()
    if name in names:
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
