"""Items → text for `nft -f`: the one writer, for what is shown and for what is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_nftables import layout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Change, Item, Listener, Program, Remembered
    from lbctl_nftables.affinity import AffinityEntry


def render(program: Program) -> str:
    """Return a program as a script. Loading it twice gives the same as loading it once."""
    lines: list[str] = []
    by_word: dict[str, list[Item]] = {}
    for item in program.items:
        by_word.setdefault(item.key[0], []).append(item)
    for word, items in by_word.items():
        # Declared first, so that deleting it succeeds on a host that does not have it yet.
        place = _place(program.owner, word)
        lines += [f"table {place}", f"delete table {place}"]
        lines += _block(place, items)
    return _text(lines)


def withdrawal(program: Program) -> str:
    """Return the script that deletes the tables of a program, whether they are there or not."""
    return removal(program.owner, list(dict.fromkeys(item.key[0] for item in program.items)))


def removal(owner: str, words: Sequence[str]) -> str:
    """Return the script that deletes an owner's tables of some families, whether they are there or not."""
    places = [_place(owner, word) for word in words]
    lines = [line for place in places for line in (f"table {place}", f"delete table {place}")]
    return _text(lines) if lines else ""


def transactions(owner: str, changes: Sequence[Change], after: Program) -> tuple[str, str, str]:
    """The scripts that carry out `changes`: one prepares, one does it, one clears away what is left behind.

    A packet that is under way while the kernel changes generations goes by the old rules, but looks up the
    new elements. Were a slot taken out together with the rule that picked it, such a packet would find none
    and pass the balancer (seen: 1 of 25,000 connections during 100 changes). So slots go once no rule picks
    them, and a listener that moves to a new chain does so once the chain has its rules. One that leaves its
    map for one that the old rules do not ask, as that of the first range of ports, goes after them too, as
    does a map that the new rules do not ask.
    """
    preparing: list[str] = []
    doing: list[str] = []
    clearing: list[str] = []
    for word, mine in _by_word(changes).items():
        place = _place(owner, word)
        added = [change.after for change in mine if change.before is None and change.after is not None]
        if len(added) == len(mine):
            doing += _block(place, added, standing=(word, "table") not in {item.key for item in added})
        elif (word, "table") in {change.key for change in mine if change.after is None}:
            doing.append(f"delete table {place}")
        elif _is_rebuilt(mine):
            doing += [f"table {place}", f"delete table {place}"]
            doing += _block(place, [item for item in after.items if item.key[0] == word])
        else:
            if any(_moves(change) for change in mine):
                fresh = {item.key[2] for item in added if item.key[1] in {"map", "set"}}
                early = {item.key: item for item in added if _may_come_early(item, fresh)}
                preparing += _block(place, early.values(), standing=True)
                mine = [change for change in mine if change.key not in early]
            asks = any(_asks(change) for change in mine)
            held = _listeners(after, word) if asks else {}
            later = [c for c in mine if _is_map_going(c) or _is_listener_moving(c, after, held)]
            clear = {change.key for change in later}
            now = [change for change in mine if change.key not in clear]
            doing += _removals(place, now)
            doing += _block(place, [c.after for c in now if c.after is not None], standing=True)
            clearing += _removals(place, later)
    return _text(preparing), _text(doing), _text(clearing)


def _place(owner: str, word: str) -> str:
    """Return the family and the name of a table, as scripts have them."""
    return " ".join(layout.location(owner, word))


def _asks(change: Change) -> bool:
    """Return True for the rules that look listeners up."""
    _, kind, *names = change.key
    return kind == "rules" and (names[0] == layout.PREROUTING or layout.is_ingress(names[0]))


def is_delta(changes: Iterable[Change]) -> bool:
    """True if what `transactions` makes of `changes` leaves each table in place, but for what they name."""
    return not any(
        (word, "table") in {change.key for change in mine} or _is_rebuilt(mine)
        for word, mine in _by_word(changes).items()
    )


def _by_word(changes: Iterable[Change]) -> dict[str, list[Change]]:
    """Return the changes of each family, without those that are none to the kernel."""
    found: dict[str, list[Change]] = {word: [] for word in layout.WORDS}
    for change in changes:
        word, kind, *_ = change.key
        before, after = change.before, change.after
        if not (
            kind in {"map", "set"}
            and before is not None
            and after is not None
            and layout.is_respelled(word, before.text, after.text)
        ):
            found[word].append(change)
    return found


def _is_rebuilt(mine: Sequence[Change]) -> bool:
    """Return True if the changes of one family cannot be made in the table as it is."""
    return any(_rebuilds(change) for change in mine) or _wakes_with_hooks(mine)


def _moves(change: Change) -> bool:
    """Return True for a key whose verdict leads elsewhere from now on."""
    before, after = change.before, change.after
    return before is not None and after is not None and layout.verdict(after.text) is not None


def _may_come_early(item: Item, fresh: Collection[str]) -> bool:
    """True for what no packet meets before a listener moves: all but elements that packets look up at once.

    `fresh` are the maps and sets that come with it. In others, a new element may have to wait for an old one
    to go: networks of one set do not overlap.
    """
    _, kind, *names = item.key
    return kind != "element" or layout.is_page(names[0]) or names[0] in fresh


def _is_map_going(change: Change) -> bool:
    """Return True for a slot that goes, a page that goes with all its slots, and a map of listeners."""
    _, kind, *names = change.key
    if change.after is not None or kind not in {"element", "map"}:
        return False
    return layout.is_page(names[0]) or (kind == "map" and bool(layout.listener_maps(names[0])))


def _listeners(after: Program, word: str) -> Mapping[str, Sequence[Listener]]:
    """Return the listeners of each map of a family."""
    found: dict[str, list[Listener]] = {}
    for family, kind, *names in (item.key for item in after.items):
        if (family, kind) == (word, "element") and layout.listener_maps(names[0]):
            listener = layout.listener(names[1])
            found.setdefault(names[0], []).extend([listener] if listener else [])
    return found


def _is_listener_moving(change: Change, after: Program, listeners: Mapping[str, Sequence[Listener]]) -> bool:
    """Return True for an element that goes with its map, or while another map gets its connections."""
    word, kind, *names = change.key
    maps = layout.listener_maps(names[0]) if change.after is None and kind == "element" else ()
    if not maps:
        return False
    chain = layout.verdict(change.item.text)
    stays = chain is None or (word, "chain", chain) in after.by_key
    going = layout.listener(names[1])
    if going is None or not stays:
        return False
    if (word, "map", names[0]) not in after.by_key:
        return True
    return any(
        going.meets(listener) for name in maps if name != names[0] for listener in listeners.get(name, ())
    )


def remember(owner: str, clients: Iterable[Remembered], program: Program) -> str:
    """Return the script that adds clients to the maps of a program, those whose endpoints it has."""
    maps: dict[tuple[str, str], list[str]] = {}
    for each in clients:
        word = layout.WORD[each.family]
        place = layout.place(each.to)
        name = layout.affinity(each.service, layout.EndpointKind.of_place(each.to))
        if (word, "element", layout.endpoints_of_affinity(name), place) in program.by_key:
            entry = f"\t{each.client} timeout {each.seconds}s : {layout.kept(word, place)},"
            maps.setdefault((word, name), []).append(entry)
    lines: list[str] = []
    for (word, name), entries in maps.items():
        lines += [f"add element {_place(owner, word)} {name} {{", *entries, "}"]
    return _text(lines) if lines else ""


def forget(owner: str, word: str, name: str, entries: Sequence[AffinityEntry]) -> str:
    """Return the script that takes entries out of a map of clients.

    An entry may expire at any moment, and the deletion of one that is not there fails. So each is added
    first, which leaves one that is there as it is; that fails only where its client was placed anew.
    """
    target = f"{_place(owner, word)} {name}"
    lines = [f"add element {target} {{"]
    lines += [f"\t{entry.client} timeout 1h : {entry.endpoint}," for entry in entries]
    lines += ["}", f"delete element {target} {{"]
    lines += [f"\t{entry.client}," for entry in entries]
    return _text([*lines, "}"])


def readdress(
    owner: str, word: str, name: str, cards: Mapping[str, str], entries: Sequence[AffinityEntry]
) -> str:
    """Return the script that gives connections other MAC addresses, whether they are still known or not."""
    target = f"{_place(owner, word)} {name}"
    moved = [f"{each.client} timeout {max(each.seconds, 1)}s : {cards[each.endpoint]}," for each in entries]
    return forget(owner, word, name, entries) + _text(_braced(f"add element {target}", moved))


def _text(lines: Iterable[str]) -> str:
    return "\n".join([*lines, ""])


def _rebuilds(change: Change) -> bool:
    """True for a change that no delta can make: another declaration, or something that we cannot name."""
    kind = change.key[1]
    if kind == "foreign":
        return True
    return (
        kind in {"map", "set", "flowtable", "chain"}
        and change.before is not None
        and change.after is not None
    )


def _wakes_with_hooks(changes: Sequence[Change]) -> bool:
    """True where a table wakes while chains of hooks come or go, which kernels refuse in one transaction."""
    kinds = {change.key[1] for change in changes if change.key[1] != "chain" or change.item.text}
    return {"flags", "chain"} <= kinds


def _removals(place: str, changes: Sequence[Change]) -> Iterator[str]:
    """Yield what goes, and what makes room for another text. Order: no object goes before its last user."""
    leaving = [change.before.key for change in changes if change.before is not None]
    if any(key[1] == "flags" for key in leaving):
        # Declared without flags it has none, and all else in it stays.
        yield f"table {place}"
    elements: dict[str, list[str]] = {}
    for key in leaving:
        if key[1] == "element":
            elements.setdefault(key[2], []).append(key[3])
    for name, keys in elements.items():
        yield f"delete element {place} {name} {{ {', '.join(keys)} }}"
    for kind, verb in (
        ("rules", "flush chain"),
        ("chain", "delete chain"),
        ("map", "delete map"),
        ("set", "delete set"),
        ("flowtable", "delete flowtable"),
    ):
        for key in leaving:
            if key[1] == kind:
                yield f"{verb} {place} {key[2]}"


def _block(place: str, items: Iterable[Item], *, standing: bool = False) -> Iterator[str]:
    """Yield a table's block. A block adds: what it names and the kernel has already stays as it is.

    In a table that is `standing`, maps, sets and flowtables are declared before it, each by a command of its
    own: nft 0.9.8 crashes when it adds elements to what a block declares in a table that the kernel has.
    """
    sets: dict[tuple[str, str], list[str]] = {}
    chains: dict[str, list[str]] = {}
    elements: dict[str, list[str]] = {}
    flags: list[str] = []
    for item in items:
        match item.key:
            case _, "flags", flag:
                flags.append(f"flags {flag}")
            case _, "element", name, key:
                elements.setdefault(name, []).append(f"{key} {item.text}," if item.text else f"{key},")
            case _, "chain", name:
                chains.setdefault(name, [])[:0] = item.text.split("\n") if item.text else []
            case _, "rules", name:
                chains.setdefault(name, []).extend(item.text.split("\n") if item.text else [])
            case _, ("map" | "set" | "flowtable") as kind, name:
                sets[kind, name] = item.text.split("\n")
    inner = list(flags)
    for (sort, name), lines in sets.items():
        if standing:
            yield from _braced(f"add {sort} {place} {name}", lines)
        else:
            inner += _braced(f"{sort} {name}", lines)
    for name, lines in chains.items():
        inner += _braced(f"chain {name}", lines)
    if inner:
        yield from _braced(f"table {place}", inner)
    for name, lines in elements.items():
        yield from _braced(f"add element {place} {name}", lines)


def _braced(head: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"{head} {{"
    yield from (f"\t{line}" for line in lines)
    yield "}"
