"""Host → problems: foreign rules before lbctl's or against them, files that delete these, full maps."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from lbctl.host import ModuleState, kernel_module
from lbctl.model import Family, Forward, Severity
from lbctl.spi import Problem
from lbctl_netfilter import filters
from lbctl_nftables import drivers, layout
from lbctl_nftables.flush_hazard import flush_hazard
from lbctl_nftables.kernel import elements, netlink, objects
from lbctl_nftables.observe import tables
from lbctl_nftables.reading.corrections import read_of
from lbctl_nftables.reading.document import read_text
from lbctl_nftables.reading.dump import listed
from lbctl_nftables.reading.lower import program
from lbctl_nftables.reading.read import read_document
from lbctl_rules.diagnosis import Rival, dropped, leftovers, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lbctl.host import Host
    from lbctl.model import Intent
    from lbctl.spi import Case, Passage
    from lbctl_nftables.reading.document import Document, NftChain, NftRule, NftTable

#: Where new connections are translated: at arrival, and on their way out of this host.
_HOOKS = {"prerouting", "output"}
#: The stores that live in nf_tables: what flushes all of it takes both.
_IN_NF_TABLES = {layout.NAME, "iptables-nft"}
#: The tables of iptables-nft, whose base chains are in capitals.
_IPTABLES = {"raw", "mangle", "nat", "filter", "security"}
#: Rules that are told as evidence.
_SHOWN = 3
#: A map of clients that is filled to this part is as good as full.
_FULL = 0.9
_HANDLE = re.compile(r"# handle (\d+)\s*\Z")


def diagnose(host: Host, driver: str, case: Case) -> Iterator[Problem]:
    """See `lbctl.spi.Reader`."""
    if case.store in _IN_NF_TABLES:
        yield from flush_hazard(host)
    if not host.may_change_network() or drivers.ALL[driver].find(host)[1]:
        return
    if kernel_module(host, "nf_tables") is ModuleState.LOADABLE:
        # To ask for tables would load it.
        return
    if case.most_rules is not None and _more_than(host, case, case.most_rules):
        return
    owners: dict[str, list[str]] = {}

    def is_ours(family: str, name: str) -> bool:
        owner = layout.owner_of(family, name)
        if owner is not None:
            owners.setdefault(owner, []).append(f"table {family} {name}")
        # To list ours may take long, and there is nothing in it that is asked for here.
        return case.intent is not None and owner == case.intent.owner

    text = "".join(table.text for table in listed(host, driver, but=is_ours, handles=True))
    shown = {owner: f"nft list tables: {', '.join(tables)}" for owner, tables in owners.items()}
    yield from leftovers(case, layout.NAME, driver, shown)
    places = _ListedRules(text, shared=host.which("iptables-nft-save") is not None)
    yield from dropped(places.drops(case.passages))
    if case.intent is not None:
        yield from taken(case, places.rivals(case.precedence))
    if case.store == layout.NAME and case.intent is not None:
        yield from _full_maps(host, case.intent)
        yield from _full_flows(host, case.intent)


def _more_than(host: Host, case: Case, most: int) -> bool:
    """Return True if the tables besides those of the intent's owner have more rules than `most`."""
    owner = case.intent.owner if case.intent is not None else None
    found = (
        rule
        for word, name in netlink.tables(host)
        if owner is None or layout.owner_of(word, name) != owner
        for rule in objects.rules(host, objects.KernelTable(word, name))
    )
    return next(islice(found, most, None), None) is not None


class _ListedRules:
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
            if not service.backends or service.action not in {"dnat", "redirect", "mixed"}:
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


def _full_maps(host: Host, intent: Intent) -> Iterator[Problem]:
    """Yield a map of clients that is full places further ones as without affinity."""
    kept = {layout.affinity(s.name, layout.EndpointKind.of(s)): s.name for s in intent.services if s.affinity}
    for table in tables(host, intent.owner) if kept else ():
        for name, declared in objects.sets(host, table).items():
            clients = len(elements.elements(host, table, declared)) if name in kept else 0
            if clients >= layout.AFFINITY_SIZE * _FULL:
                where = f"map {name} in table {table.family} {table.name}"
                yield _full_map(kept[name], f"{where}: {clients:,} clients")


def _full_flows(host: Host, intent: Intent) -> Iterator[Problem]:
    """Yield maps of connections at ingress that are full."""
    learning = [s for s in intent.services if s.forward is Forward.DSR and not s.moves_connections]
    maps = {
        layout.flows(f"flows-{protocol}", service.name): service.name
        for service in learning
        for family in service.families
        for protocol in service.protocols_of(family)
    }
    for table in tables(host, intent.owner) if maps else ():
        for name, declared in objects.sets(host, table).items():
            known = len(elements.elements(host, table, declared)) if name in maps else 0
            if known >= layout.MAX_FLOWS * _FULL:
                where = f"map {name} in table {table.family} {table.name}"
                yield Problem(
                    code="flows-full",
                    severity=Severity.WARNING,
                    service=maps[name],
                    message=f"this service has nearly all of the {layout.MAX_FLOWS:,} connections that are "
                    "known of one: others go by a hash of the client",
                    evidence=f"{where}: {known:,} connections",
                    fix="the schedulers source-hash and maglev need no memory",
                )


def _full_map(service: str, evidence: str) -> Problem:
    most = f"{layout.AFFINITY_SIZE:,}"
    return Problem(
        code="affinity-map-full",
        severity=Severity.WARNING,
        service=service,
        message=f"this service has nearly all of the {most} clients that the kernel remembers for one: "
        "other clients are balanced as new ones",
        evidence=evidence,
        fix="a shorter affinity forgets clients sooner; the scheduler source-hash needs no memory",
    )
