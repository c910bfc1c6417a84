"""Where the endpoints of a service come from besides its file: the value behind `discover`.

What a source answers is not trusted: `Discovery` holds the bounds, and `lbctl.model.answer` applies them.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model.check import HOST_NAME, check_file
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

_Network: TypeAlias = IPv4Network | IPv6Network

#: Endpoints of one answer: what is taken by default, and what an intent may ask for.
DEFAULT_MAX, MOST = 1024, 4096
#: The name of a source, as entry points have it: it becomes a part of messages and metrics.
SOURCE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
#: What any source can be asked for. Built-in sources are stricter, see `_NAMES`.
_ANY_NAME = re.compile(r"[A-Za-z0-9_/](?:[A-Za-z0-9_./@:*=+-]{0,254})\Z")
_HOST_AND_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+?)\.?(?::(?P<port>[1-9][0-9]{0,4}))?\Z")
_PREFIX = re.compile(r"/?[A-Za-z0-9][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*/?\Z")
_UNIT = re.compile(r"[A-Za-z0-9_.:-]+@\*\.service\Z")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9./_-]*[A-Za-z0-9])?(?:=[A-Za-z0-9._/-]+)?\Z")
_CONSUL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_KUBERNETES = re.compile(rf"(?:{_DNS_LABEL}/)?{_DNS_LABEL}(?::[a-z0-9](?:[a-z0-9-]{{0,13}}[a-z0-9])?)?\Z")


class WeightOwner(StrEnum):
    """Who decides the weight of a discovered endpoint."""

    FILE = "file"
    SOURCE = "source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """A source of endpoints, what it is asked for, and the bounds of its answers."""

    source: str
    name: str
    weight: WeightOwner = WeightOwner.FILE
    #: Networks that discovered addresses must be in; () for all but loopback, link-local and multicast.
    within: tuple[_Network, ...] = ()
    #: A larger answer is wrong.
    max: int = DEFAULT_MAX
    #: Whether an answer without endpoints can be right.
    allow_empty: bool = False

    def __post_init__(self) -> None:
        if not SOURCE_NAME.match(self.source):
            raise ValueError(f"source {self.source!r} is not a name")
        check_source_name(self.source, self.name)
        if not 1 <= self.max <= MOST:
            raise ValueError(f"max {self.max} is not between 1 and {MOST}")

    def __str__(self) -> str:
        return f"{self.source} {self.name}"


def check_source_name(source: str, name: str) -> str:
    """Return `name`, or raise ValueError if the source cannot be asked for it."""
    check, what = _NAMES.get(source, (_matches(_ANY_NAME), "a name of at most 255 plain characters"))
    if len(name) > 255 or not check(name):
        raise ValueError(f"{name!r} is not {what}")
    return name


def host_and_port(name: str) -> tuple[str, int | None]:
    """Return the host and the port in the name of a dns source; raises `ValueError`."""
    found = _HOST_AND_PORT.match(name)
    port = int(found["port"]) if found and found["port"] else None
    if not found or not HOST_NAME.match(found["host"]) or (port is not None and port > 65535):
        raise ValueError(f"{name!r} is not a name in DNS")
    return found["host"], port


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda name: pattern.match(name) is not None


def _is_dns(name: str) -> bool:
    try:
        host, port = host_and_port(name)
    except ValueError:
        return False
    return port is None or not host.startswith("_")  # SRV records have the ports


def _is_file(name: str) -> bool:
    try:
        return bool(check_file(name)) and name.endswith(".json")
    except ValueError:
        return False


#: What each built-in source can be asked for.
_NAMES: dict[str, tuple[Callable[[str], bool], str]] = {
    "dns": (_is_dns, 'a name like "_http._tcp.api.example.internal" (SRV) or "api.example.internal:8080"'),
    "etcd": (_matches(_PREFIX), 'a prefix of keys like "/services/api/"'),
    "file": (_is_file, "an absolute path of a .json file"),
    "systemd": (_matches(_UNIT), 'a template like "app@*.service"'),
    "docker": (_matches(_LABEL), 'a label like "lbctl.service=api"'),
    "consul": (_matches(_CONSUL), "a name of a service"),
    "kubernetes": (_matches(_KUBERNETES), 'a service like "default/api" or "default/api:http"'),
}
