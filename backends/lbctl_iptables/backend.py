"""The iptables backend: this module itself is a `lbctl.spi.Backend`, each member the work of one room."""

from lbctl_iptables.advice import advise
from lbctl_iptables.apply import apply, check
from lbctl_iptables.census import census
from lbctl_iptables.clients import clients, clients_of, remember
from lbctl_iptables.compile import compile_intent as compile
from lbctl_iptables.diagnose import diagnose, precedence
from lbctl_iptables.layout import NAME as name
from lbctl_iptables.lift import lift
from lbctl_iptables.observe import generation, observe
from lbctl_iptables.others import others, rules_in
from lbctl_iptables.probe import probe
from lbctl_iptables.reading import dump, read, recognizes
from lbctl_iptables.retire import (
    departure,
    keeper,
    put_back,
    retire,
    retired,
    side_effects,
    standing,
    take_out,
)
from lbctl_iptables.script import render, withdrawal
from lbctl_iptables.stats import stats

preference: int | None = 20

__all__ = [
    "advise",
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
