"""Rules of anybody: how they are taken out, exactly those, and put back in their places.

nft lists one rule a line, and takes one out by its handle, which a listing shows when asked to.
"""

from __future__ import annotations

import json
import re
from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from lbctl.errors import ApplyFailed
from lbctl.model import Shape, read_record
from lbctl.spi import Retirement
from lbctl.values import dataclass
from lbctl_nftables import drivers
from lbctl_rules.retirement import keeper_of, missing, present

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from lbctl.host import Host

#: A table's family and name, and the kind and name of an object in it.
Place: TypeAlias = tuple[str, str, str, str]

_TABLE = re.compile(r"table (\S+) (\S+) \{$")
_OBJECT = re.compile(r"\t(\S+) (\S+) \{$")
_HANDLE = re.compile(r" # handle (\d+)$")
_COUNTER = re.compile(r"\bcounter packets \d+ bytes \d+")
#: What stands in a chain and is no rule.
_HEADER = re.compile(r"\t\t(?:type \S+ hook |policy |comment |devices? )")
_CALLS = re.compile(r"\b(?:jump|goto) ([\w./\\-]+)")
_USES = re.compile(r"@([\w./\\-]+)")


@dataclass(slots=True)
class _Object:
    """A chain, set or map: its lines, and the rules among them with their numbers and handles."""

    place: Place
    first: int
    last: int = 0
    head: list[str] = field(default_factory=list)
    rules: list[tuple[int, str, str]] = field(default_factory=list)


class _Listing:
    """A dump as the objects of its tables."""

    def __init__(self, text: str) -> None:
        self.objects: dict[Place, _Object] = {}
        self.tables: dict[tuple[str, str], tuple[int, int]] = {}
        table, current = ("", ""), None
        for number, whole in enumerate(text.split("\n"), 1):
            handle = _HANDLE.search(whole)
            line = _HANDLE.sub("", whole)
            if found := _TABLE.match(line):
                table, current = (found[1], found[2]), None
                self.tables[table] = number, number
            elif line == "}":
                self.tables[table] = self.tables.get(table, (number, 0))[0], number
            elif current is None and (found := _OBJECT.match(line)):
                place = (*table, found[1], found[2])
                current = self.objects[place] = _Object(place, number)
            elif line == "\t}":
                if current is not None:
                    current.last = number
                current = None
            elif current is not None and line.strip():
                if current.place[2] != "chain" or _HEADER.match(line):
                    current.head.append(line.strip())
                else:
                    text = _COUNTER.sub("counter", line.strip())
                    current.rules.append((number, text, handle[1] if handle else ""))

    def of(self, place: Place) -> list[tuple[int, str, str]]:
        found = self.objects.get(place)
        return found.rules if found else []


def retire(text: str, lines: Collection[int]) -> Retirement:
    """See `lbctl.spi.Migrator`."""
    dump = _Listing(text)
    goes = {n for each in dump.objects.values() for n, _, _ in each.rules if n in lines}
    while more := _idle(dump, goes) - goes:
        goes |= more
    gone = _unused(dump, goes)
    empty = [
        table
        for table in dump.tables
        if (mine := [p for p in dump.objects if p[:2] == table]) and all(p in gone for p in mine)
    ]
    touched = [p for p, each in dump.objects.items() if p in gone or any(n in goes for n, _, _ in each.rules)]
    record = json.dumps(
        {
            "tables": empty,
            "objects": [
                [
                    list(place),
                    place in gone,
                    dump.objects[place].head,
                    [[rule, number in goes] for number, rule, _ in dump.of(place)],
                ]
                for place in touched
            ],
        }
    )
    numbers = set(goes)
    for place in gone:
        numbers |= set(range(dump.objects[place].first, dump.objects[place].last + 1))
    for table in empty:
        numbers |= set(range(dump.tables[table][0], dump.tables[table][1] + 1))
    after = "\n".join([line for n, line in enumerate(text.split("\n"), 1) if n not in numbers])
    return Retirement(after=after, lines=tuple(sorted(numbers)), record=record)


def rules_of(text: str) -> Iterator[str]:
    """Yield the rules of a dump, and policies that do not accept."""
    for place, each in _Listing(text).objects.items():
        if place[2] == "chain":
            yield from (line for line in each.head if line.endswith("policy drop;"))
            yield from (rule for _, rule, _ in each.rules)


def _idle(dump: _Listing, goes: Collection[int]) -> set[int]:
    """Return the rules that only lead to chains which are left without a rule."""
    emptied = _emptied(dump, goes)
    found = set()
    for place, each in dump.objects.items():
        for number, text, _ in each.rules:
            targets = set(_called(place, text))
            for member in _used(dump, place, text):
                targets |= {to for line in dump.objects[member].head for to in _called(member, line)}
            if targets and targets <= emptied:
                found.add(number)
    return found


def _emptied(dump: _Listing, goes: Collection[int]) -> set[Place]:
    return {p for p, o in dump.objects.items() if o.rules and all(number in goes for number, _, _ in o.rules)}


def _unused(dump: _Listing, goes: Collection[int]) -> set[Place]:
    """The sets and maps that only such rules use, and the chains without a rule that nothing leads to."""
    users: dict[Place, list[bool]] = {}
    for place, each in dump.objects.items():
        for number, text, _ in each.rules:
            for member in _used(dump, place, text):
                users.setdefault(member, []).append(number in goes)
    gone = {member for member, by in users.items() if all(by)}
    led_to = {
        target
        for place, each in dump.objects.items()
        if place not in gone
        for text in (*each.head, *(rule for number, rule, _ in each.rules if number not in goes))
        for target in _called(place, text)
    }
    return gone | (_emptied(dump, goes) - led_to)


def _called(place: Place, text: str) -> Iterator[Place]:
    """Return the chains that a line of an object leads to."""
    return ((*place[:2], "chain", name) for name in _CALLS.findall(text))


def _used(dump: _Listing, place: Place, text: str) -> Iterator[Place]:
    """Return the sets and maps that a rule looks into."""
    every = ((*place[:2], kind, name) for name in _USES.findall(text) for kind in ("map", "set"))
    return (member for member in every if member in dump.objects)


def managing_program(text: str, lines: Collection[int]) -> str | None:
    """See `lbctl.spi.Migrator`."""
    return keeper_of(
        name
        for place, each in _Listing(text).objects.items()
        if any(number in lines for number, _, _ in each.rules)
        for name in (place[1], place[3])
    )


#: Tables by family and name; objects by place, with whether each goes, its head and its rules.
_RECORD: Shape = {
    "tables": [(str, str)],
    "objects": [((str, str, str, str), bool, [str], [(str, bool)])],
}


@dataclass(frozen=True, slots=True)
class _RecordedObject:
    """An object of a record: whether it goes itself, its head, its rules, each with whether it goes."""

    place: Place
    goes: bool
    head: list[str]
    rules: list[tuple[str, bool]]


def _kept(record: str) -> tuple[list[tuple[str, str]], list[_RecordedObject]]:
    data = read_record(record, _RECORD, "the record of removed rules")
    return [(family, name) for family, name in data["tables"]], [
        _RecordedObject((family, table, kind, name), goes, head, [(text, out) for text, out in rules])
        for (family, table, kind, name), goes, head, rules in data["objects"]
    ]


def _now(host: Host, driver: str, objects: Iterable[_RecordedObject]) -> _Listing:
    texts = []
    for family, table in dict.fromkeys(each.place[:2] for each in objects):
        done = drivers.list_table(host, driver, family, table, handles=True)
        # One that is not there has nothing to be taken out.
        texts.append(done.out if not done.code else "")
    return _Listing("".join(texts))


def removed_rules(record: str) -> tuple[str, ...]:
    """See `lbctl.spi.Migrator`."""
    return tuple(text for each in _kept(record)[1] for text, goes in each.rules if goes)


def is_present(host: Host, driver: str, record: str) -> bool:
    """See `lbctl.spi.Migrator`."""
    _, objects = _kept(record)
    now = _now(host, driver, objects)
    return not any(
        (each.goes and each.place not in now.objects)
        or [*missing(each.rules, [rule for _, rule, _ in now.of(each.place)])]
        for each in objects
    )


def side_effects(driver: str, text: str, record: str) -> tuple[str, ...]:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Migrator`. A rule of nft comes and goes by itself."""
    return ()


def removal_text(host: Host, driver: str, record: str) -> str:
    """See `lbctl.spi.Migrator`."""
    tables, objects = _kept(record)
    now = _now(host, driver, objects)
    rules: list[str] = []
    flushes: list[str] = []
    deletions: list[str] = []
    for each in objects:
        family, table, kind, name = each.place
        found = now.of(each.place)
        if each.goes and each.place in now.objects:
            flushes += [f"flush chain {family} {table} {name}"] if kind == "chain" else []
            deletions.append(f"delete {kind} {family} {table} {name}")
        elif not each.goes:
            numbers = present(each.rules, [rule for _, rule, _ in found])
            rules += [f"delete rule {family} {table} {name} handle {found[n][2]}" for n in numbers]
    # A map may lead to chains, but no chain that is empty to a map.
    deletions.sort(key=lambda line: line.startswith("delete chain"))
    gone = {each.place for each in objects if each.goes}
    deletions += [
        f"delete table {word} {name}"
        for word, name in tables
        if (word, name) in now.tables and all(p in gone for p in now.objects if p[:2] == (word, name))
    ]
    return "".join(f"{line}\n" for line in [*rules, *flushes, *deletions])


def remove_rules(host: Host, driver: str, record: str) -> None:
    """See `lbctl.spi.Migrator`."""
    if text := removal_text(host, driver, record):
        drivers.load(host, driver, text)


def restore_rules(host: Host, driver: str, record: str) -> None:
    """See `lbctl.spi.Migrator`."""
    _, objects = _kept(record)
    now = _now(host, driver, objects)
    lines: list[str] = []
    for table in dict.fromkeys(each.place[:2] for each in objects):
        lines.append(f"table {table[0]} {table[1]} {{")
        for each in objects:
            if each.place[:2] == table and each.goes and each.place not in now.objects:
                body = [*each.head, *(text for text, _ in each.rules)]
                lines += [f"\t{each.place[2]} {each.place[3]} {{", *(f"\t\t{line}" for line in body), "\t}"]
        lines.append("}")
    for each in objects:
        if not each.goes or each.place in now.objects:
            lines += _returning(each, now.of(each.place))
    if len(lines) > 2:
        drivers.load(host, driver, "".join(f"{line}\n" for line in lines))


def write_restored(host: Host, driver: str, record: str, now: str) -> None:  # noqa: ARG001 (the protocol's)
    """See `lbctl.spi.Writer`. Places in a chain are named by handles, which only the kernel gives."""
    raise ApplyFailed("rules of nft are restored in their places by lbctl alone, not by a script")


def _returning(each: _RecordedObject, now: Sequence[tuple[int, str, str]]) -> Iterator[str]:
    where = " ".join((*each.place[:2], each.place[3]))
    for place, text in missing(each.rules, [rule for _, rule, _ in now]):
        if place < len(now):
            yield f"insert rule {where} position {now[place][2]} {text}"
        else:
            yield f"add rule {where} {text}"
