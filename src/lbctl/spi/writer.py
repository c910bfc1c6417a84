"""The protocol of a backend whose changes can be carried out where lbctl is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Plan


@runtime_checkable
class Writer(Protocol):
    """Writes without reading: what a host does by itself when a trial on it is not confirmed."""

    def write(self, host: Host, plan: Plan) -> None:
        """Have the host's tools run what `apply` would, without reading anything first or afterwards.

        Called with a host that only notes what is run. Counters and clients are not carried over.
        """

    def write_restored(self, host: Host, driver: str, record: str, now: str) -> None:
        """As `write`, of `Migrator.restore_rules`; `now` is the dump that the kernel holds then.

        Raises `ApplyFailed` if that cannot be known before.
        """
