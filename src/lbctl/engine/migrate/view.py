"""What a user is shown of a migration before agreeing to it."""

from __future__ import annotations

from difflib import unified_diff
from typing import TYPE_CHECKING

from lbctl.engine.migrate.steps import Retire, migrator_of, others_of, rules_of, script
from lbctl.host import enabled
from lbctl.spi import Migrator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.engine.migrate.migration import Migration

#: Either of them applies the intent at boot.
_UNITS = ("lbctl.service", "lbctl-agent.service")


def untouched(migration: Migration) -> tuple[str, ...]:
    """Return what stays in the source, as lines of a dump."""
    step = migration.go
    left = step.after if isinstance(step, Retire) else others_of(migration.source, migration.owner)
    return tuple(left.splitlines())


def untouched_rules(migration: Migration) -> tuple[str, ...]:
    """Return the rules among what is untouched."""
    backend = migration.source.backend
    return backend.rules_in("\n".join(untouched(migration))) if isinstance(backend, Migrator) else ()


def restored(migration: Migration) -> tuple[str, ...]:
    """Return the foreign rules that are restored."""
    step = migration.come
    return migrator_of(migration.target).removed_rules(step.record) if isinstance(step, Retire) else ()


def diffs(migration: Migration) -> tuple[tuple[str, ...], ...]:
    """Return the rules of each store before and after, as lines of unified diffs."""
    sides = ((migration.target, migration.come), (migration.source, migration.go))
    return tuple(
        tuple(unified_diff(*rules_of(at, step), f"{at.place} now", f"{at.place} then", lineterm=""))
        for at, step in sides
    )


def scripts(migration: Migration) -> tuple[tuple[str, str], ...]:
    """Return store and text of the two steps, as the tools of each store do them on a host without lbctl."""
    sides = ((migration.target, migration.come, True), (migration.source, migration.go, False))
    return tuple((at.place, script(at, step, coming=coming)) for at, step, coming in sides)


def notes(migration: Migration) -> tuple[str, ...]:
    """Return what the user should know before agreeing."""
    found = dict.fromkeys((*migration.come.notes, *migration.go.notes))
    if migration.drifted:
        services = ", ".join(sorted(migration.drifted))
        place = migration.source.place
        found[f"{place} does not hold {services} as applied: what was applied is added"] = None
    twins = (
        f"{mine} of lbctl does the same as {x}, whose rules are only removed"
        for x, mine in migration.twins.items()
    )
    foreign = migration.foreign.notes if migration.foreign else ()
    return (*found, *foreign, *_additions(migration), *twins)


def boot_note(migration: Migration) -> str | None:
    """Return what is left to do, once foreign rules are replaced, so that this lasts beyond the next boot."""
    if not isinstance(migration.go, Retire):
        return None
    source = migration.source
    if files := migrator_of(source).boot_files(source.host):
        text = f"At boot, {' and '.join(files)} may load the removed rules again: remove them there"
    else:
        text = "If a script or unit of this host loads the removed rules at boot, remove them there"
    if any(enabled(source.host, unit) for unit in _UNITS):
        return f"{text}."
    return f"{text}, and enable {_UNITS[0]}, which applies /etc/lbctl/lbctl.toml."


def _additions(migration: Migration) -> Iterator[str]:
    """Yield what will be balanced, and is not now; a family of which nothing is, as a whole."""
    now = {pair.service.family for pair in migration.pairs if pair.a is not None}
    added = [pair.service for pair in migration.pairs if pair.a is None and migration.adds(pair)]
    for family in dict.fromkeys(each.family for each in added if each.family not in now):
        yield f"{family.replace('ip', 'IP')} will be balanced too"
    for each in dict.fromkeys(each.selector[:4] for each in added if each.family in now):
        yield f"{' '.join(each)} will be balanced, and is not now"
