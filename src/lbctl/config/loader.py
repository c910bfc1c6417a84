"""Documents → Intent, reporting every mistake.

Shapes and single values are checked by `schema`, what needs several values by `services` and `listeners`.
A service with a mistake still takes part with what is right in it, so that one run names everything.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lbctl.config.documents import SourceText, decode, name_of, read, source, summary
from lbctl.config.drafts import ProblemReport, ServiceDraft, on_line
from lbctl.config.listeners import check_listeners
from lbctl.config.schema import IntentTable, ServiceTable
from lbctl.config.services import check_service
from lbctl.config.values import show, show_mark
from lbctl.errors import IntentError
from lbctl.lazy import imported_on_call
from lbctl.model import NAME, Intent, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from lbctl.config.values import Place

# Their models cost a start of every other file.
with imported_on_call(globals()):
    from lbctl.config.access import access_of
    from lbctl.config.agent import fields_of
    from lbctl.config.follow import follow_of
    from lbctl.config.hosts import hosts_of

#: The tables that all files of an intent have in common, and what reads them.
_TABLES: Mapping[str, Callable[[object], Any]] = {
    "agent": fields_of,
    "follow": follow_of,
    "hosts": hosts_of,
    **{key: partial(access_of, key) for key in ("etcd", "docker", "consul", "kubernetes")},
}
#: What all files of an intent have in common, and how messages show it.
_COMMON: Mapping[str, Callable[[object], str]] = {
    "owner": show,
    "mark": show_mark,
    **dict.fromkeys(_TABLES, lambda _: "table"),
}


def load(path: Path) -> Intent:
    """Return the intent in the file at `path`. IntentError with every problem that it has."""
    return load_merged((path,))


def loads(text: str | bytes, file: str = "<text>") -> Intent:
    """Return the intent in `text`, which messages call `file`. IntentError with every problem that it has."""
    return _merge([source(text, file) if isinstance(text, str) else decode(text, file)], ProblemReport())


def load_merged(paths: Sequence[Path]) -> Intent:
    """Return the services of all files at `paths`, in that order, as one intent.

    Each file has its own `schema`; files that name an owner or a mark must name the same one.
    """
    report = ProblemReport()
    sources = []
    for path in paths:
        with report.collecting():
            sources.append(read(path))
    return _merge(sources, report, [name_of(path) for path in paths])


def _merge(sources: Iterable[SourceText], report: ProblemReport, order: Sequence[str] = ()) -> Intent:
    """The intent that `sources` hold together, or IntentError with all that is in `report` at the end."""
    drafts: list[ServiceDraft] = []
    common: dict[str, tuple[Any, SourceText]] = {}
    for origin in sources:
        with report.collecting():
            for key, value in _read_tables(origin, drafts, report).items():
                known, first = common.setdefault(key, (value, origin))
                if value != known:
                    said, was = map(_COMMON[key], (value, known))
                    report.add(
                        origin,
                        (key,),
                        f"{key} {said} is not the {was} of {first.file}:{first.line((key,))}",
                        f"files that are merged have one {key}: give it once, or the same value in each",
                    )
    for draft in drafts:
        draft.fill()
        check_service(draft, report)
    _check_names(drafts, report)
    check_listeners(drafts, report)
    services: list[Service] = []
    if not report.problems:
        services = _build(drafts, report)
    if report.problems:
        ranks = {file: rank for rank, file in enumerate(order)}
        problems = sorted(report.problems, key=lambda p: (ranks.get(p.file, 0), p.line))
        raise IntentError(summary(problems), problems=tuple(problems))
    fields = {key: value for key, (value, _) in common.items()}
    agent = fields.pop("agent", {})
    return Intent(services=tuple(services), **agent, **fields)


def _read_tables(origin: SourceText, drafts: list[ServiceDraft], report: ProblemReport) -> dict[str, Any]:
    """Add the services of one document to `drafts`; return what it says of what all files have in common."""
    data = origin.data()
    if not data:
        report.add(origin, (), "the file is empty", "`lbctl init` prints an intent file to begin with")
        return {}
    try:
        document = IntentTable.model_validate(data)
    except ValidationError as error:
        return _read_damaged(origin, data, error, drafts, report)
    for index, table in enumerate(document.service):
        drafts.append(ServiceDraft(origin, index, f'service "{table.name}"', table))
    return _common(origin, data, report)


def _common(
    origin: SourceText, data: dict[str, Any], report: ProblemReport, bad: Collection[str | int] = ()
) -> dict[str, Any]:
    """Return what a document says of what all files have in common, but for the keys that are `bad`."""
    found = {}
    for key in _COMMON:
        if key not in data or key in bad:
            continue
        if key not in _TABLES:
            found[key] = data[key]
        elif data[key] is not None:
            with report.reading(origin, (key,)):
                found[key] = _TABLES[key](data[key])
    return found


def _read_damaged(
    origin: SourceText,
    data: dict[str, Any],
    error: ValidationError,
    drafts: list[ServiceDraft],
    report: ProblemReport,
) -> dict[str, Any]:
    """Return what `_read_tables` does, for a document with mistakes: note them, and read what is left."""
    from lbctl.config.explain import explain, place_of, without

    raws = data.get("service")
    raws = raws if isinstance(raws, list) else []
    places: dict[int, list[Place]] = {}
    bad: set[str | int] = set()
    for details in error.errors(include_url=False):
        place = place_of(details)
        message, hint = explain(details)
        bad.update(place[:1])
        if len(place) > 1 and place[0] == "service" and isinstance(place[1], int):
            places.setdefault(place[1], []).append(place[2:])
            message = f"{_label(raws[place[1]], place[1])}: {_endpoint_label(raws[place[1]], place)}{message}"
        report.add(origin, place, message, hint)
    for index, raw in enumerate(raws):
        if not isinstance(raw, dict):
            continue
        kept, damaged = without(raw, places[index]) if index in places else (raw, frozenset[str]())
        try:
            table = ServiceTable.model_validate(kept)
        except ValidationError:
            continue  # its mistakes are noted already
        if "listen" in damaged and isinstance(kept["listen"], str):
            table.listen = []
        drafts.append(ServiceDraft(origin, index, _label(raw, index), table, damaged))
    return _common(origin, data, report, bad)


def _label(raw: object, index: int) -> str:
    """How messages call a service: by its name, where that is one, else by its number."""
    name = raw.get("name") if isinstance(raw, dict) else None
    return f'service "{name}"' if isinstance(name, str) and NAME.match(name) else f"service {index + 1}"


def _endpoint_label(raw: Any, place: Place) -> str:
    """`endpoint "a": ` for a place in one of the endpoint tables of a service, where messages need it."""
    match place:
        case (_, _, "endpoint" | "endpoints" as key, int(index), str(), *_):
            name = raw[key][index].get("name")
            return (
                f'endpoint "{name}": '
                if isinstance(name, str) and NAME.match(name)
                else f"endpoint {index + 1}: "
            )
    return ""


def _check_names(drafts: Iterable[ServiceDraft], report: ProblemReport) -> None:
    first: dict[str, ServiceDraft] = {}
    for draft in drafts:
        if "name" in draft.damaged:
            continue
        other = first.setdefault(draft.table.name, draft)
        if other is not draft:
            report.about(
                draft,
                draft.at("name"),
                f"the name is taken by the service {on_line(draft, other, other.at('name'))}",
                "give each service a name of its own",
            )


def _build(drafts: Iterable[ServiceDraft], report: ProblemReport) -> list[Service]:
    """Return the services of drafts without a mistake."""
    services = []
    for draft in drafts:
        table = draft.table
        try:
            services.append(
                Service(
                    name=table.name,
                    listeners=tuple(draft.listeners),
                    endpoints=tuple(draft.endpoints),
                    scheduler=table.scheduler,
                    local_clients=draft.local_clients,
                    seed=table.seed,
                    affinity=table.affinity,
                    source_nat=table.source_nat,
                    allow=tuple(table.allow or ()),
                    deny=tuple(table.deny or ()),
                    interfaces=tuple(table.interfaces or ()),
                    exclude=tuple(table.exclude or ()),
                    takeover=table.takeover,
                    forward=table.forward,
                    check=draft.check,
                    health=draft.health,
                    discover=draft.discover,
                )
            )
        except ValueError as error:  # a rule of the model that has no check of its own here
            report.about(draft, draft.at(), str(error), "see lbctl.toml(5)")
    return services
