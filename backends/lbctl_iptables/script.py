"""Items → text for `iptables-restore --noflush`: the one writer, for what is shown and for what is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_iptables import layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbctl.model import Change, Item, Program
    from lbctl_iptables.rules import Rule

_HEADER = """\
# Load with: iptables-restore --noflush FILE; ip6tables-restore --noflush FILE
# Each of the two skips the lines that begin with the other one's option, -4 or -6.
"""
_OPTION = {"iptables": "-4 ", "ip6tables": "-6 "}


def render(program: Program) -> str:
    """A program as one text for both families."""
    if not program:
        return ""
    families: dict[str, dict[tuple[str, ...], Item]] = {}
    for item in program.items:
        families.setdefault(item.key[0], {})[item.key[1:]] = item
    keys = dict.fromkeys(key for items in families.values() for key in items)
    lines: list[str] = []
    for key in (key for key in keys if key[0] == "chain"):
        words = [word for word, items in families.items() if key in items]
        # A line that begins with a colon takes no option.
        one = f"{_OPTION[words[0]]}-N {key[1]}"
        lines.append(f":{key[1]} - [0:0]" if len(words) == len(layout.WORD) else one)
    for key in keys:
        texts = {word: items[key].text for word, items in families.items() if key in items}
        if len(texts) == len(layout.WORD) and len(set(texts.values())) == 1:
            lines += _add(key, next(iter(texts.values())))
        else:
            for word, text in texts.items():
                lines += [_OPTION[word] + line for line in _add(key, text)]
    return _HEADER + _transaction(lines)


def transaction(word: str, changes: Sequence[Change], counted: Mapping[str, Sequence[Rule]]) -> str:
    """The script that carries out the changes of one family; empty where there is none.

    `counted` holds the rules, with counters and turns, of the chains to write; it may name more chains than
    the changes do.
    """
    mine = [change for change in changes if change.key[0] == word]
    if not mine:
        return ""
    gone = [change.key[2] for change in mine if change.key[1] == "chain" and change.after is None]
    # Behind --noflush, naming a chain makes it, or empties it where it is there already.
    lines = [f":{chain} - [0:0]" for chain in (*counted, *gone)]
    for chain, rules in counted.items():
        lines += [f"[{rule.packets}:{rule.bytes}] -A {chain} {rule.text}" for rule in rules]
    for change in mine:
        if change.key[1] == "jump":
            if change.before is not None:
                lines.append(f"-D {change.key[2]} {change.before.text}")
            if change.after is not None:
                lines += _add(change.key[1:], change.after.text)
    lines += [f"-X {chain}" for chain in gone]
    return _transaction(lines)


def _add(key: tuple[str, ...], text: str) -> list[str]:
    if key[0] == "jump":
        # First in its chain: a declared listener wins over what stood there.
        return [f"-I {key[1]} 1 {text}"]
    return [f"-A {key[1]} {line}" for line in text.split("\n") if line]


def _transaction(lines: Iterable[str]) -> str:
    return "".join(line + "\n" for line in ("*nat", *lines, "COMMIT"))
