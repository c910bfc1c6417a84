"""The facts of `lbctl.model.effective`: what is known of endpoints besides the intent, from the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record import overrides
from lbctl.model import Facts

if TYPE_CHECKING:
    from lbctl.host import Host


def read_facts(host: Host, owner: str) -> Facts:
    """Return the facts on record of an owner; raises `Damaged` where a record cannot be read."""
    return Facts(overrides={each.place: each for each in overrides.read(host, owner)})
