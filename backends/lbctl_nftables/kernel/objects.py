"""What a table of nf_tables holds, but for elements: its chains, rules, sets and other objects.

It is read by netlink; on a host where no program speaks that, as nft reports it (`described`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.lazy import imported_on_call
from lbctl_nftables.kernel import datatypes, netlink
from lbctl_nftables.kernel.values import (
    MAP,
    KernelChain,
    KernelFlowtable,
    KernelHook,
    KernelRule,
    Set,
)

# Few hosts need it: those where no program speaks netlink.
with imported_on_call(globals()):
    from lbctl_nftables.kernel.described import described_table, described_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from lbctl.host import Host
    from lbctl_nftables.kernel.values import KernelTable

#: NFT_TABLE_F_…
_DORMANT = 0x1
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
#: Those of family `netdev`.
_DEVICE_HOOKS = ("ingress", "egress")
_POLICIES = {0: "drop", 1: "accept"}
#: NFT_CHAIN_BASE of a chain's flags; another one would be for a chain of hardware or a nameless one.
_BASE = 0x1
#: NFT_OBJECT_…
_OBJECT_KINDS: Mapping[int, str] = {
    1: "counter",
    2: "quota",
    3: "ct helper",
    4: "limit",
    5: "connlimit",
    6: "tunnel",
    7: "ct timeout",
    8: "secmark",
    9: "ct expectation",
    10: "synproxy",
}

#: NFTA_CHAIN_…, NFTA_HOOK_…
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _CHAIN_FLAGS = 1, 3, 4, 5, 7, 10
_HOOK_NUMBER, _HOOK_PRIORITY, _HOOK_DEVICE, _HOOK_DEVICES = 1, 2, 3, 4
#: NFTA_RULE_…
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
#: NFTA_SET_…, NFTA_SET_DESC_SIZE, NFTA_LIST_ELEM, NFTA_EXPR_NAME
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_SIZE, _SET_DATA_TYPE, _SET_DATA_SIZE = range(1, 8)
_SET_POLICY, _SET_DESCRIPTION, _SET_TIMEOUT, _SET_INTERVAL, _SET_EXPRESSION, _SET_EXPRESSIONS = (
    8,
    9,
    11,
    12,
    17,
    18,
)
_SET_COUNT = 20
_DESCRIPTION_SIZE, _LIST_MEMBER, _EXPRESSION_NAME = 1, 1, 1
#: NFTA_OBJ_…, NFTA_FLOWTABLE_…
_OBJECT_TABLE, _OBJECT_NAME, _OBJECT_TYPE = 1, 2, 3
_FLOWTABLE_TABLE, _FLOWTABLE_NAME, _FLOWTABLE_HOOK, _FLOWTABLE_FLAGS = 1, 2, 3, 7
#: NFTA_FLOWTABLE_HOOK_DEVS; the other attributes of the hook have the numbers of those of a chain's.
_FLOWTABLE_DEVICES = 3


def requests(table: KernelTable) -> tuple[bytes, ...]:
    """Return the requests of `sets`, `chains`, `rules` and `others`."""
    family, name = table
    return (
        netlink.request(netlink.GET_SET, family, netlink.name(_SET_TABLE, name)),
        netlink.request(netlink.GET_CHAIN, family),
        netlink.request(netlink.GET_RULE, family, netlink.name(_RULE_TABLE, name)),
        netlink.request(netlink.GET_OBJECT, family, netlink.name(_OBJECT_TABLE, name)),
        netlink.request(netlink.GET_FLOWTABLE, family, netlink.name(_FLOWTABLE_TABLE, name)),
    )


def tables(host: Host) -> Collection[tuple[str, str]]:
    """Return the family and the name of each table; raises `ApplyFailed`."""
    return netlink.tables(host).keys() if host.speaks_netlink() else described_tables(host)


def is_dormant(host: Host, table: KernelTable) -> bool:
    """Return True if some process has put a table to sleep: the kernel acts on nothing of it."""
    if not host.speaks_netlink():
        return described_table(host, table).is_dormant
    return bool(netlink.tables(host).get(table, 0) & _DORMANT)


def chains(host: Host, table: KernelTable) -> Iterator[KernelChain]:
    """Yield the chains of a table in the kernel's order."""
    if not host.speaks_netlink():
        yield from described_table(host, table).chains
        return
    # No kernel up to 6.18 filters chains by their table.
    mine = table.name.encode(errors="surrogateescape") + b"\0"
    for message in netlink.dump(host, netlink.GET_CHAIN, netlink.NEW_CHAIN, table.family):
        fields = netlink.attributes(message.body)
        if message.family == table.family and fields[_CHAIN_TABLE] == mine:
            yield _chain(fields, table.family)


def chain(host: Host, table: KernelTable, name: str) -> KernelChain | None:
    """Return one chain; None if there is none."""
    if not host.speaks_netlink():
        return next((each for each in described_table(host, table).chains if each.name == name), None)
    filters = netlink.name(_CHAIN_TABLE, table.name) + netlink.name(_CHAIN_NAME, name)
    found = netlink.get(host, netlink.GET_CHAIN, netlink.NEW_CHAIN, table.family, filters)
    return _chain(netlink.attributes(found.body), table.family) if found else None


def _chain(fields: Mapping[int, bytes], family: str) -> KernelChain:
    hook = _hook(fields, family) if _CHAIN_HOOK in fields else None
    return KernelChain(name=netlink.text(fields[_CHAIN_NAME]), hook=hook)


def _hook(fields: Mapping[int, bytes], family: str) -> KernelHook:
    place = netlink.attributes(fields[_CHAIN_HOOK])
    number = netlink.number(place.get(_HOOK_NUMBER, b""))
    several = [value for _, value in netlink.each(place.get(_HOOK_DEVICES, b""))]
    devices = [netlink.text(device) for device in several or [place.get(_HOOK_DEVICE, b"")] if device]
    hooks = _DEVICE_HOOKS if family == "netdev" else _HOOKS
    more = devices if len(devices) != 1 else []
    flags = netlink.number(fields.get(_CHAIN_FLAGS, b"")) & ~_BASE
    more += [f"flags {flags:#x}"] if flags else []
    policy = netlink.number(fields.get(_CHAIN_POLICY, b""))
    return KernelHook(
        kind=netlink.text(fields.get(_CHAIN_TYPE, b"")),
        name=hooks[number] if number < len(hooks) else str(number),
        priority=int.from_bytes(place.get(_HOOK_PRIORITY, b""), "big", signed=True),
        policy=_POLICIES.get(policy, str(policy)),
        device=devices[0] if len(devices) == 1 else "",
        more=" ".join(more),
    )


def rules(host: Host, table: KernelTable, chain: str | None = None) -> Iterator[KernelRule]:
    """Yield the rules of a table, or of one of its chains, in order."""
    if not host.speaks_netlink():
        rules = described_table(host, table).rules
        yield from (rule for rule in rules if chain in {None, rule.chain})
        return
    filters = netlink.name(_RULE_TABLE, table.name)
    filters += netlink.name(_RULE_CHAIN, chain) if chain is not None else b""
    for message in netlink.dump(host, netlink.GET_RULE, netlink.NEW_RULE, table.family, filters):
        fields = netlink.attributes(message.body)
        mine = netlink.text(fields[_RULE_CHAIN])
        # Old kernels do not filter.
        if netlink.text(fields[_RULE_TABLE]) == table.name and chain in {None, mine}:
            handle = netlink.number(fields[_RULE_HANDLE])
            yield KernelRule(mine, handle, fields.get(_RULE_EXPRESSIONS, b""))


def sets(host: Host, table: KernelTable) -> dict[str, Set]:
    """Return the declarations of a table's sets and maps, anonymous ones too, by name."""
    if not host.speaks_netlink():
        return dict(described_table(host, table).sets)
    filters = netlink.name(_SET_TABLE, table.name)
    messages = netlink.dump(host, netlink.GET_SET, netlink.NEW_SET, table.family, filters)
    found = [netlink.attributes(message.body) for message in messages]
    declared = [_set(fields) for fields in found if netlink.text(fields[_SET_TABLE]) == table.name]
    return {each.name: each for each in declared}


def declaration(host: Host, table: KernelTable, name: str) -> Set | None:
    """Return the declaration of one set or map; None if there is none."""
    if not host.speaks_netlink():
        return described_table(host, table).sets.get(name)
    filters = netlink.name(_SET_TABLE, table.name) + netlink.name(_SET_NAME, name)
    found = netlink.get(host, netlink.GET_SET, netlink.NEW_SET, table.family, filters)
    return _set(netlink.attributes(found.body)) if found else None


def _set(fields: Mapping[int, bytes]) -> Set:
    def number(attribute: int) -> int:
        return netlink.number(fields.get(attribute, b""))

    flags, data_type = number(_SET_FLAGS), number(_SET_DATA_TYPE)
    is_verdict_map = bool(flags & MAP) and data_type == datatypes.VERDICT
    has_data = bool(flags & MAP) and not is_verdict_map
    description = netlink.attributes(fields.get(_SET_DESCRIPTION, b""))
    return Set(
        name=netlink.text(fields[_SET_NAME]),
        flags=flags,
        key_types=datatypes.names(number(_SET_KEY_TYPE)),
        key_size=number(_SET_KEY_SIZE),
        data_types=datatypes.names(data_type, number(_SET_DATA_SIZE)) if has_data else (),
        data_size=number(_SET_DATA_SIZE),
        is_verdict_map=is_verdict_map,
        size=netlink.number(description.get(_DESCRIPTION_SIZE, b"")),
        policy=number(_SET_POLICY),
        timeout=number(_SET_TIMEOUT),
        interval=number(_SET_INTERVAL),
        statements=tuple(_statements(fields)),
        count=number(_SET_COUNT) if _SET_COUNT in fields else None,
    )


def _statements(fields: Mapping[int, bytes]) -> Iterator[str]:
    """Yield the names of the expressions that a set has for its elements: one, or a list of several."""
    several = [
        value for kind, value in netlink.each(fields.get(_SET_EXPRESSIONS, b"")) if kind == _LIST_MEMBER
    ]
    for expression in (fields.get(_SET_EXPRESSION, b""), *several):
        found = netlink.attributes(expression).get(_EXPRESSION_NAME)
        if found:
            yield netlink.text(found)


def others(host: Host, table: KernelTable) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of each object of a table: counters, quotas and the like."""
    if not host.speaks_netlink():
        yield from described_table(host, table).others
        return
    filters = netlink.name(_OBJECT_TABLE, table.name)
    for message in netlink.dump(host, netlink.GET_OBJECT, netlink.NEW_OBJECT, table.family, filters):
        fields = netlink.attributes(message.body)
        if netlink.text(fields[_OBJECT_TABLE]) == table.name:
            kind = netlink.number(fields.get(_OBJECT_TYPE, b""))
            yield _OBJECT_KINDS.get(kind, f"object-{kind}"), netlink.text(fields[_OBJECT_NAME])


def flowtables(host: Host, table: KernelTable) -> Iterator[KernelFlowtable]:
    """Yield the flowtables of a table."""
    if not host.speaks_netlink():
        yield from described_table(host, table).flowtables
        return
    filters = netlink.name(_FLOWTABLE_TABLE, table.name)
    for message in netlink.dump(host, netlink.GET_FLOWTABLE, netlink.NEW_FLOWTABLE, table.family, filters):
        fields = netlink.attributes(message.body)
        if netlink.text(fields[_FLOWTABLE_TABLE]) == table.name:
            hook = netlink.attributes(fields[_FLOWTABLE_HOOK])
            yield KernelFlowtable(
                name=netlink.text(fields[_FLOWTABLE_NAME]),
                hook=netlink.number(hook[_HOOK_NUMBER]),
                priority=int.from_bytes(hook[_HOOK_PRIORITY], "big", signed=True),
                devices=tuple(netlink.each(hook.get(_FLOWTABLE_DEVICES, b""))),
                flags=netlink.number(fields.get(_FLOWTABLE_FLAGS, b"")),
            )
