"""The protocol of a backend whose services, and whose foreign rules, can be migrated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lbctl.spi.reader import Reader
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lbctl.host import Host
    from lbctl.model import Remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """Rules of a dump that are to be removed, with what nothing else refers to then."""

    #: The dump without them.
    after: str
    #: The lines of the dump that are removed.
    lines: tuple[int, ...]
    #: What `remove_rules` and `restore_rules` need to know, as a text to keep.
    record: str


@runtime_checkable
class Migrator(Reader, Protocol):
    """Removes existing rules, exactly those, and restores them in their places; keeps clients with affinity.

    A `record` is that of a `Retirement`. Removing and restoring are each atomic per family, and do not repeat
    what was done already, so that the caller can repeat them after an interruption. The caller holds the lock
    of the owner for everything that changes the kernel, and verifies the result by `dump`.
    """

    def foreign_rules(self, text: str, owner: str) -> str:
        """Return what a dump holds that is not the owner's, spelled alike until it changes. Pure.

        Without what packets change: counters, positions of foreign ladders, entries that expire.
        """

    def rules_in(self, text: str) -> tuple[str, ...]:
        """Return what decides in a text of `others`: its rules, and policies that do not accept. Pure."""

    def retire(self, text: str, lines: Collection[int]) -> Retirement:
        """Find what goes with some lines of a dump: what then leads to nothing, or has no user. Pure."""

    def managing_program(self, text: str, lines: Collection[int]) -> str | None:
        """Return the program that writes these rules of a dump itself and would do so again, if any. Pure."""

    def removed_rules(self, record: str) -> tuple[str, ...]:
        """Return the rules of a record that are removed, as a dump has them. Pure."""

    def boot_files(self, host: Host) -> tuple[str, ...]:
        """Return the files from which units of the distribution load rules of this language at boot."""

    def side_effects(self, driver: str, text: str, record: str) -> tuple[str, ...]:
        """Say what removing or restoring rules does to those that a dump has beside them. Pure."""

    def is_present(self, host: Host, driver: str, record: str) -> bool:
        """Return True if all rules of a record are in the kernel."""

    def removal_text(self, host: Host, driver: str, record: str) -> str:
        """Return the text that removes what is still there, for the host's own tools."""

    def remove_rules(self, host: Host, driver: str, record: str) -> None:
        """Remove what is still there. Raises `ApplyFailed`."""

    def restore_rules(self, host: Host, driver: str, record: str) -> None:
        """Restore what is missing, each rule behind those that were before it. Raises `ApplyFailed`."""

    def clients(self, host: Host, driver: str, owner: str) -> tuple[Remembered, ...]:
        """Return the clients that the kernel keeps for an owner's services with affinity."""

    def clients_of(
        self, host: Host, text: str, services: Mapping[str, Collection[int]]
    ) -> tuple[Remembered, ...]:
        """Return the clients that rules of a dump keep; `services` are the lines of each that is migrated."""

    def remember(self, host: Host, driver: str, owner: str, clients: Sequence[Remembered]) -> None:
        """Have the owner's rules in the kernel keep clients, but for those that they have placed themselves.

        A client whose endpoint they do not know is left out. Raises `ApplyFailed`.
        """
