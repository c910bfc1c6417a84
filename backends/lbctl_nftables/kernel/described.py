"""What the kernel holds, as nft reports it: for a host on which no program speaks netlink.

`nft --debug=netlink list table …` prints two things. First the rules and elements as the kernel gave them to
nft, before nft makes sense of them: from there come expressions, keys, data and verdicts. Then the table in
nft's syntax: from there come the declarations, the hooks, and of elements what the first part lacks, which
are counters, times and comments; they are found by their keys. So a key that nft shows in another way than
the kernel compares it is read as the kernel has it, as by netlink. nft since 0.9.4 prints both.

A listing is of one moment: nft asks again if another process changed the rules meanwhile. Two tables are
listed one after the other, and no generation is known; so whoever writes reads everything back.
"""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed
from lbctl.values import dataclass
from lbctl_nftables.kernel import assembly, datatypes
from lbctl_nftables.kernel.values import (
    ANONYMOUS,
    FLAGS,
    MAP,
    TIMEOUT,
    VERDICT_CODES,
    KernelChain,
    KernelElement,
    KernelFlowtable,
    KernelHook,
    KernelRule,
    KernelTable,
    Set,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lbctl.host import Host

_FLAGS = {word: bit for bit, word in FLAGS.items()}
_DEVICE = 1
_TABLE = re.compile(r"table (\S+) (\S+)")
_BLOCK = re.compile(r"\t([a-z][a-z ]*?) (\S+) \{")
_CHAIN = re.compile(
    r"type (?P<kind>\S+) hook (?P<hook>\S+)"
    r'(?: devices? (?:= )?(?:\{ )?(?P<devices>"[^{}]*?"|[^{} ]+)(?: \})?)?'
    r" priority (?P<priority>-?\d+);(?: policy (?P<policy>\w+);)?(?P<more>.*)"
)
#: An element among others in braces, and what stands behind its key.
_ELEMENT = re.compile(r'(?:[^,{}"]|"[^"]*")+')
_BEHIND = re.compile(
    r" counter packets (?P<packets>\d+) bytes (?P<bytes>\d+)"
    r"| timeout (?P<timeout>\w+)| expires (?P<expires>\w+)"
    r'| comment "(?P<comment>[^"]*)"| : .*'
)
_RULE = re.compile(r"(\S+) (\S+) (\S+) (\d+)(?: \d+)? ?")
_SET = re.compile(r"(\S+) (\S+) @(\S+)")
_TIME = re.compile(r"(\d+)(ms|[dhms])")
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_WORD = re.compile(r"[0-9a-f]{2,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedTable:
    """One table, as `objects` and `elements` return its parts."""

    is_dormant: bool = False
    chains: tuple[KernelChain, ...] = ()
    rules: tuple[KernelRule, ...] = ()
    sets: Mapping[str, Set] = field(default_factory=dict)
    elements: Mapping[str, Sequence[KernelElement]] = field(default_factory=dict)
    flowtables: tuple[KernelFlowtable, ...] = ()
    #: The kind and the name of each other object.
    others: tuple[tuple[str, str], ...] = ()


def described_tables(host: Host) -> tuple[KernelTable, ...]:
    """Return all tables; raises `ApplyFailed`."""
    done = host.listing(_listing_tables(host))
    if done.code:
        raise ApplyFailed(f"nft does not list the tables: {done.err.strip().partition(chr(10))[0]}")
    matches = map(_TABLE.fullmatch, done.out.splitlines())
    return tuple(KernelTable(found[1], found[2]) for found in matches if found)


def described_table(host: Host, name: KernelTable) -> DescribedTable:
    """Return one table; of one that is not there, nothing. Raises `ApplyFailed`."""
    if name not in described_tables(host):
        return DescribedTable()
    done = host.listing(_words(host, name))
    if done.code:
        shown = done.ended_by or done.err.strip().partition("\n")[0]
        raise ApplyFailed(f"nft does not list table {name.family} {name.name}: {shown}")
    return _parsed(done.out, name)


def expect_described(host: Host, names: Sequence[KernelTable]) -> None:
    """Have the host know that these tables are asked for next; see `Host.expect`."""
    host.expect(listings=[_listing_tables(host), *(_words(host, name) for name in names)])


def _nft(host: Host) -> str:
    return host.which("nft") or "nft"


def _listing_tables(host: Host) -> tuple[str, ...]:
    return (_nft(host), "list", "tables")


def _words(host: Host, name: KernelTable) -> tuple[str, ...]:
    options = ("--debug=netlink", "--numeric-priority")
    return (_nft(host), *options, "list", "table", name.family, name.name)


@lru_cache(maxsize=16)
def _parsed(text: str, name: KernelTable) -> DescribedTable:
    """Return what a listing says of a table."""
    debugged, _, listed = text.partition(f"table {name.family} {name.name} {{\n")
    raw = _Raw.of(debugged, name)
    blocks = list(_blocks(listed))
    sets = {each.name: each for kind, label, lines in blocks for each in _declared(kind, label, lines)}
    sets |= {
        each: _nameless(each, types, raw.elements.get(each, ()))
        for each, types in raw.picked.items()
        if each not in sets
    }
    shown = {label: "\n".join(lines) for kind, label, lines in blocks if kind in {"map", "set"}}
    return DescribedTable(
        is_dormant=bool(re.search(r"^\tflags .*\bdormant\b", listed, re.M)),
        chains=tuple(_chain(label, lines) for kind, label, lines in blocks if kind == "chain"),
        rules=raw.rules,
        sets=sets,
        elements={
            each: tuple(_elements(sets[each], lines, shown.get(each, ""), reversed_words=raw.reversed_words))
            for each, lines in raw.elements.items()
            if each in sets
        },
        flowtables=tuple(_flowtable(label, lines) for kind, label, lines in blocks if kind == "flowtable"),
        others=tuple(
            (kind, label) for kind, label, _ in blocks if kind not in {"chain", "flowtable", "map", "set"}
        ),
    )


def _blocks(listed: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the kind, the name and the lines of what stands in a table."""
    kind = name = ""
    lines: list[str] = []
    for line in listed.split("\n"):
        if line == "\t}" and kind:
            yield kind, name, lines
            kind = ""
        elif kind:
            lines.append(line.strip())
        elif found := _BLOCK.fullmatch(line):
            kind, name, lines = found[1], found[2], []


# the part in nft's syntax


def _chain(name: str, lines: Sequence[str]) -> KernelChain:
    found = _CHAIN.fullmatch(lines[0]) if lines else None
    if found is None:
        return KernelChain(name=name, hook=None)
    devices = [word.strip('" ') for word in (found["devices"] or "").split(",") if word]
    more = [*(devices if len(devices) != 1 else []), *found["more"].split()]
    return KernelChain(
        name=name,
        hook=KernelHook(
            kind=found["kind"],
            name=found["hook"],
            priority=int(found["priority"]),
            policy=found["policy"] or "accept",
            device=devices[0] if len(devices) == 1 else "",
            more=" ".join(more),
        ),
    )


def _declared(kind: str, name: str, lines: Sequence[str]) -> Iterator[Set]:
    """Yield the declaration of a set or map, if that is what a block is."""
    if kind not in {"map", "set"}:
        return
    types: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    found: dict[str, str] = {}
    statements: list[str] = []
    for line in lines:
        word, _, rest = line.partition(" # ")[0].partition("\t")[0].partition(" ")
        match word:
            case "type" | "typeof":
                key, colon, behind = rest.partition(" : ")
                types = datatypes.declared(f"{word} {key}")
                data = datatypes.declared(f"{word} {behind}") if colon else ()
            case "elements":
                break
            case "size" | "flags" | "timeout" | "gc-interval" | "policy":
                found[word] = rest
            case "counter":
                statements.append(word)
            case "comment":
                pass
            case _:
                statements.append(line)
    is_verdict_map = data == ("verdict",)
    flags = sum(_FLAGS.get(each.strip(), 0) for each in found.get("flags", "").split(","))
    values = () if is_verdict_map else data
    yield Set(
        name=name,
        # nft leaves out a flag that follows from another line.
        flags=flags | (MAP if kind == "map" else 0) | (TIMEOUT if "timeout" in found else 0),
        key_types=types,
        key_size=datatypes.size_of(types),
        data_types=values,
        data_size=datatypes.size_of(values) if values else 0,
        is_verdict_map=is_verdict_map,
        size=int(found.get("size", "0")) if found.get("size", "0").isdecimal() else 0,
        policy=int(found.get("policy") == "memory"),
        timeout=_milliseconds(found.get("timeout")),
        interval=_milliseconds(found.get("gc-interval")),
        statements=tuple(statements),
    )


def _nameless(name: str, types: tuple[str, ...], lines: Sequence[str]) -> Set:
    """Return the declaration of an anonymous map behind a picker, whose verdicts show that it is one."""
    leads = any("->" in line for line in lines)
    return Set(
        name=name,
        flags=ANONYMOUS | (MAP if leads else 0),
        key_types=types,
        key_size=datatypes.size_of(types),
        data_types=(),
        data_size=0,
        is_verdict_map=leads,
        size=0,
        policy=0,
        timeout=0,
        interval=0,
        statements=(),
    )


def _flowtable(name: str, lines: Sequence[str]) -> KernelFlowtable:
    text = " ".join(lines)
    priority = re.search(r"hook ingress priority (-?\d+);?", text)
    devices = re.search(r"devices = \{ ([^{}]*) \}", text)
    names = [word.strip('" ') for word in devices[1].split(",")] if devices else []
    return KernelFlowtable(
        name=name,
        hook=0,
        priority=int(priority[1]) if priority else 0,
        devices=tuple((_DEVICE, word.encode() + b"\0") for word in names),
        flags=int("flags" in text.split()),
    )


def _milliseconds(text: str | None) -> int:
    return sum(int(number) * _UNITS[unit] for number, unit in _TIME.findall(text or ""))


# the part as the kernel gave it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    """Rules and lines of elements; `picked` are the sets and maps that picked numbers are looked up in."""

    rules: tuple[KernelRule, ...]
    elements: Mapping[str, Sequence[str]]
    picked: Mapping[str, tuple[str, ...]]
    reversed_words: bool

    @classmethod
    def of(cls, text: str, table: KernelTable) -> _Raw:
        """Return what a table's rules and elements are; older nft prints those of all tables."""
        reversed_words = _has_reversed_words(text)
        rules: list[KernelRule] = []
        elements: dict[str, list[str]] = {}
        picked: dict[str, tuple[str, ...]] = {}
        rule: tuple[str, int, assembly.Assembler] | None = None
        lines: list[str] | None = None

        def end() -> None:
            if rule is not None:
                chain, handle, assembler = rule
                rules.append(KernelRule(chain, handle, assembler.expressions()))
                picked.update(assembler.picked)

        for line in text.split("\n"):
            if line.startswith("  [ ") and line.endswith(" ]"):
                if rule is not None:
                    rule[2].add(line[4:-2].strip())
            elif line.startswith("\telement "):
                if lines is not None:
                    lines.append(line)
            elif line and not line.startswith(("\t", " ")):
                end()
                rule = lines = None
                if (found := _SET.fullmatch(line)) and found.groups()[:2] == table:
                    lines = elements[found[3]] = []
                elif (found := _RULE.fullmatch(line)) and found.groups()[:2] == table:
                    assembler = assembly.Assembler(_packets(table), reversed_words=reversed_words)
                    rule = found[3], int(found[4]), assembler
        end()
        return cls(rules=tuple(rules), elements=elements, picked=picked, reversed_words=reversed_words)


def _packets(table: KernelTable) -> str:
    """Return the family of the packets that pass a table: at ingress they may be of either."""
    return "ip6" if table.family == "ip6" or table.name.endswith("ip6") else "ip"


def _has_reversed_words(text: str) -> bool:
    """Return True if libnftnl printed values as words: it closes elements then, and pads a protocol."""
    if "\telement " in text:
        return "[end]" in text
    found = re.search(r"\[ meta load l4proto => reg (\d+) \]\n  \[ cmp \w+ reg \1 0x([0-9a-f]+) \]", text)
    return found is None or len(found[2]) > 2


def _elements(
    declared: Set, lines: Sequence[str], shown: str, *, reversed_words: bool
) -> Iterator[KernelElement]:
    """Yield the elements of a set: as the kernel gave them, and what nft shows of them."""
    spell = datatypes.speller(declared.key_types, declared.key_size)
    behind = {} if declared.is_interval else _shown(shown)
    for line in lines:
        key, end, value, verdict, flags = _split(line, reversed_words=reversed_words)
        key, end, value = key[: declared.key_size], end[: declared.key_size], value[: declared.data_size]
        found = behind.get(spell(key), {})
        code, chain = verdict
        yield KernelElement(
            key=key,
            key_end=end,
            value=value,
            code=code,
            chain=chain,
            octets=_long(found.get("bytes")),
            packets=_long(found.get("packets")),
            flags=flags.to_bytes(4, "big") if flags else b"",
            timeout=_time(found.get("timeout")),
            expiration=_time(found.get("expires")),
            comment=f"{found['comment']}\0".encode(errors="surrogateescape") if "comment" in found else b"",
        )


def _shown(block: str) -> Mapping[str, Mapping[str, str]]:
    """Return what nft shows behind the keys of the elements of a set, by these keys."""
    found: dict[str, dict[str, str]] = {}
    _, _, body = block.replace("\n", " ").partition("elements = {")
    for element in _ELEMENT.findall(body):
        details = list(_BEHIND.finditer(element))
        key = element[: details[0].start()] if details else element
        words = found[key.strip()] = {}
        for detail in details:
            words |= {group: text for group, text in detail.groupdict().items() if text is not None}
    return found


def _long(text: str | None) -> bytes:
    return b"" if text is None else int(text).to_bytes(8, "big")


def _time(text: str | None) -> bytes:
    return b"" if text is None else _milliseconds(text).to_bytes(8, "big")


def _split(line: str, *, reversed_words: bool) -> tuple[bytes, bytes, bytes, tuple[bytes, bytes], int]:
    """Return the key, the end of its range, the data, the verdict and the flags of an element's line."""
    words = line.partition("  userdata")[0].split()[1:]
    flags = 0
    if words[-1:] == ["[end]"]:
        flags = int(words[-2])
        words = words[:-2]
    elif "flags" in words:
        place = words.index("flags")
        flags = int(words[place + 1], 16)
        words = words[:place]
    head, _, rest = " ".join(words).partition(":")
    first, _, last = head.partition("-")
    code = chain = b""
    word, _, target = rest.strip().partition(" -> ")
    if word in VERDICT_CODES:
        code, chain, rest = VERDICT_CODES[word], f"{target.strip()}\0".encode() if target else b"", ""
    parts = ([each for each in part.split() if _WORD.fullmatch(each)] for part in (first, last, rest))
    key, end, value = (assembly.value(part, reversed_words=reversed_words) for part in parts)
    return key, end, value, (code, chain), flags
