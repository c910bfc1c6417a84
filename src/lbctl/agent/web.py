"""What the agent answers over HTTP: read-only, and only to who asks for it by an address or a known name."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.agent import metrics, page
from lbctl.agent.http import Refused, Request, Response
from lbctl.documents import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from lbctl.agent.http import Handler
    from lbctl.documents.agent import AgentStatusDocument

_JSON = "application/json"
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?\Z")


def reader(view: Callable[[], Awaitable[AgentStatusDocument]], names: Collection[str] = ()) -> Handler:
    """Return the handler of the pages; `names` are host names that it answers to, beside addresses.

    A page that a stranger made for a browser can lead a name of its own to our address, and read the answer:
    so only names that were configured are answered.
    """
    known = {name.lower() for name in names}

    async def handle(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", {"Allow": "GET, HEAD"})
        if not _is_known(request.headers.get("host", ""), known):
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "unknown host name: see lbctl agent --listen-name")
        return await answer(view, request.path)

    return handle


async def answer(view: Callable[[], Awaitable[AgentStatusDocument]], path: str) -> Response:
    """Return what stands at a path; raises `Refused` for a path that is none of ours."""
    if path == "/healthz":
        return Response(body=b"ok\n")
    if path not in {"/", "/status", "/metrics", "/ready"}:
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")
    document = await view()
    if path == "/":
        return Response(body=page.render(document), type="text/html; charset=utf-8", headers=page.HEADERS)
    if path == "/metrics":
        return Response(body=metrics.exposition(document), type=metrics.CONTENT_TYPE)
    if path == "/status":
        text = json.dumps({"format_version": FORMAT_VERSION, **document})
        return Response(body=f"{text}\n".encode(), type=_JSON)
    return _readiness(document)


def _readiness(document: AgentStatusDocument) -> Response:
    """Whether rules are in place and followed: not whether endpoints are well, which is another question."""
    agent = document.get("agent")
    if agent is not None and agent["ready"]:
        return Response(body=b"ready\n")
    problems = agent["problems"] if agent is not None else []
    text = "; ".join(problems) or "not ready"
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
