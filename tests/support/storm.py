"""Endpoints and clients at full speed, each a process of its own, since threads share one interpreter.

Run as a script in the network namespace that is meant; ends when its standard input does.

    storm.py serve ADDRESS:PORT …         says its own name on each connection, then echoes what it hears
    storm.py knock FILE SOURCE,… TARGET … connects to each target ADDRESS:PORT again and again, from each
                                          source of its family in turn

A knocker holds connections to its first targets open and has them echo all the time. It writes the number of
its connections so far into FILE (8 bytes), and at the end prints a JSON object: `connections`, a list of
(begin, end, source, target, answer) with times of the monotonic clock in seconds, `echoes`, and `broken`,
what went wrong with held connections.
"""

import json
import mmap
import os
import selectors
import socket
import struct
import sys
import time
from itertools import cycle
from pathlib import Path

HELD = 150
#: The first targets, to which these go.
HOLDING = 4
TIMEOUT = 5.0
#: Closed by a reset, a connection leaves nothing behind that could answer for a later one.
RESET = struct.pack("ii", 1, 0)


def place(text: str) -> tuple[str, int]:
    address, port = text.rsplit(":", 1)
    return address.strip("[]"), int(port)


def family(text: str) -> socket.AddressFamily:
    return socket.AF_INET6 if text.count(":") > 1 else socket.AF_INET


def serve(*places: str) -> None:
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for text in places:
        listener = socket.create_server(place(text), family=family(text), backlog=4096)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, text.encode())
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                if key.data:
                    connection, _ = sock.accept()
                    connection.setblocking(False)
                    connection.send(key.data)
                    selector.register(connection, selectors.EVENT_READ)
                elif data := sock.recv(64):
                    sock.send(data)
                else:
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                if not key.data:
                    selector.unregister(sock)
                    sock.close()


def connect(source: str, port: int, target: str) -> socket.socket:
    sock = socket.socket(family(target), socket.SOCK_STREAM)
    try:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((source, port))
        sock.connect(place(target))
    except OSError:
        sock.close()
        raise
    return sock


def answer(sock: socket.socket) -> str:
    return sock.recv(64).decode() or "closed"


def ask(source: str, port: int, target: str) -> str:
    try:
        with connect(source, port, target) as sock:
            return answer(sock)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return type(error).__name__


def knock(progress: str, sources: str, *targets: str) -> None:
    over = selectors.DefaultSelector()
    over.register(sys.stdin, selectors.EVENT_READ)
    with Path(progress).open("r+b") as file:
        counted = mmap.mmap(file.fileno(), 8)
    # No port twice for a source and target: each connection is a new one to the kernel.
    ports = {(s, t): iter(range(1024, 65536)) for s in sources.split(",") for t in dict.fromkeys(targets)}
    turns = {
        of: cycle([source for source in sources.split(",") if family(f"{source}:0") == of])
        for of in (socket.AF_INET, socket.AF_INET6)
    }
    held: list[socket.socket] = []
    made: list[tuple[float, float, str, str, str]] = []
    broken: list[str] = []
    for _, target in zip(range(HELD), cycle(targets[:HOLDING]), strict=False):
        source, begin = next(turns[family(target)]), time.monotonic()
        held.append(connect(source, next(ports[source, target]), target))
        made.append((begin, time.monotonic(), source, target, answer(held[-1])))
    echoes = 0
    speakers = cycle(range(HELD))
    for target in cycle(targets):
        source = next(turns[family(target)])
        port = next(ports[source, target], None)
        if port is None or (len(made) % 16 == 0 and over.select(0)):
            break
        begin = time.monotonic()
        who = ask(source, port, target)
        made.append((begin, time.monotonic(), source, target, who))
        counted[:] = struct.pack("Q", len(made))
        echoes += echo(held, next(speakers), broken)
    for number in range(HELD):
        echoes += echo(held, number, broken)
    print(json.dumps({"connections": made, "echoes": echoes, "broken": broken}), flush=True)


def echo(held: list[socket.socket], number: int, broken: list[str]) -> bool:
    word = f"{number} {time.monotonic()}".encode()
    try:
        held[number].sendall(word)
        heard = held[number].recv(64)
    except OSError as error:
        heard = repr(error).encode()
    if heard != word:
        broken.append(f"connection {number}: {heard!r}")
    return heard == word


if __name__ == "__main__":
    # All that is left of the machine, and no more: changes are to go on under any load.
    os.nice(19)
    (serve if sys.argv[1] == "serve" else knock)(*sys.argv[2:])
