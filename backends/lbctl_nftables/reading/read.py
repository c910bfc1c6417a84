"""A text → what its rules do: services, findings, and what was not understood."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.model import Analysis, Family
from lbctl_netfilter.analyse import Analyser
from lbctl_netfilter.budget import uncollected
from lbctl_netfilter.log import Log, Place
from lbctl_nftables.reading import checks, frames
from lbctl_nftables.reading.corrections import NftCorrections
from lbctl_nftables.reading.document import read_text
from lbctl_nftables.reading.listed import read_json
from lbctl_nftables.reading.lower import misplaced, program
from lbctl_nftables.recognize import is_json

if TYPE_CHECKING:
    from lbctl_netfilter import ir
    from lbctl_nftables.reading.document import Document

FORMAT = "nft"
#: Where a chain that is only named would be hooked by its name, as in rules for a table of another text.
_BY_NAME = {
    "prerouting": ("nat", "prerouting", -100),
    "output": ("nat", "output", -100),
    "postrouting": ("nat", "postrouting", 100),
}
#: A byte of zero, or one that is not UTF-8.
_NO_TEXT = re.compile("[\0\udc80-\udcff]")
#: Letters of a text for which it may take as many steps as for a rule.
_LETTERS = 40


def read(text: str, *, family: Family | None = None) -> Analysis:
    """See `lbctl.spi.Reader`. A text of nft says its families itself."""
    del family
    text = text.removeprefix("\ufeff")
    if (found := _NO_TEXT.search(text)) is not None:
        log = Log()
        place = Place(1 + text.count("\n", 0, found.start()))
        log.refuse("input-not-text", place, "there are bytes that are not text")
        return Analysis(format=FORMAT, accept=False, findings=log.finish())
    with uncollected():
        document = read_json(text) if is_json(text) else read_text(text)
        return read_document(document, len(text))


def read_document(document: Document, size: int) -> Analysis:
    """Return what the rules of a document do; `size` is that of its text, which bounds the work."""
    _suppose_hooks(document)
    count = sum(len(chain.rules) for table in document.tables.values() for chain in table.chains.values())
    analysis = Analyser(document.log, NftCorrections(document), count, work=max(count, size // _LETTERS))
    checks.of_document(document)
    rules: list[ir.Rule] = []
    chains: dict[str, ir.Chain] = {}
    for family in Family:
        made = program(document, family, max(count, size // _LETTERS))
        rules += [rule for chain in made.chains.values() for rule in chain.rules]
        chains |= made.chains
        for rule, reason in misplaced(made):
            analysis.ledger.lose(rule, *reason)
        for chain in made.chains.values():
            for rule in chain.rules:
                if rule.opaque and "elsewhere" in rule.remarks:
                    analysis.ledger.lose(rule, *rule.opaque)
                elif rule.action == frames.ACTION:
                    # It may be for later packets of connections alone, which are not followed.
                    analysis.ledger.touch(rule)
        analysis.add(made)
    analysis.finish()
    checks.of_others(document)
    checks.of_rules(document, rules, chains, analysis.ledger.is_lost)
    analysis.correct()
    return Analysis(
        format=FORMAT,
        accept=document.log.accept,
        services=analysis.services,
        findings=document.log.finish(),
        unsupported=tuple(dict.fromkeys(document.log.unsupported)),
        untouched_rules=analysis.untouched,
    )


def _suppose_hooks(document: Document) -> None:
    """Chains that are not declared in the text, but named like hooks, are taken for chains of these."""
    for table in document.tables.values():
        for chain in table.chains.values():
            supposed = _BY_NAME.get(chain.name.lower())
            if not chain.declared and supposed and chain.rules:
                chain.kind, chain.hook, chain.priority = supposed
                message = f"chain {chain.name} is not declared in this text; "
                message += f"taken for the {chain.hook} hook of NAT"
                first = chain.rules[0]
                document.log.find("partial-dump", first, message)
