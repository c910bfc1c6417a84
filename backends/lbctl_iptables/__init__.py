"""The iptables backend of lbctl; `backend` is its door."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.spi import Backend, Migrator, Reader
    from lbctl_iptables import backend

    # What a type checker holds against the protocols.
    _kept: tuple[Backend, Migrator, Reader] = backend, backend, backend
