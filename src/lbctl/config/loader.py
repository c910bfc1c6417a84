"""Documents → Intent, reporting every mistake.

Shapes and single values are checked by `lbctl.config.schema`; here is what needs more than one value.
A service with a mistake still takes part with what is right in it, so that one run names everything.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left, insort
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from pydantic import ValidationError

from lbctl.config.documents import SourceText, decode, name_of, read, source, summary
from lbctl.config.schema import EndpointTable, IntentTable, ServiceTable
from lbctl.config.values import expand, show, show_mark
from lbctl.errors import ConfigProblem, IntentError, NoIntentFile
from lbctl.model import (
    DEFAULT_POLICY,
    MAX_SLOTS,
    NAME,
    Address,
    DnsProbe,
    DsrObstacle,
    Endpoint,
    ExecProbe,
    Family,
    Forward,
    Intent,
    Listener,
    Obstacle,
    Protocol,
    Service,
    State,
    dsr_obstacles,
    slot_count,
    takeover_obstacles,
)
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.config.values import Place, Target
    from lbctl.model import Check, Discovery, HealthPolicy

    #: A table among the entries that give endpoints, and its place.
    _EndpointEntry: TypeAlias = tuple[Place, EndpointTable]

ETC = Path("/etc/lbctl")
_ROOT = 0
#: Ranges of ports that the listeners of an intent may have: each is looked for among all others.
MAX_RANGES = 4096
#: Digits of the largest number of a user.
_LONGEST_USER = 10
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: Tables of how sources are reached.
_ACCESS = ("etcd", "docker", "consul", "kubernetes")
#: What all files of an intent have in common, and how messages show it.
_COMMON: Mapping[str, Callable[[object], str]] = {
    "owner": show,
    "mark": show_mark,
    **dict.fromkeys(("agent", "follow", "hosts", *_ACCESS), lambda _: "table"),
}
_FAMILY = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
#: What makes `takeover` impossible → the key behind it, why, and what to write.
_OBSTACLES: Mapping[Obstacle, tuple[str, str, str]] = {
    Obstacle.SCHEDULER: (
        "scheduler",
        "only a hash of the client leads to the same endpoint on two hosts",
        'write `scheduler = "source-hash"` or "maglev", or leave `takeover` out',
    ),
    Obstacle.SOURCE_NAT: (
        "source-nat",
        'with `source-nat = "always"` endpoints reply to the host that a connection was opened through',
        'write `source-nat = "hairpin"` or "never", with replies routed through the active host',
    ),
    Obstacle.LOCAL_ENDPOINTS: (
        "endpoints",
        "processes of this host end with it",
        'give endpoints on other hosts, e.g. "10.0.0.11:8080", or leave `takeover` out',
    ),
    Obstacle.SCTP: (
        "listen",
        "the kernel tracks an SCTP association only from its handshake on",
        "listen for SCTP in a service of its own, without `takeover`",
    ),
}
#: What makes direct server return impossible, in the same way.
_DSR_OBSTACLES: Mapping[DsrObstacle, tuple[str, str, str]] = {
    DsrObstacle.ANY_ADDRESS: (
        "listen",
        "with direct server return endpoints have the listener's address, so that each listener needs one",
        'write the address, e.g. "192.0.2.21:80/tcp"',
    ),
    DsrObstacle.PROTOCOL: (
        "listen",
        "direct server return is for TCP and UDP",
        "listen for SCTP in a service of its own",
    ),
    DsrObstacle.LOCAL_ENDPOINTS: (
        "endpoints",
        "with direct server return endpoints are other hosts",
        'give their addresses, e.g. "10.0.0.31"',
    ),
    DsrObstacle.PORT: (
        "endpoints",
        "with direct server return packets keep their destination port",
        'leave the port of the endpoints out, e.g. "10.0.0.31"',
    ),
    DsrObstacle.LOCAL_CLIENTS: (
        "local-clients",
        "direct server return balances packets that arrive on an interface, and no local connections",
        "leave `local-clients` out",
    ),
    DsrObstacle.SOURCE_NAT: (
        "source-nat",
        "with direct server return the client's address stays",
        "leave `source-nat` out",
    ),
    DsrObstacle.AFFINITY: (
        "affinity",
        "direct server return has no affinity",
        'leave it out; `scheduler = "source-hash"` leads a client to one endpoint',
    ),
    DsrObstacle.SCHEDULER: (
        "scheduler",
        "with direct server return this host tracks no connections, and cannot count them",
        'write "round-robin", "random", "source-hash" or "maglev"',
    ),
    DsrObstacle.INTERFACE_PATTERN: (
        "interfaces",
        "direct server return is set up for each interface by itself",
        "write the whole name of each interface",
    ),
}


def load(path: Path) -> Intent:
    """Return the intent in the file at `path`. IntentError with every problem that it has."""
    return load_merged((path,))


def loads(text: str | bytes, file: str = "<text>") -> Intent:
    """Return the intent in `text`, which messages call `file`. IntentError with every problem that it has."""
    return _merge([source(text, file) if isinstance(text, str) else decode(text, file)], _Report())


def load_merged(paths: Sequence[Path]) -> Intent:
    """Return the services of all files at `paths`, in that order, as one intent.

    Each file has its own `schema`; files that name an owner or a mark must name the same one.
    """
    report = _Report()
    sources = []
    for path in paths:
        with report.collecting():
            sources.append(read(path))
    return _merge(sources, report, [name_of(path) for path in paths])


def find(config: Path | None, environ: Mapping[str, str], cwd: Path, etc: Path = ETC) -> tuple[Path, ...]:
    """The files of the intent: `config`, else $LBCTL_CONFIG, else `cwd`/lbctl.toml, else those in `etc`.

    A name stands for a file, which `load_merged` reads and complains about; for standard input if it is "-";
    or for the files of a directory. In `etc` these are lbctl.toml, if it exists, and conf.d/*.toml in name
    order. Raises `NoIntentFile` if there is none, and `IntentError` for a directory without intent files and
    for a file of `cwd` that root must not use without being told to.
    """
    if found := finder(config, environ, cwd, etc)():
        return found
    raise NoIntentFile(
        f"no intent file: neither ./lbctl.toml nor {name_of(etc / 'lbctl.toml')} is there",
        hint="write one with `lbctl init`, or with `lbctl import` from existing rules; "
        "or name one with --config FILE",
    )


def finder(
    config: Path | None, environ: Mapping[str, str], cwd: Path, etc: Path = ETC, *, here: bool = True
) -> Callable[[], tuple[Path, ...]]:
    """Return what finds the files of the intent, now and later in the same place; they are () if it has none.

    A directory may have other files by then. Without `here`, `cwd` is no such place. Raises as `find`.
    """
    if config is not None:
        return partial(_named, config)
    if named := environ.get("LBCTL_CONFIG"):
        return partial(_named, Path(named) if named == "-" else cwd / named)
    if here and _exists(own := cwd / "lbctl.toml"):
        _ensure_own(own, environ)
        return partial(_named, own)
    return partial(_main_and_parts, etc)


def find_local(environ: Mapping[str, str], cwd: Path, etc: Path = ETC) -> tuple[Path, ...]:
    """As `find`, but never a file of the current directory: the files that say what this host follows."""
    if found := finder(None, environ, cwd, etc, here=False)():
        return found
    raise NoIntentFile(
        f"{name_of(etc / 'lbctl.toml')} is missing: its [etcd] and [follow] tables say what is followed",
        hint="write it, or name another file with $LBCTL_CONFIG",
    )


def _named(path: Path) -> tuple[Path, ...]:
    """The files behind a path that was named: itself, or those of a directory, which are merged.

    In a directory, they are those that are looked for in /etc/lbctl; where it has none of these, its *.toml.
    """
    try:
        if not path.is_dir():
            return (path,)
    except PermissionError:
        # Reading it names the file and the problem.
        return (path,)
    found = _main_and_parts(path) or _parts(path)
    if not found:
        raise IntentError(
            f"{name_of(path)} is a directory without intent files",
            hint="it may have lbctl.toml and conf.d/*.toml, or else *.toml",
        )
    return found


def unread(config: Path | None, files: Sequence[Path]) -> tuple[Path, ...]:
    """Return the *.toml of a directory that was named which are not among the files that `find` returned."""
    if config is None or config in files:
        return ()
    return tuple(path for path in _parts(config) if path not in files)


def _main_and_parts(folder: Path) -> tuple[Path, ...]:
    main = folder / "lbctl.toml"
    return ((main,) if _exists(main) else ()) + _parts(folder / "conf.d")


def _parts(folder: Path) -> tuple[Path, ...]:
    """The intent files of a directory in name order; () if there is no such directory."""
    try:
        return tuple(
            sorted(p for p in folder.iterdir() if p.suffix == ".toml" and not p.name.startswith("."))
        )
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise IntentError(f"{name_of(folder)} cannot be read: {error.strerror}") from None


def _ensure_own(path: Path, environ: Mapping[str, str]) -> None:
    """Raise `IntentError` if this is root, and another user can decide what a file of the directory says.

    The user behind sudo may: what he writes there is what root was asked to apply.
    """
    if os.geteuid():
        return
    caller = environ.get("SUDO_UID", "")
    trusted = {_ROOT}
    if caller.isascii() and caller.isdecimal() and len(caller) <= _LONGEST_USER:
        trusted.add(int(caller))
    for place, user, writable in _deciding(path):
        if user in trusted and not writable:
            continue
        reason = "can be written by other users" if user in trusted else f"belongs to {_user(user)}"
        raise IntentError(
            f"./{path.name} is not used: {place} {reason}",
            hint=f"if it is meant, name it: --config {path.name}",
        )


def _deciding(path: Path) -> Iterator[tuple[str, int, bool]]:
    """What decides what a file of the current directory says: its name, its user, if others can write it."""
    folder, link = path.parent.stat(), path.lstat()
    # In a sticky directory, such as /tmp, users can only replace what is theirs.
    open_to_all = bool(folder.st_mode & _OTHERS_WRITE and not folder.st_mode & stat.S_ISVTX)
    yield "the current directory", folder.st_uid, open_to_all
    yield "it", link.st_uid, not stat.S_ISLNK(link.st_mode) and bool(link.st_mode & _OTHERS_WRITE)
    with suppress(OSError):  # who reads it reports a link to nothing
        found = path.stat()
        yield "it", found.st_uid, bool(found.st_mode & _OTHERS_WRITE)


def _user(number: int) -> str:
    import pwd  # only where there is something to report

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"


def _exists(path: Path) -> bool:
    """True where something is at `path`, even a dangling link: that is to be reported, not passed over."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


class _Report:
    """The mistakes found so far."""

    def __init__(self) -> None:
        self.problems: list[ConfigProblem] = []

    def add(self, origin: SourceText, place: Place, message: str, hint: str) -> None:
        """Note a mistake at a place of a document."""
        problem = ConfigProblem(file=origin.file, line=origin.line(place), message=message, hint=hint)
        self.problems.append(problem)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note the problems of an IntentError that is raised inside, and let it go no further."""
        try:
            yield
        except IntentError as error:
            self.problems.extend(error.problems)


@dataclass(slots=True)
class _Draft:
    """A service as far as it could be read. `damaged` are the keys that lost something to a mistake."""

    origin: SourceText
    index: int
    label: str
    table: ServiceTable
    damaged: frozenset[str] = frozenset()
    endpoints: tuple[Endpoint, ...] = ()
    check: Check | None = None
    health: HealthPolicy = DEFAULT_POLICY
    discover: Discovery | None = None

    @property
    def listeners(self) -> list[Listener]:
        listeners: list[Listener] = self.table.listen
        return listeners

    def at(self, *place: str | int) -> Place:
        """Return the place of something in this service."""
        return ("service", self.index, *place)

    def listener_place(self, count: int) -> Place:
        """Return the place of a listener.

        Counts are off where a listener is missing; then the key's own place.
        """
        return self.at("listen") if "listen" in self.damaged else self.at("listen", count)

    @property
    def local_clients(self) -> bool:
        """Whether local connections are balanced; by default, where `forward` can."""
        table = self.table
        return (
            table.local_clients if "local_clients" in table.model_fields_set else table.forward is Forward.NAT
        )

    def entries(self) -> Iterator[tuple[Place, str, tuple[Endpoint, ...]]]:
        """Yield each entry that gives endpoints: its place, its name if it has one, what it stands for."""
        for place, entry in self._entries():
            yield place, entry.name if isinstance(entry, EndpointTable) else "", _endpoints(entry)

    def tables(self) -> list[_EndpointEntry]:
        """Return the tables among the entries, each with its place."""
        return [(place, entry) for place, entry in self._entries() if isinstance(entry, EndpointTable)]

    def _entries(self) -> Iterator[tuple[Place, Target | EndpointTable]]:
        for key, listed in (("endpoints", self.table.endpoints), ("endpoint", self.table.endpoint)):
            for i, entry in enumerate(listed):
                yield self._entry_place(key, i), entry

    def _entry_place(self, key: str, count: int) -> Place:
        return self.at(key) if key in self.damaged else self.at(key, count)


#: A listener: the service that has it, and its number there.
_Listening: TypeAlias = tuple[_Draft, int]


def _endpoints(entry: Target | EndpointTable) -> tuple[Endpoint, ...]:
    """Return the endpoints that an entry stands for. Those of a range are named after their ports."""
    if not isinstance(entry, EndpointTable):
        return expand((entry,))
    each = expand((entry.address,))
    return tuple(
        Endpoint(
            port=endpoint.port,
            address=endpoint.address,
            name=entry.name if len(each) == 1 else "",
            weight=entry.weight,
            state=entry.state,
            mac=entry.mac,
        )
        for endpoint in each
    )


def _merge(sources: Iterable[SourceText], report: _Report, order: Sequence[str] = ()) -> Intent:
    """The intent that `sources` hold together, or IntentError with all that is in `report` at the end."""
    drafts: list[_Draft] = []
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
        _fill(draft)
        _check_service(draft, report)
    _check_names(drafts, report)
    _check_listeners(drafts, report)
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


def _read_tables(origin: SourceText, drafts: list[_Draft], report: _Report) -> dict[str, Any]:
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
        drafts.append(_Draft(origin, index, f'service "{table.name}"', table))
    return _common(origin, data, report)


def _common(
    origin: SourceText, data: dict[str, Any], report: _Report, bad: Collection[str | int] = ()
) -> dict[str, Any]:
    """Return what a document says of what all files have in common, but for the keys that are `bad`."""
    found = {key: data[key] for key in _COMMON if key in data and key not in bad}
    if (table := found.pop("agent", None)) is not None:
        from lbctl.config.agent import fields_of  # as those of checks

        with _noting(origin, ("agent",), "", report):
            found["agent"] = fields_of(table)
    for key in _ACCESS:
        if (table := found.pop(key, None)) is not None:
            from lbctl.config.access import access_of  # as those of checks

            with _noting(origin, (key,), "", report):
                found[key] = access_of(key, table)
    if (table := found.pop("follow", None)) is not None:
        from lbctl.config.follow import follow_of  # as those of checks

        with _noting(origin, ("follow",), "", report):
            found["follow"] = follow_of(table)
    if (table := found.pop("hosts", None)) is not None:
        from lbctl.config.hosts import hosts_of  # as those of checks

        with _noting(origin, ("hosts",), "", report):
            found["hosts"] = hosts_of(table)
    return found


def _read_damaged(
    origin: SourceText, data: dict[str, Any], error: ValidationError, drafts: list[_Draft], report: _Report
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
        drafts.append(_Draft(origin, index, _label(raw, index), table, damaged))
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


def _fill(draft: _Draft) -> None:
    """Make the endpoints of a draft."""
    entries: tuple[Any, ...] = (*draft.table.endpoints, *draft.table.endpoint)
    # an intent may have a hundred thousand that are texts
    plain = not draft.table.endpoint and not any(isinstance(entry, EndpointTable) for entry in entries)
    each = (endpoint for entry in entries for endpoint in _endpoints(entry))
    draft.endpoints = expand(entries) if plain else tuple(each)


def _check_service(draft: _Draft, report: _Report) -> None:
    """Note what is wrong with a service by itself."""
    _check_exclude(draft, report)
    _check_interfaces(draft, report)
    _check_takeover(draft, report)
    _check_forward(draft, report)
    _read_health(draft, report)
    _read_discover(draft, report)
    made = draft.endpoints
    whole = not draft.damaged & {"endpoints", "endpoint"}
    discovers = draft.table.discover is not None
    if not made:
        if whole and not discovers:
            place = draft.at("endpoints") if "endpoints" in draft.table.model_fields_set else draft.at()
            report.add(
                draft.origin,
                place,
                f"{draft.label}: there are no endpoints",
                'write `endpoints = ["8001", "8002"]`, or [[service.endpoint]] tables',
            )
        return
    tables = draft.tables()
    _check_named_ranges(draft, tables, report)
    # all others are named after where they lead
    if len({e.to for e in made}) < len(made) or (tables and len({e.name for e in made}) < len(made)):
        _report_repeated(draft, report)
    if len({(e.address is None, e.port is None) for e in made}) > 1:
        _report_mixed(draft, report)
        return
    if made[0].port is not None:
        _check_ranges(draft, report)
    if not whole:
        return
    if made[0].address is not None and "listen" not in draft.damaged and not discovers:
        _check_families(draft, report)
    if tables or len(made) > MAX_SLOTS:
        _check_slots(draft, tables, report)


def _check_exclude(draft: _Draft, report: _Report) -> None:
    """Note addresses of `exclude` that contradict a listener, or that no listener would match."""
    networks = draft.table.exclude or ()
    if not networks:
        return
    if all(listener.address is not None for listener in draft.listeners) and "listen" not in draft.damaged:
        report.add(
            draft.origin,
            draft.at("exclude"),
            f"{draft.label}: `exclude` has no effect: each listener has an address",
            "leave it out: a listener with an address matches no other one",
        )
        return
    for count, listener in enumerate(draft.listeners):
        if listener.address is not None and any(listener.address in network for network in networks):
            report.add(
                draft.origin,
                draft.listener_place(count),
                f"{draft.label}: listener {listener} is at an address that `exclude` leaves alone",
                "give this listener a service of its own, or take the address out of `exclude`",
            )


def _check_takeover(draft: _Draft, report: _Report) -> None:
    """Note what keeps another host from taking over the connections of a service that asks for it."""
    table = draft.table
    if not table.takeover:
        return
    found = takeover_obstacles(table.scheduler, table.source_nat, draft.listeners, draft.endpoints)
    for obstacle in dict.fromkeys(found):
        key, reason, hint = _OBSTACLES[obstacle]
        if key not in draft.damaged:
            set_here = key.replace("-", "_") in table.model_fields_set
            place = draft.at(key if set_here else "takeover")
            report.add(draft.origin, place, f"{draft.label}: `takeover`: {reason}", hint)


def _check_forward(draft: _Draft, report: _Report) -> None:
    """Note what keeps a service from direct server return that asks for it, and keys that only it has."""
    table = draft.table
    match table.forward:
        case Forward.NAT:
            place = next((place for place, entry in draft.tables() if entry.mac), None)
            if place is not None:
                message = f"{draft.label}: `mac` has no effect: packets are routed to the endpoint"
                report.add(draft.origin, (*place, "mac"), message, 'leave it out, or write `forward = "dsr"`')
            return
        case Forward.DSR:
            pass
        case _:
            assert_never(table.forward)
    found = dsr_obstacles(
        draft.listeners,
        draft.endpoints,
        local_clients=draft.local_clients,
        translates_source="source_nat" in table.model_fields_set,
        affinity=table.affinity is not None,
        scheduler=table.scheduler,
        interfaces=table.interfaces or (),
    )
    for obstacle in found:
        key, reason, hint = _DSR_OBSTACLES[obstacle]
        if key not in draft.damaged:
            set_here = key.replace("-", "_") in table.model_fields_set
            place = draft.at(key if set_here else "forward")
            report.add(draft.origin, place, f"{draft.label}: `forward`: {reason}", hint)


def _check_interfaces(draft: _Draft, report: _Report) -> None:
    seen: set[str] = set()
    for count, name in enumerate(draft.table.interfaces or ()):
        if name in seen:
            place = draft.at("interfaces") if "interfaces" in draft.damaged else draft.at("interfaces", count)
            message = f'{draft.label}: interface "{name}" is given twice'
            report.add(draft.origin, place, message, "give it once")
        seen.add(name)


def _check_named_ranges(draft: _Draft, tables: Iterable[_EndpointEntry], report: _Report) -> None:
    """Note a name that several endpoints would have."""
    for place, table in tables:
        if table.name and isinstance(table.address, range):
            report.add(
                draft.origin,
                (*place, "name"),
                f'{draft.label}: "{table.name}" would be the name of {len(table.address)} endpoints',
                "leave the name out, or write a table for each endpoint",
            )


def _check_ranges(draft: _Draft, report: _Report) -> None:
    """Note endpoints with a port behind a listener with a range of them."""
    listener = next((listener for listener in draft.listeners if listener.is_range), None)
    if listener is None:
        return
    place, _, endpoints = next(iter(draft.entries()))
    to = endpoints[0].to
    what = "is a port of this host" if endpoints[0].address is None else "has a port"
    report.add(
        draft.origin,
        place,
        f"{draft.label}: endpoint {to} {what}, but listener {listener} is a range of ports",
        'give addresses without a port, like "10.0.0.11": connections keep their destination port',
    )


def _kind(endpoint: Endpoint) -> tuple[bool, bool]:
    """Return what all endpoints of a service have in common: whether they have an address, and a port."""
    return endpoint.address is not None, endpoint.port is not None


def _read_health(draft: _Draft, report: _Report) -> None:
    """Read how a service is checked, and what failed checks do; note the mistakes."""
    said = draft.table.model_fields_set & {"check", "health"}
    if not said:
        return
    from lbctl.config import checks  # its models cost a start of every other file

    if "check" in said:
        with _noting(draft.origin, draft.at("check"), f"{draft.label}: ", report):
            table = checks.read_check(draft.table.check)
            found = list(checks.problems(table))
            for key, message, hint in found:
                report.add(draft.origin, draft.at("check", key), f"{draft.label}: {message}", hint)
            draft.check = None if found else checks.check_of(table)
            _check_ports(draft, report)
    else:
        report.add(
            draft.origin,
            draft.at("health"),
            f"{draft.label}: `health` without a check",
            'write how endpoints are checked: `check = "tcp"`',
        )
    if "health" in said:
        with _noting(draft.origin, draft.at("health"), f"{draft.label}: ", report):
            draft.health = checks.policy_of(checks.HealthTable.model_validate(draft.table.health))


def _read_discover(draft: _Draft, report: _Report) -> None:
    """Read where more endpoints come from; note the mistakes."""
    if draft.table.discover is None:
        return
    from lbctl.config.discover import discovery_of  # as those of checks

    with _noting(draft.origin, draft.at("discover"), f"{draft.label}: ", report):
        draft.discover = discovery_of(draft.table.discover)


def _check_ports(draft: _Draft, report: _Report) -> None:
    """Note a check that does not say at which port."""
    check = draft.check
    if check is None or check.port is not None or isinstance(check.probe, (DnsProbe, ExecProbe)):
        return
    odd = next((e for e in draft.endpoints if e.port is None), None)
    if odd is not None:
        report.add(
            draft.origin,
            draft.at("check"),
            f"{draft.label}: the check has no port, and endpoint {odd.to} has none either",
            f'write which port is checked: `check = {{ kind = "{check.kind}", port = 8080 }}`',
        )


@contextmanager
def _noting(origin: SourceText, table: Place, label: str, report: _Report) -> Iterator[None]:
    """Note the mistakes of the table that is read inside; messages begin with `label`."""
    from lbctl.config.values import InvalidValue

    try:
        yield
    except InvalidValue as error:
        report.add(origin, table, f"{label}{error.message}", error.hint)
    except ValidationError as error:
        from lbctl.config.explain import explain

        for details in error.errors(include_url=False):
            details["loc"] = place = (*table, *details["loc"])
            message, hint = explain(details)
            report.add(origin, place, f"{label}{message}", hint)


def _report_repeated(draft: _Draft, report: _Report) -> None:
    """Note the endpoints that are given twice, and the names that two of them have."""
    seen: dict[str, Place] = {}
    names: dict[str, Place] = {}
    for place, name, endpoints in draft.entries():
        twice = next((e.to for e in endpoints if e.to in seen), None)
        if twice is not None:
            line = draft.origin.line(seen[twice])
            report.add(
                draft.origin,
                place,
                f"{draft.label}: endpoint {twice} is given twice, first on line {line}",
                "give it once, with a `weight` in its [[service.endpoint]] table",
            )
        made = [name or e.to for e in endpoints]
        same = next((x for x in made if x in names), None)
        if same is not None and (twice is None or name):
            line = draft.origin.line(names[same])
            report.add(
                draft.origin,
                (*place, "name") if name else place,
                f'{draft.label}: two endpoints are named "{same}", the first on line {line}',
                "give each endpoint of a service a name of its own",
            )
        for e in endpoints:
            seen.setdefault(e.to, place)
        for x in made:
            names.setdefault(x, place)


def _report_mixed(draft: _Draft, report: _Report) -> None:
    """Note that a service has ports of this host and addresses: at the first of the second kind."""
    # the endpoints of one entry are of one kind
    entries = [(place, endpoints[0]) for place, _, endpoints in draft.entries()]
    first = entries[0][1]
    local = first.address is None
    place, odd = next((place, e) for place, e in entries if _kind(e) != _kind(first))
    if (odd.address is None) is local:
        bare, full = (odd, first) if odd.port is None else (first, odd)
        report.add(
            draft.origin,
            place,
            f"{draft.label}: endpoints of two kinds: {bare.to} has no port, but {full.to} has one",
            "give a port to all or to none: without one, connections keep their destination port",
        )
        return
    what = (
        f"an address, but {first.to} is a port"
        if local
        else f"a port of this host, but {first.to} is an address"
    )
    report.add(
        draft.origin,
        place,
        f"{draft.label}: endpoints of two kinds: {odd.to} is {what}{' of this host' if local else ''}",
        "give only ports or only addresses; a process on this host can be given by one of its addresses",
    )


def _check_families(draft: _Draft, report: _Report) -> None:
    """Note the listeners whose family no endpoint has. A listener on any address takes what there is."""
    have = {type(e.address) for e in draft.endpoints}
    for count, listener in enumerate(draft.listeners):
        if listener.address is None or type(listener.address) in have:
            continue
        family = _FAMILY[Family.of(listener.address)]
        report.add(
            draft.origin,
            draft.listener_place(count),
            f"{draft.label}: listener {listener} has no endpoint: none has an {family} address",
            f"add an endpoint with an {family} address, or take the listener out",
        )


def _check_slots(draft: _Draft, tables: Sequence[_EndpointEntry], report: _Report) -> None:
    """Note a service whose weights need too many slots for exact shares."""
    for family in Family:
        able = [e for e in draft.endpoints if e.serves(family)]
        ready = [e.weight for e in able if e.state is State.ACTIVE]
        ready = ready or [e.weight for e in able if e.state is State.BACKUP]
        slots = slot_count(ready)
        if slots > MAX_SLOTS:
            heaviest = max(tables, key=lambda entry: entry[1].weight, default=None)
            place = (*heaviest[0], "weight") if heaviest else draft.at("endpoints")
            report.add(
                draft.origin,
                place,
                f"{draft.label}: exact shares of these weights need {slots} slots, more than {MAX_SLOTS}",
                "use smaller weights, or ones with a common divisor: 1000 and 2000 need just 3",
            )
            return


def _check_names(drafts: Iterable[_Draft], report: _Report) -> None:
    first: dict[str, _Draft] = {}
    for draft in drafts:
        if "name" in draft.damaged:
            continue
        other = first.setdefault(draft.table.name, draft)
        if other is not draft:
            report.add(
                draft.origin,
                draft.at("name"),
                f"{draft.label}: the name is taken by the service {_on_line(draft, other, other.at('name'))}",
                "give each service a name of its own",
            )


def _check_listeners(drafts: Iterable[_Draft], report: _Report) -> None:
    """Note listeners that overlap with another one: each once. `Listener.overlaps`, through indexes."""
    single, ranges = _SingleListeners(), _ListenerRanges()
    for draft in drafts:
        for count, listener in enumerate(draft.listeners):
            index = ranges if listener.is_range else single
            met = index.add((draft, count), listener)
            if met is not None:
                _report_overlap((draft, count), met, report)
    if ranges.count > MAX_RANGES:
        (draft, count), *_ = ranges.last
        report.add(
            draft.origin,
            draft.listener_place(count),
            f"{draft.label}: more than {MAX_RANGES} listeners are ranges of ports",
            "join ranges, or give several listeners one address",
        )


def _leaves_alone(one: _Listening, other: _Listening) -> bool:
    """Return True if the service of one of two listeners excludes the address of the other one."""
    for (draft, count), (there, their) in ((one, other), (other, one)):
        address = there.listeners[their].address
        if address is not None and draft.listeners[count].address is None:
            return any(address in network for network in draft.table.exclude or ())
    return False


class _SingleListeners:
    """The listeners with a single port: of each protocol and port, the first one of each address."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[Protocol, int], dict[Address | None, _Listening]] = {}

    def add(self, new: _Listening, listener: Listener) -> _Listening | None:
        """Add a listener; return one that overlaps with it, if there is one."""
        key = (listener.protocol, listener.port)
        bucket = self._buckets.get(key)
        if bucket is None:
            self._buckets[key] = {listener.address: new}
            return None
        same = bucket.get(listener.address)
        if same is None:
            rivals = bucket.values() if listener.address is None else filter(None, [bucket.get(None)])
            same = next((each for each in rivals if not _leaves_alone(new, each)), None)
            bucket[listener.address] = new
        return same


class _ListenerRanges:
    """The listeners with a range of ports: of each protocol and address, in the order of their ports."""

    def __init__(self) -> None:
        self._found: dict[Protocol, dict[Address | None, list[tuple[int, int, int]]]] = {}
        self._all: list[_Listening] = []
        #: False once two of one address overlap.
        self._disjoint = True

    @property
    def count(self) -> int:
        """The number of ranges."""
        return len(self._all)

    @property
    def last(self) -> Sequence[_Listening]:
        """The first range beyond those that an intent can have, and all behind it."""
        return self._all[MAX_RANGES:]

    def add(self, new: _Listening, listener: Listener) -> _Listening | None:
        """Add a range; return one that overlaps with it, if there is one."""
        by_address = self._found.setdefault(listener.protocol, {})
        self._all.append(new)
        if len(self._all) > MAX_RANGES:
            return None
        places = list(by_address) if listener.address is None else [listener.address, None]
        found = (
            other
            for address in places
            for other in self._overlapping(by_address.get(address, ()), listener)
            if not _leaves_alone(new, other)
        )
        met = next(found, None)
        self._disjoint = self._disjoint and met is None
        mine = by_address.setdefault(listener.address, [])
        insort(mine, (listener.port, listener.last_port, len(self._all) - 1))
        return met

    def _overlapping(self, ordered: Sequence[tuple[int, int, int]], listener: Listener) -> list[_Listening]:
        """Return the ranges that share a port with a listener."""
        end = bisect_left(ordered, (listener.last_port + 1,))
        # Of disjoint ranges, one at most begins before the first port and ends behind it.
        begin = max(0, bisect_left(ordered, (listener.port,)) - 1) if self._disjoint else 0
        return [self._all[number] for _, last, number in ordered[begin:end] if last >= listener.port]


def _report_overlap(one: _Listening, other: _Listening, report: _Report) -> None:
    (draft, count), (first, first_count) = one, other
    listener, met = draft.listeners[count], first.listeners[first_count]
    where = _on_line(draft, first, first.listener_place(first_count))
    whose = "this service" if draft is first else first.label
    if listener == met:
        message = f"listener {listener} is given twice, first by {whose} {where}"
        hint = (
            "write it once"
            if draft is first
            else "a listener belongs to one service: join them, or change one"
        )
    else:
        message = f"listener {listener} overlaps {met} of {whose} {where}"
        wide = listener if listener.address is None else met
        narrow = met if wide is listener else listener
        hint = (
            f"{wide} is every address of this host, {narrow.address} too: give addresses to both, keep one, "
            f'or write `exclude = ["{narrow.address}"]` in the service of {wide}'
            if wide.address != narrow.address
            else "each port of an address belongs to one service: change the ends of a range"
        )
    report.add(draft.origin, draft.listener_place(count), f"{draft.label}: {message}", hint)


def _on_line(here: _Draft, there: _Draft, place: Place) -> str:
    line = there.origin.line(place)
    return f"on line {line}" if here.origin is there.origin else f"at {there.origin.file}:{line}"


def _build(drafts: Iterable[_Draft], report: _Report) -> list[Service]:
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
            report.add(draft.origin, draft.at(), f"{draft.label}: {error}", "see lbctl.toml(5)")
    return services
