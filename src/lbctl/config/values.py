"""The small texts inside an intent file: listeners, endpoints, networks, durations, names.

Each parser takes whatever the document held and returns a value of the model, or raises `InvalidValue` with a
sentence for the person and a hint. The fast path only says whether a text is right; one that is not is
looked at closely, to say what exactly is wrong with it.

The patterns here are also those of the JSON Schema, so an editor and lbctl agree.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from lbctl.model import (
    INTERFACE,
    MAX_OWNER,
    MAX_PORT,
    NAME,
    UNITS,
    Endpoint,
    Listener,
    Protocol,
    check_interface,
    check_mac,
    check_mark,
    check_owner,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import StrEnum

    from lbctl.model import Address, Network


Choice = TypeVar("Choice", bound="StrEnum")

#: Where something stands in a document: ("service", 3, "endpoint", 1, "weight"); counts from 0.
Place: TypeAlias = tuple[str | int, ...]

SCHEMA_VERSION = 1
#: Ports that one "low-high" may stand for.
MAX_RANGE = 1024
#: Interfaces of one service: each is a comparison for each new connection.
MAX_INTERFACES = 32
MIN_AFFINITY = 1
MAX_AFFINITY = 30 * 86400
#: Units of the times of checks.
MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}

_PORT = r"[1-9][0-9]{0,4}"
_HOST = r"(?:([0-9]{1,3}(?:\.[0-9]{1,3}){3})|\[([0-9A-Fa-f:.]+)\])"
_PLACE_PATTERN = rf"(?:{_HOST}:)?({_PORT})"
#: Behind a place: an address alone, of which connections keep the port.
ENDPOINT_PATTERN = (
    rf"{_PLACE_PATTERN}|[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
)
LISTENER_PATTERN = rf"{_PLACE_PATTERN}(?:-({_PORT}))?/({'|'.join(Protocol)})"
PORTS_PATTERN = rf"({_PORT})-({_PORT})"
INTERFACE_PATTERN = INTERFACE.pattern.removesuffix(r"\Z")
MAC_PATTERN = r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}"
NETWORK_PATTERN = r"([0-9A-Fa-f:.]+)(?:/(0|[1-9][0-9]{0,2}))?"
DURATION_PATTERN = r"([1-9][0-9]{0,6})([smhd])"

_SHOWN = 60
_LONGEST_INTERFACE = 15

_PROTOCOLS = {str(p): p for p in Protocol}
_LISTEN_HINT = 'write `listen = "80/tcp"`, or with an address "192.0.2.10:443/tcp" or "[2001:db8::10]:53/udp"'
_ENDPOINT_HINT = 'write a port of this host like "8001", or an address like "10.0.0.11:8443"'
_INTERFACE_HINT = 'write the name of a network interface like "eth0", or "ppp*" for all that begin with ppp'
_NAME_HINT = "a name has 1 to 63 of a-z, 0-9 and -, and starts and ends with a letter or digit"


class InvalidValue(ValueError):
    """A value of the document that cannot be used: `message` without the place, and a `hint`."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


#: What one entry of `endpoints` stands for: an endpoint, or many ports of this host.
Target: TypeAlias = Endpoint | range


def show(value: object) -> str:
    """A value of a document for a message: ASCII, on one line, cut at 60 characters, never a container."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case str():
            return '"' + _cut(escape(value[: _SHOWN + 1]).replace('"', '\\"')) + '"'
        case int():
            # str() of a very long integer is refused by Python itself
            return str(value) if -(10**30) < value < 10**30 else "a number of more than 30 digits"
        case dict():
            return "a table"
        case list():
            return "a list"
    return _cut(escape(str(value)))


def show_key(key: str) -> str:
    """Return a key of a document for a message, in backticks."""
    return f"`{_cut(escape(key[: _SHOWN + 1]))}`"


def escape(text: str) -> str:
    r"""`text` with everything but printable ASCII written as `\n`, `\x1b` or `\u202e`."""
    return text.encode("unicode_escape").decode("ascii")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def version(value: object) -> int:
    """Return the version of the file format: exactly the integer 1."""
    if type(value) is int and value == SCHEMA_VERSION:
        return value
    raise InvalidValue(
        f"schema {show(value)} is not known", f"this lbctl reads schema {SCHEMA_VERSION}: write `schema = 1`"
    )


def name(value: object) -> str:
    """Return a service's or endpoint's name."""
    if isinstance(value, str) and NAME.match(value):
        return value
    if isinstance(value, str) and NAME.match(tidy := re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")):
        raise InvalidValue(f"{show(value)} is not a name", f'{_NAME_HINT}; "{tidy}" would do')
    raise InvalidValue(f"{show(value)} is not a name", _NAME_HINT)


def owner(value: object) -> str:
    """Return the owner of a file's rules."""
    try:
        if isinstance(value, str):
            return check_owner(value)
    except ValueError:
        pass
    raise InvalidValue(
        f"owner {show(value)} is not a name of at most {MAX_OWNER} characters",
        "it becomes a part of rules: use a-z, 0-9 and -, and start and end with a letter or digit",
    )


def mark(value: object) -> int:
    """Return the bits of the packet mark that rules of a file may use."""
    try:
        if type(value) is int:
            return check_mark(value)
    except ValueError:
        pass
    raise InvalidValue(
        f"mark {show_mark(value)} is not two bits of 32",
        "choose two bits of the packet mark that nothing else on this host uses, like `mark = 0x3000`",
    )


def show_mark(value: object) -> str:
    """As `show`, for marks: people write them in hex."""
    return f"{value:#x}" if type(value) is int and 0 <= value < 1 << 64 else show(value)


def choice(kind: type[Choice], key: str) -> Callable[[object], Choice]:
    """Return a parser of one of the words of `kind`."""
    words = {str(member): member for member in kind}

    def parse(value: object) -> Choice:
        if isinstance(value, str) and value in words:
            return words[value]
        listed = ", ".join(f'"{word}"' for word in words)
        hint = f"use one of {listed}"
        if isinstance(value, str):
            from lbctl.config.words import scheduler_hint  # only where there is a mistake to explain

            if key == "scheduler" and (answer := scheduler_hint(value, words)):
                hint = f"{answer} ({hint})"
            elif near := nearest(value.lower().replace("_", "-"), words):
                hint = f'did you mean "{near}"? ({hint})'
        raise InvalidValue(f"{key} {show(value)} is not known", hint)

    return parse


def nearest(word: str, words: object) -> str | None:
    """Return the one of `words` that is most like `word`, if any is."""
    import difflib  # only where there is a mistake to explain

    found = difflib.get_close_matches(word[:64], list(words), n=1)  # type: ignore[call-overload]
    return found[0] if found else None


def one_or_many(value: object) -> object:
    """`listen` as a list: one listener may be written without brackets."""
    if isinstance(value, list):
        if not value:
            raise InvalidValue("`listen` is empty: there is no listener", _LISTEN_HINT)
        return value
    return [value]


def listener(value: object) -> Listener:
    """`80/tcp`, `192.0.2.10:443/tcp`, `[2001:db8::10]:53/udp`, or with a range of ports `5000-5100/udp`."""
    if isinstance(value, str):
        place, _, word = value.rpartition("/")
        begin, dash, end = place.partition("-")
        last = _port(end) if dash else 0
        if (protocol := _PROTOCOLS.get(word)) and last is not None and (found := _place(begin)):
            address, port = found
            if not dash or port < last:
                return Listener(protocol=protocol, port=port, address=address, last_port=last)
    return _explain_listener(value)


def target(value: object) -> Target:
    """An endpoint, or a range of them: `8001`, `"8001"`, `"8001-8008"`, `"10.0.0.1:80"`, `"10.0.0.1"`."""
    if isinstance(value, str) and "-" in value and (found := re.fullmatch(PORTS_PATTERN, value)):
        low, high = int(found[1]), int(found[2])
        what = f"endpoints {show(value)}"
        if high > MAX_PORT:
            raise InvalidValue(f"{what}: port {high} is not between 1 and 65535", "use ports from 1 to 65535")
        if low > high:
            raise InvalidValue(f"{what} run backwards", f'write "{high}-{low}"')
        if high - low >= MAX_RANGE:
            raise InvalidValue(
                f"{what} are {high - low + 1} ports, more than {MAX_RANGE}",
                f'split them; the longest that may start here is "{low}-{low + MAX_RANGE - 1}"',
            )
        return range(low, high + 1)
    return single_target(value)


def single_target(value: object) -> Endpoint:
    """Return one endpoint: a `target` that is no range."""
    if isinstance(value, str):
        if found := _place(value):
            address, port = found
            return Endpoint(port=port, address=address)
        # Without a port: connections keep theirs.
        if alone := _address(f"[{value}]" if ":" in value else value):
            return Endpoint(address=alone)
    elif type(value) is int and 1 <= value <= 65535:
        return Endpoint(port=value)
    return _explain_endpoint(value)


def endpoints(value: object) -> tuple[Endpoint, ...]:
    """Return the endpoints that one text stands for, as `--to` of the command line gives them."""
    return expand((target(value),))


def expand(targets: Iterable[Target]) -> tuple[Endpoint, ...]:
    """Return the endpoints that all of `targets` stand for."""
    made: list[Endpoint] = []
    for entry in targets:
        if isinstance(entry, range):
            made.extend(Endpoint(port=port) for port in entry)
        else:
            made.append(entry)
    return tuple(made)


def interface(value: object) -> str:
    """Return the name of a network interface, or with a `*` at its end the beginning of some."""
    what = f"interface {show(value)}"
    if not isinstance(value, str):
        raise InvalidValue(f"{what} is not a string", _INTERFACE_HINT)
    if value == "lo":
        raise InvalidValue(
            f"{what}: connections made on this host arrive on no interface",
            "`local-clients` decides whether they are balanced",
        )
    try:
        return check_interface(value)
    except ValueError:
        pass
    if value.endswith("+") and INTERFACE.match(tidy := f"{value[:-1]}*"):
        raise InvalidValue(f"{what} is not the name of an interface", f'did you mean "{tidy}"?')
    if len(value) > _LONGEST_INTERFACE:
        raise InvalidValue(f"{what} is longer than {_LONGEST_INTERFACE} characters", _INTERFACE_HINT)
    raise InvalidValue(f"{what} is not the name of an interface", _INTERFACE_HINT)


def device(value: object) -> str:
    """Return the name of a network interface that packets can arrive on."""
    name = interface(value)
    if name.endswith("*"):
        raise InvalidValue(f"interface {show(value)} stands for several", "name each of them")
    return name


def mac(value: object) -> str:
    """Return a MAC address in the kernel's spelling."""
    hint = 'for example "52:54:00:12:34:56"'
    if not isinstance(value, str):
        raise InvalidValue(f"mac {show(value)} is not a string", hint)
    try:
        return check_mac(value.lower().replace("-", ":"))
    except ValueError:
        raise InvalidValue(f"mac {show(value)} is not the MAC address of a network card", hint) from None


def network_of(key: str) -> Callable[[object], Network]:
    """Return a parser of the networks of a key."""
    return partial(network, key=key)


def network(value: object, *, key: str) -> Network:
    """Return a network without host bits, or one address as the network of only itself."""
    what = f"{key}: {show(value)}"
    hint = 'write a network like "198.51.100.0/24" or an address like "2001:db8::7"'
    if not isinstance(value, str):
        raise InvalidValue(f"{what} is not a string", hint)
    found = re.fullmatch(NETWORK_PATTERN, value)
    if not found:
        if "%" in value:
            raise InvalidValue(f"{what} has a scope id", "leave out the part from the % on")
        if "/" in value and "." in value.rpartition("/")[2]:
            raise InvalidValue(
                f"{what}: the part after the slash is not a prefix length", f"{hint}; not a netmask"
            )
        if re.search(r"[g-zG-Z]", value) and not re.search(r"\s", value):
            raise InvalidValue(f"{what} is not a network or address", f"host names are not resolved: {hint}")
        raise InvalidValue(f"{what} is not a network or address", hint)
    try:
        address = IPv6Address(found[1]) if ":" in found[1] else IPv4Address(found[1])
    except AddressValueError as error:
        raise InvalidValue(f"{what} is not a network or address ({escape(str(error))})", hint) from None
    bits = address.max_prefixlen
    prefix = bits if found[2] is None else int(found[2])
    if prefix > bits:
        raise InvalidValue(f"{what}: a prefix of this family has at most {bits} bits", hint)
    host = int(address) & ((1 << (bits - prefix)) - 1)
    if isinstance(address, IPv4Address):
        fixed: Network = IPv4Network((int(address) - host, prefix))
    else:
        fixed = IPv6Network((int(address) - host, prefix))
        if int(address) >> 32 == 0xFFFF:
            raise InvalidValue(f"{what} is an IPv4-mapped IPv6 address", f'write "{address.ipv4_mapped}"')
    if host:
        raise InvalidValue(f"{what} has bits set beyond its prefix", f'write "{fixed}", or "{address}" alone')
    return fixed


def duration(value: object) -> int:
    """Seconds of "90s", "15m", "3h" or "1d": from one second to 30 days."""
    hint = 'write a number and a unit: "90s", "15m", "3h" or "1d"'
    if isinstance(value, str) and (found := re.fullmatch(DURATION_PATTERN, value)):
        seconds = int(found[1]) * UNITS[found[2]]
        if seconds <= MAX_AFFINITY:
            return seconds
        raise InvalidValue(f"affinity {show(value)} is longer than 30 days", 'use at most "30d"')
    if type(value) is int and MIN_AFFINITY <= value <= MAX_AFFINITY:
        hint = f'seconds are written as "{value}s"'
    elif isinstance(value, str) and re.match(r"0+[smhd]?\Z", value):
        hint = "leave `affinity` out for none; the shortest is 1s"
    raise InvalidValue(f"affinity {show(value)} is not a duration", hint)


def time_text(time: int) -> str:
    """Return a time in milliseconds in its largest unit, like "2s"."""
    unit, size = next((u, n) for u, n in reversed(MILLISECONDS.items()) if time % n == 0)
    return f"{time // size}{unit}"


def _place(text: str) -> tuple[Address | None, int] | None:
    """Return what `[ADDRESS:]PORT` says; None where `_explain_place` has something to say.

    Its two halves are read each by itself, and not again where they come again: a host often serves many
    services, and services share ports.
    """
    host, colon, digits = text.rpartition(":")
    port = _port(digits)
    address = _address(host) if colon else None
    return None if port is None or (colon and address is None) else (address, port)


@lru_cache(maxsize=4096)
def _port(text: str) -> int | None:
    return port if re.fullmatch(_PORT, text) and (port := int(text)) <= MAX_PORT else None


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """Return the address of one host, as it stands before a port; None where it is none."""
    found = re.fullmatch(_HOST, text)
    if not found:
        return None
    v4, v6 = found.groups()
    try:
        if v4:
            # The patterns let in four numbers of up to three digits: from them, it takes a third of the time
            # that it takes from the text. One that is not written like that has leading zeros.
            number = int(plain := IPv4Address(bytes(map(int, v4.split(".")))))
            odd = number in {0, 0xFFFFFFFF} or number >> 28 == 0xE
            return None if odd or str(plain) != v4 else plain
        number = int(wide := IPv6Address(v6))
        odd = number == 0 or number >> 32 == 0xFFFF or 0xFFFF < number <= 0xFFFFFFFF
        return None if odd or number >> 120 == 0xFF else wide
    except ValueError:
        pass
    return None


def _explain_address(text: str, what: str, alone: str) -> None:
    """Raise for an address that is none of one host; `alone` is what `what` would be without it."""
    address: Address
    if ":" not in text:
        try:
            address = IPv4Address(text)
        except AddressValueError:
            raise InvalidValue(f"{what} has a bad IPv4 address: {_v4_fault(text)}", _v4_hint(text)) from None
        number = int(address)
        if number == 0xFFFFFFFF:
            raise InvalidValue(f"{what} is a broadcast address", "give the address of one host")
        multicast = number >> 28 == 0xE
    else:
        try:
            address = IPv6Address(text)
        except AddressValueError:
            raise InvalidValue(
                f"{what} has a bad IPv6 address: {show(text)}", 'write it like "[2001:db8::1]:80"'
            ) from None
        number = int(address)
        if number >> 32 == 0xFFFF:
            raise InvalidValue(
                f"{what} is an IPv4-mapped IPv6 address",
                f'write the IPv4 address "{address.ipv4_mapped}"',
            )
        if 0xFFFF < number <= 0xFFFFFFFF:
            # RFC 4291 2.5.5.1. Tools print them as ::1.2.3.4 or otherwise; no rule with one is ever the same.
            raise InvalidValue(
                f"{what} has an IPv4-compatible IPv6 address, which RFC 4291 deprecates",
                f'write the IPv4 address "{IPv4Address(number)}"',
            )
        multicast = number >> 120 == 0xFF
    if number == 0:
        raise InvalidValue(f"{what} has the unspecified address {text}", f"write just the port: {alone}")
    if multicast:
        raise InvalidValue(f"{what} is a multicast address", "give the address of one host")


def _v4_fault(text: str) -> str:
    """Return what is wrong with an address that `IPv4Address` refuses."""
    parts = text.split(".")
    if len(parts) != 4:
        return f"{len(parts)} numbers, not 4"
    for part in parts:
        if not (part.isascii() and part.isdecimal()):
            return f"{show(part)} is not a number"
        if int(part) > 255:
            return f"{part} is above 255"
    return "a number with leading zeros"


def _v4_hint(text: str) -> str:
    tidy = ".".join(part.lstrip("0") or "0" for part in text.split("."))
    if tidy != text:
        return f'leading zeros may mean octal: write "{tidy}"'
    return "an IPv4 address is four numbers from 0 to 255, like 192.0.2.10"


def _explain_listener(value: object) -> NoReturn:
    """Say why `value`, which `listener` refused, is not one."""
    what = f"listener {show(value)}"
    if not isinstance(value, str):
        port = f'write "{value}/tcp"' if type(value) is int and 1 <= value <= 65535 else _LISTEN_HINT
        raise InvalidValue(f"{what} is not a string", port)
    _refuse_odd_text(value, what, _LISTEN_HINT)
    place, slash, protocol = value.rpartition("/")
    if value in _PROTOCOLS:
        raise InvalidValue(f"{what} has no port", f'write "80/{value}"')
    if not slash:
        done = f"{value}/tcp"
        hint = f'write "{done}"' if re.fullmatch(LISTENER_PATTERN, done) else _LISTEN_HINT
        raise InvalidValue(f"{what} has no protocol", hint)
    begin, dash, end = place.partition("-")
    if dash and begin and not begin.endswith(":"):
        _explain_range(begin, end, what, protocol)
    else:
        _explain_place(place, what, _LISTEN_HINT, f"/{protocol}")
    near = nearest(protocol.lower(), _PROTOCOLS)
    raise InvalidValue(
        f"{what}: the protocol {show(protocol)} is not known",
        f'did you mean "{place}/{near}"?' if near else "use tcp, udp or sctp",
    )


def _explain_range(begin: str, end: str, what: str, protocol: str) -> None:
    """Raise for what is wrong with `[ADDRESS:]PORT-PORT`; return where nothing is."""
    _explain_place(begin, what, _LISTEN_HINT, f"-{end}/{protocol}")
    _explain_port(end, what, _LISTEN_HINT)
    host, colon, port = begin.rpartition(":")
    first, last = int(port), int(end)
    if first > last:
        raise InvalidValue(f"{what} runs backwards", f'write "{host}{colon}{last}-{first}/{protocol}"')
    if first == last:
        raise InvalidValue(f"{what} is a range of one port", f'write "{begin}/{protocol}"')


def _explain_endpoint(value: object) -> NoReturn:
    """Say why `value`, which `single_target` refused, is not an endpoint."""
    what = f"endpoint {show(value)}"
    if type(value) is int:
        raise InvalidValue(f"{what}: a port is between 1 and 65535", "use a port from 1 to 65535")
    if not isinstance(value, str):
        raise InvalidValue(f"{what} is not a string", _ENDPOINT_HINT)
    _refuse_odd_text(value, what, _ENDPOINT_HINT)
    place, slash, protocol = value.rpartition("/")
    if slash and protocol in _PROTOCOLS:
        raise InvalidValue(f"{what} has a protocol", f'the listener has it already: write "{place}"')
    if _is_address(value) or ("." in value and re.fullmatch("[0-9.]+", value)):
        _explain_address(value, what, "the port of a process on this host")
    _explain_place(value, what, _ENDPOINT_HINT, "")
    raise InvalidValue(f"{what} is not a port or address", _ENDPOINT_HINT)


def _is_address(text: str) -> bool:
    """Return True for what is an address without a port, be it one that no endpoint can have."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _refuse_odd_text(value: str, what: str, hint: str) -> None:
    if not value:
        raise InvalidValue(f"{what} is empty", hint)
    if "://" in value:
        raise InvalidValue(f"{what} is a URL", hint)
    if re.search(r"[\s\x00-\x1f\x7f]", value):
        tidy = "".join(value.split())
        patterns = (LISTENER_PATTERN, ENDPOINT_PATTERN, PORTS_PATTERN)
        fits = any(re.fullmatch(pattern, tidy) for pattern in patterns)
        raise InvalidValue(
            f"{what} contains blanks or control characters", f'write "{tidy}"' if fits else hint
        )
    if not value.isascii():
        raise InvalidValue(f"{what} contains a character that is not ASCII", f"use the digits 0-9; {hint}")


def _explain_place(place: str, what: str, hint: str, suffix: str) -> None:
    """Raise for what is wrong with `[ADDRESS:]PORT`; return where nothing is."""
    host: str | None = None
    port = place
    if place.startswith("["):
        host, closed, rest = place[1:].partition("]")
        if not closed:
            raise InvalidValue(f"{what}: the bracket is not closed", 'write it like "[2001:db8::1]:80"')
        _refuse_scope(host, what)
        if not rest.startswith(":"):
            kept = "" if suffix else f', or without brackets "{host}": connections then keep their port'
            raise InvalidValue(f"{what} has no port", f'write "[{host}]:80{suffix}"{kept}')
        if ":" not in host:
            raise InvalidValue(f"{what}: brackets are for IPv6 addresses", f'write "{host}{rest}{suffix}"')
        port = rest[1:]
    elif place.count(":") > 1:
        _refuse_scope(place, what)
        raise InvalidValue(
            f"{what}: an IPv6 address needs brackets, and a port behind them",
            f'write it like "[2001:db8::1]:80{suffix}"',
        )
    elif ":" in place:
        host, _, port = place.partition(":")
        if host in {"", "*"}:
            wrong = ': "*" is not an address' if host else " has no address before the colon"
            raise InvalidValue(f"{what}{wrong}", f'write just the port: "{port}{suffix}"')
        if not re.fullmatch("[0-9.]+", host):
            raise InvalidValue(
                f"{what}: {show(host)} is not an address",
                f"host names are not resolved: give the address; {hint}",
            )
    elif "." in place and re.fullmatch("[0-9.]+", place):
        raise InvalidValue(f"{what} has no port", f'write "{place}:80{suffix}"')
    elif re.search(r"[A-Za-z_.]", place) or not place:
        raise InvalidValue(
            f"{what}: {show(place)} is not a port or address",
            f"names of hosts and services are not resolved: {hint}",
        )
    _explain_port(port, what, hint)
    if host is not None:
        _explain_address(host, what, f'"{port}{suffix}"')


def _refuse_scope(host: str, what: str) -> None:
    if "%" in host:
        raise InvalidValue(
            f"{what} has a scope id", "rules know no scope: give a global or unique local address"
        )


def _explain_port(port: str, what: str, hint: str) -> None:
    if not port:
        raise InvalidValue(f"{what} has no port", hint)
    if port.startswith("+") and re.fullmatch("[0-9]+", port[1:]):
        raise InvalidValue(f"{what}: the port has a plus sign", f'write "{port[1:]}"')
    if re.fullmatch(PORTS_PATTERN, port):
        raise InvalidValue(f"{what} is more than one port", "write one entry for each port")
    digits = port.removeprefix("-")
    if not re.fullmatch("[0-9]+", digits):
        raise InvalidValue(f"{what}: {show(port)} is not a port", "a port is a number from 1 to 65535")
    if len(digits) > 5 or not 1 <= int(port) <= 65535:
        raise InvalidValue(
            f"{what}: port {_cut(port)} is not between 1 and 65535", "use a port from 1 to 65535"
        )
    if digits.startswith("0"):
        raise InvalidValue(f"{what}: the port has leading zeros", f'write "{int(port)}"')
