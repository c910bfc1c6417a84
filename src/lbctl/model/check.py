"""How endpoints are checked, and what a failed check does: the values behind `check` and `health`.

Each kind of check has a value of its own that holds what is sent and what is expected; `Check` adds the
timing that all kinds share. Whether a program may be run is decided when it is run: here only the shape is
checked. All times are whole milliseconds.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from lbctl.values import dataclass

if TYPE_CHECKING:
    from fractions import Fraction

#: Times of a check: 100 ms to a day. Shorter intervals would be an attack, longer ones no check.
MIN_TIME, MAX_TIME = 100, 86_400_000
MAX_COUNT = 100
MAX_PATH = 1024
#: Bytes of a text that an answer must contain, or that is sent.
MAX_TEXT = 1024
MAX_ARGUMENTS, MAX_ARGUMENT = 64, 4096

#: A name in a Host header, as a server name of TLS, or in DNS. Underscores stand in names of SRV records.
HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\Z"
)
#: What RFC 3986 lets stand in a path and its query.
HTTP_PATH = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*\Z")
#: A user of the system, as useradd(8) takes it.
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")


class CheckKind(StrEnum):
    """What a check does."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    DNS = "dns"
    UDP = "udp"
    EXEC = "exec"


class RecordType(StrEnum):
    """A type of DNS records that a check can ask for."""

    A = "A"
    AAAA = "AAAA"
    CAA = "CAA"
    CNAME = "CNAME"
    MX = "MX"
    NS = "NS"
    PTR = "PTR"
    SOA = "SOA"
    SRV = "SRV"
    TXT = "TXT"


class Initial(StrEnum):
    """Whether an endpoint that was never checked takes connections."""

    UP = "up"
    DOWN = "down"


class AllDown(StrEnum):
    """What happens when no endpoint of a family passes its check."""

    KEEP = "keep"
    REJECT = "reject"


class OnDown(StrEnum):
    """What happens to established TCP connections of an endpoint that fails."""

    KEEP = "keep"
    CUT = "cut"


@dataclass(frozen=True, slots=True, order=True)
class StatusRange:
    """HTTP status codes from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 100 <= self.low <= self.high <= 599:
            raise ValueError(f"status {self} is not in 100-599")

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"

    def __contains__(self, code: int) -> bool:
        return self.low <= code <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpProbe:
    """A connection is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How a server proves who it is, and how lbctl does: paths of PEM files, and the name that is asked for.

    Without `ca`, any certificate is accepted: most endpoints have one for another name than their address.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    sni: str | None = None

    def __post_init__(self) -> None:
        for path in (self.ca, self.cert, self.key):
            if path is not None:
                check_file(path)
        if self.key is not None and self.cert is None:
            raise ValueError("a key without its certificate")
        if self.sni is not None:
            check_host(self.sni)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProbe:
    """A GET request is answered with a status in `status`, and with `body` in the answer.

    `tls` is None for plain HTTP. `host` is the Host header; None for the address of the endpoint.
    """

    path: str = "/"
    host: str | None = None
    status: tuple[StatusRange, ...] = (StatusRange(200, 399),)
    body: str | None = None
    tls: TlsOptions | None = None

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.host is not None:
            check_host(self.host)
        if not self.status:
            raise ValueError("no status would pass")
        if self.body is not None:
            check_text(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsProbe:
    """A query for the records of a name is answered with at least one of them."""

    name: str
    type: RecordType = RecordType.A

    def __post_init__(self) -> None:
        if self.name != ".":
            check_host(self.name.removesuffix("."))


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpProbe:
    """A datagram is answered by one that contains `expect`, or by any where that is empty."""

    send: bytes = b""
    expect: bytes = b""

    def __post_init__(self) -> None:
        if len(self.send) > MAX_TEXT or len(self.expect) > MAX_TEXT:
            raise ValueError(f"a text of more than {MAX_TEXT} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecProbe:
    """A program, run as `user`, ends with 0."""

    argv: tuple[str, ...]
    user: str

    def __post_init__(self) -> None:
        check_argv(self.argv)
        check_user(self.user)


Probe: TypeAlias = TcpProbe | HttpProbe | DnsProbe | UdpProbe | ExecProbe


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """How the endpoints of a service are checked. Times in milliseconds.

    `port` is what is checked instead of the endpoint's port. While a state is changing, checks follow each
    other by `fast_interval`. `hold` is the least time that an endpoint stays out once it failed.
    """

    probe: Probe
    port: int | None = None
    interval: int = 2000
    fast_interval: int = 500
    timeout: int = 1000
    rise: int = 2
    fall: int = 3
    hold: int = 0
    initial: Initial = Initial.DOWN

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 1 and 65535")
        for time in (self.interval, self.fast_interval, self.timeout):
            if not MIN_TIME <= time <= MAX_TIME:
                raise ValueError(f"{time} ms is not between {MIN_TIME} and {MAX_TIME} ms")
        if not 0 <= self.hold <= MAX_TIME:
            raise ValueError(f"hold of {self.hold} ms is not between 0 and {MAX_TIME} ms")
        if self.fast_interval > self.interval or self.timeout > self.interval:
            raise ValueError("the interval is shorter than fast-interval or timeout")
        for count in (self.rise, self.fall):
            if not 1 <= count <= MAX_COUNT:
                raise ValueError(f"{count} results are not between 1 and {MAX_COUNT}")

    @property
    def kind(self) -> CheckKind:
        """The word of the intent file for what is done."""
        match self.probe:
            case TcpProbe():
                return CheckKind.TCP
            case HttpProbe(tls=tls):
                return CheckKind.HTTP if tls is None else CheckKind.HTTPS
            case DnsProbe():
                return CheckKind.DNS
            case UdpProbe():
                return CheckKind.UDP
            case ExecProbe():
                return CheckKind.EXEC


@lru_cache(maxsize=4096)
def fingerprint(check: Check) -> str:
    """Return what tells checks apart that ask something else, or at another port: times do not count."""
    return blake2b(repr((check.probe, check.port)).encode(), digest_size=6).hexdigest()


def default_timing(interval: int) -> tuple[int, int]:
    """Return `fast_interval` and `timeout` of a check that gives only an interval, in milliseconds."""
    return max(MIN_TIME, interval // 4), min(1000, interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """What checks may do to a service. `slow_start` in milliseconds, 0 for none.

    `max_down` is the part of a service's endpoints that checks may take out at most; None for all of them.
    """

    all_down: AllDown = AllDown.KEEP
    max_down: Fraction | None = None
    on_down: OnDown = OnDown.KEEP
    slow_start: int = 0
    notify: tuple[str, ...] = ()
    notify_user: str = "nobody"

    def __post_init__(self) -> None:
        if self.max_down is not None and not 0 < self.max_down < 1:
            raise ValueError(f"max-down {self.max_down} is not between 0 and 1")
        if not 0 <= self.slow_start <= MAX_TIME:
            raise ValueError(f"slow-start of {self.slow_start} ms is not between 0 and {MAX_TIME} ms")
        if self.notify:
            check_argv(self.notify)
        check_user(self.notify_user)


def check_host(text: str) -> str:
    """Return `text`, or raise ValueError if it is no name of a host."""
    if not HOST_NAME.match(text):
        raise ValueError(f"{text!r} is not a host name")
    return text


def check_path(text: str) -> str:
    """Return `text`, or raise ValueError if it is no path of an HTTP request."""
    if len(text) > MAX_PATH or not HTTP_PATH.match(text):
        raise ValueError(f"{text!r} is not a path of at most {MAX_PATH} characters")
    return text


def check_text(text: str) -> str:
    """Return `text`, or raise ValueError if no answer can be searched for it."""
    if not 1 <= len(text.encode()) <= MAX_TEXT:
        raise ValueError(f"a text has 1 to {MAX_TEXT} bytes")
    return text


def check_file(text: str) -> str:
    """Return `text`, or raise ValueError if it is no absolute path without `..`."""
    parts = text.split("/")
    if (
        len(text) > MAX_ARGUMENT
        or not text.startswith("/")
        or not text.isprintable()
        or {".", ".."} & set(parts)
    ):
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def check_user(text: str) -> str:
    """Return `text`, or raise ValueError if it is no name of a user, or root's."""
    if not USER_NAME.match(text) or text == "root":
        raise ValueError(f"{text!r} is not the name of a user other than root")
    return text


def check_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return `argv`, or raise ValueError if it is no program by its absolute path, and its arguments."""
    if not 1 <= len(argv) <= MAX_ARGUMENTS:
        raise ValueError(f"a program and its arguments are 1 to {MAX_ARGUMENTS} texts")
    check_file(argv[0])
    if argv[0].endswith("/"):
        raise ValueError(f"{argv[0]!r} is a directory")
    if any(len(text) > MAX_ARGUMENT or not text.isprintable() for text in argv):
        raise ValueError(f"an argument is longer than {MAX_ARGUMENT} characters, or not printable")
    return argv


#: What holds for a service without a `health` table.
DEFAULT_POLICY = HealthPolicy()
