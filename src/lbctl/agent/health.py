"""What is checked, and how a check ends: the values between those that check and those that decide.

Times are given as `Moment`: `steady` never jumps and orders everything; `wall` is only written into verdicts.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from lbctl.model import MAX_RESULT, Family, inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.model import Address, Check

#: The name of a service, `Endpoint.name`, and the family.
Subject: TypeAlias = tuple[str, str, Family]


class Moment(NamedTuple):
    """A point in time, in seconds: of a clock that never jumps, and since 1970 (UTC)."""

    steady: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is checked, and how.

    `address` is None for a process on this host. `subject` is set for programs alone: they are told for
    whom they check.
    """

    family: Family
    address: Address | None
    port: int | None
    check: Check
    subject: Subject | None = None
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Few targets differ in their check alone, and hashing that takes longer than all else.
        address = 0 if self.address is None else int(self.address)
        object.__setattr__(self, "_hash", hash((self.family, self.port, address)))

    def __hash__(self) -> int:
        return self._hash


class Ending(StrEnum):
    """What a check found. `undecided` is for one that could not be made, e.g. without a free descriptor."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a check ended.

    `text` says it in a few words that are the same each time. `final` is for what needs no repetition, such
    as a listening socket that was closed.
    """

    ending: Ending
    text: str
    seconds: float = 0.0
    final: bool = False

    def __post_init__(self) -> None:
        text = inert(self.text)
        object.__setattr__(self, "text", text if len(text) <= MAX_RESULT else text[: MAX_RESULT - 3] + "...")
