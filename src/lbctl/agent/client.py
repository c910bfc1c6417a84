"""Asks a running agent by its unix socket. Needs none of the packages that the agent needs."""

from __future__ import annotations

import json
import socket
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from lbctl.errors import Stale

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Seconds that a command waits for the agent, where it needs the answer and where it can do without.
_NEEDED, _WELCOME = 10.0, 2.0


def post(path: Path, action: str, words: Mapping[str, object]) -> dict[str, object]:
    """Ask the agent behind a socket to do something; raises `Stale` where none answers, or it refuses."""
    return _ask(path, "POST", action, json.dumps(words), _NEEDED)


def about(path: Path) -> dict[str, object] | None:
    """Return what the agent behind a socket says of itself; None where none answers."""
    try:
        return _ask(path, "GET", "/agent", None, _WELCOME)
    except Stale:
        return None


def _ask(path: Path, method: str, place: str, body: str | None, patience: float) -> dict[str, object]:
    connection = HTTPConnection("localhost", timeout=patience)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(patience)
        connection.sock.connect(str(path))
        connection.request(method, place, body)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise Stale(f"no agent answers at {path}", hint="is lbctl-agent.service running?") from error
    finally:
        connection.close()
    if answer.status != HTTPStatus.OK:
        raise Stale(f"the agent refuses: {text.strip()}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Stale(f"the agent at {path} did not answer with JSON") from error
    return found if isinstance(found, dict) else {}
