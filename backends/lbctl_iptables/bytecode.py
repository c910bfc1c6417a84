"""A hash of the client's address over any number of slots, as a program that match `bpf` runs.

`cluster` has up to 32 nodes, and of an IPv6 address it looks at the first 32 bits alone (the kernel's
net/netfilter/xt_cluster.c counts words where it means bytes): all clients of one provider are one to it.
Target HMARK hashes whole addresses, but writes all 32 bits of the packet's mark. Classic BPF hashes whole
addresses and writes nothing; it is too short, 64 instructions, for the hash of nftables. So clients get other
endpoints than there, in the same shares: what `--allow-remap` is for.

The hash takes each word of the address in turn, and mixes at the end as MurmurHash3 does (public domain).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.model import Family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.model import Address

#: Where the words of the source address stand in a packet, in bytes.
_WORDS: Mapping[Family, range] = {Family.IPV4: range(12, 16, 4), Family.IPV6: range(8, 24, 4)}
_LOAD, _LOAD_WORD, _TO_INDEX, _RETURN = 0x00, 0x20, 0x07, 0x06
_TIMES, _SHIFT_RIGHT, _MODULO, _XOR_INDEX, _IF_AT_LEAST = 0x24, 0x74, 0x94, 0xAC, 0x35
_FACTORS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)


class Slots(NamedTuple):
    """The clients of `family` whose hash of `total` slots is from `first` on and below `end`."""

    family: Family
    seed: int
    total: int
    first: int
    end: int

    def program(self) -> str:
        """Return the program, as option --bytecode of match bpf takes and prints it."""
        lines = [" ".join(map(str, line)) for line in self._lines()]
        return ",".join([str(len(lines)), *lines])

    def _lines(self) -> Iterator[tuple[int, int, int, int]]:
        """Operation, how many lines to skip where it is true and where not, operand."""
        yield _LOAD, 0, 0, self.seed
        yield _TO_INDEX, 0, 0, 0
        for offset in _WORDS[self.family]:
            yield _LOAD_WORD, 0, 0, offset
            yield _XOR_INDEX, 0, 0, 0
            yield from _mixed(_FACTORS[0], 15)
            yield _TO_INDEX, 0, 0, 0
        yield from _mixed(_FACTORS[1], 13)
        yield from _mixed(_FACTORS[2], 16)
        yield _MODULO, 0, 0, self.total
        yield _IF_AT_LEAST, 0, 2, self.first
        yield _IF_AT_LEAST, 1, 0, self.end
        yield _RETURN, 0, 0, 1
        yield _RETURN, 0, 0, 0


def _mixed(factor: int, bits: int) -> Iterator[tuple[int, int, int, int]]:
    """Multiplied, and its upper bits folded into the lower ones."""
    yield _TIMES, 0, 0, factor
    yield _TO_INDEX, 0, 0, 0
    yield _SHIFT_RIGHT, 0, 0, bits
    yield _XOR_INDEX, 0, 0, 0


def slot_of(client: Address, slots: int, seed: int) -> int:
    """Return what the program computes: which of so many slots a client has, counted from 0."""
    found = seed
    for at in range(0, len(client.packed), 4):
        found = _fold(found ^ int.from_bytes(client.packed[at : at + 4], "big"), _FACTORS[0], 15)
    return _fold(_fold(found, _FACTORS[1], 13), _FACTORS[2], 16) % slots


def _fold(value: int, factor: int, bits: int) -> int:
    """As `_mixed`."""
    value = value * factor & 0xFFFFFFFF
    return value ^ value >> bits


def slots_of(program: str, family: Family) -> Slots | None:
    """Return what `Slots.program` was made of; None for any other program."""
    try:
        _, first, *_, modulo, at_least, below, _, _ = (int(line.split()[-1]) for line in program.split(","))
    except ValueError:
        return None
    found = Slots(family, first, modulo, at_least, below)
    return found if found.program() == program else None
