"""Where this host would send a packet, and by which links packets arrive: through the `ip` command."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbctl.host.host import Completed, Host
    from lbctl.model import Address

_DEVICE = re.compile(r"\bdev (\S+)")
_HELD = re.compile(r"(?m)^\d+: (\S+) +inet6? ([0-9a-fA-F:./]+)")
_OPTION = {Family.IPV4: "-4", Family.IPV6: "-6"}
#: Kinds of routes by which nothing is sent.
_REFUSING = {"unreachable", "blackhole", "prohibit", "throw"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to an address. `device` is None where there is none; `text` is what `ip` said."""

    device: str | None
    local: bool
    text: str


def has_routes(host: Host) -> bool:
    """Return True if routes can be asked for."""
    return host.which("ip") is not None


def routes_to(host: Host, addresses: Iterable[Address]) -> Mapping[Address, Route]:
    """Return what the kernel would do with a packet to each address. Nothing is sent."""
    asked = {address: [_ip(host), "-o", "route", "get", str(address)] for address in addresses}
    host.expect(runs=asked.values())
    return {address: _route(host.run(words)) for address, words in asked.items()}


def _route(done: Completed) -> Route:
    if done.code:
        return Route(device=None, local=False, text=_first(done.err) or "no answer")
    text = _first(done.out)
    kind = text.split(" ", 1)[0]
    found = _DEVICE.search(text)
    return Route(
        device=found[1] if found and kind not in _REFUSING else None, local=kind == "local", text=text
    )


def links_back(host: Host, address: Address) -> tuple[str, ...]:
    """The links of the routes to an address that are as narrow as the one that is taken, that one first."""
    words = ["-o", _OPTION[Family.of(address)], "route", "show", "table", "all", "to", "match", str(address)]
    done = host.run([_ip(host), *words])
    by_length: dict[int, list[str]] = {}
    for line in done.out.splitlines() if not done.code else ():
        if (words := line.split()) and words[0] not in _REFUSING | {"local", "broadcast", "anycast"}:
            length = _length(words[0], address)
            by_length.setdefault(length, []).extend(_DEVICE.findall(line))
    return tuple(dict.fromkeys(by_length[max(by_length)])) if by_length else ()


def links_in(host: Host, family: Family) -> Mapping[Address | None, str]:
    """This host's addresses, each with the link by which connections to it arrive; None: the default route's.

    An address without a network, as one of the loopback link, may be reached by any link: it is not told.
    """
    ip, option = _ip(host), _OPTION[family]
    default = _DEVICE.search(host.run([ip, "-o", option, "route", "show", "default"]).out)
    found: dict[Address | None, str] = {None: default[1]} if default else {}
    for link, text in _HELD.findall(host.run([ip, "-o", option, "address", "show"]).out):
        held = ip_interface(text)
        if link != "lo" and held.network.num_addresses > 1:
            found[held.ip] = link.partition("@")[0]
    return found


def _length(target: str, address: Address) -> int:
    if target == "default":
        return 0
    try:
        return ip_network(target, strict=False).prefixlen
    except ValueError:
        return address.max_prefixlen


def _first(text: str) -> str:
    lines = text.strip().splitlines()
    return " ".join(lines[0].replace("\\", " ").split()) if lines else ""


def _ip(host: Host) -> str:
    return host.which("ip") or "ip"
