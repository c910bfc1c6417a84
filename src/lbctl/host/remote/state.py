"""The files of lbctl on a remote host: what it remembers and saves, and what reverts a trial."""

from __future__ import annotations

import re
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, PermissionDenied, Unreachable
from lbctl.host.remote.answers import file_text, refuse, state_files
from lbctl.host.remote.reads import MOST
from lbctl.host.remote.session import RemoteRequest, script

if TYPE_CHECKING:
    from lbctl.host.orders import Orders
    from lbctl.host.remote.greeting import Greeting
    from lbctl.host.remote.session import RemoteReply, SshSession

#: Bytes of a file that comes along unasked.
_SMALL = 8 << 10
#: All that is saved, and all that is remembered.
STATE = (
    RemoteRequest(verb="saved", words=(str(_SMALL),)),
    RemoteRequest(verb="known", words=(str(_SMALL),)),
)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")


class RemoteState:
    """The files of one session, each read when it is first needed, and again after `expire`."""

    def __init__(self, session: SshSession, greeting: Greeting) -> None:
        self._session = session
        self._greeting = greeting
        #: Name → text, or None for one that is fetched when it is needed; None if they are to be read.
        self._known: dict[str, str | None] | None = None
        self._saved: dict[str, str | None] | None = None
        #: Why what is saved there is not used.
        self._refusal: str | None = None

    def take(self, saved: RemoteReply, known: RemoteReply) -> None:
        """Keep the answers to `STATE`."""
        self._known = {} if known.status else dict(state_files(known.out))
        self._refusal = None
        if saved.status:
            self._saved, self._refusal = None, saved.complaint
        else:
            self._saved = dict(state_files(saved.out))

    def expire(self) -> None:
        """Have all be read again."""
        self._saved = self._known = None

    def recall(self, name: str) -> str | None:
        """See `Host.recall`."""
        if self._known is None:
            self._refresh()
        return self._held(self._known or {}, self._greeting.file(name, "known"), "recall")

    def remember(self, name: str, text: str | None) -> None:
        """See `Host.remember`. Nothing waits for it."""
        file = self._greeting.file(name, "known")
        known = self._known if self._known is not None else {}
        known.pop(file, None)
        request = RemoteRequest(verb="forget", words=(file,))
        if text is not None:
            known[file] = text
            request = RemoteRequest(verb="know", words=(file,), data=_bytes(text))
        with suppress(Unreachable):
            self._session.tell(request)

    def save(self, name: str, text: str | None) -> None:
        """See `Host.save`."""
        saved = self._shelf()
        if text is None:
            if name in saved:
                self._change("drop", (name,), f"cannot remove {name}")
                saved.pop(name, None)
        else:
            self._change("save", (name,), f"cannot write {name}", text)
            saved[name] = text

    def append(self, name: str, text: str) -> None:
        """See `Host.append`."""
        saved = self._shelf()
        self._change("append", (name,), f"cannot write {name}", text)
        saved[name] = None

    def rename(self, name: str, new: str) -> None:
        """See `Host.rename`."""
        saved = self._shelf()
        self._change("rename", (name, new), f"cannot rename {name} to {new}")
        saved[new] = saved.pop(name, None)

    def saved(self, name: str) -> str | None:
        """See `Host.saved`."""
        return self._held(self._shelf(), name, "fetch")

    def saved_names(self) -> tuple[str, ...]:
        """See `Host.saved_names`."""
        return tuple(sorted(self._shelf()))

    def stand_by(self, orders: Orders) -> None:
        """See `Host.stand_by`. A script there waits, in a session of its own."""
        if any("\n" in word for run in orders.runs for word in run.argv):
            raise ApplyFailed(f"{self._session.destination}: a word of a program has a line break")
        name = _orders_name(orders.guard, orders.ident)
        locks = (self._greeting.file(orders.lock, "lock"), self._greeting.file(orders.guard, "lock"))
        replies = self._session.ask(
            RemoteRequest(verb="stand-aside", words=(name,)),
            *(_hand(name, file, text) for file, text in _files_of(orders).items()),
            RemoteRequest(verb="stand-by", words=(name, *locks, orders.record)),
        )
        for reply in replies:
            if reply.status:
                refuse(
                    self._session.destination,
                    reply,
                    "the script that reverts a trial does not run there",
                )

    def postpone(self, ident: str, guard: str, deadline: float) -> None:
        """See `Host.postpone`."""
        request = _hand(_orders_name(guard, ident), "deadline", f"{ceil(deadline)}\n")
        (reply,) = self._session.ask(request)
        if reply.status:
            refuse(self._session.destination, reply, "the time of the trial cannot be set there")

    def _refresh(self) -> None:
        self.take(*self._session.ask(*STATE))

    def _shelf(self) -> dict[str, str | None]:
        if self._saved is None and self._refusal is None:
            self._refresh()
        if self._saved is None:
            raise PermissionDenied(f"{self._session.destination}: {self._refusal}")
        return self._saved

    def _held(self, files: dict[str, str | None], name: str, verb: str) -> str | None:
        if name in files and files[name] is None:
            (found,) = self._session.ask(RemoteRequest(verb=verb, words=(name, str(MOST))))
            text = None if found.status else file_text(found.out)
            if text is None:
                return None
            files[name] = text
        return files.get(name)

    def _change(self, verb: str, words: tuple[str, ...], failure: str, text: str = "") -> None:
        for word in words:
            if not _NAME.fullmatch(word):
                raise ApplyFailed(f"{failure}: not a name of a file")
        (done,) = self._session.ask(RemoteRequest(verb=verb, words=words, data=_bytes(text)))
        if done.status:
            refuse(self._session.destination, done, failure)


def _files_of(orders: Orders) -> dict[str, str]:
    """Return the files of revert.sh: name → text."""
    files = {
        "revert.sh": script("locks.sh", "revert.sh").decode(),
        "ident": f"{orders.ident}\n",
        "deadline": f"{ceil(orders.deadline)}\n",
    }
    for number, run in enumerate(orders.runs, 1):
        files[f"run.{number}"] = "".join(f"{word}\n" for word in run.argv)
        files[f"in.{number}"] = run.stdin
    files |= {f"after/{file}": text for file, text in orders.saved.items() if text is not None}
    files["gone"] = "".join(f"{file}\n" for file, text in orders.saved.items() if text is None)
    return files


def _orders_name(guard: str, ident: str) -> str:
    return f"{guard}-{ident}"


def _hand(name: str, file: str, text: str) -> RemoteRequest:
    return RemoteRequest(verb="hand", words=(name, file), data=_bytes(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
