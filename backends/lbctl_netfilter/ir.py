"""The intermediate representation: what the rules of one family ask, in the kernel's order, and what they do.

    Program = bases: what the kernel calls at each hook, by priority; chains: rules, by name
    Rule    = where: all conditions before the first pick; steps, in written order; act

Where a rule of a syntax looks something up by fields, a front end makes a rule for each element; a look-up by
a picked number is a `Switch`.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from lbctl.values import dataclass
from lbctl_netfilter.conditions import Selector, Spans, meet
from lbctl_netfilter.log import Written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from fractions import Fraction

    from lbctl.model import Family
    from lbctl.model.analysis import Placing
    from lbctl_netfilter.marks import Marking


class Act(Enum):
    """What a rule does to the connections that match all of it."""

    TO = "to"
    SWITCH = "switch"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    ACCEPT = "accept"
    DROP = "drop"
    GO_ON = "go on"
    UNKNOWN = "unknown"

    # Each is there once; that of Enum hashes its name, and is asked several times a rule.
    __hash__ = object.__hash__


#: Those of rules that lead into another chain.
JUMPS = frozenset({Act.JUMP, Act.GOTO})
#: Those of rules behind which the rest of a chain sees nothing.
ENDS = frozenset({Act.ACCEPT, Act.DROP, Act.RETURN})


class PickKind(Enum):
    """How a number is picked."""

    COUNTER = "counter"
    DICE = "dice"
    HASH = "hash"

    __hash__ = object.__hash__


#: What a service says of it.
MODES: Mapping[PickKind, str] = {PickKind.COUNTER: "nth", PickKind.DICE: "random", PickKind.HASH: "hash"}


class Pick(NamedTuple):
    """A number below `modulus`, picked for each connection that comes to it.

    `key` tells counters and hashes apart: of two hashes with one key, a client has the same place in both.
    None for a counter of the very rule and step.
    """

    kind: PickKind
    modulus: int
    key: object = None
    #: What is hashed, in words; "" where clients are not kept by it.
    by: str = ""
    #: The seed of a hash, and which slot a client has by it, where that is known.
    seed: int | None = None
    placing: Placing | None = None


class Draw(NamedTuple):
    """Matches where the picked number is one of `hits`."""

    pick: Pick
    hits: Spans


class DrawMark(NamedTuple):
    """Picks a number and does to the marks what `cases` have for it; matches where they have something."""

    pick: Pick
    cases: tuple[tuple[Spans, Marking], ...]


class MarkIs(NamedTuple):
    """Matches where the bits of `mask` of a mark are one of `values`."""

    connection: bool
    mask: int
    values: Spans


class SetMark(NamedTuple):
    """Changes a mark, and matches always."""

    marking: Marking


class Memory(NamedTuple):
    """A list of clients: asked, or written to. A new client is in none."""

    kind: str
    name: str
    asks: bool
    inverted: bool
    seconds: int | None
    by: str


class Match(NamedTuple):
    """A condition behind a pick or a change of marks."""

    where: Selector


Step: TypeAlias = "Draw | DrawMark | MarkIs | SetMark | Memory | Match"


class Opaque(NamedTuple):
    """Something in a rule that is not understood, or depends on more than the rules: what, and why."""

    what: str
    reason: str


class Branch(NamedTuple):
    """What becomes of connections with some numbers: an endpoint, or a verdict with its chain."""

    act: Act
    to: str
    #: What a comment calls the endpoint.
    name: str | None = None


class Switch(NamedTuple):
    """A number is picked, and `cases` have the target of each; what has none goes on."""

    pick: Pick
    cases: tuple[tuple[Spans, Branch], ...]


class Origin(Written, Protocol):
    """A rule as a front end has it."""

    @property
    def place(self) -> str:
        """The chain that it is in, as `FamilyProgram.chains` has it."""

    @property
    def comment(self) -> str | None:
        """What a person called it."""


@dataclass(slots=True, eq=False)
class Rule:
    """One rule. `line` and `text` are those of `origin`, which several rules may share."""

    origin: Origin
    where: Selector
    act: Act
    steps: tuple[Step, ...] = ()
    #: The chain of a jump; the word of a verdict or target, for sentences.
    target: str = ""
    #: `dnat`, `redirect`, `snat` or `dsr`, for endpoints.
    action: str = ""
    #: Endpoints with their parts, where the kernel itself chooses.
    to: tuple[tuple[str, Fraction], ...] = ()
    #: How it chooses, and by what.
    own_mode: str = ""
    by: str = ""
    #: A port inside stays as it is, instead of that of the endpoint.
    ports: tuple[int, int] | None = None
    switch: Switch | None = None
    #: True where a number is picked, a mark is asked for, a mark is set.
    picks: bool = False
    asks_mark: bool = False
    marks: bool = False
    #: True where the first packet of a connection may match, and where later ones may.
    first: bool = True
    later: bool = True
    opaque: Opaque | None = None
    #: True where the tool does not load it.
    refused: bool = False
    #: What a look-up has for these connections, in words.
    element: str | None = None
    #: What a check of the text found: codes.
    remarks: tuple[str, ...] = ()
    #: True for an empty chain that is a service's: its connections get nothing.
    serves_none: bool = False
    #: True where one of its conditions always holds, at the hook that this is about.
    settled: bool = False

    @property
    def line(self) -> int:
        """The line of the text."""
        return self.origin.line

    @property
    def text(self) -> str:
        """The rule, verbatim."""
        return self.origin.text

    @property
    def place(self) -> str:
        """The chain that it is in."""
        return self.origin.place

    @property
    def maps(self) -> bool:
        """True where it gives connections an endpoint, or chooses among several targets."""
        return self.act is Act.TO or self.act is Act.SWITCH

    @property
    def markings(self) -> Iterator[Marking]:
        """All that it may do to marks."""
        for step in self.steps:
            if isinstance(step, SetMark):
                yield step.marking
            elif isinstance(step, DrawMark):
                yield from (marking for _, marking in step.cases)

    @property
    def targets(self) -> tuple[str, ...]:
        """The chains that it leads to."""
        if self.act in JUMPS:
            return (self.target,)
        if self.switch is None:
            return ()
        return tuple(dict.fromkeys(case.to for _, case in self.switch.cases if case.act in JUMPS))

    def whole(self, bits: int) -> Selector | None:
        """Return all conditions, also those behind a pick; None where they exclude each other."""
        found: Selector | None = self.where
        for step in self.steps:
            if isinstance(step, Match) and found is not None:
                found = meet(found, step.where, bits)
        return found


@dataclass(slots=True, eq=False)
class Chain:
    """The rules of a chain. `name` is its place in words, such as `nat web` or `ip lb prerouting`."""

    name: str
    rules: list[Rule] = field(default_factory=list)
    #: What becomes of connections at the end of a base chain: `ACCEPT` or `DROP`, and how that is called.
    policy: Act = Act.ACCEPT
    policy_text: str = ""
    line: int = 0
    #: What the service is called whose chain this is.
    service: str | None = None
    #: True for a chain that lbctl manages.
    own: bool = False


#: The hook of frames as they arrive at an interface, before routing and connection tracking.
INGRESS = "ingress"


class Base(NamedTuple):
    """A chain that the kernel calls at a hook. `kind` is `nat`, `filter` or `route`."""

    hook: str
    priority: int
    kind: str
    chain: str
    #: The table in words.
    table: str = ""

    @property
    def serves(self) -> bool:
        """True if its rules may give packets an endpoint."""
        return self.kind == "nat" or self.hook == INGRESS


@dataclass(slots=True)
class FamilyProgram:
    """The rules of one family."""

    family: Family
    bases: Sequence[Base]
    chains: Mapping[str, Chain]
    #: True where the text has all that NAT does behind the routing.
    whole: bool = True
    #: How many rules the text has.
    rules: int = 0
    #: Chains of tables that come without base chains: something else may lead into them.
    fragments: Sequence[Base] = ()
    #: The chains of the text that each leads to.
    calls: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def connect(self) -> None:
        """Note which chains lead to which, when no rule will change any more."""
        self.calls = {
            name: tuple(
                dict.fromkeys([to for rule in chain.rules for to in rule.targets if to in self.chains])
            )
            for name, chain in self.chains.items()
        }


def picks(steps: Sequence[Step]) -> bool:
    """Return True if a number is picked."""
    return any(isinstance(step, (Draw, DrawMark)) for step in steps)
