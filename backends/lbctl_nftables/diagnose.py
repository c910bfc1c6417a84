"""Host → problems: foreign rules before lbctl's or against them, files that delete these, full maps."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from lbctl.host import ModuleState, kernel_module
from lbctl.model import Forward, Severity
from lbctl.spi import Problem
from lbctl_nftables import drivers, layout
from lbctl_nftables.flush_hazard import flush_hazard
from lbctl_nftables.kernel import elements, netlink, objects
from lbctl_nftables.kernel.values import KernelTable
from lbctl_nftables.observe import tables
from lbctl_nftables.reading.dump import listed
from lbctl_rules.diagnosis import dropped, leftovers, taken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.model import Intent
    from lbctl.spi import Case

#: The stores that live in nf_tables: what flushes all of it takes both.
_IN_NF_TABLES = {layout.NAME, "iptables-nft"}
#: A map of clients that is filled to this part is as good as full.
_FULL = 0.9


def diagnose(host: Host, driver: str, case: Case) -> Iterator[Problem]:
    """See `lbctl.spi.Reader`."""
    if case.store in _IN_NF_TABLES:
        yield from flush_hazard(host)
    if not host.may_change_network() or drivers.ALL[driver].find(host)[1]:
        return
    if kernel_module(host, "nf_tables") is ModuleState.LOADABLE:
        # To ask for tables would load it.
        return
    netlink.expect(host, [netlink.request(netlink.GET_TABLE)] * 2)
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
    if text:
        # Imported for foreign rules alone: what reads them is most of this backend.
        from lbctl_nftables.rivals import ListedRules

        places = ListedRules(text, shared=host.which("iptables-nft-save") is not None)
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
        for word, name in objects.tables(host)
        if owner is None or layout.owner_of(word, name) != owner
        for rule in objects.rules(host, KernelTable(word, name))
    )
    return next(islice(found, most, None), None) is not None


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
                    message=f"this service is near its limit of {layout.MAX_FLOWS:,} learned connections: "
                    "further ones are placed by a hash of the client",
                    evidence=f"{where}: {known:,} connections",
                    fix="use scheduler source-hash or maglev, which remember no connections",
                )


def _full_map(service: str, evidence: str) -> Problem:
    most = f"{layout.AFFINITY_SIZE:,}"
    return Problem(
        code="affinity-map-full",
        severity=Severity.WARNING,
        service=service,
        message=f"this service is near its limit of {most} remembered clients: "
        "further clients are balanced as new ones",
        evidence=evidence,
        fix="shorten affinity, so that clients are forgotten sooner; or use scheduler source-hash, which "
        "remembers none",
    )
