"""The nftables backend: this module itself is a `lbctl.spi.Backend`, each member the work of one room.

The rooms that read rules of anybody are the largest, and few commands need them: they are entered when they
are called. With them, all others would start a sixth later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_nftables.apply import apply, check
from lbctl_nftables.census import census
from lbctl_nftables.clients import clients, clients_of, remember
from lbctl_nftables.compile import compile_intent as compile
from lbctl_nftables.dialect import refine
from lbctl_nftables.generation import generation
from lbctl_nftables.layout import NAME as name
from lbctl_nftables.lift import lift
from lbctl_nftables.observe import observe
from lbctl_nftables.others import others, rules_in
from lbctl_nftables.probe import probe
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
from lbctl_nftables.target import capabilities_for, notes_for, render_for, tools

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Family, Reading
    from lbctl.spi import Case, Trap

preference: int | None = 10

__all__ = [
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
    "refine",
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
    from lbctl_nftables import diagnose

    return diagnose.precedence(driver)


def diagnose(host: Host, driver: str, case: Case) -> Iterable[Trap]:
    """See `lbctl.spi.Diagnosing`."""
    from lbctl_nftables import diagnose

    return diagnose.diagnose(host, driver, case)


def recognizes(text: str) -> bool:
    """See `lbctl.spi.Reader`."""
    from lbctl_nftables import reading

    return reading.recognizes(text)


def read(text: str, *, family: Family | None = None) -> Reading:
    """See `lbctl.spi.Reader`."""
    from lbctl_nftables import reading

    return reading.read(text, family=family)


def dump(host: Host, driver: str) -> str:
    """See `lbctl.spi.Reader`."""
    from lbctl_nftables import reading

    return reading.dump(host, driver)
