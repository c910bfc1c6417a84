"""Which matches, targets, expressions and statements the readers understand, as a document."""

from collections.abc import Callable, Iterable

from lbctl.model import Analysis
from lbctl_iptables.reading import read as read_saved
from lbctl_nftables.reading.read import read as read_native
from support import extensions, nft_samples

_HEAD = """# What is understood

These tables are made by the readers themselves: each example is read in front of a ladder over two
endpoints, or as a condition of it. *Understood* is what leaves the shares exact, whatever it selects.
*Unknown* is what may match or not: the shares of the connections that it touches are not exact (`"exact":
false`); `depends_on` or `unsupported` names its line; nothing else changes by it. What is in no table is
unknown, too.
"""


def document() -> str:
    """The whole document."""
    matches = [each for each in extensions.SAMPLES if not each.target]
    targets = [each for each in extensions.SAMPLES if each.target]
    expressions = [each for each in nft_samples.SAMPLES if not each.statement]
    statements = [each for each in nft_samples.SAMPLES if each.statement]
    parts = [
        _HEAD,
        "## iptables 1.8: matches\n",
        _table((each.name, _shown(each), is_understood_saved(each)) for each in matches),
        "## iptables 1.8: targets\n",
        _table((each.name, _shown(each), is_understood_saved(each)) for each in targets),
        "## nftables 1.0.6: expressions\n",
        _table((each.name, each.text, is_understood_native(each)) for each in expressions),
        "## nftables 1.0.6: statements\n",
        _table((each.name, each.text, is_understood_native(each)) for each in statements),
    ]
    return "\n".join(parts)


def _shown(sample: extensions.Sample) -> str:
    """An example as it stands behind `-A chain`; the plain match of a protocol has its ports."""
    is_short = not sample.target and len(sample.text.split()) < 3
    return f"{sample.proto} {sample.text}".strip() if is_short else sample.text


def _table(rows: Iterable[tuple[str, str, bool]]) -> str:
    found: dict[str, tuple[list[str], list[str]]] = {}
    for name, text, understood in rows:
        found.setdefault(name, ([], []))[not understood].append(f"`{text}`".replace("|", "\\|"))
    lines = ["| name | understood | unknown |", "|---|---|---|"]
    for name, (good, bad) in sorted(found.items(), key=lambda item: item[0].lower()):
        lines.append(f"| {name} | {_cell(good)} | {_cell(bad)} |")
    return "\n".join([*lines, ""])


def _cell(texts: list[str]) -> str:
    return " · ".join(dict.fromkeys(texts))


def is_understood_saved(sample: extensions.Sample) -> bool:
    """True if a match or target of iptables leaves the shares of its ladder exact."""
    return _is_understood(sample.saved, sample.text, read_saved)


def is_understood_native(sample: nft_samples.Sample) -> bool:
    """True if an expression or statement of nft does."""
    return _is_understood(sample.native, sample.text, read_native)


def _is_understood(text: str, part: str, read: Callable[[str], Analysis]) -> bool:
    reading = read(text)
    ladder = [
        n for n, line in enumerate(text.split("\n"), 1) if part in line or "dnat to" in line or "DNAT" in line
    ]
    lost = {each.line for each in reading.unsupported} & set(ladder)
    mine = [each for each in reading.services if set(each.lines) & set(ladder)]
    return reading.accept and not lost and all(each.exact for each in mine)
