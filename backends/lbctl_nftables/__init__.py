"""The nftables backend: one dispatch look-up, one rule per service, endpoints as elements of maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl_nftables import layout

if TYPE_CHECKING:
    from lbctl.host import Host
    from lbctl.model import Intent, Lifted, Plan, Program
    from lbctl.spi import Capabilities, Count, Probe


class NftablesBackend:
    """`lbctl.spi.Backend` for nftables; each method is a room of this package."""

    name = layout.NAME
    preference: int | None = 10

    def probe(self, host: Host) -> Probe:
        """See `Backend`."""
        from lbctl_nftables.probe import probe

        return probe(host)

    def compile(self, intent: Intent, capabilities: Capabilities) -> Program:
        """See `Backend`."""
        from lbctl_nftables.compile import compile_intent

        return compile_intent(intent, capabilities)

    def render(self, program: Program) -> str:
        """See `Backend`."""
        from lbctl_nftables.script import render

        return render(program)

    def check(self, host: Host, driver: str, program: Program) -> None:
        """See `Backend`."""
        from lbctl_nftables.apply import check

        check(host, driver, program)

    def observe(self, host: Host, driver: str, owner: str) -> Program:
        """See `Backend`."""
        from lbctl_nftables.observe import observe

        return observe(host, driver, owner)

    def apply(self, host: Host, plan: Plan) -> None:
        """See `Backend`."""
        from lbctl_nftables.apply import apply

        apply(host, plan)

    def lift(self, program: Program) -> Lifted:
        """See `Backend`."""
        from lbctl_nftables.lift import lift

        return lift(program)

    def stats(self, host: Host, driver: str, owner: str) -> tuple[Count, ...]:
        """See `Backend`."""
        from lbctl_nftables.stats import stats

        return stats(host, driver, owner)


backend = NftablesBackend()
