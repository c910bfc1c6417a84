"""Rules for an nft that is not here; see `lbctl.spi.Targeting`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.model import Family, Program
from lbctl_nftables import dialect, layout, script

if TYPE_CHECKING:
    from lbctl.model import Intent
    from lbctl.spi import Capabilities

tools = ("nft",)


def capabilities_for(tool: str, version: str) -> Capabilities:  # noqa: ARG001 (there is one)
    """See `lbctl.spi.Targeting`."""
    return dialect.speaking(dialect.CAPABILITIES, dialect.for_version(version))


def render_for(
    program: Program,
    capabilities: Capabilities,  # noqa: ARG001 (a program is compiled in its dialect)
    *,
    family: Family | None,
    remove: bool,
) -> str:
    """See `lbctl.spi.Targeting`. Both texts can be loaded as often as wanted."""
    words = [layout.WORD[each] for each in Family if family in {None, each}]
    if remove:
        # Of both families, whatever this intent has: an earlier one may have had the other.
        return script.removal(program.owner, words)
    return script.render(Program(program.owner, [i for i in program.items if i.key[0] in words]))


def notes_for(intent: Intent, capabilities: Capabilities) -> tuple[str, ...]:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Targeting`. The rules ask the kernel for all that is the host's."""
    return ()
