"""The quick run: the command nft of a release, through the life of two services."""

from __future__ import annotations

from matrix import platforms
from matrix.releases import TOOLS
from matrix.result import Outcome
from matrix.roots import Root
from matrix.verification import outcome_of

#: All that is unpacked for it.
PACKAGES = TOOLS


def verify(root: Root) -> Outcome:
    """Return what came of it."""
    return outcome_of(platforms.outside(root), "-m", "matrix.origin", "nftables", "nft")
