"""What a backend author reads: three protocols, the values in them, and how backends are found and chosen."""

from lbctl.spi.backend import Backend, Capabilities, Count, Driver, Probe, tally
from lbctl.spi.migrator import Migrator, Retirement
from lbctl.spi.reader import Case, Census, Passage, Reader, Trap, sole
from lbctl.spi.registry import GROUP, backends
from lbctl.spi.require import ensure_fresh, require, require_service
from lbctl.spi.selection import AUTO, Candidate, Selection, census, select, survey

__all__ = [
    "AUTO",
    "GROUP",
    "Backend",
    "Candidate",
    "Capabilities",
    "Case",
    "Census",
    "Count",
    "Driver",
    "Migrator",
    "Passage",
    "Probe",
    "Reader",
    "Retirement",
    "Selection",
    "Trap",
    "backends",
    "census",
    "ensure_fresh",
    "require",
    "require_service",
    "select",
    "sole",
    "survey",
    "tally",
]
