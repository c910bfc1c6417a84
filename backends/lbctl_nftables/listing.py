"""Tables managed by lbctl → text as nft lists it, without nft: for those who read all tables of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_nftables.kernel import objects
from lbctl_nftables.observe import TableReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbctl.host import Host
    from lbctl.model import Item
    from lbctl_nftables.kernel.values import KernelTable


def text_of(host: Host, table: KernelTable, *, handles: bool = False) -> str:
    """Return the text of a table, with the handles of its rules if asked; raises `ApplyFailed`."""
    items = list(TableReader(host, table).items())
    numbers: dict[str, list[int]] = {}
    for rule in objects.rules(host, table) if handles else ():
        numbers.setdefault(rule.chain, []).append(rule.handle)
    lines = [f"table {table.family} {table.name} {{", *_body(items, numbers), "}", ""]
    return "\n".join(lines)


def _body(items: Sequence[Item], handles: dict[str, list[int]]) -> Iterator[str]:
    by_kind: dict[str, list[Item]] = {}
    elements: dict[str, list[str]] = {}
    for item in items:
        by_kind.setdefault(item.key[1], []).append(item)
        if item.key[1] == "element":
            elements.setdefault(item.key[2], []).append(f"{item.key[3]} {item.text}".rstrip())
    for texts in elements.values():
        # The kernel has them in the order of their hashes; nft sorts them too.
        texts.sort(key=_in_order)
    for item in by_kind.get("flags", ()):
        yield f"\tflags {item.key[2]}"
    for item in by_kind.get("foreign", ()):
        yield f"\t{item.text} {{"
        yield "\t}"
    for item in (*by_kind.get("map", ()), *by_kind.get("set", ())):
        yield from _block(item, [*item.text.split("\n"), *_elements(elements.get(item.key[2], ()))])
    for item in by_kind.get("flowtable", ()):
        yield from _block(item, item.text.split("\n"))
    rules = {item.key[2]: item for item in by_kind.get("rules", ())}
    for item in by_kind.get("chain", ()):
        name = item.key[2]
        texts = rules[name].text.split("\n") if rules[name].text else []
        if name in handles:
            texts = [f"{text} # handle {number}" for text, number in zip(texts, handles[name], strict=False)]
        yield from _block(item, [*filter(None, [item.text]), *texts])


def _block(item: Item, lines: Sequence[str]) -> Iterator[str]:
    yield f"\t{item.key[1]} {item.key[2]} {{"
    yield from (f"\t\t{line}" for line in lines)
    yield "\t}"


def _in_order(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return what sorts the keys of elements: numbers by their value, and before other words."""
    return tuple((0, int(word), "") if word.isdecimal() else (1, 0, word) for word in text.split())


def _elements(texts: Sequence[str]) -> Iterator[str]:
    """Yield the elements of a set or map, one a line."""
    for number, text in enumerate(texts, 1):
        begin = "elements = { " if number == 1 else "             "
        yield f"{begin}{text}{',' if number < len(texts) else ' }'}"
