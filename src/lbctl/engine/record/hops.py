"""The next hops that rules were last written with: what counts while an endpoint does not answer.

A server that is down when the neighbour table has forgotten it keeps its place: what is unknown changes
nothing. The record outlives a restart of the host, as the history does.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, Damaged, PermissionDenied
from lbctl.model import Hop, read_record
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.host import Host
    from lbctl.model import Shape

VERSION = 1
_SHAPE: Shape = {
    "format_version": int,
    "links": [{"name": str, "index": int}],
    "hops": [{"address": str, "device": str, "source": str, "mac": str}],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedHops:
    """What rules were written with: next hops, and the kernel's numbers of interfaces by their names."""

    hops: frozenset[Hop] = frozenset()
    links: Mapping[str, int] = field(default_factory=dict)


def read(host: Host, owner: str) -> RecordedHops:
    """Return what is on record; nothing where there is no record, or none that can be read."""
    try:
        text = host.saved(_name(owner))
        record = read_record(text, _SHAPE) if text is not None else None
        if record is None or record["format_version"] != VERSION:
            return RecordedHops()
        hops = frozenset(
            Hop(
                address=ip_address(row["address"]),
                device=row["device"],
                source=row["source"],
                mac=row["mac"],
            )
            for row in record["hops"]
        )
        return RecordedHops(hops=hops, links={row["name"]: row["index"] for row in record["links"]})
    except (Damaged, PermissionDenied, ValueError):
        return RecordedHops()


def write(host: Host, owner: str, recorded: RecordedHops) -> None:
    """Record next hops, or that there are none. Best effort: without it, endpoints have to answer."""
    rows = [
        {
            "address": str(hop.address),
            "device": hop.device,
            "source": hop.source,
            "mac": hop.mac,
        }
        for hop in sorted(recorded.hops, key=lambda hop: str(hop.address))
    ]
    links = [{"name": name, "index": index} for name, index in sorted(recorded.links.items())]
    record = {"format_version": VERSION, "links": links, "hops": rows}
    text = json.dumps(record, separators=(",", ":")) if rows else None
    with suppress(ApplyFailed, PermissionDenied):
        if host.saved(_name(owner)) != text:
            host.save(_name(owner), text)


def _name(owner: str) -> str:
    return f"{owner}.hops"
