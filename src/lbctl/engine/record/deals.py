"""The slots that the agent dealt last, for every command: the rules stay as they are when it ends.

They end with this start of the host.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lbctl.errors import Damaged
from lbctl.model import Deal, Family, read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.host import Host
    from lbctl.model import Shape

VERSION = 1
_SHAPE: Shape = {
    "format_version": int,
    "namespace": str | None,
    "deals": [{"service": str, "family": str, "to": str, "slots": int}],
}


def write(host: Host, owner: str, deals: Mapping[str, frozenset[Deal]]) -> None:
    """Have other commands find these. Best effort, as all that ends with the host."""
    rows = [
        {"service": service, "family": each.family, "to": each.to, "slots": each.slots}
        for service, dealt in deals.items()
        for each in sorted(dealt, key=lambda each: (each.family, each.to))
    ]
    record = {"format_version": VERSION, "namespace": host.namespace(), "deals": rows}
    host.remember(_name(owner), json.dumps(record, separators=(",", ":")) if rows else None)


def read(host: Host, owner: str) -> Mapping[str, frozenset[Deal]]:
    """Return the last deals by service; none where there is no record of this start of the host."""
    text = host.recall(_name(owner))
    if text is None:
        return {}
    found: dict[str, set[Deal]] = {}
    try:
        record = read_record(text, _SHAPE)
        if record["format_version"] != VERSION or record["namespace"] != host.namespace():
            return {}
        for row in record["deals"]:
            dealt = Deal(family=Family(row["family"]), to=row["to"], slots=row["slots"])
            found.setdefault(row["service"], set()).add(dealt)
    except (Damaged, ValueError):
        return {}  # what is unknown changes nothing
    return {service: frozenset(dealt) for service, dealt in found.items()}


def _name(owner: str) -> str:
    return f"{owner}.deals"
