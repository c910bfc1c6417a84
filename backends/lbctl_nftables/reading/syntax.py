"""What the statements of a rule say: one value for each, whichever of nft's languages it was written in."""

from __future__ import annotations

from typing import TypeAlias

from lbctl.values import dataclass

#: A value, or the parts of a concatenation, as written: addresses, numbers, ranges `a-b`, names.
Key: TypeAlias = tuple[str, ...]
#: The element of a set or map for all that no other one is for. It stands for no value anywhere else.
ANYTHING: Key = ("*",)


class UnsupportedSyntax(ValueError):
    """Something that the grammar here does not have; the message is the word, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Field:
    """Something of a packet: `ip daddr`, `th dport`, `iifname`, `fib daddr type`."""

    name: str


@dataclass(frozen=True, slots=True)
class NumberExpression:
    """A number from 0 to `modulus` - 1, plus `offset`.

    `kind` is `inc`, `random`, `jhash` or `symhash`; `of` is what is hashed. Each place in the rules has a
    counter of its own.
    """

    kind: str
    modulus: int
    offset: int = 0
    of: str = ""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Masked:
    """Some bits of a field."""

    field: Field
    mask: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Several fields side by side."""

    parts: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class NftVerdict:
    """`accept`, `drop`, `return`, `continue`, or `jump` and `goto` with a chain's name."""

    kind: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Element:
    """A member of a set or map. `data` is None in a set."""

    key: Key
    data: NftVerdict | Key | None = None
    comment: str = ""

    @property
    def text(self) -> str:
        """The key and data, as written."""
        data = self.data
        if isinstance(data, NftVerdict):
            return f"{' . '.join(self.key)} : {data.kind}{data.target and f' {data.target}'}"
        return f"{' . '.join(self.key)} : {' . '.join(data or ())}"


@dataclass(frozen=True, slots=True)
class Ref:
    """A set or map that is declared elsewhere."""

    name: str


Members: TypeAlias = Ref | tuple[Element, ...]
Source: TypeAlias = Field | NumberExpression | Masked | Concat


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a map has for a key."""

    key: Source
    members: Members


Operand: TypeAlias = Key | Lookup | NumberExpression


@dataclass(frozen=True, slots=True)
class Computed:
    """A mark made of the packet's (`meta`) or the connection's (`ct`): some of its bits, some turned over."""

    of: str
    mask: int
    flip: int


@dataclass(frozen=True, slots=True)
class Relational:
    """A condition. `op` is `==`, `!=`, `<`, `>`, `<=` or `>=`; `text` its words."""

    key: Source
    op: str
    members: Members
    text: str


@dataclass(frozen=True, slots=True)
class Vmap:
    """A look-up whose data are verdicts."""

    key: Source
    members: Members


@dataclass(frozen=True, slots=True)
class Nat:
    """`dnat`, `redirect`, `snat` or `masquerade`."""

    kind: str
    address: Operand | None = None
    port: Operand | None = None
    family: str = ""
    flags: frozenset[str] = frozenset()

    @property
    def picks(self) -> list[NumberExpression]:
        """The numbers that are picked before anything else of it is looked at."""
        lookups = [each for each in (self.address, self.port) if isinstance(each, Lookup)]
        return [each.key for each in lookups if isinstance(each.key, NumberExpression)]


@dataclass(frozen=True, slots=True)
class FrameStatement:
    """Writes MAC addresses of a frame: `daddr` is True if the destination's is among them."""

    daddr: bool
    value: Operand


@dataclass(frozen=True, slots=True)
class Forwarding:
    """`fwd`: sends a packet out by a link, to a neighbour of some family if one is given."""

    device: Operand
    address: Operand | None = None
    family: str = ""


@dataclass(frozen=True, slots=True)
class MarkStatement:
    """`where` is `meta` or `ct`. No value: one that depends on the packet."""

    where: str
    value: Operand | Computed | None


@dataclass(frozen=True, slots=True)
class Update:
    """A packet adds its own element to a set or map. `key` names fields, as `iif . iif`."""

    name: str
    key: str
    timeout: int | None
    #: A rate or a number of connections beyond which it does not match.
    limited: str = ""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate, a quota or a number of connections, beyond which the rule does not match, or does."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The rest of a rule from a word on that is not known."""

    text: str


Statement: TypeAlias = (
    Relational
    | Vmap
    | NftVerdict
    | Nat
    | FrameStatement
    | Forwarding
    | MarkStatement
    | Update
    | RateLimit
    | Unknown
)


def picks(statement: Statement) -> bool:
    """Return True for a statement that picks a number."""
    parts = [getattr(statement, name, None) for name in ("key", "value", "address", "port", "device")]
    return any(isinstance(getattr(part, "key", part), NumberExpression) for part in parts)
