"""One command for several hosts: each in a process of its own, and a table of how they ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lbctl.host.remote import Destination


def destinations(named: Sequence[str], config: Path | None) -> Mapping[str, Destination]:
    """Return the destinations that the values of `--host` stand for, by their names; raises `LbctlError`."""
    from lbctl.host.remote import Destination

    return {text: Destination.of(text) for text in named}


def on_each(found: Mapping[str, Destination], *, parallel: int, keep_going: bool) -> None:
    """TODO."""
    raise NotImplementedError
