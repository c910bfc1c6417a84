"""The nftables backend: this module is a `Backend`, `Reader`, `Migrator` and `Learner` of `lbctl.spi`."""

from __future__ import annotations

from lbctl_nftables.advice import notes
from lbctl_nftables.apply import apply, check, write
from lbctl_nftables.clients import clients, clients_of, remember
from lbctl_nftables.compile import compile_intent as compile
from lbctl_nftables.flows import connections
from lbctl_nftables.foreign import foreign_rules, rules_in
from lbctl_nftables.generation import generation
from lbctl_nftables.layout import NAME as name
from lbctl_nftables.lift import lift
from lbctl_nftables.observe import observe
from lbctl_nftables.probe import probe
from lbctl_nftables.recognize import recognizes
from lbctl_nftables.retire import (
    is_present,
    managing_program,
    removal_text,
    remove_rules,
    removed_rules,
    restore_rules,
    retire,
    side_effects,
    write_restored,
)
from lbctl_nftables.rule_counts import count_rules
from lbctl_nftables.stats import stats
from lbctl_nftables.target import capabilities_for, render, tools
from lbctl_rules import late

preference: int | None = 10

diagnose = late("lbctl_nftables.diagnose", "diagnose")
boot_files = late("lbctl_nftables.flush_hazard", "boot_files")
dump = late("lbctl_nftables.reading", "dump")
read = late("lbctl_nftables.reading", "read")
