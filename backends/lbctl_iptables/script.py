"""Items → text for `iptables-restore --noflush`: the one writer, for what is shown and for what is loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.errors import NoBackend
from lbctl_iptables import layout
from lbctl_iptables.dialect import Feature

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Change, Family, Item, Program
    from lbctl_iptables.rules import DumpedChain

_LOAD = {word: f"{word}-restore --noflush FILE" for word in layout.WORD.values()}
_SKIPS = "# Each of the two skips the lines that begin with the other one's option, -4 or -6.\n"
_ONCE = """\
# Refused as a whole if these rules are loaded already: -N makes a chain only if there is none.
# To replace them, load what `lbctl render --remove` prints in front of this; both may be one file.
"""
_OPTION = {"iptables": "-4 ", "ip6tables": "-6 "}
#: iptables-save prints the nodes of `cluster` as bits, of which iptables-restore takes none beyond the sixth.
_NODE = re.compile(r"--cluster-local-nodemask 0x([0-9a-f]{8}) ")


def render(program: Program) -> str:
    """Return a program as one text for both families."""
    return written(program)


def written(
    program: Program, *, family: Family | None = None, lacks: Collection[Feature] = frozenset()
) -> str:
    """Return a program, or what one family has of it, as a text for an iptables that lacks something.

    iptables-restore knows no condition, and another jump in a chain of the kernel would balance nothing
    twice but make each connection pass our chains twice. So the text can be loaded once: what it makes first
    is the chain that the jumps of the nat table lead to, whatever else it has in front.
    """
    words = _words(program, family, lacks)
    tables = [table for table in layout.TABLES if any(i.key[2] == table for i in _items(program, words))]
    if not tables:
        return ""
    text = _header(words) + _ONCE
    if tables[0] != layout.NAT:
        text += plain_section(layout.NAT, [_guard(program, words)])
    for table in tables:
        lines = _rendered(program, table, words, fresh=table != layout.NAT or len(tables) == 1)
        text += plain_section(table, (accepted(line, lacks) for line in lines))
    return text


def removal(
    program: Program, *, family: Family | None = None, lacks: Collection[Feature] = frozenset()
) -> str:
    """Return the text that removes what `written` has loaded: the jumps go, then what they led to."""
    words = _words(program, family, lacks)
    text = ""
    for table in layout.TABLES:
        lines: dict[str, list[str]] = {}
        for item in _items(program, words):
            word, kind, where, name, *_ = item.key
            if where == table:
                line = f"-D {name} {item.text}" if kind == "jump" else f"-F {name}"
                lines.setdefault(line, []).append(word)
                if kind == "chain":
                    lines.setdefault(f"-X {name}", []).append(word)
        ordered = sorted(lines, key=lambda line: "DFX".index(line[1]))
        if ordered:
            text += plain_section(table, (_option(lines[line], words) + line for line in ordered))
    return _header(words) + text if text else ""


def _words(program: Program, family: Family | None, lacks: Collection[Feature]) -> Sequence[str]:
    """Return the families that a text is for; raises `NoBackend` where one text cannot be for both."""
    if family is not None:
        return (layout.WORD[family],)
    if Feature.FAMILY_LINES not in lacks:
        return tuple(layout.WORD.values())
    held = dict.fromkeys(item.key[0] for item in program.items)
    if len(held) > 1:
        raise NoBackend(
            "this iptables-restore does not skip the lines of the other family, so one text cannot have both",
            hint="render one text for each: --family ipv4, and --family ipv6",
        )
    return tuple(held)


def _items(program: Program, words: Sequence[str]) -> Sequence[Item]:
    return [item for item in program.items if item.key[0] in words]


def _header(words: Sequence[str]) -> str:
    load = f"# Load with: {'; '.join(_LOAD[word] for word in words)}\n"
    return load + _SKIPS if len(words) > 1 else load


def joined(scripts: Mapping[str, str]) -> str:
    """Return the scripts of each family as one text, which the tools of both can load."""
    if len(scripts) < len(layout.WORD):
        return "".join(_header((word,)) + text for word, text in scripts.items())
    lines = ((_OPTION[word], line) for word, text in scripts.items() for line in text.splitlines())
    body = "".join(f"{option if line[0] == '-' else ''}{line}\n" for option, line in lines)
    return _header(tuple(scripts)) + body


def _option(words: Collection[str], every: Collection[str]) -> str:
    """What has one family's tool alone take a line; nothing for a line that is for every tool of a text."""
    return "" if len(words) == len(every) else _OPTION[next(iter(words))]


def _guard(program: Program, words: Sequence[str]) -> str:
    entry = layout.prefix(program.owner)
    key = ("chain", layout.NAT, entry)
    return _new([word for word in words if (word, *key) in program.by_key], entry, words)


def _new(words: Collection[str], chain: str, every: Collection[str]) -> str:
    """Return the line that makes a chain where there is none, and is refused where there is."""
    return f"{_option(words, every)}-N {chain}"


def _rendered(program: Program, table: str, words: Sequence[str], *, fresh: bool) -> Iterator[str]:
    """Yield the lines of a table. The chain that jumps lead to is `fresh`, or made by an earlier section."""
    entry = layout.prefix(program.owner)
    families: dict[tuple[str, ...], dict[str, str]] = {}
    for item in _items(program, words):
        if item.key[2] == table:
            families.setdefault(item.key[1:], {})[item.key[0]] = item.text
    chains = {key[2]: texts for key, texts in families.items() if key[0] == "chain"}
    if fresh and entry in chains:
        yield _new(chains[entry], entry, words)
    for chain, texts in chains.items():
        if chain != entry:
            # A line that begins with a colon takes no option.
            yield f":{chain} - [0:0]" if len(texts) == len(words) else _new(texts, chain, words)
    for key, texts in families.items():
        if len(texts) == len(words) and len(set(texts.values())) == 1:
            yield from _add(key, next(iter(texts.values())))
        else:
            for word, text in texts.items():
                yield from (_option((word,), words) + line for line in _add(key, text))


def section(table: str, changes: Iterable[Change], chains: Mapping[str, DumpedChain]) -> str:
    """Return what carries out the changes of one table of one family.

    `chains` are those to write, with counters and turns; they may be more than the changes name.
    """
    gone, jumps = [], []
    for change in changes:
        _, kind, _, name, *_ = change.key
        if kind == "jump":
            if change.before is not None:
                jumps.append(f"-D {name} {change.before.text}")
            if change.after is not None:
                jumps += _add(change.key[1:], change.after.text)
        elif change.after is None:
            gone.append(name)
    # Behind --noflush, naming a chain makes it, or empties it where it is there already.
    lines = [f":{name} - [0:0]" for name in (*chains, *gone)]
    for name, chain in chains.items():
        lines += map(accepted, chain.script(name))
    return plain_section(table, (*lines, *jumps, *(f"-X {chain}" for chain in gone)))


def _add(key: tuple[str, ...], text: str) -> list[str]:
    kind, _, chain, *_ = key
    if kind == "jump":
        # First in its chain: a declared listener wins over what stood there.
        return [f"-I {chain} 1 {text}"]
    return [f"-A {chain} {accepted(line)}" for line in text.split("\n") if line]


def accepted(text: str, lacks: Collection[Feature] = frozenset()) -> str:
    """Rules as an iptables-restore that lacks something takes them, where iptables-save prints others."""
    if Feature.RANDOM_FULLY in lacks:
        text = text.replace(" ".join(layout.MASQUERADING), " ".join(layout.PLAIN_MASQUERADING))
    if "--cluster-local-nodemask" not in text:
        return text
    return _NODE.sub(lambda found: f"--cluster-local-node {int(found[1], 16).bit_length()} ", text)


def plain_section(table: str, lines: Iterable[str]) -> str:
    """Lines as one transaction of a table."""
    return "".join(line + "\n" for line in (f"*{table}", *lines, "COMMIT"))
