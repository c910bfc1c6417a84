"""What rules really do: services with the exact share of each endpoint, proved from the rules alone."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from lbctl.model.forward import Forward
from lbctl.model.schedule import shares
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbctl.model.addresses import Family
    from lbctl.model.endpoints import Listener


class FamilyListener(NamedTuple):
    """Where connections arrive: one listener in one family."""

    family: Family
    listener: Listener


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftedService:
    """One listener in one family, as the kernel balances it.

    `slots` is one full period of the picker: where the 1st, 2nd, … new connection goes, None for a
    connection that no endpoint takes. Where rules draw lots that are no slots, `odds` has each one's chance
    instead. `mode` is `nth`, `random`, `hash`, `mixed`, `single`, `none`, or `unknown` for rules that are not
    understood, which have neither.
    """

    name: str
    family: Family
    listener: Listener
    mode: str
    slots: tuple[str | None, ...]
    action: str
    odds: tuple[tuple[str | None, Fraction], ...] = ()

    @property
    def forward(self) -> Forward:
        """How packets reach the endpoints."""
        return Forward.DSR if self.action == Forward.DSR else Forward.NAT

    @property
    def understood(self) -> bool:
        """False where the shares are unknown."""
        return self.mode != "unknown"

    @property
    def shares(self) -> Mapping[str, Fraction]:
        """`Endpoint.to` → the share of new connections that it gets."""
        every = dict(self.odds) if self.odds else shares(self.slots)
        return {to: share for to, share in every.items() if to is not None}

    @property
    def leak(self) -> Fraction:
        """The share of new connections that no endpoint takes."""
        return 1 - sum(self.shares.values(), start=Fraction(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftedProgram:
    """All services of a program, and the text of what could not be understood."""

    services: tuple[LiftedService, ...] = ()
    unsupported: tuple[str, ...] = ()
