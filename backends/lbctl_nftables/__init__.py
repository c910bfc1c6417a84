"""The nftables backend of lbctl; `backend` is its door."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.spi import Backend, Learner, Migrator, Reader
    from lbctl_nftables import backend

    # What a type checker holds against the protocols.
    _kept: tuple[Backend, Learner, Migrator, Reader] = backend, backend, backend, backend
