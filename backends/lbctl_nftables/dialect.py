"""Which way of writing rules is right on this host, and how lbctl knows.

*Modern*: slot pages, that is, maps declared with `typeof`, counted and commented, whose data are an address
and a port (see `layout`). *Mark*: the same, with the keys of pages declared as marks. nft 1.1.7 writes the
keys of maps declared `typeof numgen` in the other byte order; nft 1.0.6 refuses marks as these keys; nft
1.1.3 does both rightly. *Classic*: none of these, for nft 0.9.2 and Linux 4.18 onwards (see `classic`).

Two answers, since looking must leave no trace: `hint` reads versions and serves everything that only looks
at files or works without privilege. Versions mislead, though: distributions carry features back, and a new
nft may run on an old kernel. So `ask` loads a small program into a table without hooks, which no packet ever
meets, reads back what became of it, and removes it. That happens once for each tool (`lbctl_nftables.tool`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lbctl.errors import ApplyFailed, NoBackend, StateUnknown
from lbctl.model import (
    Endpoint,
    Family,
    Forward,
    Intent,
    Listener,
    Program,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    State,
    diff,
)
from lbctl.spi import Capabilities
from lbctl.values import dataclass
from lbctl_nftables import drivers, layout, offload, script, tool
from lbctl_nftables.compile import compile_intent
from lbctl_nftables.kernel import objects
from lbctl_nftables.layout import Dialect
from lbctl_nftables.observe import observe

if TYPE_CHECKING:
    from lbctl.host import Host

#: What nftables can express; a dialect or a host may take from it.
CAPABILITIES = Capabilities(
    # By name: what this backend does not know yet is refused, and never rendered as something else.
    protocols=frozenset({Protocol.TCP, Protocol.UDP, Protocol.SCTP}),
    schedulers=frozenset(
        {
            Scheduler.ROUND_ROBIN,
            Scheduler.RANDOM,
            Scheduler.SOURCE_HASH,
            Scheduler.MAGLEV,
            Scheduler.LEAST_CONNECTIONS,
        }
    ),
    states=frozenset({State.ACTIVE, State.DRAIN, State.BACKUP}),
    source_nat=frozenset({SourceNat.HAIRPIN, SourceNat.ALWAYS, SourceNat.NEVER}),
    forwards=frozenset({Forward.NAT, Forward.DSR}),
    affinity=True,
    allow=True,
    deny=True,
    interfaces=True,
    exclude=True,
    port_ranges=True,
    kept_ports=True,
    takeover=True,
    offload=True,
    dialect=Dialect.MODERN,
)
#: No owner of an intent can have such a name. What follows is the thread that the table is for.
_OWNER = ".probe-"
#: Dialect → the first nft that is known to write it rightly, newest first; what is not known counts as old.
#: 0.9.8 refuses the modern one: `counter` in a map is of 1.0.0, a map of concatenated data behind `dnat` of
#: 1.0.1. 1.1.4 to 1.1.6 were not run: marks are right in 1.1.3 and in 1.1.7.
_SINCE = ((Dialect.MARK, (1, 1, 4)), (Dialect.MODERN, (1, 0, 6)), (Dialect.CLASSIC, (0, 9, 2)))
#: The first kernel with counters on the elements of a declared set; the other features are older.
_KERNEL = (5, 7)
#: What needs everything that one dialect writes and another one does not.
_SERVICES = (
    Service(
        name="local",
        listeners=(Listener(protocol=Protocol.TCP, port=80),),
        endpoints=(Endpoint(port=8001), Endpoint(port=8002)),
    ),
    Service(
        name="remote",
        listeners=(Listener(protocol=Protocol.UDP, port=53, address=ip_address("192.0.2.1")),),
        endpoints=tuple(Endpoint(address=ip_address(f"192.0.2.{n}"), port=53) for n in (2, 3)),
        scheduler=Scheduler.SOURCE_HASH,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectChoice:
    """The dialect to write, and why this one."""

    name: str
    reason: str
    #: Why the kernel takes no flowtable; "" if it does, or was not asked.
    offload_refusal: str = ""


def hint(nft: str | None, kernel: str) -> DialectChoice:
    """Return what the versions suggest; an unknown version counts as one that distributions ship today."""
    known = [text for text in (f"nft {nft}" if nft else "", f"Linux {kernel}" if kernel else "") if text]
    if kernel and _numbers(kernel) < _KERNEL:
        return DialectChoice(name=Dialect.CLASSIC, reason=f"Linux {kernel} is older than {_dotted(_KERNEL)}")
    if nft is None:
        return DialectChoice(name=Dialect.MODERN, reason=", ".join(known) or "no version is known")
    name = next((name for name, since in _SINCE if _numbers(nft) >= since), Dialect.CLASSIC)
    if name is Dialect.CLASSIC:
        return DialectChoice(name=name, reason=f"nft {nft} is older than {_dotted(_SINCE[1][1])}")
    return DialectChoice(name=name, reason=", ".join(known))


def for_version(nft: str) -> Dialect:
    """Return the dialect to write for an nft that cannot be asked, by its version.

    Raises `ValueError` for what is no version, and `NoBackend` for a release that is too old for any.
    """
    if not re.fullmatch(r"\d{1,4}(\.\d{1,4}){1,3}", nft, re.ASCII):
        raise ValueError(f'"{nft}" is not a version such as 1.0.6')
    found = next((name for name, since in _SINCE if _numbers(nft) >= since), None)
    if found is None:
        oldest = _dotted(_SINCE[-1][1])
        raise NoBackend(f"lbctl writes no rules for nft {nft}", hint=f"the oldest is nft={oldest}")
    return found


def ask(host: Host, driver: str) -> DialectChoice | None:
    """The dialect that this host's tool writes rightly; None if it writes none, which says nothing about it.

    A failure that has other reasons must not change all rules: a dialect is the answer only if its own
    program was read back as it was written.
    """
    known = tool.recall(host, driver)
    if known is not None:
        refusal = known.offload_refusal
        return DialectChoice(name=known.dialect, reason=known.reason, offload_refusal=refusal)
    _sweep(host, driver)
    wrong: list[str] = []
    for name in Dialect:
        wrong_with = fault(host, driver, name)
        if wrong_with is None:
            found = DialectChoice(
                name=name,
                reason=wrong[0] if wrong else "what nft wrote was read back",
                offload_refusal=_offload_refusal(host, driver),
            )
            record = tool.Record(
                dialect=found.name, reason=found.reason, offload_refusal=found.offload_refusal
            )
            tool.keep(host, driver, record)
            return found
        wrong.append(wrong_with)
    return None


def speaking(capabilities: Capabilities, name: str) -> Capabilities:
    """Return the capabilities in a dialect.

    A map that keeps a client's endpoint holds an address and a port, and a range of ports stands behind a
    protocol: such concatenations need nft 1.0.1 and 0.9.4. Quoted interfaces of a flowtable need nft 1.0.2.
    """
    concatenates = name != Dialect.CLASSIC
    return replace(
        capabilities,
        dialect=name,
        forwards=capabilities.forwards if concatenates else frozenset({Forward.NAT}),
        affinity=capabilities.affinity and concatenates,
        port_ranges=capabilities.port_ranges and concatenates,
        offload=capabilities.offload and concatenates,
        offload_refusal=capabilities.offload_refusal or ("" if concatenates else "it needs nft 1.0.2"),
    )


def program(name: str, owner: str = _OWNER) -> Program:
    """Return what a tool has to write rightly in a dialect: a small program without hooks."""
    services: tuple[Service, ...] = _SERVICES
    can = speaking(replace(CAPABILITIES, families=frozenset({Family.IPV4})), name)
    if can.affinity:
        services = tuple(replace(service, affinity=60) for service in services)
    compiled = compile_intent(Intent(services=services), can)
    return Program(owner, [i._replace(text="") if i.key[1] == "chain" else i for i in compiled.items])


def fault(host: Host, driver: str, name: str) -> str | None:
    """Return what is wrong with a dialect here: what the tool says, or what it wrote; None if it is right."""
    meant = program(name, f"{_OWNER}{host.task()}")
    try:
        drivers.load(host, driver, script.render(meant))
    except (ApplyFailed, StateUnknown) as error:
        return error.message
    try:
        wrong = diff(observe(host, driver, meant.owner), meant)
    except ApplyFailed as error:
        return error.message
    finally:
        drivers.load(host, driver, script.withdrawal(meant))
    return f"nft writes something else than requested: {' '.join(wrong[0].key)}" if wrong else None


def _offload_refusal(host: Host, driver: str) -> str:
    """Return why this tool and kernel take no flowtable, "" if they do. Nothing is written."""
    program = offload.probe(f"{_OWNER}{host.task()}")
    try:
        drivers.load(host, driver, script.render(program), check=True)
    except ApplyFailed as error:
        return f"this host takes no flowtable: {error.message}"
    return ""


def _sweep(host: Host, driver: str) -> None:
    """Remove the tables of probes that were killed."""
    for family, name in objects.tables(host):
        owner = layout.owner_of(family, name) or ""
        thread = owner.removeprefix(_OWNER)
        if owner.startswith(_OWNER) and not host.exists(f"/proc/{thread}"):
            drivers.load(host, driver, f"delete table {family} {name}\n")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
