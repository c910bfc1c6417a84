"""One session of ssh that serves many requests: what is sent together costs one round trip.

What comes back is untrusted: lines and sizes have limits, answers have the numbers of their requests, and
nothing of it is printed before it is escaped.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.resources import files
from secrets import token_hex
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, ConnectionLost, LbctlError, PermissionDenied, Unreachable
from lbctl.host.persons import person, session_name
from lbctl.model import inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbctl.host.remote.destination import Destination

#: Bytes of one answer: more than any listing of rules that a kernel holds.
_MOST = 512 << 20
#: Bytes of a first line of an answer, and of what a login shell may print before the session begins.
_LONGEST_LINE, _NOISE = 200, 64 << 10
#: Bytes that are read or written at once, and that a pipe to ssh holds.
_PART = 1 << 20
#: Bytes of a line of ssh's own messages that are shown, and how many lines are.
_MESSAGES, _LINES = 2000, 4
#: Seconds between two looks at whether the host is alive.
_PAUSE = 5.0
#: Seconds until ssh gives up: for a connection, and for one that has gone silent (tries times seconds).
_CONNECTING, _SILENT, _SILENCES = 20, 10, 3
#: Seconds without a sign of life after which a session is lost: longer than ssh itself needs to notice, which
#: does not where it uses a master connection of the user that has no probes.
_LIFELESS = 45.0
#: Seconds until a session has to have begun: with a person, who types passwords, longer than sshd waits.
_BEGINNING, _BEGINNING_BY_HAND = 90.0, 180.0
#: What serve.sh prints among ssh's messages every few seconds, as a sign of life.
_ALIVE = "lbctl-alive"
#: Read by the login shell of the user, whichever that is: one line, no quote but ours.
_START = (
    'IFS= read -r nonce && IFS= read -r n && s=$(dd bs=1 count="$n" 2>/dev/null) && '
    'case $(id -u) in 0) eval "$s" ;; *) exec sudo -n -- sh -c "$s" "$0" "$nonce" ;; esac'
)
_OPTIONS = (
    "-T",
    "-x",
    "-a",
    "-e",
    "none",
    "-o",
    "ClearAllForwardings=yes",
    "-o",
    "PermitLocalCommand=no",
    "-o",
    "RemoteCommand=none",
    "-o",
    f"ConnectTimeout={_CONNECTING}",
    "-o",
    f"ServerAliveInterval={_SILENT}",
    "-o",
    f"ServerAliveCountMax={_SILENCES}",
)
#: Begins a line in which serve.sh says why it does not work there.
_OWN = "lbctl: "
#: How it ends then, what is raised, and the next step.
_REFUSALS: Mapping[int | None, tuple[type[LbctlError], str]] = {
    69: (Unreachable, "install it there"),
    73: (ApplyFailed, "make room there, and have that file system be writable"),
    77: (Unreachable, "log in as root, or let the user run sh by sudo without a password"),
    78: (PermissionDenied, "make root its owner, and let no other user write to it"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteRequest:
    """A verb of serve.sh, its words, and bytes for it. No word has a line break or a NUL."""

    verb: str
    words: tuple[str, ...] = ()
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReply:
    """The status of a request, and what it printed."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """The output."""
        return self.out.decode("utf-8", "surrogateescape")

    @property
    def complaint(self) -> str:
        """The messages, on one line, escaped."""
        return inert(" ".join(self.err.decode("utf-8", "replace").split()))[:_MESSAGES]


class SshSession:
    """A session on a host; it ends with `close`, or when this process ends, however that happens."""

    def __init__(self, destination: Destination, *, can_ask: bool = True) -> None:
        self.destination = destination
        #: How many bytes have come.
        self.received = 0
        #: The verbs of each round trip.
        self.log: list[str] = []
        #: Whether something was changed, or may have been.
        self.changing = False
        self._can_ask = can_ask
        self._process: subprocess.Popen[bytes] | None = None
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the connection)
        #: What is to be sent, and what has arrived: whole after an interruption too.
        self._unsent, self._buffer = bytearray(), bytearray()
        self._number = 0
        self._broken = False
        #: What the script announces itself with, until it has; and when it has to have, on this host's clock.
        self._mark = b""
        self._begins_until = 0.0
        #: When the host last gave a sign of life, and how many bytes of messages had come by then.
        self._heard, self._messages_size = 0.0, 0

    def open(self) -> None:
        """Start the session, and do not wait for it: ssh connects meanwhile. Raises `Unreachable`."""
        if self._process is not None or self._broken:
            return
        ssh = shutil.which("ssh")
        if ssh is None:
            raise Unreachable("the program ssh is not in PATH", hint="Debian: apt install openssh-client")
        text = script("locks.sh", "serve.sh")
        nonce = token_hex(16)
        batch = () if self._can_ask else ("-o", "BatchMode=yes")
        start = f"exec sh -c {shlex.quote(_START)} {shlex.quote(session_name(person()))}"
        self._begins_until = time.monotonic() + (_BEGINNING_BY_HAND if self._can_ask else _BEGINNING)
        self._process = subprocess.Popen(
            [ssh, *_OPTIONS, *batch, *self.destination.words(), start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            # Ctrl-C is ours: the change that is under way is undone over the same connection.
            preexec_fn=_deaf,
        )
        for stream in filter(None, (self._process.stdin, self._process.stdout)):
            os.set_blocking(stream.fileno(), False)
            with suppress(OSError):  # a user may have too many large pipes
                fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, _PART)
        self._mark = f"lbctl-session {nonce}\n".encode()
        self._unsent += f"{nonce}\n{len(text)}\n".encode() + text
        with suppress(OSError):  # the next exchange sends the rest, or finds out what is wrong
            self._send()

    def ask(self, *requests: RemoteRequest) -> list[RemoteReply]:
        """Return the answers to requests, in one round trip.

        Raises `Unreachable`; or, once something may have been changed, `ConnectionLost`.
        """
        return self.collect(self.begin(*requests))

    def begin(self, *requests: RemoteRequest) -> range:
        """Send requests, as far as ssh takes them now, and return their numbers; raises as `ask`."""
        self.open()
        first = self._number + 1
        for request in requests:
            self._unsent += self._encoded(request)
        with suppress(OSError):
            self._send()
        self.log.append("; ".join(" ".join((each.verb, *each.words)) for each in requests)[:_LONGEST_LINE])
        return range(first, self._number + 1)

    def collect(self, numbers: range) -> list[RemoteReply]:
        """Wait for the answers to requests that were sent, and return them; raises as `ask`."""
        replies: list[RemoteReply] = []

        def done() -> bool:
            if not self._has_begun():
                return False
            while len(replies) < len(numbers):
                found = self._reply(numbers[len(replies)])
                if found is None:
                    return False
                replies.append(found)
            return True

        self._exchange(done)
        return replies

    def tell(self, request: RemoteRequest) -> None:
        """Have a request served for which nothing is waited; raises as `ask`."""
        self.open()
        self._unsent += self._encoded(request)
        self._exchange(lambda: True)

    def close(self) -> None:
        """End the session."""
        self._broken = True
        process, self._process = self._process, None
        if process is not None:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            if self._mark:  # it may be asking for a password still
                process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._messages.close()

    def _encoded(self, request: RemoteRequest) -> bytes:
        if any(char in word for word in request.words for char in "\n\r\0"):
            raise Unreachable(f"a word for {self.destination} has a line break in it")
        self._number += 1
        head = f"{self._number} {request.verb} {len(request.words)} {len(request.data)}\n"
        lines = "".join(f"{word}\n" for word in request.words)
        return (head + lines).encode("utf-8", "surrogateescape") + request.data

    def _exchange(self, done: Callable[[], bool]) -> None:
        """Send what is to be sent, and read until `done`: at once, since each side may wait for the other."""
        process = self._process
        if self._broken or process is None or process.stdin is None or process.stdout is None:
            raise self._lost("the connection has ended")
        self._heard = time.monotonic()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                selector.register(process.stdin, selectors.EVENT_WRITE)
                sending = True
                while self._unsent or not done():
                    if sending and not self._unsent:
                        selector.unregister(process.stdin)
                        sending = False
                    for key, _ in selector.select(_PAUSE):
                        if key.fileobj is process.stdin:
                            self._send()
                        else:
                            part = os.read(process.stdout.fileno(), _PART)
                            if not part:
                                raise self._lost("")
                            self._buffer += part
                            self.received += len(part)
                            self._heard = time.monotonic()
                    self._ensure_alive()
        except OSError as error:
            raise self._lost(error.strerror or "") from error

    def _send(self) -> None:
        """Send what the pipe takes now."""
        if self._unsent and self._process is not None and self._process.stdin is not None:
            del self._unsent[: os.write(self._process.stdin.fileno(), self._unsent[:_PART])]

    def _ensure_alive(self) -> None:
        """Raise what is to be raised if nothing has come for too long."""
        now, size = time.monotonic(), os.fstat(self._messages.fileno()).st_size
        if size != self._messages_size:
            self._messages_size, self._heard = size, now
        if self._mark and now > self._begins_until:
            raise self._lost("its shell does not begin the session in time")
        if not self._mark and now - self._heard > _LIFELESS:
            raise self._lost(f"nothing has come from it for {_LIFELESS:.0f} s")

    def _has_begun(self) -> bool:
        """Return True once the script has announced itself; what a login shell prints before is dropped."""
        place = self._buffer.find(self._mark)
        if place >= 0:
            del self._buffer[: place + len(self._mark)]
            self._mark = b""
            return True
        if len(self._buffer) > _NOISE:
            raise self._lost("its shell prints without end")
        return False

    def _reply(self, number: int) -> RemoteReply | None:
        """Return the answer to a request, or None while it is not here in full; skips those before it."""
        while True:
            end = self._buffer.find(b"\n", 0, _LONGEST_LINE)
            if end < 0:
                if len(self._buffer) > _LONGEST_LINE:
                    raise self._lost("its answer is not valid")
                return None
            words = bytes(self._buffer[:end]).split(b" ")
            if len(words) != 4 or not all(word.isdigit() and len(word) <= 12 for word in words):
                raise self._lost("its answer is not valid")
            which, status, out, err = map(int, words)
            if out + err > _MOST:
                raise self._lost(f"an answer of {out + err} bytes is larger than {_MOST >> 20} MiB")
            if which > number:
                raise self._lost("its answer does not fit the request")
            last = end + 1 + out + err
            if len(self._buffer) < last:
                return None
            body = bytes(self._buffer[end + 1 : last])
            del self._buffer[:last]
            if which == number:
                return RemoteReply(status=status, out=body[:out], err=body[out:])

    def _lost(self, why: str) -> LbctlError:
        """Return what is to be raised: the session cannot go on."""
        self._broken = True
        code = self._ended()
        said = self._said()
        lines = [*said[-_LINES:], *([why] if why else [])] or self._printed()
        shown = "; ".join(line.removeprefix(_OWN) for line in lines)
        shown = shown or ("it ended the session" if code is None else f"ssh ended with {code}")
        if self.changing:
            return ConnectionLost(
                f"the connection to {self.destination} was lost during a change: {shown}",
                hint="the next command for that host that changes something first completes or reverts it; a "
                "trial there reverts by itself",
            )
        refusal = _REFUSALS.get(code) if any(line.startswith(_OWN) for line in said) else None
        if refusal is not None:
            kind, hint = refusal
            return kind(f"{self.destination}: {shown}", hint=hint)
        return Unreachable(f"{self.destination} cannot be managed over ssh: {shown}", hint=_hint(said))

    def _said(self) -> list[str]:
        """Return the last messages, of ssh and of the host, escaped."""
        self._messages.seek(max(0, os.fstat(self._messages.fileno()).st_size - _PART))
        text = self._messages.read(_PART).decode("utf-8", "replace")
        lines = (line.strip() for line in text.splitlines())
        return [inert(line)[:_MESSAGES] for line in lines if line and line != _ALIVE]

    def _printed(self) -> list[str]:
        """Return what a login shell printed last that began no session: nologin has its message there."""
        if not self._mark:
            return []
        lines = (line.strip() for line in self._buffer.decode("utf-8", "replace").splitlines())
        return [inert(line)[:_MESSAGES] for line in lines if line][-_LINES:]

    def _ended(self) -> int | None:
        """Return the code that ssh ended with; None if it had to be ended."""
        process = self._process
        if process is None:
            return None
        try:
            return process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


def _deaf() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _hint(said: Sequence[str]) -> str:
    if any("sudo" in line for line in said):
        return "log in as root, or let the user run sh by sudo without a password"
    return "ssh to it by hand first; lbctl uses the same configuration, keys and known hosts"


def script(*names: str) -> bytes:
    """Return scripts that ship with lbctl, as one."""
    return b"".join(files("lbctl.host.remote").joinpath(name).read_bytes() for name in names)
