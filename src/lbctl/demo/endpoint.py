"""One endpoint as a process of its own: answers every connection with its port's number, or its address.

    python -m lbctl.demo.endpoint PORT [ADDRESS]

Writes a line when it listens, and ends when its standard input does, so that it never outlives its parent.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
from contextlib import suppress


def serve(port: int, address: str = "") -> None:
    """Serve until standard input ends."""
    answer = (address or str(port)).encode()
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server((address, port), backlog=1024) as listener,
    ):
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        try:
            print("listening", flush=True)
        except BrokenPipeError:
            return
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin and not os.read(0, 1024):
                    return
                if key.fileobj is listener:
                    _answer(listener, answer)


def _answer(listener: socket.socket, answer: bytes) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    # A client may be gone already, as one that only wants to know whether somebody listens.
    with connection, suppress(OSError):
        connection.sendall(answer)


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
