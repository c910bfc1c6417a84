"""`lbctl demo`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Color, Colors
from lbctl.errors import LbctlError, NoBackend, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Mapping
    from fractions import Fraction

    from lbctl.cli.output import Style
    from lbctl.demo import Run, World
    from lbctl.host import Host
    from lbctl.spi import Driver

_BAR = 40


def demo(
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=1_000_000, help="How many, to each port.")
    ] = 3000,
    color: Colors = Color.AUTO,
) -> None:
    """Show real connections being balanced in a private network.

    Changes nothing outside its own network namespaces, and leaves nothing behind. Without root it
    runs the nftables half in a user namespace. Exits with 1 if a backend does not balance as planned, and
    says which and what was seen.
    """
    from lbctl.cli.output import Style, say, say_styled
    from lbctl.demo import World, private
    from lbctl.host import LocalHost
    from lbctl.host.netns import PrivateHost
    from lbctl.model import inert

    # Whatever ends the demo takes the way of Ctrl-C, through every clean-up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    style = Style(color)
    if LocalHost().which("ip") is None:
        raise NoBackend(
            "the demo makes its network with the command ip, which is not in PATH",
            hint="install iproute2 (Debian: apt install iproute2)",
        )
    try:
        rootless = private()
    except OSError as error:
        raise PermissionDenied(
            f"this host lets you make no network namespace: {error.strerror}",
            hint="run lbctl demo as root (CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        ) from error
    if rootless:
        say("Not root: running in a user namespace, nftables only; the legacy iptables half is left out.")
    faults: list[str] = []
    for backend, driver in _halves(PrivateHost(), rootless=rootless):
        # A world for each: what one backend could not remove does not reach the next one.
        with World() as world:
            faults += _half(world, backend, driver, connections, style)
    for fault in faults:
        say_styled(style(f"lbctl: demo failed: {inert(fault)}", "bold"))
    if faults:
        raise typer.Exit(1)


def _halves(host: Host, *, rootless: bool) -> list[tuple[str, Driver]]:
    """One driver of nftables and one of iptables, legacy first; what is missing is said."""
    from lbctl import spi
    from lbctl.cli.output import say

    halves = []
    for candidate in spi.survey(host, spi.backends()):
        name, usable = candidate.backend.name, candidate.probe.usable
        if name not in {"nftables", "iptables"} or (rootless and name != "nftables"):
            continue
        if usable:
            halves.append((name, next((d for d in usable if d.name == "legacy"), usable[0])))
        else:
            reasons = "; ".join(d.reason for d in candidate.probe.drivers)
            say(f"{name} is left out: {reasons} ({candidate.probe.fix})")
    if not halves:
        raise NoBackend("no usable backend to show", hint="see lbctl backends")
    return halves


def _half(world: World, backend: str, driver: Driver, connections: int, style: Style) -> list[str]:
    """Show one backend, and return what went wrong, one line each."""
    from lbctl.cli.output import plan_text
    from lbctl.demo import demo_intent
    from lbctl.model import Family

    # The demo's clients have IPv4 addresses.
    wanted = {service.listeners[0].port: service.shares(Family.IPV4) for service in demo_intent().services}
    what = f"{backend} (driver {driver.name})"
    faults = []
    print(style(f"== {backend}, driver {driver.name} {driver.version or ''}".rstrip(), "bold", "cyan"))
    try:
        with world.applied(backend, driver.name) as (_, plan):
            print(plan_text(plan, style))
            for port, shares in wanted.items():
                run = world.connections(port, connections)
                fault = _fault(run, shares, connections)
                _show(run, fault, style)
                if fault:
                    faults.append(f"{what}, port {port}: {fault}")
    except LbctlError as error:
        # The other backend is shown all the same.
        faults.append(f"{what}: {error}")
    print()
    return faults


def _fault(run: Run, shares: Mapping[str, Fraction], connections: int) -> str:
    """What was seen instead of the planned shares; empty if they are exact."""
    if run.failures:
        seen = ", ".join(f"{number} {what}" for what, number in run.failures.items())
        return f"of {run.made} connections: {seen}, {run.answered} answered"
    if run.counts.keys() - shares.keys() or any(
        abs(run.counts.get(to, 0) - share * connections) >= 1 for to, share in shares.items()
    ):
        return "not the planned shares: " + ", ".join(f"{to} {n}" for to, n in run.counts.items())
    return ""


def _show(run: Run, fault: str, style: Style) -> None:
    from lbctl.demo import HOST_ADDRESS

    rate = f"{run.made / run.seconds:,.0f} connections/s"
    print(f"\n{run.made} connections to {HOST_ADDRESS}:{run.port} from another host, {rate}")
    if run.counts:
        print(_bars(run, style))
    print(style(f"  FAILED: {fault}" if fault else "  exact: round robin", "bold"))


def _bars(run: Run, style: Style) -> str:
    return "\n".join(
        f"  {to:>5} {style('█' * round(_BAR * n / run.made), 'green')} {n} ({n / run.made:.1%})"
        for to, n in run.counts.items()
    )
