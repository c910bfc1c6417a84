"""The hash by which kernels pick an endpoint for a client: Bob Jenkins' lookup3, as Linux has it.

Source: Linux, include/linux, the header of this hash and `reciprocal_scale`. The address is hashed as the
packet has it, in network order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.model.addresses import Address

_MASK = 0xFFFFFFFF
_START = 0xDEADBEEF
_BLOCK = 12


def jenkins(data: bytes, seed: int) -> int:
    """Return the 32-bit hash of some bytes."""
    a = b = c = (_START + len(data) + seed) & _MASK
    for begin in range(0, len(data), _BLOCK):
        first, second, third = (_word(data[at : at + 4]) for at in range(begin, begin + _BLOCK, 4))
        a, b, c = a + first & _MASK, b + second & _MASK, c + third & _MASK
        a, b, c = (_final if begin + _BLOCK >= len(data) else _mixed)(a, b, c)
    return c


def slot_of(client: Address, slots: int, seed: int) -> int:
    """Return which of so many slots a client has, counted from 0."""
    return jenkins(client.packed, seed) * slots >> 32


def slot_of_first_word(client: Address, slots: int, seed: int) -> int:
    """As `slot_of`, where a kernel looks at the first 32 bits of an address alone."""
    return jenkins(client.packed[:4], seed) * slots >> 32


def _word(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _turned(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _MASK


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for one, two, three in ((4, 6, 8), (16, 19, 4)):
        a = (a - c & _MASK) ^ _turned(c, one)
        c = c + b & _MASK
        b = (b - a & _MASK) ^ _turned(a, two)
        a = a + c & _MASK
        c = (c - b & _MASK) ^ _turned(b, three)
        b = b + a & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int, int]:
    c = (c ^ b) - _turned(b, 14) & _MASK
    a = (a ^ c) - _turned(c, 11) & _MASK
    b = (b ^ a) - _turned(a, 25) & _MASK
    c = (c ^ b) - _turned(b, 16) & _MASK
    a = (a ^ c) - _turned(c, 4) & _MASK
    b = (b ^ a) - _turned(a, 14) & _MASK
    return a, b, (c ^ b) - _turned(b, 24) & _MASK
