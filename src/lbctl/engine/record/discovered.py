"""What sources answered: the last good answer for each service, for every command.

It counts whether or not an agent runs: what is unknown changes nothing. It ends with this start of the host.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lbctl.errors import Damaged
from lbctl.model import Discovered, Endpoint, State, parse_endpoint, read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.host import Host
    from lbctl.model import Shape

VERSION = 1
_SHAPE: Shape = {
    "format_version": int,
    "namespace": str | None,
    "answers": [
        {
            "service": str,
            "source": str,
            "name": str,
            "good": float,
            "endpoints": [{"name": str, "to": str, "weight": int, "state": str}],
        }
    ],
}


def write(host: Host, owner: str, answers: Mapping[str, Discovered]) -> None:
    """Have other commands find these. Best effort, as all that ends with the host."""
    rows = [
        {
            "service": service,
            "source": each.source,
            "name": each.name,
            "good": each.good,
            "endpoints": [
                {"name": e.name, "to": e.to, "weight": e.weight, "state": e.state} for e in each.endpoints
            ],
        }
        for service, each in answers.items()
    ]
    record = {"format_version": VERSION, "namespace": host.namespace(), "answers": rows}
    host.remember(_name(owner), json.dumps(record, separators=(",", ":")) if rows else None)


def read(host: Host, owner: str) -> Mapping[str, Discovered]:
    """Return the last good answers by service; none where there is no record of this start of the host."""
    text = host.recall(_name(owner))
    if text is None:
        return {}
    try:
        record = read_record(text, _SHAPE)
        if record["format_version"] != VERSION or record["namespace"] != host.namespace():
            return {}
        return {
            row["service"]: Discovered(
                source=row["source"],
                name=row["name"],
                good=row["good"],
                endpoints=tuple(map(_endpoint, row["endpoints"])),
            )
            for row in record["answers"]
        }
    except (Damaged, ValueError):
        return {}  # what is unknown changes nothing


def _endpoint(row: Mapping[str, object]) -> Endpoint:
    plain = parse_endpoint(str(row["to"]))
    return Endpoint(
        port=plain.port,
        address=plain.address,
        name=str(row["name"]),
        weight=int(str(row["weight"])),
        state=State(str(row["state"])),
    )


def _name(owner: str) -> str:
    return f"{owner}.discovered"
