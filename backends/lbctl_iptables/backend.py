"""The iptables backend: this module itself is a `lbctl.spi.Backend`, `Reader` and `Migrator`.

Its functions are imported when they are called, as few commands need them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.lazy import imported_on_call
from lbctl_iptables.layout import NAME, TOOLS

if TYPE_CHECKING:
    from collections.abc import Sequence

with imported_on_call(globals()):
    from lbctl_iptables.advice import notes as notes
    from lbctl_iptables.apply import apply as apply, check as check, write as write
    from lbctl_iptables.clients import clients as clients, clients_of as clients_of, remember as remember
    from lbctl_iptables.compile import compile_intent
    from lbctl_iptables.diagnose import boot_files as boot_files, diagnose as diagnose
    from lbctl_iptables.foreign import foreign_rules as foreign_rules, rules_in as rules_in
    from lbctl_iptables.lift import lift as lift
    from lbctl_iptables.observe import generation as generation, observe as observe
    from lbctl_iptables.probe import probe as probe
    from lbctl_iptables.reading import dump as dump, read as read
    from lbctl_iptables.recognize import recognizes as recognizes
    from lbctl_iptables.retire import (
        is_present as is_present,
        managing_program as managing_program,
        removal_text as removal_text,
        remove_rules as remove_rules,
        removed_rules as removed_rules,
        restore_rules as restore_rules,
        retire as retire,
        side_effects as side_effects,
        write_restored as write_restored,
    )
    from lbctl_iptables.rule_counts import count_rules as count_rules
    from lbctl_iptables.stats import stats as stats
    from lbctl_iptables.target import capabilities_for as capabilities_for, render as render

name: str = NAME
preference: int | None = 20
tools: Sequence[str] = TOOLS
compile = compile_intent  # noqa: A001 (the name in the protocol)
