"""The nftables backend: this module is a `Backend`, `Reader`, `Migrator` and `Learner` of `lbctl.spi`.

Its functions are imported when they are called, as few commands need them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.lazy import imported_on_call
from lbctl_nftables.layout import NAME, TOOLS

if TYPE_CHECKING:
    from collections.abc import Sequence

with imported_on_call(globals()):
    from lbctl_nftables.advice import notes as notes
    from lbctl_nftables.apply import apply as apply, check as check, write as write
    from lbctl_nftables.clients import clients as clients, clients_of as clients_of, remember as remember
    from lbctl_nftables.compile import compile_intent
    from lbctl_nftables.diagnose import diagnose as diagnose
    from lbctl_nftables.flows import connections as connections
    from lbctl_nftables.flush_hazard import boot_files as boot_files
    from lbctl_nftables.foreign import foreign_rules as foreign_rules, rules_in as rules_in
    from lbctl_nftables.generation import generation as generation
    from lbctl_nftables.lift import lift as lift
    from lbctl_nftables.observe import observe as observe
    from lbctl_nftables.probe import probe as probe
    from lbctl_nftables.reading.dump import dump as dump
    from lbctl_nftables.reading.read import read as read
    from lbctl_nftables.recognize import recognizes as recognizes
    from lbctl_nftables.retire import (
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
    from lbctl_nftables.rule_counts import count_rules as count_rules
    from lbctl_nftables.stats import stats as stats
    from lbctl_nftables.target import capabilities_for as capabilities_for, render as render

name: str = NAME
preference: int | None = 10
tools: Sequence[str] = TOOLS
compile = compile_intent  # noqa: A001 (the name in the protocol)
