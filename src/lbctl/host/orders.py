"""What a host without lbctl does by itself at a time: run programs, unless a record says that it is over."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """A program of a host, and its standard input."""

    argv: tuple[str, ...]
    stdin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Programs to be run once, under a lock, while what is saved under `record` names `ident` as running."""

    ident: str
    #: On `Host.clock`.
    deadline: float
    #: The lock of the change, and the one that is held for as long as the host stands by.
    lock: str
    guard: str
    record: str
    runs: tuple[ToolRun, ...]
    #: What is saved afterwards, by name; None for what is no longer saved.
    saved: Mapping[str, str | None] = field(default_factory=dict)
