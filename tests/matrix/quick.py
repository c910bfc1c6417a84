"""The quick run: the command nft of a release, through the life of two services."""

from __future__ import annotations

from matrix import commands, platforms
from matrix.proofs import outcome_of
from matrix.releases import TOOLS
from matrix.result import Outcome
from matrix.roots import Root

#: All that is unpacked for it.
PACKAGES = TOOLS


def proved(root: Root) -> Outcome:
    """Return what came of it."""
    return outcome_of(platforms.outside(root), "-m", "matrix.origin", "nftables", "nft")
