"""The services that differ between two intents, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.cli.changes import change_rows
from lbctl.cli.output import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.model import KeyChange


#: So many services are named that are added, or removed; JSON names all.
_NAMED = 8


def service_lines(services: Mapping[str, tuple[KeyChange, ...]], *, most: int | None = None) -> Iterator[str]:
    """Yield what is added, what is removed, and of other services, at `most` so many, the changed keys."""
    whole = {name: changes[0] for name, changes in services.items() if changes[0].key == "service"}
    yield from _named("+", [name for name, change in whole.items() if change.before is None])
    yield from _named("-", [name for name, change in whole.items() if change.after is None])
    changed = [(name, changes) for name, changes in services.items() if name not in whole]
    for name, changes in changed[:most]:
        yield f"~ {name}"
        yield table(change_rows(changes), indent="    ")
    if most is not None and len(changed) > most:
        yield f"and {len(changed) - most} more services"


def _named(sign: str, names: Sequence[str]) -> Iterator[str]:
    more = len(names) - _NAMED
    if names:
        yield f"{sign} {', '.join(names[:_NAMED])}" + (f" and {more} more" if more > 0 else "")


def sentence(text: str) -> str:
    """Return a text that begins with a capital letter."""
    return text[:1].upper() + text[1:]
