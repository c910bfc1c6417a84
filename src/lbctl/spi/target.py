"""What a backend adds to `Backend` to write rules for a host that lbctl cannot look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lbctl.spi.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.model import Family, Intent, Program
    from lbctl.spi.backend import Capabilities


@runtime_checkable
class Targeting(Backend, Protocol):
    """Writes for the tools of a named release, and for one family of addresses. All of it is pure."""

    #: The tools that `--for TOOL=VERSION` names, each belonging to one backend.
    tools: Sequence[str]

    def capabilities_for(self, tool: str, version: str) -> Capabilities:
        """Return what a release of a tool can express; nothing is known of the host's links.

        Raises `ValueError` for what is no version, and `NoBackend` for a release that is too old.
        """

    def render_for(
        self, program: Program, capabilities: Capabilities, *, family: Family | None, remove: bool
    ) -> str:
        """Return the text that adds, or with `remove` removes, a program, or what one family has of it.

        Raises `NoBackend` where the release has no text for both families.
        """

    def notes_for(self, intent: Intent, capabilities: Capabilities) -> tuple[str, ...]:
        """Return what a user should know of a text that was written without looking at its host."""
