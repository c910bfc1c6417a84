"""Kernel → program: our tables only, as the objects of nft's JSON.

Their shape changes between versions of nft. Keys that we do not know are passed over; a kind of object that
we do not know is reported as foreign, and so is one that lacks what it needs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lbctl.model import Item, Program
from lbctl_nftables import affinity, drivers, layout, listing, netlink, spell
from lbctl_nftables.generation import generation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lbctl.host import Host
    from lbctl.model.program import Key
    from lbctl_nftables.spell import Json

#: The size of what was declared without: none, or what some versions of nft fill in.
_UNSIZED = frozenset({None, 65535})


def observe(host: Host, driver: str, owner: str) -> Program:
    """See `lbctl.spi.Backend.observe`."""
    # Before the rules are read: what changes meanwhile makes the mark old, never wrong.
    mark = generation(host, driver)
    items: list[Item] = []
    for word, objects in read_tables(host, driver, owner):
        items += _items(word, objects)
    return Program(owner, items, generation=mark)


def read_tables(host: Host, driver: str, owner: str) -> Iterator[tuple[str, list[Json]]]:
    """Each of the owner's tables that exists: its family's word and nft's objects."""
    name = layout.table(owner)
    present = netlink.tables(host)
    for word in layout.WORD.values():
        if (word, name) in present:
            yield word, drivers.read_table(host, driver, word, name)


def read_map(host: Host, driver: str, word: str, owner: str, name: str) -> Json:
    """One map of the owner's table, with its elements, as nft shows it."""
    listed = drivers.read(host, driver, "list", "map", word, layout.table(owner), name)
    return next((o["map"] for o in listed if isinstance(o.get("map"), dict)), {})


def _items(word: str, objects: list[Json]) -> Iterator[Item]:
    yield Item((word, "table"), "")
    rules: dict[str, list[str]] = {}
    listed: list[tuple[str, Json, Json]] = []
    foreign: list[Json] = []
    owners = _element_owners(objects)
    for entry in objects:
        match entry:
            case {"map": {"name": str(name), "type": _} as value}:
                yield _set(word, "map", name, value)
                listed += _fixed_elements(value)
            case {"set": {"name": str(name), "type": _} as value}:
                yield _set(word, "set", name, value)
                listed += _fixed_elements(value)
            case {"chain": {"name": str(name)} as value}:
                text = ""
                if "hook" in value:
                    text = layout.base_chain(str(value.get("type")), str(value["hook"]), value.get("prio", 0))
                    text = text if value.get("policy") == "accept" else spell.rule([value])
                yield Item((word, "chain", name), text, layout.service_of_chain(name))
                rules.setdefault(name, [])
            case {"rule": {"chain": str(chain), "expr": list(expressions)}}:
                rules.setdefault(chain, []).append(spell.rule(expressions))
            case {"table": dict(value)} if "dormant" in _flags(value):
                # Somebody has put it to sleep: the kernel holds it all and acts on nothing of it.
                yield Item((word, "flags", "dormant"), "")
            case {"metainfo": _} | {"table": _}:
                pass
            case _:
                foreign.append(entry)
    for chain, texts in rules.items():
        yield Item((word, "rules", chain), "\n".join(texts), layout.service_of_chain(chain))
    yield from affinity.stale_maps(word, objects)
    for name, key, data in listed:
        spelled, comment = _element(key)
        parts = [f"comment {layout.quote(comment)}"] if comment is not None else []
        parts += [f": {spell.element_key(data)}"] if data != "" else []
        text = " ".join(parts)
        owner = comment.split("/")[0] if comment is not None else owners.get((name, spelled))
        owner = owner or layout.service_of_set(name)
        yield Item((word, "element", name, spelled), text, owner)
    yield from _foreign(word, foreign)


def _set(word: str, kind: str, name: str, value: Json) -> Item:
    return Item((word, kind, name), _declaration(word, kind, value), layout.service_of_set(name))


def _fixed_elements(value: Json) -> Iterator[tuple[str, Json, Json]]:
    """The elements that a program tells, not those that packets add."""
    name = value["name"]
    if name == layout.LINKS:
        # Packets add pairs of one link with itself.
        yield from (each for each in elements(value) if len(set(_element(each[1])[0].split(" . "))) > 1)
    elif "dynamic" not in _flags(value) and not layout.is_affinity(name):
        yield from elements(value)


def _foreign(word: str, entries: list[Json]) -> Iterator[Item]:
    """What has no place in our tables; it needs no name, and two may share one."""
    seen: dict[tuple[str, str], int] = {}
    for entry in entries:
        kind = next(iter(entry), "nothing")
        value = entry.get(kind)
        name = str(value.get("name")) if isinstance(value, dict) else "None"
        seen[kind, name] = number = seen.get((kind, name), 0) + 1
        text = json.dumps({kind: value}, sort_keys=True)
        yield Item((word, "foreign", kind, name if number == 1 else f"{name} {number}"), text)


def _element(value: Json) -> tuple[str, str | None]:
    """An element's key as `compile` spells it, and its comment."""
    comment = None
    if isinstance(value, dict) and "elem" in value:
        comment = value["elem"].get("comment")
        value = value["elem"].get("val", "")
    return spell.element_key(value), comment


def elements(value: Json) -> Iterator[tuple[str, Json, Json]]:
    """The name of a set or map with the key and the data of each of its elements; "" for no data."""
    found = value.get("elem", [])
    for pair in found if isinstance(found, list) else []:
        key, data = pair if isinstance(pair, list) and len(pair) == 2 else (pair, "")
        yield value["name"], key, data


def _element_owners(objects: list[Json]) -> dict[tuple[str, str], str]:
    """(map, key) → service, for the elements of the dispatch maps and of those with the same keys."""
    twins = {
        layout.SERVICES: (layout.SOURCES, layout.REFUSED, layout.LEARNED),
        layout.PORTS: (layout.SOURCE_PORTS, layout.REFUSED_PORTS, layout.LEARNED_PORTS),
    }
    owners: dict[tuple[str, str], str] = {}
    for entry in objects:
        value = entry.get("map")
        if isinstance(value, dict) and value.get("name") in twins:
            for name, key, data in elements(value):
                match data:
                    case {"goto": {"target": str(target)}}:
                        service = layout.service_of_chain(target)
                    case _:
                        service = None
                if service is not None:
                    spelled, _ = _element(key)
                    owners.update(dict.fromkeys([(n, spelled) for n in (name, *twins[name])], service))
    return owners


def _declaration(word: str, kind: str, value: Json) -> str:
    statements = value.get("stmt", [])
    counted = any("counter" in s for s in (statements if isinstance(statements, list) else [statements]))
    shape = (kind, _types(value["type"]), " . ".join(_types(value.get("map", ""))), counted)
    kind_of_map = layout.shapes(word).get(shape)
    if kind_of_map is not None and kind_of_map in layout.ADDRESS_PAGES:
        kind_of_map = layout.kind_of_page(value["name"], layout.ADDRESS_PAGES[kind_of_map])
    declared = layout.declarations(word).get(kind_of_map or "")
    if declared is not None and _is_intact(declared, value):
        return "\n".join(declared)
    return json.dumps({k: v for k, v in value.items() if k not in {"elem", "handle"}}, sort_keys=True)


def _is_intact(declared: Iterable[str], value: Json) -> bool:
    """True for a set or map with the size, the flags and the times that it was declared with."""
    said = {word: rest for word, _, rest in (line.partition(" ") for line in declared)}
    flags = {*said.get("flags", "").split(",")} - {""}
    # nft 1.0.6 leaves `dynamic` out of its JSON.
    return (
        value.get("size") in ({int(said["size"])} if "size" in said else _UNSIZED)
        and flags - {"dynamic"} <= {*_flags(value)} <= flags
        and not {"timeout", "gc-interval", "auto-merge"} & value.keys()
    )


def _types(types: Json) -> tuple[str, ...]:
    """The names of types, however JSON tells them: nft 1.1 names what stood behind `typeof`."""
    match types:
        case {"typeof": {"concat": list(parts)}}:
            return tuple(listing.type_of(spell.element_key(part)) for part in parts)
        case {"typeof": one}:
            return (listing.type_of(spell.element_key(one)),)
        case list():
            return tuple(map(str, types))
        case _:
            return (str(types),)


def _flags(value: Json) -> list[str]:
    flags = value.get("flags", [])
    return flags if isinstance(flags, list) else [flags]


def touched(host: Host, owner: str, keys: Iterable[Key]) -> dict[Key, Item | None]:
    """What the kernel holds at each of some keys; None for nothing."""
    held = observe(host, "nft", owner).by_key
    return {key: held.get(key) for key in keys}
