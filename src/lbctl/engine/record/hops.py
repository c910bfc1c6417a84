"""The next hops that rules were last written with: what counts while an endpoint does not answer.

A server that is down when the neighbour table has forgotten it keeps its place: what is unknown changes
nothing. The record outlives a restart of the host, as the history does.
"""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, Damaged, PermissionDenied
from lbctl.model import Hop, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Shape

VERSION = 1
_SHAPE: Shape = {
    "format_version": int,
    "hops": [{"address": str, "device": str, "source": str, "mac": str}],
}


def read(host: Host, owner: str) -> frozenset[Hop]:
    """Return the next hops on record; none where there is no record, or none that can be read."""
    try:
        text = host.saved(_name(owner))
        record = read_record(text, _SHAPE) if text is not None else None
        if record is None or record["format_version"] != VERSION:
            return frozenset()
        return frozenset(
            Hop(
                address=ip_address(row["address"]),
                device=row["device"],
                source=row["source"],
                mac=row["mac"],
            )
            for row in record["hops"]
        )
    except (Damaged, PermissionDenied, ValueError):
        return frozenset()


def write(host: Host, owner: str, hops: Iterable[Hop]) -> None:
    """Record next hops, or that there are none. Best effort: without it, endpoints have to answer."""
    rows = [
        {"address": str(hop.address), "device": hop.device, "source": hop.source, "mac": hop.mac}
        for hop in sorted(hops, key=lambda hop: str(hop.address))
    ]
    text = json.dumps({"format_version": VERSION, "hops": rows}, separators=(",", ":")) if rows else None
    with suppress(ApplyFailed, PermissionDenied):
        if host.saved(_name(owner)) != text:
            host.save(_name(owner), text)


def _name(owner: str) -> str:
    return f"{owner}.hops"
