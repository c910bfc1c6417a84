"""Kernel → program: our tables only, read as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl.model import Item, Program
from lbctl_nftables import drivers, layout, spell
from lbctl_nftables.compile import base_chain
from lbctl_nftables.generation import generation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl_nftables.spell import Json


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
    # Names only: to list what other tools keep in their tables has crashed nft before.
    listed = _objects(drivers.read(host, driver, "list", "tables"))
    present = {
        (t["family"], t["name"]) for o in listed if isinstance(t := o.get("table"), dict) and "name" in t
    }
    for word in layout.WORD.values():
        if (word, name) in present:
            yield word, _objects(drivers.read(host, driver, "list", "table", word, name))


def _objects(text: str) -> list[Json]:
    try:
        objects = list(json.loads(text)["nftables"])
    except (ValueError, KeyError, TypeError) as error:
        raise ApplyFailed(
            f"nft answered something that is no JSON list of objects: {text[:80]!r}",
            hint="lbctl reads nftables as JSON; is this nft built with it? (nft -V)",
        ) from error
    return [o for o in objects if isinstance(o, dict)]


def _items(word: str, objects: list[Json]) -> Iterator[Item]:
    yield Item((word, "table"), "")
    rules: dict[str, list[str]] = {}
    listed: list[tuple[str, Json, Json]] = []
    owners = _element_owners(objects)
    for entry in objects:
        kind, value = next(iter(entry.items()))
        match kind:
            case "map" | "set":
                owner = layout.service_of_set(value["name"]) if kind == "set" else None
                yield Item((word, kind, value["name"]), _declaration(word, kind, value), owner)
                if "dynamic" not in _flags(value) and value["name"] != layout.LINKS:
                    listed += elements(value)
            case "chain":
                name = value["name"]
                text = ""
                if "hook" in value:
                    text = base_chain(value["type"], value["hook"], value["prio"])
                    text = text if value.get("policy") == "accept" else spell.rule([value])
                yield Item((word, "chain", name), text, layout.service_of_chain(name))
                rules[name] = []
            case "rule":
                rules[value["chain"]].append(spell.rule(value["expr"]))
            case "metainfo" | "table":
                pass
            case _:
                yield Item((word, "foreign", kind, str(value.get("name"))), json.dumps(value, sort_keys=True))
    for chain, texts in rules.items():
        yield Item((word, "rules", chain), "\n".join(texts), layout.service_of_chain(chain))
    for name, key, data in listed:
        spelled, comment = _element(key)
        parts = [f"comment {layout.quote(comment)}"] if comment is not None else []
        parts += [f": {spell.element_key(data)}"] if data != "" else []
        text = " ".join(parts)
        owner = comment.split("/")[0] if comment is not None else owners.get((name, spelled))
        owner = owner or layout.service_of_set(name)
        yield Item((word, "element", name, spelled), text, owner)


def _element(value: Json) -> tuple[str, str | None]:
    """An element's key as `compile` spells it, and its comment."""
    comment = None
    if isinstance(value, dict) and "elem" in value:
        comment = value["elem"].get("comment")
        value = value["elem"]["val"]
    return spell.element_key(value), comment


def elements(value: Json) -> Iterator[tuple[str, Json, Json]]:
    """The name of a set or map with the key and the data of each of its elements; "" for no data."""
    for pair in value.get("elem", []):
        key, data = pair if isinstance(pair, list) and len(pair) == 2 else (pair, "")
        yield value["name"], key, data


def _element_owners(objects: list[Json]) -> dict[tuple[str, str], str]:
    """(map, key) → service, for the elements of the dispatch maps and of those with the same keys."""
    twins = {
        layout.SERVICES: (layout.SOURCES, layout.REFUSED),
        layout.PORTS: (layout.SOURCE_PORTS, layout.REFUSED_PORTS),
    }
    owners: dict[tuple[str, str], str] = {}
    for entry in objects:
        value = entry.get("map")
        if isinstance(value, dict) and value.get("name") in twins:
            for name, key, data in elements(value):
                target = data.get("goto", {}).get("target", "") if isinstance(data, dict) else ""
                service = layout.service_of_chain(target)
                if service is not None:
                    spelled, _ = _element(key)
                    owners.update(dict.fromkeys([(n, spelled) for n in (name, *twins[name])], service))
    return owners


def _declaration(word: str, kind: str, value: Json) -> str:
    types = value["type"]
    counted = any("counter" in s for s in value.get("stmt", []) if isinstance(s, dict))
    shape = (kind, tuple(types) if isinstance(types, list) else (types,), value.get("map", ""), counted)
    kind_of_map = layout.shapes(word).get(shape)
    if kind_of_map == "page-addresses":
        kind_of_map = layout.kind_of_page(value["name"])
    declared = layout.declarations(word).get(kind_of_map or "")
    if declared is not None:
        return "\n".join(declared)
    return json.dumps({k: v for k, v in value.items() if k not in {"elem", "handle"}}, sort_keys=True)


def _flags(value: Json) -> list[str]:
    flags = value.get("flags", [])
    return flags if isinstance(flags, list) else [flags]
