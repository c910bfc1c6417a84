"""`Host` over ssh: what is read together comes together, and is kept until something is changed."""

from __future__ import annotations

import getpass
import re
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lbctl.errors import ApplyFailed, LbctlError, PermissionDenied, Stale, Unreachable
from lbctl.host.capabilities import Capability, capabilities
from lbctl.host.host import Completed
from lbctl.host.remote.answers import (
    FRAME,
    completed,
    file_text,
    holder_name,
    netlink_answers,
    state_files,
    tool_path,
)
from lbctl.host.remote.greeting import FILES, TOOLS, VERSIONED
from lbctl.host.remote.session import RemoteReply, RemoteRequest, SshSession, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import ModuleType

    from lbctl.host.orders import Orders
    from lbctl.host.remote.destination import Destination
    from lbctl.host.reports import Reports, Words

T = TypeVar("T")
#: Bytes of a file that is read, and of one of lbctl's own that comes along unasked.
_MOST, _SMALL = 64 << 20, 8 << 10
#: Status of a request that is refused since other users could write there.
_UNTRUSTED = 13
#: These say the same each time.
_ABOUT_TOOLS = frozenset({"--version", "--help"})
#: What makes a path a pattern.
_PATTERN = frozenset("*?[")
_LOCK_PAUSE = 0.2
_FIRST_LOCK, _LAST_LOCK = 5, 9
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
#: Ticks of a second that kernels are built with.
_TICKS = (100, 250, 300, 1000)
_FIRST_OVERFLOW = 300


class RemoteHost:
    """Another host, and the network namespace that its sshd is in."""

    def __init__(self, destination: Destination, *, can_ask: bool = True) -> None:
        self.session = SshSession(destination, can_ask=can_ask)
        self._facts: dict[str, str] = {}
        self._tools: dict[str, str | None] = {}
        #: Answers of tools about themselves, which hold for the session.
        self._about: dict[tuple[str, ...], Completed] = {}
        #: What was read, path → text: of the kernel, since something was last changed; else once.
        self._read: dict[str, str | None] = {}
        #: What was read of the kernel before that.
        self._stale: dict[str, None] = {}
        self._there: dict[str, bool] = {}
        self._prints: dict[str, str | None] = {}
        self._globs: dict[str, tuple[str, ...]] = {}
        #: The files of lbctl there: name → text, or None for one that is fetched when it is needed.
        self._known: dict[str, str | None] | None = None
        self._saved: dict[str, str | None] | None = None
        self._refusal: str | None = None
        self._locks: dict[str, int] = {}
        #: The files of the locks that were held at the beginning, which counts until some time has passed.
        self._locked: set[str] = set()
        self._waited = False
        self._has_netlink = False
        #: What was asked ahead of time, each to be used once.
        self._answers: dict[bytes, list[bytes]] = {}
        self._runs: dict[tuple[str, ...], list[Completed]] = {}
        self._began = 0.0

    @property
    def destination(self) -> Destination:
        """Where it is."""
        return self.session.destination

    def close(self) -> None:
        """End the session, and with it all locks."""
        self.session.close()

    # programs and files

    def which(self, program: str) -> str | None:
        """See `Host`. Folders of the administrator's programs are searched whatever PATH says."""
        self._greet()
        if program not in self._tools:
            (found,) = self._ask(RemoteRequest(verb="which", words=(program,)))
            self._tools[program] = tool_path(found.text)
        return self._tools[program]

    def run(self, argv: Sequence[str], *, stdin: str = "") -> Completed:
        """See `Host`. What comes by standard input is there in full before the program starts."""
        words = tuple(argv)
        self._greet()
        if words in self._about:
            return self._about[words]
        if waiting := self._runs.get(words) if not stdin else None:
            return waiting.pop(0)
        if stdin:
            self._changes()
        data = stdin.encode("utf-8", "surrogateescape")
        (done,) = self._ask(RemoteRequest(verb="run", words=words, data=data))
        result = completed(done)
        if not stdin and len(words) == 2 and words[1] in _ABOUT_TOOLS:
            self._about[words] = result
        return result

    def read(self, path: str) -> str | None:
        """See `Host`. Only regular files, /proc included: another kind could wait for ever."""
        path = _thread_free(path)
        self._greet()
        if path not in self._read:
            # What was read before, and may have changed since, is about to be read again too.
            self.expect(reads=[path, *(self._stale if path in self._stale else ())])
        return self._read[path]

    def write(self, path: str, text: str) -> bool:
        """See `Host`."""
        self._changes()
        (done,) = self._ask(RemoteRequest(verb="write", words=(_thread_free(path),), data=text.encode()))
        return not done.status

    def exists(self, path: str) -> bool:
        """See `Host`."""
        path = _thread_free(path)
        if self._read.get(path) is not None:
            return True
        if path not in self._there:
            (found,) = self._ask(RemoteRequest(verb="exists", words=(path,)))
            self._there[path] = not found.status
        return self._there[path]

    def fingerprint(self, path: str) -> str | None:
        """See `Host`."""
        if path not in self._prints:
            self.expect(fingerprints=[path])
        return self._prints[path]

    def glob(self, pattern: str) -> tuple[str, ...]:
        """See `Host`."""
        if pattern not in self._globs:
            self.expect(globs=[pattern])
        return self._globs[pattern]

    def holding(self, word: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """See `Host`."""
        self._greet()
        (found,) = self._ask(RemoteRequest(verb="holding", words=(word, *patterns)))
        return tuple(found.text.splitlines())

    def expect(
        self,
        *,
        reads: Iterable[str] = (),
        globs: Iterable[str] = (),
        fingerprints: Iterable[str] = (),
        runs: Iterable[Sequence[str]] = (),
        netlink: tuple[int, Sequence[bytes]] | None = None,
    ) -> None:
        """See `Host`."""
        self._greet()
        batch = [*self._things(reads, globs, fingerprints)]
        batch += [(RemoteRequest(verb="run", words=w), partial(self._take_run, w)) for w in map(tuple, runs)]
        if netlink is not None and not netlink[1]:
            self._answers = {}
        elif netlink is not None and self.speaks_netlink():
            batch += [(each, partial(self._take_answers, netlink[1])) for each in self._netlink(*netlink)]
        replies = self._ask(*(request for request, _ in batch))
        for (_, take), reply in zip(batch, replies, strict=True):
            take(reply)

    def _things(
        self, reads: Iterable[str], globs: Iterable[str], fingerprints: Iterable[str]
    ) -> Iterator[tuple[RemoteRequest, Callable[[RemoteReply], None]]]:
        """Yield the requests for files that are not known yet, each with what takes its answer."""
        for path in dict.fromkeys(map(_thread_free, reads)):
            if path not in self._read:
                yield _reading(path), partial(self._take_read, path)
        for pattern in globs:
            if pattern not in self._globs:
                yield RemoteRequest(verb="glob", words=(pattern,)), partial(self._take_glob, pattern)
        for path in fingerprints:
            if _PATTERN & set(path):
                if path not in self._globs:
                    yield RemoteRequest(verb="prints", words=(path,)), partial(self._take_prints, path)
            elif path not in self._prints:
                yield RemoteRequest(verb="fingerprint", words=(path,)), partial(self._take_print, path)

    def _take_read(self, path: str, reply: RemoteReply) -> None:
        # What is larger is no file that lbctl looks at.
        whole = not reply.status and len(reply.out) <= _MOST
        self._read[path] = reply.text if whole else None

    def _take_glob(self, pattern: str, reply: RemoteReply) -> None:
        self._globs[pattern] = tuple(sorted(reply.text.splitlines()))

    def _take_print(self, path: str, reply: RemoteReply) -> None:
        self._prints[path] = None if reply.status else ":".join(reply.text.split())
        self._globs[path] = () if reply.status else (path,)

    def _take_prints(self, pattern: str, reply: RemoteReply) -> None:
        pairs = [line.partition(" ") for line in reply.text.splitlines()]
        self._globs[pattern] = tuple(sorted(path for path, _, _ in pairs))
        self._prints |= {path: ":".join(rest.split()) for path, _, rest in pairs}

    def _take_run(self, words: tuple[str, ...], reply: RemoteReply) -> None:
        if len(words) == 2 and words[1] in _ABOUT_TOOLS:
            self._about[words] = completed(reply)
        else:
            self._runs.setdefault(words, []).append(completed(reply))

    def module(self, name: str) -> ModuleType | None:  # noqa: ARG002 (the protocol's)
        """See `Host`. No Python is asked for there."""
        return None

    def user_site(self) -> str | None:
        """See `Host`."""
        return None

    def is_here(self) -> bool:
        """See `Host`."""
        return False

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
        if not self._answers.get(request):
            self.expect(netlink=(protocol, [request]))
        waiting = self._answers.get(request)
        return waiting.pop(0) if waiting else None

    def speaks_netlink(self) -> bool:
        """See `Host`."""
        return self.which("perl") is not None

    def subscribe(self, protocol: int, groups: Iterable[int], words: Words) -> Reports | None:  # noqa: ARG002
        """See `Host`. Nothing is reported over ssh."""
        return None

    def _netlink(self, protocol: int, requests: Sequence[bytes]) -> list[RemoteRequest]:
        """Return the requests that have the kernel asked; all answers are in that of the last."""
        frames = (FRAME.pack(protocol), *requests)
        asked = [RemoteRequest(verb="netlink", data=b"".join(FRAME.pack(len(f)) + f for f in frames))]
        if not self._has_netlink:
            asked.insert(0, RemoteRequest(verb="place", words=("netlink.pl",), data=script("netlink.pl")))
            self._has_netlink = True
        return asked

    def _take_answers(self, requests: Sequence[bytes], reply: RemoteReply) -> None:
        answers = list(netlink_answers(reply.out))
        if not reply.status and len(answers) == len(requests):
            # In place of what was asked before: an older answer may not stand behind a newer one.
            self._answers |= {request: [] for request in requests}
            for request, answer in zip(requests, answers, strict=True):
                self._answers[request].append(answer)

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
            found, *state = self._ask(RemoteRequest(verb="lock", words=words), *_STATE)
            if not found.status:
                break
            if found.status != 2:
                self._refuse(found, f"cannot take the lock {name}")
            if time.monotonic() >= until:
                raise Stale(
                    f"another lbctl ({holder_name(found.text)}) is changing that network namespace",
                    hint="--wait 30s waits for it to end",
                )
            self.sleep(_LOCK_PAUSE)
        self._forget_read()
        self._take_state(*state)
        self._locks[name] = free[0]
        try:
            yield
        finally:
            del self._locks[name]
            with suppress(LbctlError):  # the session is over, and the lock with it
                self.session.tell(RemoteRequest(verb="unlock", words=words))

    def is_locked(self, name: str) -> bool:
        """See `Host`."""
        self._greet()
        file = self._file(name, "lock")
        if not self._waited:
            return file in self._locked or name in self._locks
        (found,) = self._ask(RemoteRequest(verb="held", words=(file,)))
        return not found.status

    def task(self) -> int:
        """See `Host`. The shell of the session."""
        self._greet()
        number = self._facts.get("pid", "")
        return int(number) if number.isascii() and number.isdecimal() else 0

    def socket_path(self, name: str) -> Path:  # noqa: ARG002 (the protocol's)
        """See `Host`. No socket of that host is reached from here: a path that never exists."""
        return Path("/dev/null/lbctl.sock")

    # state

    def recall(self, name: str) -> str | None:
        """See `Host`."""
        self._greet()
        if self._known is None:
            self._take_state(*self._ask(*_STATE))
        return self._held(self._known or {}, self._file(name, "known"), "recall")

    def remember(self, name: str, text: str | None) -> None:
        """See `Host`. Nothing waits for it."""
        self._greet()
        file = self._file(name, "known")
        known = self._known if self._known is not None else {}
        known.pop(file, None)
        request = RemoteRequest(verb="forget", words=(file,))
        if text is not None:
            known[file] = text
            request = RemoteRequest(verb="know", words=(file,), data=text.encode("utf-8", "surrogateescape"))
        with suppress(Unreachable):
            self.session.tell(request)

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
        if self._saved is None and self._refusal is None:
            self._take_state(*self._ask(*_STATE))
        if self._saved is None:
            raise PermissionDenied(f"{self.destination}: {self._refusal}")
        return self._saved

    def _held(self, files: dict[str, str | None], name: str, verb: str) -> str | None:
        if name in files and files[name] is None:
            (found,) = self._ask(RemoteRequest(verb=verb, words=(name, str(_MOST))))
            text = None if found.status else file_text(found.out)
            if text is None:
                return None
            files[name] = text
        return files.get(name)

    def _state(self, verb: str, words: tuple[str, ...], failure: str, text: str = "") -> None:
        for word in words:
            if not _NAME.fullmatch(word):
                raise ApplyFailed(f"{failure}: not a name of a file")
        (done,) = self._ask(
            RemoteRequest(verb=verb, words=words, data=text.encode("utf-8", "surrogateescape"))
        )
        if done.status:
            self._refuse(done, failure)

    def _refuse(self, reply: RemoteReply, failure: str) -> NoReturn:
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
        self._waited = True
        self._forget_read()
        self._saved = self._known = None

    def detach(self, argv: Sequence[str]) -> None:
        """See `Host`. Nothing of lbctl is there to be started."""
        raise ApplyFailed(f"{argv[0]} cannot be left running on {self.destination}")

    def stand_by(self, orders: Orders) -> None:
        """See `Host`. A script there waits, in a session of its own."""
        if any("\n" in word for run in orders.runs for word in run.argv):
            raise ApplyFailed(f"{self.destination}: a word of a program has a line break")
        name = _orders_name(orders.guard, orders.ident)
        texts = {
            "revert.sh": script("locks.sh", "revert.sh").decode(),
            "ident": f"{orders.ident}\n",
            "deadline": f"{ceil(orders.deadline)}\n",
        }
        for number, each in enumerate(orders.runs, 1):
            texts[f"run.{number}"] = "".join(f"{word}\n" for word in each.argv)
            texts[f"in.{number}"] = each.stdin
        texts |= {f"after/{file}": text for file, text in orders.saved.items() if text is not None}
        texts["gone"] = "".join(f"{file}\n" for file, text in orders.saved.items() if text is None)
        locks = (self._file(orders.lock, "lock"), self._file(orders.guard, "lock"))
        replies = self._ask(
            RemoteRequest(verb="stand-aside", words=(name,)),
            *(_hand(name, file, text) for file, text in texts.items()),
            RemoteRequest(verb="stand-by", words=(name, *locks, orders.record)),
        )
        for reply in replies:
            if reply.status:
                self._refuse(reply, "the script that reverts a trial does not stand by there")

    def postpone(self, ident: str, guard: str, deadline: float) -> None:
        """See `Host`."""
        (reply,) = self._ask(_hand(_orders_name(guard, ident), "deadline", f"{ceil(deadline)}\n"))
        if reply.status:
            self._refuse(reply, "the time of the trial cannot be set there")

    # the session

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _greet(self) -> None:
        """Learn at once what every command asks for."""
        if self._facts:
            return
        tools = tuple(f"+{tool}" if tool in VERSIONED else tool for tool in TOOLS)
        first = RemoteRequest(verb="hello", words=tools)
        self._tools = dict.fromkeys(TOOLS)
        hello, *replies = self._ask(first, *_STATE, *map(_reading, FILES))
        self._began = time.monotonic()
        for line in hello.text.splitlines():
            word, _, rest = line.partition(" ")
            name, _, more = rest.partition(" ")
            match word:
                case "tool":
                    self._tools[name] = tool_path(more)
                case "about":
                    self._about[name, "--version"] = Completed(code=0, out=f"{more}\n", err="")
                case "print":
                    self._prints[name] = ":".join(more.split())
                case "locked":
                    self._locked.add(name)
                case _:
                    self._facts.setdefault(word, rest)
        try:
            float(self._facts["now"]), float(self._facts["uptime"].split()[0])
        except (KeyError, IndexError, ValueError):
            raise Unreachable(
                f"{self.destination} does not report its time: it needs date and /proc"
            ) from None
        self._take_state(*replies[: len(_STATE)])
        for path, reply in zip(FILES, replies[len(_STATE) :], strict=True):
            self._take_read(path, reply)

    def _take_state(self, saved: RemoteReply, known: RemoteReply) -> None:
        self._known = {} if known.status else dict(state_files(known.out))
        self._refusal = None
        if saved.status:
            self._saved, self._refusal = None, saved.complaint
        else:
            self._saved = dict(state_files(saved.out))

    def _changes(self) -> None:
        """Note that something is changed now: what was read of the kernel is not what it is then."""
        self.session.changing = True
        self._forget_read()

    def _forget_read(self) -> None:
        volatile = [path for path in self._read if _is_volatile(path)]
        self._stale = dict.fromkeys([*self._stale, *volatile])
        for path in volatile:
            del self._read[path]
        self._there = {path: found for path, found in self._there.items() if not _is_volatile(path)}
        self._runs, self._answers = {}, {}

    def _file(self, name: str, kind: str) -> str:
        return f"{name}.{self._facts.get('network', '0')}.{kind}"

    def _ask(self, *requests: RemoteRequest) -> list[RemoteReply]:
        return self.session.ask(*requests) if requests else []


_STATE = (
    RemoteRequest(verb="saved", words=(str(_SMALL),)),
    RemoteRequest(verb="known", words=(str(_SMALL),)),
)


def _reading(path: str) -> RemoteRequest:
    return RemoteRequest(verb="read", words=(path, str(_MOST)))


def _orders_name(guard: str, ident: str) -> str:
    return f"{guard}-{ident}"


def _hand(name: str, file: str, text: str) -> RemoteRequest:
    return RemoteRequest(verb="hand", words=(name, file), data=text.encode("utf-8", "surrogateescape"))


def _is_volatile(path: str) -> bool:
    """Return True for what the kernel makes up when it is read, but for its own name."""
    return path.startswith(("/proc/", "/sys/")) and path != "/proc/sys/kernel/osrelease"


def _thread_free(path: str) -> str:
    """Return a path that kernels before 3.17 have too: each program there has one thread."""
    return path.replace("/proc/thread-self/", "/proc/self/")
