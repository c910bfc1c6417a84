"""The nftables backend: this module is a `Backend`, `Reader`, `Migrator` and `Learner` of `lbctl.spi`.

Its functions are imported when they are called, as few commands need them all.
"""

from __future__ import annotations

from lbctl_nftables.layout import NAME as name
from lbctl_nftables.layout import TOOLS as tools
from lbctl_rules import late

preference: int | None = 10

probe = late("lbctl_nftables.probe", "probe")
compile = late("lbctl_nftables.compile", "compile_intent")  # noqa: A001 (the name in the protocol)
lift = late("lbctl_nftables.lift", "lift")
observe = late("lbctl_nftables.observe", "observe")
generation = late("lbctl_nftables.generation", "generation")
stats = late("lbctl_nftables.stats", "stats")
apply = late("lbctl_nftables.apply", "apply")
check = late("lbctl_nftables.apply", "check")
write = late("lbctl_nftables.apply", "write")
render = late("lbctl_nftables.target", "render")
capabilities_for = late("lbctl_nftables.target", "capabilities_for")
notes = late("lbctl_nftables.advice", "notes")

recognizes = late("lbctl_nftables.recognize", "recognizes")
read = late("lbctl_nftables.reading.read", "read")
dump = late("lbctl_nftables.reading.dump", "dump")
count_rules = late("lbctl_nftables.rule_counts", "count_rules")
diagnose = late("lbctl_nftables.diagnose", "diagnose")

foreign_rules = late("lbctl_nftables.foreign", "foreign_rules")
rules_in = late("lbctl_nftables.foreign", "rules_in")
connections = late("lbctl_nftables.flows", "connections")
clients = late("lbctl_nftables.clients", "clients")
clients_of = late("lbctl_nftables.clients", "clients_of")
remember = late("lbctl_nftables.clients", "remember")
is_present = late("lbctl_nftables.retire", "is_present")
managing_program = late("lbctl_nftables.retire", "managing_program")
removal_text = late("lbctl_nftables.retire", "removal_text")
remove_rules = late("lbctl_nftables.retire", "remove_rules")
removed_rules = late("lbctl_nftables.retire", "removed_rules")
restore_rules = late("lbctl_nftables.retire", "restore_rules")
retire = late("lbctl_nftables.retire", "retire")
side_effects = late("lbctl_nftables.retire", "side_effects")
write_restored = late("lbctl_nftables.retire", "write_restored")
boot_files = late("lbctl_nftables.flush_hazard", "boot_files")
