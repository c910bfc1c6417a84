"""What was read on a remote host, kept until something is changed; and what is read next, in one go."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lbctl.host.remote.answers import FRAME, completed, netlink_answers, tool_path
from lbctl.host.remote.session import RemoteRequest, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Unpack

    from lbctl.host.host import Completed, Expected
    from lbctl.host.remote.greeting import Greeting
    from lbctl.host.remote.session import RemoteReply, SshSession

    #: A request, and what takes its answer.
    _Taken = tuple[RemoteRequest, Callable[[RemoteReply], None]]

#: Bytes of a file that is read.
MOST = 64 << 20
#: These print the same each time.
_ABOUT_TOOLS = frozenset({"--version", "--help"})
#: What makes a path a pattern.
_PATTERN = frozenset("*?[")
#: Of the kernel, and the same for as long as it runs.
_CONSTANT = frozenset({"/proc/sys/kernel/osrelease"})


class Reads:
    """The answers of one session."""

    def __init__(self, session: SshSession, greeting: Greeting) -> None:
        self._session = session
        self._tools = dict(greeting.tools)
        #: Answers of tools about themselves, which hold for the session.
        self._about = dict(greeting.about)
        self._prints: dict[str, str | None] = dict(greeting.fingerprints)
        #: What was read, path → text: of the kernel, since something was last changed; else once.
        self._files: dict[str, str | None] = {}
        #: What was read of the kernel before that.
        self._stale: dict[str, None] = {}
        self._there: dict[str, bool] = {}
        self._globs: dict[str, tuple[str, ...]] = {}
        #: What programs printed that change nothing, since something was last changed.
        self._listings: dict[tuple[str, ...], Completed] = {}
        #: What was asked ahead of time, each to be used once.
        self._answers: dict[bytes, list[bytes]] = {}
        self._runs: dict[tuple[str, ...], list[Completed]] = {}
        self._has_netlink = False

    def which(self, program: str) -> str | None:
        """Return the path of a program, or None."""
        if program not in self._tools:
            (found,) = self._session.ask(RemoteRequest(verb="which", words=(program,)))
            self._tools[program] = tool_path(found.text)
        return self._tools[program]

    def run(self, words: tuple[str, ...]) -> Completed:
        """Run a program that takes no input; raises as `SshSession.ask`."""
        if words in self._about:
            return self._about[words]
        if waiting := self._runs.get(words):
            return waiting.pop(0)
        (reply,) = self._session.ask(RemoteRequest(verb="run", words=words))
        result = completed(reply)
        if _is_about_tool(words):
            self._about[words] = result
        return result

    def listing(self, words: tuple[str, ...]) -> Completed:
        """Return how a program ended that changes nothing: now, or since something was last changed."""
        if words not in self._listings:
            self.expect(listings=[words])
        return self._listings[words]

    def read(self, path: str) -> str | None:
        """Return the text of a file, or None."""
        if path not in self._files:
            # What was read before, and may have changed since, is about to be read again too.
            self.expect(reads=[path, *(self._stale if path in self._stale else ())])
        return self._files[path]

    def forget(self, path: str) -> None:
        """Have a file be read again."""
        self._files.pop(path, None)

    def exists(self, path: str) -> bool:
        """Return True if there is a file."""
        if self._files.get(path) is not None:
            return True
        if path not in self._there:
            (found,) = self._session.ask(RemoteRequest(verb="exists", words=(path,)))
            self._there[path] = not found.status
        return self._there[path]

    def fingerprint(self, path: str) -> str | None:
        """See `Host.fingerprint`."""
        if path not in self._prints:
            self.expect(fingerprints=[path])
        return self._prints.get(path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        """See `Host.glob`."""
        if pattern not in self._globs:
            self.expect(globs=[pattern])
        return self._globs[pattern]

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        """See `Host.netlink`; through perl there."""
        if not self._answers.get(request):
            self.expect(netlink=(protocol, [request]))
        waiting = self._answers.get(request)
        return waiting.pop(0) if waiting else None

    def expect(self, **asked: Unpack[Expected]) -> None:
        """See `Host.expect`."""
        batch = [*self._things(asked), *self._programs(asked), *self._messages(asked)]
        if batch:
            replies = self._session.ask(*(request for request, _ in batch))
            for (_, take), reply in zip(batch, replies, strict=True):
                take(reply)

    def take_file(self, path: str, reply: RemoteReply) -> None:
        """Keep the answer to `reading`."""
        # What is larger is no file that lbctl looks at.
        whole = not reply.status and len(reply.out) <= MOST
        self._files[path] = reply.text if whole else None

    def expire(self) -> None:
        """Note that something is changed: what was read of the kernel is not what it is then."""
        volatile = [path for path in self._files if _is_volatile(path)]
        self._stale = dict.fromkeys([*self._stale, *volatile])
        for path in volatile:
            del self._files[path]
        self._there = {path: found for path, found in self._there.items() if not _is_volatile(path)}
        self._runs, self._answers, self._listings = {}, {}, {}

    def _things(self, asked: Expected) -> Iterator[_Taken]:
        """Yield the requests for files that are not known yet."""
        for path in dict.fromkeys(map(thread_free, asked.get("reads", ()))):
            if path not in self._files:
                yield reading(path), partial(self.take_file, path)
        for pattern in asked.get("globs", ()):
            if pattern not in self._globs:
                yield RemoteRequest(verb="glob", words=(pattern,)), partial(self._take_glob, pattern)
        for path in asked.get("fingerprints", ()):
            if _PATTERN & set(path):
                if path not in self._globs:
                    yield RemoteRequest(verb="prints", words=(path,)), partial(self._take_prints, path)
            elif path not in self._prints:
                yield RemoteRequest(verb="fingerprint", words=(path,)), partial(self._take_print, path)

    def _programs(self, asked: Expected) -> Iterator[_Taken]:
        """Yield the requests for programs, except for listings that are known."""
        for words in map(tuple, asked.get("runs", ())):
            yield _running(words), partial(self._take_run, words)
        for words in map(tuple, asked.get("listings", ())):
            if words not in self._listings:
                yield _running(words), partial(self._take_listing, words)

    def _messages(self, asked: Expected) -> Iterator[_Taken]:
        """Yield the requests for what the kernel answers to netlink messages."""
        protocol, messages = asked.get("netlink", (0, None))
        if messages is not None and not messages:
            self._answers = {}
        elif messages and self._tools["perl"] is not None:
            for each in self._netlink(protocol, messages):
                yield each, partial(self._take_answers, messages)

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
        if _is_about_tool(words):
            self._about[words] = completed(reply)
        else:
            self._runs.setdefault(words, []).append(completed(reply))

    def _take_listing(self, words: tuple[str, ...], reply: RemoteReply) -> None:
        self._listings[words] = completed(reply)

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


def reading(path: str) -> RemoteRequest:
    """Return the request for a file."""
    return RemoteRequest(verb="read", words=(path, str(MOST)))


def thread_free(path: str) -> str:
    """Return a path that kernels before 3.17 have too: each program there has one thread."""
    return path.replace("/proc/thread-self/", "/proc/self/")


def _running(words: tuple[str, ...]) -> RemoteRequest:
    return RemoteRequest(verb="run", words=words)


def _is_about_tool(words: tuple[str, ...]) -> bool:
    return len(words) == 2 and words[1] in _ABOUT_TOOLS


def _is_volatile(path: str) -> bool:
    """Return True for what the kernel makes up when it is read."""
    return path.startswith(("/proc/", "/sys/")) and path not in _CONSTANT
