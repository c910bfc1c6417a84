"""What a backend author reads: four protocols, the values in them, and how backends are found and chosen."""

from lbctl.spi.backend import Backend, Capabilities, Count, Driver, Probe, tally
from lbctl.spi.learner import Learner
from lbctl.spi.migrator import Migrator, Retirement
from lbctl.spi.reader import Case, Passage, Problem, Reader, RuleCounts, sole
from lbctl.spi.registry import GROUP, SOURCES, backends, source_names
from lbctl.spi.require import ensure_fresh, next_hops, require, require_offload, require_service
from lbctl.spi.selection import AUTO, Candidate, Selection, count_rules, named_candidates, select, survey
from lbctl.spi.writer import Writer

__all__ = [
    "AUTO",
    "GROUP",
    "SOURCES",
    "Backend",
    "Candidate",
    "Capabilities",
    "Case",
    "Count",
    "Driver",
    "Learner",
    "Migrator",
    "Passage",
    "Probe",
    "Problem",
    "Reader",
    "Retirement",
    "RuleCounts",
    "Selection",
    "Writer",
    "backends",
    "count_rules",
    "ensure_fresh",
    "named_candidates",
    "next_hops",
    "require",
    "require_offload",
    "require_service",
    "select",
    "sole",
    "source_names",
    "survey",
    "tally",
]
