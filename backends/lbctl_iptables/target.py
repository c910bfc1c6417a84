"""Rules for an iptables that is not here; see `lbctl.spi.Targeting`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import NoBackend
from lbctl.model import SourceNat
from lbctl_iptables import dialect, script
from lbctl_iptables.dialect import Flavour, Release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.model import Family, Intent, Program
    from lbctl.spi import Capabilities

_FLAVOURS: Mapping[str, Flavour] = {"iptables": Flavour.LEGACY, "iptables-nft": Flavour.NF_TABLES}
_OLDEST: Mapping[Flavour, dialect.Version] = {
    Flavour.LEGACY: dialect.OLDEST,
    Flavour.NF_TABLES: dialect.FIRST_NF_TABLES,
}
tools = tuple(_FLAVOURS)


def capabilities_for(tool: str, version: str) -> Capabilities:
    """See `lbctl.spi.Targeting`."""
    release = Release(flavour=_FLAVOURS[tool], version=dialect.numbers(version))
    oldest = Release(flavour=release.flavour, version=_OLDEST[release.flavour])
    if release.version < oldest.version:
        raise NoBackend(
            f"lbctl writes no rules for {tool} {version}", hint=f"the oldest is {tool}={oldest.text}"
        )
    return dialect.capabilities(release.lacks)


def render_for(program: Program, capabilities: Capabilities, *, family: Family | None, remove: bool) -> str:
    """See `lbctl.spi.Targeting`."""
    make = script.removal if remove else script.written
    return make(program, family=family, lacks=dialect.lacking(capabilities.dialect))


def notes_for(intent: Intent, capabilities: Capabilities) -> tuple[str, ...]:
    """See `lbctl.spi.Targeting`. The networks of the host's links stand in rules."""
    names = [s.name for s in intent.services if s.remote and s.source_nat is SourceNat.HAIRPIN]
    if capabilities.networks or not names:
        return ()
    note = (
        f"source-nat hairpin of {', '.join(names)}: the networks of the target's links are unknown. A client "
        "on the link of an endpoint keeps its source address, and gets no answer. --network names them."
    )
    return (note,)
