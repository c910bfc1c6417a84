"""The iptables backend: this module itself is a `lbctl.spi.Backend`, `Reader` and `Migrator`."""

from __future__ import annotations

from lbctl_iptables.advice import notes
from lbctl_iptables.apply import apply, check, write
from lbctl_iptables.clients import clients, clients_of, remember
from lbctl_iptables.compile import compile_intent as compile
from lbctl_iptables.foreign import foreign_rules, rules_in
from lbctl_iptables.layout import NAME as name
from lbctl_iptables.lift import lift
from lbctl_iptables.observe import generation, observe
from lbctl_iptables.probe import probe
from lbctl_iptables.recognize import recognizes
from lbctl_iptables.retire import (
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
from lbctl_iptables.rule_counts import count_rules
from lbctl_iptables.stats import stats
from lbctl_iptables.target import capabilities_for, render, tools
from lbctl_rules import late

preference: int | None = 20

diagnose = late("lbctl_iptables.diagnose", "diagnose")
boot_files = late("lbctl_iptables.diagnose", "boot_files")
dump = late("lbctl_iptables.reading", "dump")
read = late("lbctl_iptables.reading", "read")
