"""`Host` over ssh: what is read together comes together, and is kept until something is changed."""

from __future__ import annotations

import getpass
import re
import socket
import struct
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lbctl.errors import ApplyFailed, LbctlError, PermissionDenied, Stale, Unreachable
from lbctl.host.capabilities import Capability, capabilities
from lbctl.host.host import Completed
from lbctl.host.remote.connection import Connection, Reply, Request, script
from lbctl.model import inert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from lbctl.host.remote.destination import Destination

T = TypeVar("T")
#: Bytes of a file that is read, and of one of lbctl's own that comes along unasked.
_MOST, _SMALL = 64 << 20, 8 << 10
#: Status of a request that is refused since other users could write there.
_UNTRUSTED = 13
#: What every command is going to ask for.
_TOOLS = (
    "nft",
    "conntrack",
    "ip",
    *(
        f"{word}{flavour}{part}"
        for word in ("iptables", "ip6tables")
        for flavour in ("", "-nft", "-legacy")
        for part in ("", "-save", "-restore")
    ),
)
_FILES = (
    "/proc/self/status",
    "/proc/sys/kernel/osrelease",
    "/proc/modules",
    "/proc/self/net/if_inet6",
    "/proc/self/net/route",
    "/proc/self/net/ip_tables_names",
    "/proc/self/net/ip6_tables_names",
)
#: These say the same each time.
_ABOUT_TOOLS = frozenset({"--version", "--help"})
_LOCK_PAUSE = 0.2
_FIRST_LOCK, _LAST_LOCK = 5, 9
_FRAME = struct.Struct("=I")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_LINE = re.compile(rb"([+-]) ([0-9]{1,9}) ([A-Za-z0-9._-]{1,255})\n")
#: Ticks of a second that kernels are built with.
_TICKS = (100, 250, 300, 1000)
_FIRST_OVERFLOW = 300


class RemoteHost:
    """Another host, and the network namespace that its sshd is in."""

    def __init__(self, destination: Destination, *, can_ask: bool = True) -> None:
        self.connection = Connection(destination, can_ask=can_ask)
        self._facts: dict[str, str] = {}
        self._tools: dict[str, str | None] = {}
        #: Answers of tools about themselves, which hold for the session.
        self._about: dict[tuple[str, ...], Completed] = {}
        #: What was read since something was last changed: path → text.
        self._read: dict[str, str | None] = {}
        self._prints: dict[str, str | None] = {}
        self._globs: dict[str, tuple[str, ...]] = {}
        #: The files of lbctl there: name → text, or None for one that is fetched when it is needed.
        self._known: dict[str, str | None] | None = None
        self._saved: dict[str, str | None] | None = None
        self._refusal: str | None = None
        self._locks: dict[str, int] = {}
        self._speaks_netlink = False
        #: Answers of the kernel that were asked for ahead of time, by request, each to be used once.
        self._ahead: dict[bytes, list[bytes]] = {}
        self._began = 0.0

    @property
    def destination(self) -> Destination:
        """Where it is."""
        return self.connection.destination

    def close(self) -> None:
        """End the session, and with it all locks."""
        self.connection.close()

    # programs and files

    def which(self, program: str) -> str | None:
        """See `Host`. Folders of the administrator's programs are searched whatever PATH says."""
        self._greet()
        if program not in self._tools:
            (found,) = self._ask(Request(verb="which", words=(program,)))
            self._tools[program] = _path(found.text)
        return self._tools[program]

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """See `Host`. What comes by standard input is there in full before the program starts."""
        words = tuple(argv)
        if words in self._about:
            return self._about[words]
        about = not stdin and len(words) == 2 and words[1] in _ABOUT_TOOLS
        if not about:
            # Programs that only list are told from others by who calls: what was read is read again.
            self._forget_read()
        if stdin:
            self.connection.changing = True
        data = stdin.encode("utf-8", "surrogateescape")
        (done,) = self._ask(Request(verb="run", words=words, data=data))
        result = _completed(done)
        if about:
            self._about[words] = result
        return result

    def read(self, path: str) -> str | None:
        """See `Host`. Only regular files, /proc included: another kind could wait for ever."""
        path = _thread_free(path)
        self._greet()
        if path not in self._read:
            (found,) = self._ask(_reading(path))
            self._take_read(path, found)
        return self._read[path]

    def write(self, path: str, text: str) -> bool:
        """See `Host`."""
        self.connection.changing = True
        self._forget_read()
        (done,) = self._ask(Request(verb="write", words=(_thread_free(path),), data=text.encode()))
        return not done.status

    def exists(self, path: str) -> bool:
        """See `Host`."""
        (found,) = self._ask(Request(verb="exists", words=(_thread_free(path),)))
        return not found.status

    def fingerprint(self, path: str) -> str | None:
        """See `Host`."""
        if path not in self._prints:
            (found,) = self._ask(Request(verb="fingerprint", words=(path,)))
            self._prints[path] = None if found.status else ":".join(found.text.split())
        return self._prints[path]

    def glob(self, pattern: str) -> tuple[str, ...]:
        """See `Host`."""
        if pattern not in self._globs:
            (found,) = self._ask(Request(verb="glob", words=(pattern,)))
            self._globs[pattern] = tuple(sorted(found.text.splitlines()))
        return self._globs[pattern]

    def module(self, name: str) -> ModuleType | None:  # noqa: ARG002 (the protocol's)
        """See `Host`. No Python is asked for there."""
        return None

    def user_site(self) -> str | None:
        """See `Host`."""
        return None

    def may_change_network(self) -> bool:
        """See `Host`."""
        held = capabilities(self.read("/proc/self/status") or "")
        return held is None or Capability.CAP_NET_ADMIN in held

    # the kernel

    def namespace(self) -> str | None:
        """See `Host`. The number of the namespace's file, where no program there reads its cookie."""
        self._greet()
        boot = self._facts.get("boot")
        cookie = self._facts.get("cookie") or f"net:{self._facts.get('network', '')}"
        return f"{boot}/{cookie}" if boot else None

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        """See `Host`. Through perl there, if it has one: no other common program speaks netlink."""
        if waiting := self._ahead.get(request):
            return waiting.pop(0)
        found = self._netlink(protocol, [request])
        return None if found is None else found[0]

    def expect(self, protocol: int, requests: Sequence[bytes]) -> None:
        """See `Host`."""
        answers = self._netlink(protocol, requests)
        self._ahead = {}
        for request, answer in zip(requests, answers or (), strict=False):
            self._ahead.setdefault(request, []).append(answer)

    def _netlink(self, protocol: int, requests: Sequence[bytes]) -> list[bytes] | None:
        if self.which("perl") is None:
            return None
        data = b"".join(_FRAME.pack(len(each)) + each for each in (_FRAME.pack(protocol), *requests))
        asked = [Request(verb="netlink", data=data)]
        if not self._speaks_netlink:
            asked.insert(0, Request(verb="place", words=("netlink.pl",), data=script("netlink.pl")))
            self._speaks_netlink = True
        done = self._ask(*asked)[-1]
        frames = list(_frames(done.out))
        return None if done.status or len(frames) != len(requests) else frames

    @contextmanager
    def kept(self, name: str, make: Callable[[], T]) -> Iterator[T]:  # noqa: ARG002 (the protocol's)
        """See `Host`. Nothing is kept."""
        yield make()

    # locks

    @contextmanager
    def lock(self, name: str, *, patience: float = 0.0) -> Iterator[None]:
        """See `Host`. It ends with the session, and with what that runs, however they end."""
        until = time.monotonic() + patience
        self._greet()
        taken = set(self._locks.values())
        free = [number for number in range(_FIRST_LOCK, _LAST_LOCK + 1) if number not in taken]
        words = (self._file(name, "lock"), str(free[0]))
        while True:
            found, *state = self._ask(Request(verb="lock", words=words), *_STATE)
            if not found.status:
                break
            if found.status != 2:
                self._refuse(found, f"cannot take the lock {name}")
            if time.monotonic() >= until:
                raise Stale(
                    f"another lbctl ({_holder(found.text)}) is changing that network namespace",
                    hint="--wait 30s waits for it to end",
                )
            self.sleep(_LOCK_PAUSE)
        self._take_state(*state)
        self._locks[name] = free[0]
        try:
            yield
        finally:
            del self._locks[name]
            with suppress(LbctlError):  # the session is over, and the lock with it
                self.connection.tell(Request(verb="unlock", words=words))

    def is_locked(self, name: str) -> bool:
        """See `Host`."""
        self._greet()
        (found,) = self._ask(Request(verb="held", words=(self._file(name, "lock"),)))
        return not found.status

    def socket_path(self, name: str) -> Path:  # noqa: ARG002 (the protocol's)
        """See `Host`. No socket of that host is reached from here: a path that never exists."""
        return Path("/dev/null/lbctl.sock")

    # state

    def recall(self, name: str) -> str | None:
        """See `Host`."""
        self._greet()
        return self._held(self._known or {}, self._file(name, "known"), "recall")

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`. Nothing waits for it."""
        self._greet()
        file = self._file(name, "known")
        known = self._known if self._known is not None else {}
        known.pop(file, None)
        request = Request(verb="forget", words=(file,))
        if text is not None:
            known[file] = text
            request = Request(verb="know", words=(file,), data=text.encode("utf-8", "surrogateescape"))
        with suppress(Unreachable):
            self.connection.tell(request)

    def save(self, name: str, text: str | None) -> None:
        """See `Host`."""
        saved = self._shelf()
        if text is None:
            if name not in saved:
                return
            self._state("drop", (name,), f"cannot remove {name}")
            saved.pop(name, None)
        else:
            self._state("save", (name,), f"cannot write {name}", text)
            saved[name] = text

    def append(self, name: str, text: str) -> None:
        """See `Host`."""
        saved = self._shelf()
        self._state("append", (name,), f"cannot write {name}", text)
        saved[name] = None

    def rename(self, name: str, new: str) -> None:
        """See `Host`."""
        saved = self._shelf()
        self._state("rename", (name, new), f"cannot rename {name} to {new}")
        saved[new] = saved.pop(name, None)

    def saved(self, name: str) -> str | None:
        """See `Host`."""
        return self._held(self._shelf(), name, "fetch")

    def saved_names(self) -> tuple[str, ...]:
        """See `Host`."""
        return tuple(sorted(self._shelf()))

    def _shelf(self) -> dict[str, str | None]:
        self._greet()
        if self._refusal is not None or self._saved is None:
            raise PermissionDenied(f"{self.destination}: {self._refusal}")
        return self._saved

    def _held(self, files: dict[str, str | None], name: str, verb: str) -> str | None:
        if name in files and files[name] is None:
            (found,) = self._ask(Request(verb=verb, words=(name, str(_MOST))))
            text = None if found.status else _text(found.out)
            if text is None:
                return None
            files[name] = text
        return files.get(name)

    def _state(self, verb: str, words: tuple[str, ...], failure: str, text: str = "") -> None:
        for word in words:
            if not _NAME.fullmatch(word):
                raise ApplyFailed(f"{failure}: not a name of a file")
        (done,) = self._ask(Request(verb=verb, words=words, data=text.encode("utf-8", "surrogateescape")))
        if done.status:
            self._refuse(done, failure)

    def _refuse(self, reply: Reply, failure: str) -> NoReturn:
        kind = PermissionDenied if reply.status == _UNTRUSTED else ApplyFailed
        raise kind(f"{self.destination}: {failure}: {reply.complaint or f'status {reply.status}'}")

    # time and people

    def now(self) -> float:
        """See `Host`. By that host's clock, read once."""
        self._greet()
        return float(self._facts["now"]) + self._elapsed()

    def clock(self) -> float:
        """See `Host`. By that host's clock, read once."""
        self._greet()
        return float(self._facts["uptime"].split()[0]) + self._elapsed()

    def ticks(self) -> tuple[float, int]:
        """See `Host`."""
        self._read.pop("/proc/timer_list", None)
        text = self.read("/proc/timer_list") or ""
        ticks, now = re.search(r"jiffies: (\d+)", text), re.search(r"now at (\d+) nsecs", text)
        if ticks is None or now is None:
            return 0.0, _TICKS[0]
        gone, seconds = int(ticks[1]) - (1 << 32), int(now[1]) / 1e9
        return float(ticks[1]), min(_TICKS, key=lambda each: abs(gone - (seconds - _FIRST_OVERFLOW) * each))

    def user(self) -> str:
        """See `Host`. The person here: there it may be root for everybody."""
        try:
            own = getpass.getuser()
        except (KeyError, OSError):
            own = "unknown"
        return f"{own}@{socket.gethostname()}"

    def sleep(self, seconds: float) -> None:
        """See `Host`. What was read before is read again."""
        time.sleep(seconds)
        self._forget_read()

    def detach(self, argv: Sequence[str]) -> None:
        """See `Host`. Nothing of lbctl is there to be started."""
        raise ApplyFailed(f"{argv[0]} cannot be left running on {self.destination}")

    # the session

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _greet(self) -> None:
        """Learn at once what every command asks for."""
        if self._facts:
            return
        first = Request(verb="hello", words=(*_TOOLS, "perl", "dot"))
        hello, *replies = self._ask(first, *_STATE, *map(_reading, _FILES))
        self._began = time.monotonic()
        for line in hello.text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "tool":
                tool, _, path = rest.partition(" ")
                self._tools[tool] = _path(path)
            else:
                self._facts[word] = rest
        try:
            float(self._facts["now"]), float(self._facts["uptime"].split()[0])
        except (KeyError, IndexError, ValueError):
            raise Unreachable(
                f"{self.destination} does not report its time: it needs date and /proc"
            ) from None
        self._take_state(*replies[: len(_STATE)])
        for path, reply in zip(_FILES, replies[len(_STATE) :], strict=True):
            self._take_read(path, reply)
        self._learn_versions()

    def _learn_versions(self) -> None:
        """Have every tool say its version, in one round trip."""
        words = [(path, "--version") for path in dict.fromkeys(filter(None, self._tools.values()))]
        wanted = [each for each in words if re.search(r"/(?:nft|ip6?tables[a-z-]*)$", each[0])]
        for each, reply in zip(
            wanted, self._ask(*(Request(verb="run", words=w) for w in wanted)), strict=True
        ):
            self._about[each] = _completed(reply)

    def _take_state(self, saved: Reply, known: Reply) -> None:
        self._known = {} if known.status else dict(_files(known.out))
        self._refusal = None
        if saved.status:
            self._saved, self._refusal = None, saved.complaint
        else:
            self._saved = dict(_files(saved.out))

    def _take_read(self, path: str, reply: Reply) -> None:
        # What is larger is no file that lbctl looks at.
        whole = not reply.status and len(reply.out) <= _MOST
        self._read[path] = reply.text if whole else None

    def _forget_read(self) -> None:
        self._read, self._prints, self._globs, self._ahead = {}, {}, {}, {}

    def _file(self, name: str, kind: str) -> str:
        return f"{name}.{self._facts.get('network', '0')}.{kind}"

    def _ask(self, *requests: Request) -> list[Reply]:
        return self.connection.ask(*requests) if requests else []


_STATE = (Request(verb="saved", words=(str(_SMALL),)), Request(verb="known", words=(str(_SMALL),)))


def _reading(path: str) -> Request:
    return Request(verb="read", words=(path, str(_MOST)))


def _thread_free(path: str) -> str:
    """Return a path that kernels before 3.17 have too: each program there has one thread."""
    return path.replace("/proc/thread-self/", "/proc/self/")


def _completed(reply: Reply) -> Completed:
    return Completed(code=reply.status, out=reply.text, err=reply.err.decode("utf-8", "surrogateescape"))


def _path(text: str) -> str | None:
    """Return the path that a line is, if it is one."""
    path = text.rstrip("\n")
    return path if path.startswith("/") and path.isprintable() else None


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _files(data: bytes) -> Iterator[tuple[str, str | None]]:
    """Yield the names of files and, of small ones, their texts. What cannot be read is no file of lbctl."""
    place = 0
    while place < len(data):
        found = _LINE.match(data, place)
        if found is None:
            return
        name, place = found[3].decode("ascii"), found.end()
        if found[1] == b"-":
            yield name, None
            continue
        size = int(found[2])
        text = _text(data[place : place + size])
        place += size
        if text is not None:
            yield name, text


def _frames(data: bytes) -> Iterator[bytes]:
    place = 0
    while place + _FRAME.size <= len(data):
        (size,) = _FRAME.unpack_from(data, place)
        yield data[place + _FRAME.size : place + _FRAME.size + size]
        place += _FRAME.size + size


def _holder(text: str) -> str:
    number, _, words = text.partition(" ")
    if not number.isdecimal():
        return "of unknown number"
    shown = inert(" ".join(words.split()))[:60]
    return f"process {number}: {shown}" if shown else f"process {number}"
