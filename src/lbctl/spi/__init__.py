"""What a backend author reads: the protocol, the values in it, and how backends are found and chosen."""

from lbctl.spi.backend import (
    Advising,
    Backend,
    Capabilities,
    Census,
    Count,
    Counting,
    Driver,
    Probe,
    Refining,
    tally,
)
from lbctl.spi.census import census
from lbctl.spi.diagnosis import (
    Case,
    Diagnosing,
    Passage,
    Rival,
    Trap,
    dropped,
    leftovers,
    sole,
    taken,
)
from lbctl.spi.moving import Moving
from lbctl.spi.reading import Reader
from lbctl.spi.registry import GROUP, backends
from lbctl.spi.require import ensure_fresh, require, require_service
from lbctl.spi.retiring import Retirement, Retiring, keeper_of, missing, present
from lbctl.spi.selection import AUTO, Candidate, Choice, select, survey
from lbctl.spi.target import Targeting

__all__ = [
    "AUTO",
    "GROUP",
    "Advising",
    "Backend",
    "Candidate",
    "Capabilities",
    "Case",
    "Census",
    "Choice",
    "Count",
    "Counting",
    "Diagnosing",
    "Driver",
    "Moving",
    "Passage",
    "Probe",
    "Reader",
    "Refining",
    "Retirement",
    "Retiring",
    "Rival",
    "Targeting",
    "Trap",
    "backends",
    "census",
    "dropped",
    "ensure_fresh",
    "keeper_of",
    "leftovers",
    "missing",
    "present",
    "require",
    "require_service",
    "select",
    "sole",
    "survey",
    "taken",
    "tally",
]
