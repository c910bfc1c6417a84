"""The iptables backend: this module itself is a `lbctl.spi.Backend`, `Reader` and `Migrator`.

Its functions are imported when they are called, as few commands need them all.
"""

from __future__ import annotations

from lbctl_iptables.layout import NAME as name
from lbctl_iptables.layout import TOOLS as tools
from lbctl_rules import late

preference: int | None = 20

probe = late("lbctl_iptables.probe", "probe")
compile = late("lbctl_iptables.compile", "compile_intent")  # noqa: A001 (the name in the protocol)
lift = late("lbctl_iptables.lift", "lift")
observe = late("lbctl_iptables.observe", "observe")
generation = late("lbctl_iptables.observe", "generation")
stats = late("lbctl_iptables.stats", "stats")
apply = late("lbctl_iptables.apply", "apply")
check = late("lbctl_iptables.apply", "check")
write = late("lbctl_iptables.apply", "write")
render = late("lbctl_iptables.target", "render")
capabilities_for = late("lbctl_iptables.target", "capabilities_for")
notes = late("lbctl_iptables.advice", "notes")

recognizes = late("lbctl_iptables.recognize", "recognizes")
read = late("lbctl_iptables.reading", "read")
dump = late("lbctl_iptables.reading", "dump")
count_rules = late("lbctl_iptables.rule_counts", "count_rules")
diagnose = late("lbctl_iptables.diagnose", "diagnose")

foreign_rules = late("lbctl_iptables.foreign", "foreign_rules")
rules_in = late("lbctl_iptables.foreign", "rules_in")
clients = late("lbctl_iptables.clients", "clients")
clients_of = late("lbctl_iptables.clients", "clients_of")
remember = late("lbctl_iptables.clients", "remember")
is_present = late("lbctl_iptables.retire", "is_present")
managing_program = late("lbctl_iptables.retire", "managing_program")
removal_text = late("lbctl_iptables.retire", "removal_text")
remove_rules = late("lbctl_iptables.retire", "remove_rules")
removed_rules = late("lbctl_iptables.retire", "removed_rules")
restore_rules = late("lbctl_iptables.retire", "restore_rules")
retire = late("lbctl_iptables.retire", "retire")
side_effects = late("lbctl_iptables.retire", "side_effects")
write_restored = late("lbctl_iptables.retire", "write_restored")
boot_files = late("lbctl_iptables.diagnose", "boot_files")
