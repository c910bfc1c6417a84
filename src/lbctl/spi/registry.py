"""Finding backends: built-in and third-party ones alike come from the entry-point group."""

from __future__ import annotations

from importlib.metadata import entry_points

from lbctl.errors import NoBackend
from lbctl.spi.backend import Backend

GROUP = "lbctl.backends"
#: Sources of endpoints: only the agent loads them, see `lbctl.agent.sources`.
SOURCES = "lbctl.sources"


def backends() -> tuple[Backend, ...]:
    """Return all installed backends, those that `auto` prefers first.

    Raises `NoBackend` where an installed one cannot be loaded: a broken backend is never skipped in
    silence.
    """
    found: list[Backend] = []
    for entry in entry_points(group=GROUP):
        try:
            backend = entry.load()
        except Exception as error:
            raise NoBackend(
                f'backend "{entry.name}" ({entry.value}) cannot be loaded: {error}',
                hint="reinstall or remove the package that brings it",
            ) from error
        if not isinstance(backend, Backend):
            raise NoBackend(
                f'backend "{entry.name}" ({entry.value}) is not an lbctl backend',
                hint="see lbctl.spi.Backend for what a backend must offer",
            )
        found.append(backend)
    return tuple(sorted(found, key=lambda b: (b.preference is None, b.preference or 0, b.name)))


def source_names() -> frozenset[str]:
    """Return the names of the installed sources of endpoints, none of which is loaded."""
    return frozenset(entry.name for entry in entry_points(group=SOURCES))
