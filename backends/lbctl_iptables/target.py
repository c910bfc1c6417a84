"""Rules as text, for this host's iptables or for one that is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.errors import NoBackend
from lbctl_iptables import dialect, layout, script
from lbctl_iptables.dialect import Flavour, Release, lacking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.model import Family, Program
    from lbctl.spi import Capabilities

_FLAVOURS: Mapping[str, Flavour] = dict(zip(layout.TOOLS, (Flavour.LEGACY, Flavour.NF_TABLES), strict=True))
_OLDEST: Mapping[Flavour, dialect.Version] = {
    Flavour.LEGACY: dialect.OLDEST,
    Flavour.NF_TABLES: dialect.FIRST_NF_TABLES,
}


def capabilities_for(tool: str, version: str) -> Capabilities:
    """See `lbctl.spi.Backend`."""
    release = Release(flavour=_FLAVOURS[tool], version=dialect.numbers(version))
    oldest = Release(flavour=release.flavour, version=_OLDEST[release.flavour])
    if release.version < oldest.version:
        raise NoBackend(
            f"lbctl writes no rules for {tool} {version}", hint=f"the oldest is {tool}={oldest.text}"
        )
    return dialect.capabilities(release.lacks)


def render(program: Program, *, dialect: str = "", family: Family | None = None, remove: bool = False) -> str:
    """See `lbctl.spi.Backend`."""
    make = script.removal if remove else script.written
    return make(program, family=family, lacks=lacking(dialect))
