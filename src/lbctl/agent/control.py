"""The agent's unix socket: the same pages as over TCP, and all that changes something.

It is for root, and for the members of one group where the administrator names it: file permissions keep
others out, and who connects all the same is asked for again by the kernel's word.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from lbctl.agent.http import Peer, Request, RequestRefused, Response
from lbctl.errors import IntentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from lbctl.agent.http import Handler
    from lbctl.agent.web import Pages


def handler(
    pages: Pages,
    actions: Mapping[str, Callable[[Mapping[str, object]], Awaitable[Mapping[str, object]]]],
    *,
    reports: Mapping[str, Callable[[], Mapping[str, object]]] | None = None,
    group: int | None = None,
) -> Handler:
    """Return the handler of the socket; `actions` are what POST requests to their paths do.

    `reports` are what GET requests to their paths return, beside the pages.
    """

    async def handle(request: Request) -> Response:
        if not is_admin(request.peer, group):
            raise RequestRefused(HTTPStatus.FORBIDDEN, "only root, or members of the admin group")
        if request.method in {"GET", "HEAD"}:
            report = (reports or {}).get(request.path)
            if report is not None:
                return Response(body=f"{json.dumps(report())}\n".encode(), type="application/json")
            return await pages.at(request.path)
        action = actions.get(request.path)
        if request.method != "POST" or action is None:
            raise RequestRefused(HTTPStatus.METHOD_NOT_ALLOWED, "no such action")
        try:
            answer = await action(_words(request.body))
        except ValueError as error:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"not understood: {error}") from error
        return Response(body=f"{json.dumps(answer)}\n".encode(), type="application/json")

    return handle


def _words(body: bytes) -> Mapping[str, object]:
    """Return the object in a body, an empty one for none; raises `ValueError`."""
    try:
        words = json.loads(body or b"{}")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(words, dict):
        raise ValueError("not an object")
    return words


def is_admin(peer: Peer, group: int | None) -> bool:
    """Return True for root, for who runs the agent, and for a member of the admin group."""
    if peer.user in {0, os.geteuid()}:
        return True
    if group is None or peer.user is None:
        return False
    if peer.group == group:
        return True
    try:
        person = pwd.getpwuid(peer.user)
    except KeyError:
        return False
    return group in os.getgrouplist(person.pw_name, person.pw_gid)


def group_number(name: str | None) -> int | None:
    """Return the number of a group; raises `IntentError` for one that does not exist."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        hint = "--admin-group takes a group of /etc/group"
        raise IntentError(f'there is no group "{name}"', hint=hint) from error


def bind(path: Path, group: int | None) -> socket.socket:
    """Return the listening socket at `path`; who holds the agent's lock may replace what a dead one left.

    Raises `IntentError` where the socket cannot be made.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listening.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
    except OSError as error:
        listening.close()
        raise IntentError(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return listening
