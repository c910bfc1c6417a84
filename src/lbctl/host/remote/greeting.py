"""What is asked of every host at the beginning of a session, since every command needs it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from lbctl.errors import Unreachable
from lbctl.host.host import Completed
from lbctl.host.remote.answers import tool_path
from lbctl.host.remote.session import RemoteRequest
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    from lbctl.host.remote.destination import Destination

#: What every command is going to ask for.
_TOOLS = (
    "nft",
    "perl",
    "dot",
    "conntrack",
    "ip",
    *(
        f"{word}{flavour}{part}"
        for word in ("iptables", "ip6tables")
        for flavour in ("", "-nft", "-legacy")
        for part in ("", "-save", "-restore")
    ),
)
_VERSIONED_PARTS = ("", "-restore", "-nft-restore", "-legacy-restore", "-nft-save", "-legacy-save")
#: Those whose version decides how they are used.
_VERSIONED = frozenset(
    {"nft", *(f"{word}{part}" for word in ("iptables", "ip6tables") for part in _VERSIONED_PARTS)}
)
FILES = (
    "/proc/self/status",
    "/proc/sys/kernel/osrelease",
    "/proc/modules",
    "/proc/self/net/if_inet6",
    "/proc/self/net/route",
    "/proc/self/net/ip_tables_names",
    "/proc/self/net/ip6_tables_names",
)
HELLO = RemoteRequest(
    verb="hello", words=tuple(f"+{tool}" if tool in _VERSIONED else tool for tool in _TOOLS)
)
#: No clock shows more seconds than this: a year of five digits, which no calendar here has.
_LATEST = 253_402_300_800
#: A number of a process or of a network namespace has at most so many digits.
_MOST_DIGITS = 20


#: Asks for the time alone.
CLOCK = RemoteRequest(verb="clock")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteClock:
    """The clocks of a host, in seconds, when it was `began` on this host's clock."""

    #: Since 1970, and since the host started.
    now: float
    uptime: float
    began: float

    def elapsed(self) -> float:
        """Return the seconds since then."""
        return time.monotonic() - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a host reports about itself."""

    boot: str
    #: The number of the file of its network namespace, as digits, and its cookie, which may be unknown ("").
    network: str
    cookie: str
    #: The process that serves the session; 0 if it is not known.
    pid: int
    byte_order: Literal["little", "big"]
    clock: RemoteClock
    tools: Mapping[str, str | None]
    #: What tools report of themselves, by their words.
    about: Mapping[tuple[str, ...], Completed]
    fingerprints: Mapping[str, str]
    #: The files of the locks that were held.
    locked: frozenset[str]

    def file(self, name: str, kind: str) -> str:
        """Return the name of a file of this network namespace."""
        return f"{name}.{self.network}.{kind}"


def greeting(text: str, destination: Destination) -> Greeting:
    """Return what the answer to `HELLO` says; raises `Unreachable` if it lacks the time."""
    tools: dict[str, str | None] = dict.fromkeys(_TOOLS)
    about: dict[tuple[str, ...], Completed] = {}
    fingerprints: dict[str, str] = {}
    locked: set[str] = set()
    facts: dict[str, str] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        name, _, more = rest.partition(" ")
        match word:
            case "tool" if name in tools:
                tools[name] = tool_path(more)
            case "about":
                about[name, "--version"] = Completed(code=0, out=f"{more}\n", err="")
            case "print":
                fingerprints[name] = ":".join(more.split())
            case "locked":
                locked.add(name)
            case _:
                facts.setdefault(word, rest)
    return Greeting(
        boot=facts.get("boot", ""),
        network=_digits(facts.get("network", "")) or "0",
        cookie=_digits(facts.get("cookie", "")),
        pid=int(_digits(facts.get("pid", "")) or 0),
        byte_order="big" if facts.get("order") == "big" else "little",
        clock=clock(text, destination),
        tools=tools,
        about=about,
        fingerprints=fingerprints,
        locked=frozenset(locked),
    )


def clock(text: str, destination: Destination) -> RemoteClock:
    """Return the time in an answer that has just come; raises `Unreachable` if it has none."""
    facts = dict(line.partition(" ")[::2] for line in text.splitlines())
    try:
        now, uptime = float(facts["now"]), float(facts["uptime"].split()[0])
    except (KeyError, IndexError, ValueError):
        now = uptime = math.nan
    if not (0 <= now < _LATEST and 0 <= uptime < _LATEST):
        raise Unreachable(f"{destination} does not report its time: it needs date and /proc")
    return RemoteClock(now=now, uptime=uptime, began=time.monotonic())


def _digits(text: str) -> str:
    return text if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else ""
