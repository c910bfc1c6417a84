"""The elements of a set or map → their texts: a key, and what stands behind it."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, summarize_address_range
from typing import TYPE_CHECKING, NamedTuple

from lbctl_nftables.kernel import datatypes, netlink
from lbctl_nftables.kernel.values import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lbctl_nftables.kernel.values import KernelElement, Set

_ADDRESSES = {"ipv4_addr", "ipv6_addr"}


class Spelled(NamedTuple):
    """An element's key, what stands behind it in a script (its comment and its data), and its comment."""

    key: str
    text: str
    comment: str


def spelled(declared: Set, elements: Iterable[KernelElement]) -> Iterator[Spelled]:
    """Yield the texts of elements; intervals in the order of their keys."""
    data = datatypes.speller(declared.data_types, declared.data_size)
    if declared.is_interval:
        for key, element in _intervals(declared, elements):
            yield Spelled(key, *_behind(element, data))
        return
    spell = datatypes.speller(declared.key_types, declared.key_size)
    for element in elements:
        yield Spelled(spell(element[0]), *_behind(element, data))


def _behind(element: KernelElement, data: Callable[[bytes], str]) -> tuple[str, str]:
    """Return the text behind an element's key, and its comment."""
    _, end, value, code, chain, _, _, _, timeout, _, comment, more = element
    if comment:
        words = comment.rstrip(b"\0").decode(errors="backslashreplace")
        text = f'comment "{words}"'
        if value:
            text += f" : {data(value)}"
    else:
        words = ""
        text = f": {data(value)}" if value else ""
    if code:
        text += f"{' ' if text else ''}: {_verdict(code, chain)}"
    if end or timeout or more:
        text += f" [end {end.hex()} timeout {netlink.number(timeout)} {more.decode()}]"
    return text, words


@lru_cache(maxsize=4096)
def _verdict(code: bytes, chain: bytes) -> str:
    return verdict(code, chain)


def _intervals(declared: Set, elements: Iterable[KernelElement]) -> Iterator[tuple[str, KernelElement]]:
    """Yield the intervals behind elements of which some begin one and others are the first behind it."""
    begun: KernelElement | None = None
    for element in sorted(elements, key=lambda each: (each.key, not each.ends_interval)):
        if element.key_end:
            # Of a concatenation: one element has both ends.
            yield _interval(declared, element.key, element.key_end), element._replace(key_end=b"")
            continue
        if begun is not None:
            yield _interval(declared, begun.key, _before(element.key)), begun
        begun = None if element.ends_interval else element
    if begun is not None:
        # It has no end: it reaches to the last key of all.
        yield _interval(declared, begun.key, b"\xff" * len(begun.key)), begun


def _before(key: bytes) -> bytes:
    return (int.from_bytes(key, "big") - 1).to_bytes(len(key), "big")


def _interval(declared: Set, first: bytes, last: bytes) -> str:
    """Return an interval, of a concatenation in each of its parts."""
    places = datatypes.places(declared.key_types)
    if len(first) != declared.key_size or not places:
        return f"0x{first.hex()}-0x{last.hex()}"
    parts = zip(declared.key_types, places, strict=True)
    return " . ".join([_part(kind, first[a:b], last[a:b]) for kind, (a, b) in parts])


def _part(kind: str, first: bytes, last: bytes) -> str:
    """Return a network, a single value, or both ends."""
    if kind in _ADDRESSES and first != last:
        networks = list(summarize_address_range(ip_address(first), ip_address(last)))
        if len(networks) == 1:
            return str(networks[0])
    ends = [datatypes.spell((kind,), each) for each in (first, last)]
    return ends[0] if first == last else "-".join(ends)
