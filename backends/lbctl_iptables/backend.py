"""The iptables backend: this module itself is a `lbctl.spi.Backend`, each member the work of one room.

The rooms that read rules of anybody are the largest, and few commands need them: they are entered when they
are called. With them, all others would start a sixth later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_iptables.advice import advise
from lbctl_iptables.apply import apply, check
from lbctl_iptables.census import census
from lbctl_iptables.clients import clients, clients_of, remember
from lbctl_iptables.compile import compile_intent as compile
from lbctl_iptables.layout import NAME as name
from lbctl_iptables.lift import lift
from lbctl_iptables.observe import generation, observe
from lbctl_iptables.others import others, rules_in
from lbctl_iptables.probe import probe
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
from lbctl_iptables.target import capabilities_for, notes_for, render_for, tools

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Family, Reading
    from lbctl.spi import Case, Trap

preference: int | None = 20

__all__ = [
    "advise",
    "apply",
    "capabilities_for",
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
    "notes_for",
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
    "render_for",
    "retire",
    "retired",
    "rules_in",
    "side_effects",
    "standing",
    "stats",
    "take_out",
    "tools",
    "withdrawal",
]


def precedence(driver: str) -> int:
    """See `lbctl.spi.Diagnosing`."""
    from lbctl_iptables import diagnose

    return diagnose.precedence(driver)


def diagnose(host: Host, driver: str, case: Case) -> Iterable[Trap]:
    """See `lbctl.spi.Diagnosing`."""
    from lbctl_iptables import diagnose

    return diagnose.diagnose(host, driver, case)


def recognizes(text: str) -> bool:
    """See `lbctl.spi.Reader`."""
    from lbctl_iptables import reading

    return reading.recognizes(text)


def read(text: str, *, family: Family | None = None) -> Reading:
    """See `lbctl.spi.Reader`."""
    from lbctl_iptables import reading

    return reading.read(text, family=family)


def dump(host: Host, driver: str) -> str:
    """See `lbctl.spi.Reader`."""
    from lbctl_iptables import reading

    return reading.dump(host, driver)
