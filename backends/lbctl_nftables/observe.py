"""Kernel → program: the tables of one owner, read by netlink (see `lbctl_nftables.kernel`).

What is in our tables becomes an item, whoever put it there: what `compile` writes is spelled as it writes it,
and all else differs from everything that it can write.
"""

from __future__ import annotations

import re
import sys
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl.host import link_names
from lbctl.host.nf_tables import GET_GENERATION
from lbctl.lazy import imported_on_call
from lbctl.model import Item, Program
from lbctl_nftables import affinity, layout
from lbctl_nftables.generation import generation
from lbctl_nftables.kernel import datatypes, elements, expressions, netlink, objects
from lbctl_nftables.kernel.spelling import spelled
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.layout import Dialect, Purpose

# Few hosts need it: those where no program speaks netlink.
with imported_on_call(globals()):
    from lbctl_nftables.kernel.described import expect_described

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Key
    from lbctl_nftables.kernel.values import KernelChain, KernelElement, KernelRule, Set

#: How often all is read again because a transaction came between two parts of it.
_TRIES = 10
#: More elements of one set than this are found sooner in a list of all of them.
_MANY = 256

#: The attribute NFTA_NG_OFFSET behind the name of the expression that it is of.
_FIRST_SLOT = re.compile(
    rb"numgen\0.{1,48}?\x08\0\x04\0(.{4})" if sys.byteorder == "little" else rb"(?!)", re.DOTALL
)
_AT_ZERO = " offset 0 "

#: The map that leads to services → those with the same keys.
_TWINS: Mapping[str, tuple[str, ...]] = {
    lead: tuple(
        layout.LISTENERS[purpose][form]
        for purpose in Purpose
        if purpose not in {Purpose.LEAD, Purpose.INGRESS, Purpose.OFFLOAD}
    )
    for form, lead in layout.LISTENERS[Purpose.LEAD].items()
}
_TWINNED = frozenset(name for names in _TWINS.values() for name in names)


def observe(host: Host, driver: str, owner: str) -> Program:
    """See `lbctl.spi.Backend.observe`."""
    for _ in range(_TRIES):
        expect(host, owner)
        mark = generation(host, driver)
        items = [item for reader in readers(host, owner) for item in reader.items()]
        still = generation(host, driver) == mark
        netlink.expect(host, ())
        if still:
            return Program(owner, items, generation=mark)
    raise ApplyFailed(
        "the rules of nf_tables cannot be read as one state: other processes keep changing them",
        hint="try again; nft monitor shows what changes",
    )


def expect(host: Host, owner: str) -> None:
    """Have the host know that the generation and all of an owner's tables are asked for next."""
    every = [KernelTable(*layout.location(owner, word)) for word in layout.WORDS]
    if not host.speaks_netlink():
        expect_described(host, every)
        return
    present = [netlink.request(netlink.GET_TABLE)] * (1 + len(every))
    asked = [request for table in every for request in objects.requests(table)]
    # Once more at the end: for tables without elements nothing is asked after this.
    netlink.expect(host, [GET_GENERATION, *present, *asked, GET_GENERATION])


def readers(host: Host, owner: str) -> Sequence[TableReader]:
    """Return a reader of each of the owner's tables, and have the host know that all is read next."""
    found = [TableReader(host, table) for table in tables(host, owner)]
    if requests := [request for reader in found for request in reader.requests()]:
        netlink.expect(host, [*requests, GET_GENERATION])
    return found


def tables(host: Host, owner: str) -> Iterator[KernelTable]:
    """Yield the owner's tables that exist."""
    present = objects.tables(host)
    for word in layout.WORDS:
        if layout.location(owner, word) in present:
            yield KernelTable(*layout.location(owner, word))


def touched(host: Host, owner: str, keys: Iterable[Key]) -> dict[Key, Item | None]:
    """Return what the kernel holds now under each of these keys of items; None for nothing.

    It costs as much as these have parts, however large the tables are. Raises `ApplyFailed`.
    """
    readers = {word: TableReader(host, KernelTable(*layout.location(owner, word))) for word in layout.WORDS}
    by_set: dict[tuple[str, str], list[Key]] = {}
    found: dict[Key, Item | None] = {}
    for key in keys:
        if key[1] == "element":
            by_set.setdefault((key[0], key[2]), []).append(key)
        else:
            found[key] = readers[key[0]].item(key)
    for (word, name), wanted in by_set.items():
        found |= readers[word].elements_of(name, wanted)
    return found


def read_map(host: Host, driver: str, word: str, owner: str, name: str) -> Sequence[affinity.AffinityEntry]:  # noqa: ARG001
    """Return the entries of a map of clients."""
    table = KernelTable(*layout.location(owner, word))
    declared = objects.declaration(host, table, name)
    return affinity.entries(declared, elements.elements(host, table, declared)) if declared else ()


class TableReader:
    """Reads one table, of which it keeps the declarations of sets."""

    def __init__(self, host: Host, table: KernelTable) -> None:
        self._host = host
        self.table = table
        self._word = layout.word_of(*table)
        #: Of the packets that pass the table.
        self._family = layout.WORD[layout.FAMILY[self._word]]
        self._sets: dict[str, Set | None] = {}
        self._has_sets = False
        #: Rules whose pickers begin at slot 0 → their texts: services of one page differ by that alone.
        self._from_zero: dict[bytes, str] = {}

    # for rules, see `expressions.Sets`

    def declaration(self, name: str) -> Set | None:
        """Return a set's declaration."""
        if name not in self._sets:
            self._sets[name] = objects.declaration(self._host, self.table, name)
        return self._sets[name]

    def anonymous(self, name: str) -> str:
        """Return the elements of an anonymous set or map in braces, in the order of their keys."""
        declared = self.declaration(name)
        found = spelled(declared, self._elements(declared)) if declared else ()
        pairs = sorted((_order(key), f"{key} {text}" if text else key) for key, text, _ in found)
        return f"{{ {', '.join(pair for _, pair in pairs)} }}"

    def interface(self, index: int) -> str | None:
        """Return the name of an interface."""
        return link_names(self._host).get(index)

    # all of a table

    def items(self, *, slots: bool = True) -> Iterator[Item]:
        """Yield all that the table holds, if asked so without what its slot pages hold."""
        word = self._word
        yield Item((word, "table"), "")
        yield from self._dormant()
        self._load_sets()
        named = [each for each in self._sets.values() if each and not each.is_anonymous]
        for declared in named:
            yield self._set(declared)
        yield from self._flowtables()
        rules: dict[str, list[KernelRule]] = {}
        for chain in objects.chains(self._host, self.table):
            rules[chain.name] = []
            yield self._chain(chain)
        for rule in objects.rules(self._host, self.table):
            rules.setdefault(rule.chain, []).append(rule)
        for name, mine in rules.items():
            yield self._body(name, mine)
        yield from self._contents([each for each in named if slots or not layout.is_page(each.name)])
        yield from self._foreign()

    def requests(self) -> list[bytes]:
        """Return the requests for the elements of all sets and maps, but for those of clients."""
        self._load_sets()
        sets = [each for each in self._sets.values() if each is not None]
        wanted = [each for each in sets if not each.is_dynamic or layout.is_affinity(each.name)]
        return elements.requests(self.table, wanted)

    def _load_sets(self) -> None:
        if not self._has_sets:
            self._sets |= objects.sets(self._host, self.table)
            self._has_sets = True

    def _contents(self, named: Iterable[Set]) -> Iterator[Item]:
        """Yield the elements of all sets and maps.

        Those that lead to services come first: they name owners.
        """
        owners: dict[tuple[str, str], str] = {}
        for declared in sorted(named, key=lambda each: not layout.is_dispatch(each.name)):
            if layout.is_affinity(declared.name):
                yield from self._stale(declared)
            elif not declared.is_dynamic or declared.name in layout.PAIRS:
                mine = list(self._items_of(declared, self._elements(declared), owners))
                if layout.is_dispatch(declared.name):
                    owners |= _owners(declared.name, mine)
                yield from mine

    # single items

    def item(self, key: Key) -> Item | None:
        """Return the item under a key that is no element's; None if there is none."""
        match key:
            case (_, "table"):
                present = (self.table.family, self.table.name) in objects.tables(self._host)
                return Item(key, "") if present else None
            case (_, "flags", _):
                return next((item for item in self._dormant() if item.key == key), None)
            case (_, "chain", name):
                chain = objects.chain(self._host, self.table, name)
                return self._chain(chain) if chain else None
            case (_, "rules", name):
                if objects.chain(self._host, self.table, name) is None:
                    return None
                return self._body(name, objects.rules(self._host, self.table, name))
            case (_, ("map" | "set"), name):
                declared = self.declaration(name)
                item = self._set(declared) if declared else None
                return item if item and item.key == key else None
            case (_, "flowtable", _):
                return next((item for item in self._flowtables() if item.key == key), None)
            case (_, affinity.STALE, name):
                declared = self.declaration(name)
                return next(self._stale(declared), None) if declared else None
            case _:
                return next((item for item in self._foreign() if item.key == key), None)

    def elements_of(self, name: str, keys: Sequence[Key]) -> dict[Key, Item | None]:
        """Return the elements of a set or map under these keys of items; None where there is none."""
        declared = self.declaration(name)
        found: dict[Key, Item | None] = dict.fromkeys(keys)
        if declared is None:
            return found
        present = self.kernel_elements(declared, keys)
        owners = self._twin_owners(name, keys)
        for item in self._items_of(declared, present, owners):
            if item.key in found:
                found[item.key] = item
        return found

    def kernel_elements(self, declared: Set, keys: Sequence[Key] | None = None) -> Sequence[KernelElement]:
        """Return the elements of a set or map: those under some keys of items at least, or all of them."""
        if keys is None or declared.is_interval or len(keys) > _MANY:
            return self._elements(declared)
        wanted = [datatypes.encode(declared.key_types, key[3]) for key in keys]
        asked = [each for each in wanted if each is not None]
        return elements.elements_at(self._host, self.table, declared.name, asked)

    def _twin_owners(self, name: str, keys: Sequence[Key]) -> Mapping[tuple[str, str], str]:
        """Return whose these elements are, by those with the same keys in the map that leads to services."""
        twin = next((twin for twin, names in _TWINS.items() if name in names), None)
        if twin is None:
            return {}
        leading = self.elements_of(twin, [(key[0], key[1], twin, key[3]) for key in keys])
        return _owners(twin, [item for item in leading.values() if item is not None])

    # parts of both

    @cached_property
    def _dialects(self) -> tuple[Dialect, ...]:
        """The dialects that the table may be written in: only the classic one has no slot pages.

        Of services that are not translated, a table may hold what refuses clients, and no pages; they have
        another table then.
        """
        if not any(map(layout.is_page, self._sets)):
            self._sets = {**objects.sets(self._host, self.table), **self._sets}
        classic = not any(map(layout.is_page, self._sets)) and not self._has_ingress
        return (Dialect.CLASSIC,) if classic else (Dialect.MODERN, Dialect.MARK)

    @property
    def _has_ingress(self) -> bool:
        owner = layout.owner_of(self.table.family, self.table.name)
        word = layout.INGRESS[layout.FAMILY[self._word]]
        return owner is not None and layout.location(owner, word) in objects.tables(self._host)

    def _elements(self, declared: Set) -> list[KernelElement]:
        return elements.elements(self._host, self.table, declared)

    def _dormant(self) -> Iterator[Item]:
        if objects.is_dormant(self._host, self.table):
            yield Item((self._word, "flags", "dormant"), "")

    def _set(self, declared: Set) -> Item:
        text = "\n".join(_declaration(self._word, declared, self._dialects))
        return Item((self._word, declared.kind, declared.name), text, layout.service_of_set(declared.name))

    def _flowtables(self) -> Iterator[Item]:
        for each in objects.flowtables(self._host, self.table):
            text = layout.flowtable(each.names, each.priority, each.more)
            yield Item((self._word, "flowtable", each.name), text)

    def _chain(self, chain: KernelChain) -> Item:
        text = ""
        if (hook := chain.hook) is not None:
            text = layout.base_chain(hook.kind, hook.name, hook.priority)
            if hook.device and hook.kind == "filter":
                text = layout.ingress_hook(hook.device, hook.priority)
            if hook.policy != "accept" or hook.more:
                text += f" policy {hook.policy}; {hook.more}"
        return Item((self._word, "chain", chain.name), text, layout.service_of_chain(chain.name))

    def _body(self, chain: str, rules: Iterable[KernelRule]) -> Item:
        texts = [self._spelled(rule.expressions) for rule in rules]
        return Item((self._word, "rules", chain), "\n".join(texts), layout.service_of_chain(chain))

    def _spelled(self, rule: bytes) -> str:
        """Return the text of a rule, taken from that of another one that differs in its first slot alone."""
        found = _FIRST_SLOT.search(rule)
        if found is None:
            return self._spell(rule)
        from_zero = rule[: found.start(1)] + bytes(4) + rule[found.end(1) :]
        text = self._from_zero.get(from_zero)
        if text is None:
            text = self._from_zero[from_zero] = self._spell(from_zero)
        if text.count(_AT_ZERO) != 1:
            return self._spell(rule)
        return text.replace(_AT_ZERO, f" offset {int.from_bytes(found[1], 'big')} ")

    def _spell(self, rule: bytes) -> str:
        is_ingress = self._word in layout.INGRESS.values()
        return expressions.spell(self._family, rule, self, is_ingress=is_ingress)

    def _stale(self, declared: Set) -> Iterator[Item]:
        name = declared.name
        clients = self._elements(declared)
        endpoints = self.declaration(layout.endpoints_of_affinity(name)) if clients else None
        if affinity.has_strangers(clients, self._elements(endpoints) if endpoints else ()):
            yield Item((self._word, affinity.STALE, name), affinity.STALE_TEXT, layout.service_of_set(name))

    def _items_of(
        self, declared: Set, found: Iterable[KernelElement], owners: Mapping[tuple[str, str], str]
    ) -> Iterator[Item]:
        """Yield the items of elements, but for those that packets add."""
        word, name = self._word, declared.name
        of_set = layout.service_of_set(name)
        leading, twins = layout.is_dispatch(name), name in _TWINNED
        for key, text, comment in spelled(declared, found):
            if name in layout.PAIRS and layout.is_of_packets(name, key):
                continue
            service = comment.partition("/")[0] if comment else of_set
            if leading:
                service = _service_behind(text)
            elif twins:
                service = owners.get((name, key), service)
            yield Item((word, "element", name, key), text, service)

    def _foreign(self) -> Iterator[Item]:
        """Yield what has no place in our tables."""
        for kind, name in objects.others(self._host, self.table):
            yield Item((self._word, "foreign", kind, name), f"{kind} {name}")


def _owners(name: str, leading: Iterable[Item]) -> dict[tuple[str, str], str]:
    """(map, key) → service, for the keys of elements that lead to services' chains."""
    owners: dict[tuple[str, str], str] = {}
    for item in leading:
        service = _service_behind(item.text)
        if service is not None:
            owners |= {(twin, item.key[3]): service for twin in _TWINS.get(name, ())}
    return owners


def _service_behind(text: str) -> str | None:
    """Return the service whose chain an element leads to."""
    chain = layout.verdict(text)
    return layout.service_of_chain(chain) if chain else None


def _declaration(word: str, declared: Set, dialects: Sequence[Dialect]) -> tuple[str, ...]:
    """Return the declaration as `compile` writes it in one of these dialects, if it is one of these."""
    lines = declared.lines()
    for dialect in dialects if declared.has_sizes_of_types else ():
        kinds = _kinds(word, dialect).get(_canonical(lines), ())
        if kinds:
            own = {layout.kind_of_page(declared.name), layout.kind_of_set(declared.name)}
            kind = next((kind for kind in kinds if kind in own), kinds[0])
            return layout.declarations(word, dialect)[kind]
    return lines


@lru_cache(maxsize=8)
def _kinds(word: str, dialect: Dialect) -> Mapping[frozenset[str], tuple[str, ...]]:
    """Canonical declaration → the kinds of our declarations that are this in the kernel."""
    kinds: dict[frozenset[str], tuple[str, ...]] = {}
    for kind, lines in layout.declarations(word, dialect).items():
        canonical = _canonical(lines)
        kinds[canonical] = (*kinds.get(canonical, ()), kind)
    return kinds


def _canonical(lines: Sequence[str]) -> frozenset[str]:
    """Return a declaration without `typeof`, and with its flags in order."""
    return frozenset(map(_canonical_line, lines))


@lru_cache(maxsize=256)
def _canonical_line(line: str) -> str:
    word, _, rest = line.partition(" ")
    if word == "flags":
        return f"flags {','.join(sorted(rest.split(',')))}"
    if word in {"type", "typeof"}:
        key, colon, data = rest.partition(" : ")
        types = datatypes.declared(f"{word} {key}"), datatypes.declared(f"{word} {data}") if data else ()
        return f"type {' . '.join(types[0])}{colon}{' . '.join(types[1])}"
    return line


def _order(key: str) -> tuple[int, int, str]:
    return (0, int(key), "") if key.isdecimal() else (1, 0, key)
