"""The nftables backend: this module itself is a `lbctl.spi.Backend`, each member the work of one room."""

from lbctl_nftables.apply import apply, check
from lbctl_nftables.census import census
from lbctl_nftables.clients import clients, clients_of, remember
from lbctl_nftables.compile import compile_intent as compile
from lbctl_nftables.diagnose import diagnose, precedence
from lbctl_nftables.dialect import refine
from lbctl_nftables.generation import generation
from lbctl_nftables.layout import NAME as name
from lbctl_nftables.lift import lift
from lbctl_nftables.observe import observe
from lbctl_nftables.others import others, rules_in
from lbctl_nftables.probe import probe
from lbctl_nftables.reading import dump, read, recognizes
from lbctl_nftables.retire import (
    departure,
    keeper,
    put_back,
    retire,
    retired,
    side_effects,
    standing,
    take_out,
)
from lbctl_nftables.script import render, withdrawal
from lbctl_nftables.stats import stats

preference: int | None = 10

__all__ = [
    "apply",
    "census",
    "check",
    "clients",
    "clients_of",
    "compile",
    "departure",
    "diagnose",
    "dump",
    "generation",
    "keeper",
    "lift",
    "name",
    "observe",
    "others",
    "precedence",
    "preference",
    "probe",
    "put_back",
    "read",
    "recognizes",
    "refine",
    "remember",
    "render",
    "retire",
    "retired",
    "rules_in",
    "side_effects",
    "standing",
    "stats",
    "take_out",
    "withdrawal",
]
