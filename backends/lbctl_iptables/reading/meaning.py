"""What one rule asks, in the order in which the kernel asks it, and what it then does: the values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from lbctl.model import decimal
from lbctl_iptables.reading import where as w

if TYPE_CHECKING:
    from fractions import Fraction

    from lbctl_iptables.reading.ruleset import Rule
    from lbctl_iptables.reading.where import Where


class Act(Enum):
    """What a rule does to a connection that it takes."""

    TO = "to"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    END = "end"
    MARK = "mark"
    GO_ON = "go on"
    UNKNOWN = "unknown"

    # Each is there once; that of Enum hashes its name, and is asked several times a rule.
    __hash__ = object.__hash__


#: Those of rules that lead into another chain.
LEADING = frozenset({Act.JUMP, Act.GOTO})


@dataclass(frozen=True, slots=True)
class Nth:
    """One of `every`, the one at place `packet`; or all others."""

    every: int
    packet: int
    inverted: bool


@dataclass(frozen=True, slots=True)
class Chance:
    """`stored` of 2^31; or all others."""

    stored: int
    inverted: bool
    #: As the rule has it.
    written: str


@dataclass(frozen=True, slots=True)
class Nodes:
    """Parts of the space of a hash, each from one fraction up to another; or all others."""

    key: tuple[str, int]
    total: int
    parts: tuple[tuple[Fraction, Fraction], ...]
    inverted: bool


@dataclass(frozen=True, slots=True)
class Marked:
    """The packet's mark, or the connection's."""

    connection: bool
    value: int
    mask: int
    inverted: bool


@dataclass(frozen=True, slots=True)
class Recent:
    """A list of clients: asked, or written to."""

    name: str
    asks: bool
    inverted: bool
    seconds: int | None
    by: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A condition behind a counter, a draw or a hash."""

    where: Where


Step: TypeAlias = "Nth | Chance | Nodes | Marked | Recent | Asked"
#: What a target does to a mark: (connection, operation, value, mask). Where one mark is copied to the other,
#: the bits of the packet's mark that take part are in the place of the value, the connection's in the mask.
Marking: TypeAlias = "tuple[bool, str, int, int]"


@dataclass(slots=True, eq=False)
class Meaning:
    """A rule, understood."""

    rule: Rule
    where: Where
    steps: tuple[Step, ...]
    act: Act
    #: True where a counter, a draw or a hash is asked.
    picks: bool
    #: True where a mark is asked for.
    asks_mark: bool
    #: Chain that it leads to, or the word of a verdict.
    target: str = ""
    action: str = ""
    #: Endpoints with their parts, where the target itself chooses.
    to: tuple[tuple[str, Fraction], ...] = ()
    own_mode: str = ""
    by: str = ""
    marking: Marking | None = None
    #: False where no new connection can match.
    possible: bool = True
    #: What is not understood, and why.
    unclear: tuple[str, str] | None = None
    #: What a finding should say about it: codes.
    remarks: tuple[str, ...] = ()
    #: True where one of its conditions always holds, at the hook that this is about.
    settled: bool = False

    def without(self, condition: tuple[str, str]) -> Meaning:
        """The same rule where a condition always holds."""
        if condition not in self.where.extra:
            return self
        extra = tuple(pair for pair in self.where.extra if pair != condition)
        return replace(self, where=self.where._replace(extra=extra), settled=True)

    @property
    def excepts(self) -> bool:
        """True where it sends all that it sees past the rules behind it."""
        return (self.act is Act.END or self.act is Act.RETURN) and not self.steps and self.unclear is None

    def whole(self, bits: int) -> Where | None:
        """All conditions, also those behind a counter; None where they exclude each other."""
        found: Where | None = self.where
        for step in self.steps:
            if isinstance(step, Asked) and found is not None:
                found = w.meet(found, step.where, bits)
        return found


def marked(marking: Marking, packet: int, connection: int) -> tuple[int, int]:
    """The packet's mark and the connection's, behind a rule that sets one of them."""
    of_connection, operation, value, mask = marking
    if operation == "save":
        return packet, (connection & ~mask) ^ (packet & value)
    if operation == "restore":
        return (packet & ~value) ^ (connection & mask), connection
    before = connection if of_connection else packet
    after = ((before & ~mask) | value if operation == "set" else (before & ~mask) ^ value) & 0xFFFFFFFF
    return (packet, after) if of_connection else (after, connection)


def masked(text: str) -> tuple[int, int]:
    """A mark and its mask, as written. Raises `ValueError`."""
    value, slash, mask = text.partition("/")
    return bits_of(value), bits_of(mask) if slash else 0xFFFFFFFF


def bits_of(text: str) -> int:
    """A mark, as written. Raises `ValueError`."""
    if len(text) > 12:
        raise ValueError(text[:12])
    octal = len(text) > 1 and text[0] == "0" and decimal(text, 12) is not None
    found = int(text, 8 if octal else 0)
    if not text.isascii() or not 0 <= found <= 0xFFFFFFFF:
        raise ValueError(text)
    return found
