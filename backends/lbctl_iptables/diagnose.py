"""Host → problems: foreign rules before lbctl's or against them, files that delete these, short lists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.host import applies_again, enabled, links_of
from lbctl.model import Severity
from lbctl.spi import Problem
from lbctl_iptables import drivers, layout
from lbctl_iptables.advice import short_lists
from lbctl_iptables.drivers.restore import legacy_kernel
from lbctl_rules.diagnosis import dropped, leftovers, taken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.spi import Case

#: The first kernel whose old interface is an option of its own (NETFILTER_XTABLES_LEGACY), off by default.
_LEAVING = (6, 17)
#: What the unit of a distribution loads when it starts: each table in it is replaced as a whole.
_FILES = (
    ("/etc/iptables/rules.v4", "netfilter-persistent"),
    ("/etc/iptables/rules.v6", "netfilter-persistent"),
    ("/etc/sysconfig/iptables", "iptables"),
    ("/etc/sysconfig/ip6tables", "ip6tables"),
    ("/etc/iptables/iptables.rules", "iptables"),
    ("/etc/iptables/ip6tables.rules", "ip6tables"),
)
#: Rules and chains that are told as evidence.
_SHOWN = 3


def diagnose(host: Host, driver: str, case: Case) -> Iterator[Problem]:
    """See `lbctl.spi.Reader`."""
    store = drivers.ALL[driver].store
    ours = store == case.store
    if ours:
        for service in case.services:
            if service.affinity is not None:
                yield from short_lists(host, (service.name,))
        yield from _restored(host)
    yield from _legacy(host, store, ours)
    if not host.may_change_network() or drivers.ALL[driver].find(host).reason:
        return
    owners: dict[str, list[str]] = {}
    saved = drivers.save_each(host, driver, layout.WORD.values())
    for family, word in layout.WORD.items():
        text = saved[word]
        foreign = _foreign_rules(text, case)
        if case.most_rules is not None and foreign > case.most_rules:
            continue
        if not foreign and not _is_telling(text, case):
            continue
        # Imported for foreign rules alone: what reads them is most of this backend.
        from lbctl_iptables import rivals

        places = rivals.read_dump(store.replace("iptables", word), text, family)
        for owner, chain in rivals.owned(places):
            owners.setdefault(owner, []).append(chain)
        yield from dropped(rivals.drops(places, family, (p for p in case.passages if p.family is family)))
        if case.store in {each.store for each in drivers.ALL.values()} and case.intent is not None:
            yield from rivals.marked(places, case.intent)
        if case.intent is not None and case.precedence >= layout.PRECEDENCE:
            yield from taken(case, rivals.rivals(places, family, case.intent.owner, store, ours=ours))
    shown = {owner: f"{store}: {', '.join(chains[:_SHOWN])}" for owner, chains in owners.items()}
    yield from leftovers(case, store, driver, shown)


def _foreign_rules(text: str, case: Case) -> int:
    """Return how many rules of a dump stand outside the chains of the intent's owner."""
    added = (line.partition("-A ")[2].split(" ", 1)[0] for line in text.split("\n") if "-A " in line)
    owner = case.intent.owner if case.intent is not None else None
    return sum(1 for chain in added if owner is None or not layout.owns(owner, chain))


def _is_telling(text: str, case: Case) -> bool:
    """Return True if a dump without foreign rules matters: by policies, or by chains of other owners."""
    if case.passages:
        return True
    owner = case.intent.owner if case.intent is not None else None
    chains = (line[1:].split(" ", 1)[0] for line in text.split("\n") if line.startswith(":"))
    found = {layout.owner_of(chain) for chain in chains}
    return not found <= {None, owner}


# -- what is ours and should not be, and what wipes ours


def boot_files(host: Host) -> tuple[str, ...]:
    """See `lbctl.spi.Migrator`."""
    return tuple(path for path, name in _FILES if host.exists(path) and enabled(host, f"{name}.service"))


def _restored(host: Host) -> Iterator[Problem]:
    """Files that replace the table that ours are in, whenever their unit starts."""
    host.expect(reads=[path for path, _ in _FILES], globs=[links_of(f"{name}.service") for _, name in _FILES])
    for path, name in _FILES:
        text, unit = host.read(path) or "", f"{name}.service"
        wanted = enabled(host, unit)
        if wanted is None or not re.search(r"(?m)^\*nat\b", text) or applies_again(host, unit):
            continue
        if any(layout.owner_of(line[1:].split(" ")[0]) for line in text.splitlines() if line[:1] == ":"):
            continue
        yield Problem(
            code="restore-wipes",
            severity=Severity.WARNING,
            message=f"{unit} replaces table nat, including rules of lbctl, when it starts or reloads",
            evidence=f"{path} has a section *nat and none of lbctl's chains; {wanted}",
            fix=f"enable lbctl.service (lbctl's packages and examples/systemd have it) with PartOf={unit}, "
            "which applies again; or remove *nat from that file",
        )


def _legacy(host: Host, store: str, ours: bool) -> Iterator[Problem]:
    """Yield the old interface: not in this kernel, though its tools are the host's; or about to go."""
    if store != drivers.ALL["legacy"].store:
        return
    release = (host.read("/proc/sys/kernel/osrelease") or "").strip()
    number = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if legacy_kernel(host):
        plain = host.which("iptables")
        version = host.run([plain, "--version"]).out.strip() if plain else ""
        if plain and "(nf_tables)" not in version:
            yield Problem(
                code="legacy-missing",
                severity=Severity.WARNING,
                message="iptables on this host is the legacy flavour, and its kernel has no such tables: "
                "other programs that use it fail",
                evidence=f"{plain} --version: {version}; {legacy_kernel(host)} ({release})",
                fix="choose the other flavour: on Debian, update-alternatives --config iptables",
            )
    elif ours and number >= _LEAVING:
        yield Problem(
            code="legacy-leaving",
            severity=Severity.WARNING,
            message="lbctl's rules are in legacy tables, which kernels leave out by default since Linux 6.17",
            evidence=f"kernel {release}",
            fix="use nftables, or the driver nf_tables of iptables",
        )
