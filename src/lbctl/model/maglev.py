"""Maglev table filling: a slot table in which few clients move when an endpoint comes or goes.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
Each endpoint has its own permutation of the table and takes its next free place in turn; one with weight w
takes w places a turn. The permutations depend on the endpoints' names and the seed alone, so every host that
knows the same endpoints fills the same table.

Another size would move nearly all clients. So there are few sizes, all prime, each with 100 places or more
for each unit of weight, as long as there is such a size.

How far shares are from the weights: M places are T full turns of W, the summed weight without its common
divisor, and R < W places of a last one, of which an endpoint of weight w has taken p, between 0 and w. Its
share (T·w + p) / M is thus off w / W by (p - w·R / W) / M, which is less than w / M: less than W / M of the
share itself. That is a hundredth for W up to 655, and about a sixteenth for the largest W that a file can ask
for, 4096.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Sizes for summed weights up to 20, 163, and beyond; the last is the largest prime below 2^16.
SIZES = (2039, 16381, 65521)
PLACES = 100


@lru_cache(maxsize=1024)
def maglev(names: tuple[str, ...], weights: tuple[int, ...], seed: int) -> tuple[int, ...]:
    """Return the table: indices into `names`, one of `SIZES` many; empty for no names."""
    if not names:
        return ()
    divisor = gcd(*weights)
    turns = [weight // divisor for weight in weights]
    size = table_size(sum(turns))
    orders = [_permutation(name, seed, size) for name in names]
    table = [-1] * size
    left = size
    while True:
        for index, turn in enumerate(turns):
            for _ in range(turn):
                place = next(place for place in orders[index] if table[place] < 0)
                table[place] = index
                left -= 1
                if not left:
                    return tuple(table)


def table_size(weight: int) -> int:
    """Return the smallest of `SIZES` that is adequate for a summed weight."""
    return next((size for size in SIZES if size >= weight * PLACES), SIZES[-1])


def _permutation(name: str, seed: int, size: int) -> Iterator[int]:
    digest = hashlib.sha256(f"lbctl maglev {seed} {name}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") % size
    skip = int.from_bytes(digest[8:16], "big") % (size - 1) + 1
    for _ in range(size):
        yield place
        place = (place + skip) % size
