"""What a backend adds to `Backend` where services can move between it and another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.host import Host
    from lbctl.model import Program, Remembered


@runtime_checkable
class Moving(Protocol):
    """Lets go of its rules, and of the clients that these keep, and takes over those of another backend."""

    def withdrawal(self, program: Program) -> str:
        """The text that takes out what `Backend.render` has the host's own tools load. Pure."""

    def clients(self, host: Host, driver: str, owner: str) -> tuple[Remembered, ...]:
        """The clients that the kernel keeps for services with affinity. Changes nothing."""

    def others(self, text: str, owner: str) -> str:
        """What a dump holds of everybody else, spelled alike as long as nobody changes it. Pure.

        Without what packets change: counters, turns of others' ladders, entries that expire.
        """

    def rules_in(self, text: str) -> tuple[str, ...]:
        """What decides in a text of `others`: its rules, and policies that do not accept. Pure."""

    def remember(self, host: Host, driver: str, owner: str, clients: Sequence[Remembered]) -> None:
        """Have the rules in the kernel keep clients, but for those that they have placed themselves.

        A client whose endpoint they do not know is left out. Raises `ApplyFailed`.
        """
