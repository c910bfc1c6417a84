"""The services that differ between two intents, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.cli.changes import change_rows
from lbctl.cli.output import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lbctl.model import KeyChange


def service_lines(services: Mapping[str, tuple[KeyChange, ...]], *, most: int | None = None) -> Iterator[str]:
    """Yield lines for each service, at `most` so many: added, removed, or its changed keys."""
    for name, changes in list(services.items())[:most]:
        if changes[0].key == "service":
            yield f"{'+' if changes[0].before is None else '-'} {name}"
        else:
            yield f"~ {name}"
            yield table(change_rows(changes), indent="    ")
    if most is not None and len(services) > most:
        yield f"and {len(services) - most} more services"
