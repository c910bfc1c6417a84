"""What `migrate` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

from lbctl.config import dump
from lbctl.documents.comparison import SelectorDocument, selector
from lbctl.documents.override import OverrideDocument, overrides
from lbctl.engine.migrate import view
from lbctl.engine.migrate.migration import Agreement
from lbctl.model import written

if TYPE_CHECKING:
    from fractions import Fraction

    from lbctl.engine import Migration, Session
    from lbctl.engine.inspect.compare import Pair


class PlaceDocument(TypedDict):
    """A store, and what reaches it."""

    backend: str
    driver: str
    store: str


class BeforeAfterDocument(TypedDict):
    """A share before and after."""

    before: str
    after: str


class MigratedShareDocument(BeforeAfterDocument):
    """An endpoint, and its share before and after."""

    to: str


class MigratedServiceDocument(SelectorDocument):
    """A service on both sides; `verdict` says how they relate."""

    name: str | None
    verdict: str | None
    backends: list[MigratedShareDocument]
    leak: BeforeAfterDocument
    notes: list[str]


class RetainedDocument(TypedDict):
    """Rules that are not migrated, and why."""

    name: str
    rules: list[str]
    reason: str


class MigrationFindingDocument(TypedDict):
    """Something that is wrong with the existing rules."""

    code: str
    severity: str
    rule: str
    message: str


class ScriptDocument(TypedDict):
    """A step, as the tools of a store do it on a host without lbctl."""

    store: str
    text: str


class MigrationRulesDocument(TypedDict):
    """The rules of both stores before and after as a unified diff, and the steps in their order."""

    diff: str
    scripts: list[ScriptDocument]


#: Its key `from` is a word of Python's.
MigrationDocument = TypedDict(
    "MigrationDocument",
    {
        "from": PlaceDocument,
        "to": PlaceDocument,
        "changed": bool,
        "intent": str,
        "intent_from": str,
        "services": list[MigratedServiceDocument],
        "returns": list[str],
        "stays": list[RetainedDocument],
        "findings": list[MigrationFindingDocument],
        "untouched": list[str],
        "notes": list[str],
        "overrides": list[OverrideDocument],
        "rules": MigrationRulesDocument,
    },
)

#: The same with its outcome; if there is nothing to migrate, `changed` and `applied` alone, both false.
MigrateDocument = TypedDict(
    "MigrateDocument",
    {
        "from": NotRequired[PlaceDocument],
        "to": NotRequired[PlaceDocument],
        "changed": bool,
        "intent": NotRequired[str],
        "intent_from": NotRequired[str],
        "services": NotRequired[list[MigratedServiceDocument]],
        "returns": NotRequired[list[str]],
        "stays": NotRequired[list[RetainedDocument]],
        "findings": NotRequired[list[MigrationFindingDocument]],
        "untouched": NotRequired[list[str]],
        "notes": NotRequired[list[str]],
        "overrides": NotRequired[list[OverrideDocument]],
        "rules": NotRequired[MigrationRulesDocument],
        "applied": bool,
        "trial": NotRequired["str | None"],
    },
)

_WORDS = {
    Agreement.RESTORED: "restored as applied",
    Agreement.NEW: "new",
    Agreement.PRESENT: "already there",
    Agreement.EQUALISED: "changed to equal shares",
}


def agreement_text(migration: Migration, pair: Pair) -> str | None:
    """Say how a service that is added relates to the one that is removed; None if it does not do the same."""
    agreement = migration.agreement(pair)
    match agreement:
        case Agreement.NONE:
            return None
        case Agreement.EQUAL:
            return str(pair.verdict)
        case Agreement.ROUNDED:
            return f"same shares within {float(pair.distance):.1g}"
    return _WORDS[agreement]


def intent_text(migration: Migration) -> str:
    """Return the intent file of what holds afterwards."""
    return dump(migration.intent, migration.foreign.comments if migration.foreign else {})


def document(migration: Migration) -> MigrationDocument:
    """Return the document of a migration."""
    foreign = migration.foreign
    return {
        "from": _place(migration.source),
        "to": _place(migration.target),
        "changed": migration.changed,
        "intent": intent_text(migration),
        "intent_from": migration.origin,
        "services": [_service(migration, pair) for pair in migration.pairs],
        "returns": list(view.restored(migration)),
        "stays": [
            RetainedDocument(name=each.name, rules=list(each.rules), reason=each.reason)
            for each in (foreign.retained if foreign else ())
        ],
        "findings": [
            MigrationFindingDocument(
                code=each.code, severity=str(each.severity), rule=each.rule, message=each.message
            )
            for each in (foreign.findings if foreign else ())
        ],
        "untouched": list(view.untouched(migration)),
        "notes": list(view.notes(migration)),
        "overrides": overrides(migration.plan[1].effective),
        "rules": {
            "diff": "".join(f"{line}\n" for diff in view.diffs(migration) for line in diff),
            "scripts": [ScriptDocument(store=store, text=text) for store, text in view.scripts(migration)],
        },
    }


def _place(session: Session) -> PlaceDocument:
    return PlaceDocument(backend=session.backend.name, driver=session.driver, store=session.place)


def _service(migration: Migration, pair: Pair) -> MigratedServiceDocument:
    return MigratedServiceDocument(
        **selector(pair.service, pair.hooks),
        name=(pair.b or pair.service).name,
        verdict=agreement_text(migration, pair),
        backends=[
            MigratedShareDocument(to=to, **_shares(before, after))
            for to, (before, after) in pair.shares.items()
        ],
        leak=_shares(*pair.leak),
        notes=list(pair.notes),
    )


def _shares(before: Fraction, after: Fraction) -> BeforeAfterDocument:
    return BeforeAfterDocument(before=written(before), after=written(after))
