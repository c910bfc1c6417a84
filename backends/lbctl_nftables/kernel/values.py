"""What a table of nf_tables holds, as values: however it was read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lbctl.values import dataclass
from lbctl_nftables.kernel import datatypes, netlink

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: NFT_SET_…
ANONYMOUS, CONSTANT, INTERVAL, MAP, TIMEOUT, DYNAMIC, _OBJECTS = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20, 0x40
FLAGS: Mapping[int, str] = {
    CONSTANT: "constant",
    INTERVAL: "interval",
    TIMEOUT: "timeout",
    DYNAMIC: "dynamic",
    _OBJECTS: "objects",
}
#: Of nft's sizes: what it fills in for a dynamic set that is declared without one.
_UNSIZED = {0, 65535}
#: NFT_SET_ELEM_INTERVAL_END of an element's flags: its key is the first behind an interval.
_INTERVAL_END = 0x1
#: NFTA_DEVICE_NAME.
_DEVICE_NAME = 1
_VERDICTS: Mapping[int, str] = {
    0: "drop",
    1: "accept",
    3: "queue",
    -1 & 0xFFFFFFFF: "continue",
    -2 & 0xFFFFFFFF: "break",
    -3 & 0xFFFFFFFF: "jump",
    -4 & 0xFFFFFFFF: "goto",
    -5 & 0xFFFFFFFF: "return",
}
#: The words of verdicts → the attribute NFTA_VERDICT_CODE.
VERDICT_CODES: Mapping[str, bytes] = {word: code.to_bytes(4, "big") for code, word in _VERDICTS.items()}


class KernelTable(NamedTuple):
    """The family and the name of a table."""

    family: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHook:
    """Where the kernel calls a chain. A policy, a hook or a flag without a name has its number."""

    kind: str
    name: str
    priority: int
    policy: str
    #: The interface of a chain at ingress that has exactly one.
    device: str = ""
    #: What else the chain has: several devices, and flags that say more than that it has a hook.
    more: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChain:
    """A chain; without `hook` only rules and elements lead to it."""

    name: str
    hook: KernelHook | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFlowtable:
    """A flowtable. The hook is NF_NETDEV_…, devices are attributes NFTA_DEVICE_…, flags NFT_FLOWTABLE_…."""

    name: str
    hook: int
    priority: int
    devices: tuple[tuple[int, bytes], ...]
    flags: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its interfaces."""
        return tuple(netlink.text(name) for kind, name in self.devices if kind == _DEVICE_NAME)

    @property
    def more(self) -> str:
        """What it has that nothing of lbctl's has; "" for nothing."""
        others = [f"[device {kind}={name.hex()}]" for kind, name in self.devices if kind != _DEVICE_NAME]
        return " ".join(
            [
                *([f"[hook {self.hook}]"] if self.hook else []),
                *([f"[flags {self.flags:#x}]"] if self.flags else []),
                *others,
            ]
        )


class KernelRule(NamedTuple):
    """One rule of a chain: its attribute NFTA_RULE_EXPRESSIONS as it is."""

    chain: str
    handle: int
    expressions: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """The declaration of a set or map. Sizes of keys and data are in bytes, times in milliseconds."""

    name: str
    flags: int
    key_types: tuple[str, ...]
    key_size: int
    #: Empty for a set and for a map of verdicts.
    data_types: tuple[str, ...]
    data_size: int
    is_verdict_map: bool
    size: int
    policy: int
    timeout: int
    interval: int
    #: The names of the expressions that each element carries.
    statements: tuple[str, ...]
    #: How many elements the kernel counts; None before Linux 6.17. Intervals are two elements each, so that
    #: one without an end, as of 0.0.0.0/0, is none.
    count: int | None = None

    @property
    def kind(self) -> str:
        return "map" if self.flags & MAP else "set"

    @property
    def is_anonymous(self) -> bool:
        return bool(self.flags & ANONYMOUS)

    @property
    def is_dynamic(self) -> bool:
        return bool(self.flags & DYNAMIC)

    @property
    def is_interval(self) -> bool:
        return bool(self.flags & INTERVAL)

    def lines(self) -> tuple[str, ...]:
        """Return the declaration in nft's syntax, with `type` for what may have been `typeof`."""
        return tuple(self._lines())

    def _lines(self) -> Iterator[str]:
        data = "verdict" if self.is_verdict_map else " . ".join(self.data_types)
        yield f"type {' . '.join(self.key_types)}{f' : {data}' if self.flags & MAP else ''}"
        if not self.has_sizes_of_types:
            yield f"bytes {self.key_size} : {self.data_size}"
        yield from self.statements
        if self.size not in _UNSIZED:
            yield f"size {self.size}"
        flags = [word for bit, word in FLAGS.items() if self.flags & bit]
        if flags:
            yield f"flags {','.join(flags)}"
        if self.timeout:
            yield f"timeout {self.timeout}ms"
        if self.interval:
            yield f"gc-interval {self.interval}ms"
        if self.policy:
            yield "policy memory"

    @property
    def has_sizes_of_types(self) -> bool:
        """True if keys and data are as long as their types say."""
        data = not self.flags & MAP or self.is_verdict_map or datatypes.size_of(self.data_types)
        return datatypes.size_of(self.key_types) == self.key_size and data in {True, self.data_size}


class KernelElement(NamedTuple):
    """An element as the kernel holds it; what it lacks is empty. The order is the kernel's of attributes."""

    key: bytes
    #: The last key, of a range of concatenations.
    key_end: bytes
    value: bytes
    code: bytes
    #: With its terminating zeros, as `comment`.
    chain: bytes
    #: Of its counter.
    octets: bytes
    packets: bytes
    flags: bytes
    #: Milliseconds.
    timeout: bytes
    expiration: bytes
    comment: bytes
    #: The names or numbers of what else it has.
    more: bytes = b""

    @property
    def ends_interval(self) -> bool:
        return bool(netlink.number(self.flags) & _INTERVAL_END)


def verdict(code: bytes, chain: bytes) -> str:
    """Return the text of a verdict."""
    number = netlink.number(code)
    word = _VERDICTS.get(number, f"verdict-{number:#x}")
    return f"{word} {netlink.text(chain)}" if chain else word
