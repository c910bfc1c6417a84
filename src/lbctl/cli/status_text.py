"""A status in words, made to fit the width of a terminal."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.cli.changes import setting_rows
from lbctl.cli.output import deviation_text, share_text, stores_text, table
from lbctl.cli.overrides import operator_lines
from lbctl.cli.shares import clients, lost_families, share_rows
from lbctl.documents.sources import failure_text, source_text
from lbctl.model import Action, Scheduler, inert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.cli.output import Style
    from lbctl.documents.status import AgentSummaryDocument
    from lbctl.engine import Drift, EndpointStatus, FamilyStatus, ServiceStatus, Status
    from lbctl.model import Intent, KeyChange, ServiceChange

#: So many lines of what needs attention, if that is of one kind; and of all kinds together, so that each of
#: them stands in the first ten lines. JSON has everything.
_MOST, _FIRST = 20, 7
#: So many rules are named of each service that differs, and so many endpoints with one fault.
_NAMED = 4
#: The actual share before the first connection.
NO_SHARE = "-"
#: From this width on, packets and bytes are shown. They say little of TCP: what balances sees the first
#: packet of each connection.
_WIDE = 100

#: What a row of the table has, by column; "fault" is not shown as a column.
Row: TypeAlias = "dict[str, str]"

#: The columns of the table; "by weight" is for Maglev tables only, "family" for families that disagree.
COLUMNS = (
    "endpoint",
    "family",
    "state",
    "weight",
    "by weight",
    "wanted",
    "actual",
    "connections",
    "established",
    "packets",
    "bytes",
)
#: Columns of words; the others are of numbers.
_WORDS = frozenset({"endpoint", "family", "state", "last 30 s"})
#: Shorter names of columns.
SHORT = {"connections": "conns", "established": "estab"}
#: An endpoint is not shortened to fewer characters.
_SHORTEST = 8


class Line(NamedTuple):
    """One line, and the style of all of it; "" for none."""

    text: str
    paint: str = ""

    def styled(self, style: Style) -> str:
        """Return the line as it is printed."""
        return style(self.text, self.paint) if self.paint else self.text


def width() -> int:
    """Return the columns of the terminal, or what COLUMNS says; 80 without either."""
    return shutil.get_terminal_size().columns


def lines(
    drift: Drift,
    status: Status | None,
    columns: int,
    *,
    wrap: bool,
    agent: Line | None = None,
    sources: Sequence[str] = (),
    sources_of: Mapping[str, str] | None = None,
) -> Iterator[Line]:
    """Yield a status in words; without `status`, only where kernel and intent differ.

    With `wrap`, sentences are wrapped too, which programs rather find in one line. `agent` is the line about
    the agent; None for none. `sources` are those about sources that fail, `sources_of` has the line about the
    source of a service by its name.
    """
    yield headline(drift)
    if agent is not None:
        yield agent
    yield from attention(drift, status, columns if wrap else None, sources)
    if status is not None:
        yield from map(Line, _wrapped_stores(status, columns))
        for service in status.services:
            yield Line("")
            source = (sources_of or {}).get(service.name)
            yield from block(service, rows(service), {name: name for name in COLUMNS}, columns, source)


def headline(drift: Drift) -> Line:
    """Return the line that says whether kernel and intent differ."""
    how = f"{drift.backend} (driver {drift.driver})"
    if drift.in_sync and drift.left_out is not None:
        return Line(f"{how}, in sync with what was applied last, not with the whole intent", "yellow")
    if drift.in_sync:
        return Line(f"{how}, in sync with the intent", "green")
    return Line(f"{how}, NOT in sync: kernel and intent differ, see lbctl plan", "red")


def agent_line(agent: AgentSummaryDocument | None, intent: Intent) -> Line | None:
    """Return the line about the agent; None where none runs and the intent has nothing for one to do."""
    if agent is None:
        checked = any(service.check is not None for service in intent.services)
        asked = any(service.discover is not None for service in intent.services)
        missing = [*["nothing is checked"] * checked, *["no source is asked"] * asked]
        if not missing:
            return None
        return Line(f"no agent runs: {' and '.join(missing)}, see lbctl agent", "yellow")
    facts = [f"agent: running since {agent['started']}"]
    if agent["paused_until"]:
        facts.append(f"paused until {agent['paused_until']}")
    if agent["checked"]:
        facts.append(f"{agent['failing']} of {agent['checked']} checks failing")
    if agent["sources"]:
        lost = sum(each["error"] is not None for each in agent["sources"])
        facts.append(f"{lost} of {len(agent['sources'])} sources failing")
    facts += [*agent["problems"], *filter(None, [agent["notice"]])]
    well = agent["ready"] and not agent["problems"]
    return Line(inert("; ".join(facts)), "" if well else "yellow")


def source_lines(agent: AgentSummaryDocument | None) -> list[str]:
    """Return a line for each source that fails: what is wrong, and how old the answer is that counts."""
    found = map(failure_text, agent["sources"] if agent is not None else ())
    return [text for text in found if text is not None]


def sources_of(agent: AgentSummaryDocument | None) -> dict[str, str]:
    """Return the line about the source of each service that has one, by the name of the service."""
    return {each["service"]: source_text(each) for each in (agent["sources"] if agent is not None else ())}


def attention(
    drift: Drift, status: Status | None, columns: int | None = None, sources: Sequence[str] = ()
) -> Iterator[Line]:
    """Yield what needs attention, under a heading: all kinds of it. With `columns`, lines are wrapped."""
    differing = [drift.gone, *drift.elsewhere, *drift.services, _shared(drift)]
    left_out = list(_left_out(drift))
    # What a source that fails has not answered yet is said there.
    failing = tuple(text.partition(":")[0] for text in sources)
    waiting = [text for text in (status.waiting if status else ()) if text.partition(" ")[0] not in failing]
    asked = [*sources, *waiting]
    kinds = [
        (_drift_lines(drift), sum(map(bool, differing))),
        (iter(left_out), len(left_out)),
        (iter(asked), len(asked)),
        *((iter(found), len(found)) for found in _in_services(status)),
    ]
    present = [(found, number) for found, number in kinds if number]
    if present:
        yield Line("Attention:", "bold")
    most = _MOST if len(present) == 1 else _FIRST // len(present or "1")
    for found, number in present:
        yield from map(Line, _bounded(found, number, most, columns))


def _bounded(found: Iterator[str], number: int, most: int, columns: int | None) -> list[str]:
    """Return texts until they fill `most` lines, at least one, and how many of the `number` are left."""
    lines: list[str] = []
    for shown, text in enumerate(found):
        if shown and len(lines) >= most:
            lines[-1] += f" (and {number - shown} more)"
            break
        line = f"  {inert(text)}"
        lines += _wrapped(line, columns, "      ") if columns else [line]
    return lines


def _in_services(status: Status | None) -> Iterator[list[str]]:
    """Yield what is wrong with endpoints, what checks found, and what operators decided, one line each."""
    if status is None:
        return
    faults: dict[str, list[str]] = {}
    for service, mark in status.marks.items():
        faults.setdefault(mark, []).append(service)
    endpoints = [(f"{of.name}/{each.name}", each) for of in status.services for each in of.endpoints]
    for name, endpoint in endpoints:
        if endpoint.mark:
            faults.setdefault(endpoint.mark, []).append(name)
    yield list(map(str, status.overlaps))
    yield [f"{mark}: {_few(names)}" for mark, names in faults.items()]
    yield list(status.failing)
    yield operator_lines(status.effective)


def _drift_lines(drift: Drift) -> Iterator[str]:
    rules = drift.rules
    if drift.gone is not None:
        yield drift.gone
    for store in drift.elsewhere:
        yield f"{store} also holds rules of this owner, which balance the same connections"
    for service in drift.services:
        yield f"{service.name} {_difference(service, rules.get(service.name, ()))}"
    if shared := _shared(drift):
        yield f"rules that services share differ: {_few(shared)}"


def _shared(drift: Drift) -> list[str]:
    """Return the rules that differ of no service; they say nothing if all services come or go with them."""
    if drift.services and all(each.action is not Action.CHANGE for each in drift.services):
        return []
    named = {service.name for service in drift.services}
    return [rule for name, found in drift.rules.items() if name not in named for rule in found]


def _left_out(drift: Drift) -> Iterator[str]:
    """Yield what the last agent left out, if anything."""
    match drift.left_out:
        case None:
            return
        case ():
            yield "the shares are those that the last agent left: lbctl apply sets those of the intent"
        case names:
            add = "lbctl apply --ignore-health adds them"
            yield f"left out since the last agent found them down: {_few(names)}; {add}"


def _difference(service: ServiceChange, rules: Sequence[str]) -> str:
    match service.action:
        case Action.ADD:
            return "is missing"
        case Action.REMOVE:
            return "is not in the intent"
        case _:
            # The names of rules say little beside what they do to connections.
            return f"differs: {', '.join(_differences(service)) or _few(rules)}"


def _differences(service: ServiceChange) -> Iterator[str]:
    """The clients that are not balanced as the intent says, and the endpoints that have another share."""
    missing, extra = service.unbalanced_before, service.unbalanced_after
    before, after = service.before, service.after
    yield from (f"{who} are not balanced" for who in clients(missing, after, before))
    yield from (f"{who} are balanced, but not in the intent" for who in clients(extra, before, after))
    # Of these, that they are not balanced says it all.
    lost = lost_families(missing, after) + lost_families(extra, before)
    for row in share_rows(service):
        if row.before == row.after or row.family in lost:
            continue
        where = f" {row.where}" if row.where else ""
        yield f"{row.to}{where} has {share_text(row.before)}, not {share_text(row.after)}"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _wrapped_stores(status: Status, columns: int) -> list[str]:
    """The line of rule counts, broken between stores only."""
    text = stores_text(status.stores).replace(" ", "\xa0").replace(";\xa0", "; ")
    return [line.replace("\xa0", " ") for line in _wrapped(f"rules:\xa0{text}", columns, "       ")]


def _wrapped(text: str, columns: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def block(
    service: ServiceStatus,
    found: Sequence[Row],
    heads: Mapping[str, str],
    columns: int,
    source: str | None = None,
) -> Iterator[Line]:
    """Yield the lines of one service; `found` are its rows, `heads` has the name of each column.

    `source` is the line about where its endpoints come from; None for the intent file alone.
    """
    head = f"{service.name}  {', '.join(service.listen)}  {service.scheduler}"
    if service.since is not None:
        head += f"  (actual since {service.since})"
    yield from (Line(text, "bold") for text in _wrapped(head, columns, "    "))
    if source is not None:
        yield from map(Line, _wrapped(f"  {inert(source)}", columns, "    "))
    if settings := _settings(service):
        yield from map(Line, _wrapped(f"  {settings}", columns, "    "))
    maglev = service.scheduler == Scheduler.MAGLEV
    if maglev:
        yield Line(f"  {deviation_text(service.slots, service.deviation)}")
    families = any(row["family"] for row in found)
    wanted = {"by weight": maglev, "family": families}
    shown = {name: head for name, head in heads.items() if wanted.get(name, True)}
    yield from map(Line, _fitted(shown, list(found), columns))


def _settings(service: ServiceStatus) -> str:
    """Return what decides which clients are served, and how: `affinity 3h; allow 10.0.0.0/8`."""
    return "; ".join(" ".join(row) for row in setting_rows(each for each in service.settings if _shown(each)))


def _shown(setting: KeyChange) -> bool:
    # Shares, states and checks stand elsewhere.
    key = setting.key.partition(".")[0]
    return setting.endpoint is None and key not in {"scheduler", "seed", "check", "health", "discover"}


def _fitted(heads: Mapping[str, str], found: list[Row], columns: int) -> list[str]:
    """Return a table that is not wider than `columns`, if what can be left out or shortened is enough."""
    shown = [row | {"state": f"{row['state']}, {row['fault']}"} if row["fault"] else row for row in found]
    lines = _table(heads, shown)
    if columns < _WIDE or _excess(lines, columns):
        heads = {name: head for name, head in heads.items() if name not in {"packets", "bytes"}}
        lines = _table(heads, shown)
    if _excess(lines, columns):
        # They stand under "Attention" in full.
        shown = [row | {"state": f"{row['state']} !"} if row["fault"] else row for row in found]
        lines = _table(heads, shown)
    if _excess(lines, columns):
        heads = {name: SHORT.get(name, head) for name, head in heads.items()}
        lines = _table(heads, shown)
    if excess := _excess(lines, columns):
        longest = max(_SHORTEST, max(len(row["endpoint"]) for row in found) - excess)
        lines = _table(heads, [row | {"endpoint": shortened(row["endpoint"], longest)} for row in shown])
    return lines


def _excess(lines: Sequence[str], columns: int) -> int:
    return max(0, max(map(len, lines)) - columns)


def _table(heads: Mapping[str, str], found: Sequence[Row]) -> list[str]:
    right = frozenset(place for place, name in enumerate(heads) if name not in _WORDS)
    cells = [[row[name] for name in heads] for row in found]
    return table([list(heads.values()), *cells], right=right, indent="  ").splitlines()


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters: without its middle where it has more."""
    text = inert(text)
    if len(text) <= most:
        return text
    behind = most // 2
    return f"{text[: most - behind - 1]}…{text[len(text) - behind :]}"


def rows(service: ServiceStatus) -> list[Row]:
    """Return the rows of a service: one for an endpoint, or one for each family where these disagree."""
    return [row for endpoint in service.endpoints for row in _rows(endpoint)]


def _rows(endpoint: EndpointStatus) -> list[Row]:
    families = [_cells(endpoint, own, str(family)) for family, own in endpoint.families.items()]
    # As shown: 33.3 % is 33.3 %, and a family without connections has no share to differ by.
    wanted = {row["wanted"] for row in families}
    actual = {row["actual"] for row in families} - {NO_SHARE}
    if len(wanted) > 1 or len(actual) > 1:
        return families
    one = _cells(endpoint, endpoint, "")
    return [one | {"actual": next(iter(actual), NO_SHARE)}]


def _cells(endpoint: EndpointStatus, of: EndpointStatus | FamilyStatus, family: str) -> Row:
    return {
        "endpoint": endpoint.name if endpoint.name == endpoint.to else f"{endpoint.name} {endpoint.to}",
        "family": family,
        "state": str(endpoint.state),
        "fault": endpoint.mark,
        "weight": str(endpoint.weight),
        "by weight": share_text(of.by_weight),
        "wanted": share_text(of.wanted),
        "actual": NO_SHARE if of.actual is None else f"{float(of.actual):.1%}",
        "connections": str(of.connections),
        "established": "?" if of.established is None else str(of.established),
        "packets": str(of.packets),
        "bytes": str(of.bytes),
    }
