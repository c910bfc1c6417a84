"""Rules as text, for this host's nft or for one that is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Family, Program
from lbctl_nftables import dialect, layout, script

if TYPE_CHECKING:
    from lbctl.spi import Capabilities


def capabilities_for(tool: str, version: str) -> Capabilities:  # noqa: ARG001 (there is one)
    """See `lbctl.spi.Backend`."""
    return dialect.speaking(dialect.CAPABILITIES, dialect.for_version(version))


def render(
    program: Program,
    *,
    dialect: str = "",
    family: Family | None = None,
    remove: bool = False,
) -> str:
    """See `lbctl.spi.Backend`. Both texts can be loaded as often as wanted."""
    words = [word for word in layout.WORDS if family in {None, layout.FAMILY[word]}]
    if remove:
        if dialect == layout.Dialect.CLASSIC:
            words = [word for word in words if word not in layout.INGRESS.values()]
        # Of both families, whatever this intent has: an earlier one may have had the other.
        return script.removal(program.owner, words)
    return script.render(Program(program.owner, [i for i in program.items if i.key[0] in words]))
