"""The protocol of a backend whose rules learn connections that the kernel does not track."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.host import Host
    from lbctl.model import Family, Service


@runtime_checkable
class Learner(Protocol):
    """Knows connections of services with direct server return."""

    def connections(
        self, host: Host, driver: str, owner: str, service: Service, family: Family
    ) -> Mapping[str, int] | None:
        """Return `Endpoint.to` → the open connections that the rules of a service know.

        The service is as it is carried out, with its next hops. None if its rules learn none. Changes
        nothing; raises `ApplyFailed` if the kernel cannot be read.
        """
