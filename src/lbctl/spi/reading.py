"""What a backend adds to `Backend` where it reads rules of anybody, not only its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Family, Reading


@runtime_checkable
class Reader(Protocol):
    """Reads rules as text. Pure, but for `dump`; never runs, resolves or looks up what a text names."""

    def recognizes(self, text: str) -> bool:
        """True for a text that looks like this backend's language, whatever else is in it."""

    def read(self, text: str, *, family: Family | None = None) -> Reading:
        """What the rules of a text do. `family` is that of a dump that does not say its own."""

    def dump(self, host: Host, driver: str) -> str:
        """All rules of a live kernel that could balance, as a text for `read`. Makes and changes nothing."""
