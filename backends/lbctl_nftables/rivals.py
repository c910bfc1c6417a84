"""Foreign rules as nft lists them: which translate before lbctl's, and which drop what these let pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.model import Family
from lbctl_netfilter import filters
from lbctl_nftables import layout
from lbctl_nftables.reading.corrections import read_of
from lbctl_nftables.reading.document import read_text
from lbctl_nftables.reading.lower import program
from lbctl_nftables.reading.read import read_document
from lbctl_rules.diagnosis import Rival

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lbctl.spi import Passage
    from lbctl_nftables.reading.document import Document, NftChain, NftRule, NftTable

#: Where new connections are translated: at arrival, and on their way out of this host.
_HOOKS = {"prerouting", "output"}
#: The tables of iptables-nft, whose base chains are in capitals.
_IPTABLES = {"raw", "mangle", "nat", "filter", "security"}
#: Rules that are shown as evidence.
_SHOWN = 3
_HANDLE = re.compile(r"# handle (\d+)\s*\Z")


class ListedRules:
    """The rules of a listing, and where each stands."""

    def __init__(self, text: str, *, shared: bool) -> None:
        self._text = text
        #: True where another store's own reader looks after the tables of iptables-nft.
        self._shared = shared
        self._lines = text.split("\n")

    def _document(self) -> Document:
        document = read_text(self._text)
        if self._shared:
            document.tables = {k: t for k, t in document.tables.items() if not _is_of_iptables(t)}
        return document

    def drops(self, passages: Iterable[Passage]) -> Iterator[tuple[Passage, str]]:
        """Yield the passages that surely are dropped, and by what."""
        document = self._document()
        programs = {family: program(document, family, 0) for family in Family}
        chains = {chain.place: chain for chain in _chains(document)}
        for passage in passages:
            given = filters.packet(
                passage.family,
                passage.protocol,
                passage.address,
                passage.port,
                passage.incoming,
                passage.outgoing,
            )
            hook = "forward" if passage.outgoing else "input"
            found = filters.dropped(programs[passage.family], given, hook)
            if found is not None:
                rule = read_of(found.rule) if found.rule is not None else None
                place = rule.place if rule is not None else found.base.chain
                yield passage, self._evidence(chains[place], rule)

    def rivals(self, precedence: int) -> Iterator[Rival]:
        """Rules that translate before ours, and those that do at the same point."""
        yield from self._rivals(lambda priority: priority < precedence, certain=True)
        yield from self._rivals(lambda priority: priority == precedence, certain=False)

    def _rivals(self, acts: Callable[[int], bool], *, certain: bool) -> Iterator[Rival]:
        document = self._document()
        for chain in _chains(document):
            if chain.kind == "nat" and not (chain.hook in _HOOKS and acts(chain.priority)):
                # Still there for those that jump to it, but the kernel does not call it.
                chain.kind = chain.hook = ""
        by_line = {rule.line: (chain, rule) for chain in _chains(document) for rule in chain.rules}
        for service in read_document(document, len(self._text)).services:
            if not service.backends or service.action not in {"dnat", "redirect", "mixed", "dsr"}:
                continue
            if service.action == "dsr" and not certain:
                # What is sent on at ingress never comes to a translation: it is among those before ours.
                continue
            rules = [by_line[line] for line in (service.picking or service.lines)[:_SHOWN]]
            yield Rival(
                service=service,
                source=layout.NAME,
                rules=tuple(self._evidence(*each) for each in rules),
                deletions=tuple(filter(None, (self._deletion(*each) for each in rules))),
                certain=certain,
                owner=layout.owner_of(rules[0][0].family, rules[0][0].table) if rules else None,
            )

    def _evidence(self, chain: NftChain, rule: NftRule | None) -> str:
        """Return a rule with its place, or a base chain's policy."""
        hook = f" (hook {chain.hook}, priority {chain.priority})" if chain.hook else ""
        where = f"nft table {chain.family} {chain.table}, chain {chain.name}{hook}"
        if rule is None:
            return f"{where}: policy {chain.policy}, and no rule accepts"
        handle = self._handle(rule)
        return f"{where}{f', handle {handle}' if handle else ''}: {rule.text}"

    def _deletion(self, chain: NftChain, rule: NftRule) -> str | None:
        handle = self._handle(rule)
        return (
            f"nft delete rule {chain.family} {chain.table} {chain.name} handle {handle}" if handle else None
        )

    def _handle(self, rule: NftRule) -> str | None:
        found = _HANDLE.search(self._lines[rule.line - 1])
        return found[1] if found else None


def _is_of_iptables(table: NftTable) -> bool:
    """Return True for a table that iptables-nft takes for its own. nft 1.0.6 says so of some alone."""
    bases = [chain.name for chain in table.chains.values() if chain.hook]
    return table.name in _IPTABLES and bool(bases) and all(name.isupper() for name in bases)


def _chains(document: Document) -> Iterator[NftChain]:
    return (chain for table in document.tables.values() for chain in table.chains.values())
