"""Items → text for `iptables-restore --noflush`: the one writer, for what is shown and for what is loaded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbctl.model import Change, Item, Program
    from lbctl_iptables.rules import Chain

_HEADER = """\
# Load with: iptables-restore --noflush FILE; ip6tables-restore --noflush FILE
# Each of the two skips the lines that begin with the other one's option, -4 or -6.
"""
_OPTION = {"iptables": "-4 ", "ip6tables": "-6 "}
#: iptables-save prints the nodes of `cluster` as bits, of which iptables-restore takes none beyond the sixth.
_NODE = re.compile(r"--cluster-local-nodemask 0x([0-9a-f]{8}) ")


def render(program: Program) -> str:
    """A program as one text for both families."""
    if not program:
        return ""
    families: dict[str, dict[tuple[str, ...], Item]] = {}
    for item in program.items:
        families.setdefault(item.key[0], {})[item.key[1:]] = item
    keys = dict.fromkeys(key for items in families.values() for key in items)
    text = ""
    for table in layout.TABLES:
        mine = [key for key in keys if key[1] == table]
        if mine:
            text += plain_section(table, _rendered(mine, families))
    return _HEADER + text


def withdrawal(program: Program) -> str:
    """See `lbctl.spi.Moving`: the jumps go, then what they led to."""
    if not program:
        return ""
    text = ""
    for table in layout.TABLES:
        lines: dict[str, list[str]] = {}
        for item in program.items:
            word, kind, where, name, *_ = item.key
            if where == table:
                line = f"-D {name} {item.text}" if kind == "jump" else f"-F {name}"
                lines.setdefault(line, []).append(word)
                if kind == "chain":
                    lines.setdefault(f"-X {name}", []).append(word)
        ordered = sorted(lines, key=lambda line: "DFX".index(line[1]))
        if ordered:
            text += plain_section(table, (_option(lines[line]) + line for line in ordered))
    return _HEADER + text


def joined(scripts: Mapping[str, str]) -> str:
    """The scripts of each family as one text, which the tools of both can load."""
    if len(scripts) < len(layout.WORD):
        return "".join(
            f"# Load with: {word}-restore --noflush FILE\n{text}" for word, text in scripts.items()
        )
    lines = ((_OPTION[word], line) for word, text in scripts.items() for line in text.splitlines())
    return _HEADER + "".join(f"{option if line[0] == '-' else ''}{line}\n" for option, line in lines)


def _option(words: Sequence[str]) -> str:
    """What has one family's tool alone take a line; nothing for a line of both."""
    return "" if len(words) == len(layout.WORD) else _OPTION[words[0]]


def _rendered(
    keys: Sequence[tuple[str, ...]], families: Mapping[str, Mapping[tuple[str, ...], Item]]
) -> Iterator[str]:
    for kind, _, chain, *_ in keys:
        if kind == "chain":
            words = [word for word, items in families.items() if (kind, keys[0][1], chain) in items]
            # A line that begins with a colon takes no option.
            one = f"{_OPTION[words[0]]}-N {chain}"
            yield f":{chain} - [0:0]" if len(words) == len(layout.WORD) else one
    for key in keys:
        texts = {word: items[key].text for word, items in families.items() if key in items}
        if len(texts) == len(layout.WORD) and len(set(texts.values())) == 1:
            yield from _add(key, next(iter(texts.values())))
        else:
            for word, text in texts.items():
                yield from (_OPTION[word] + line for line in _add(key, text))


def section(table: str, changes: Iterable[Change], chains: Mapping[str, Chain]) -> str:
    """What carries out the changes of one table of one family.

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


def accepted(text: str) -> str:
    """Rules as iptables-restore takes them, where that is not as iptables-save prints them."""
    if "--cluster-local-nodemask" not in text:
        return text
    return _NODE.sub(lambda found: f"--cluster-local-node {int(found[1], 16).bit_length()} ", text)


def plain_section(table: str, lines: Iterable[str]) -> str:
    """Lines as one transaction of a table."""
    return "".join(line + "\n" for line in (f"*{table}", *lines, "COMMIT"))
