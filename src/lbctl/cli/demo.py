"""`lbctl demo`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Color, Colors
from lbctl.errors import NoBackend, PermissionDenied

if TYPE_CHECKING:
    from lbctl.cli.output import Style
    from lbctl.demo import Run, World
    from lbctl.spi import Driver

_BAR = 40


def demo(
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=1_000_000, help="How many, to each port.")
    ] = 3000,
    color: Colors = Color.AUTO,
) -> None:
    """Watch it work: a private network, real processes, real connections, both backends.

    Touches nothing outside the network namespaces that it makes, and leaves nothing behind. Without root it
    runs the nftables half in a user namespace.
    """
    from lbctl.cli.output import Style, say
    from lbctl.demo import World, private
    from lbctl.host import LocalHost

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
    exact = True
    with World() as world:
        for backend, driver in _halves(world, rootless=rootless):
            exact &= _half(world, backend, driver, connections, style)
    if not exact:
        raise typer.Exit(1)


def _halves(world: World, *, rootless: bool) -> list[tuple[str, Driver]]:
    """One driver of nftables and one of iptables, legacy first; what is missing is said."""
    from lbctl import spi
    from lbctl.cli.output import say

    halves = []
    for candidate in spi.survey(world.host, spi.backends()):
        name, usable = candidate.backend.name, candidate.probe.usable
        if name not in {"nftables", "iptables"} or (rootless and name != "nftables"):
            continue
        if usable:
            halves.append((name, next((d for d in usable if d.name == "legacy"), usable[0])))
        else:
            reasons = "; ".join(d.reason for d in candidate.probe.drivers)
            say(f"{name} is left out: {reasons} ({candidate.probe.remedy})")
    if not halves:
        raise NoBackend("no usable backend to show", hint="see lbctl backends")
    return halves


def _half(world: World, backend: str, driver: Driver, connections: int, style: Style) -> bool:
    from lbctl.cli.output import plan_text
    from lbctl.demo import HOST_ADDRESS, demo_intent

    wanted = {service.listeners[0].port: service.shares() for service in demo_intent().services}
    exact = True
    print(style(f"== {backend}, driver {driver.name} {driver.version or ''}".rstrip(), "bold", "cyan"))
    with world.applied(backend, driver.name) as (_, plan):
        print(plan_text(plan, style))
        for port, shares in wanted.items():
            run = world.connections(port, connections)
            fair = all(abs(run.counts.get(to, 0) - share * connections) < 1 for to, share in shares.items())
            exact &= fair
            rate = f"{connections / run.seconds:,.0f} connections/s"
            print(f"\n{connections} connections to {HOST_ADDRESS}:{port} from another host, {rate}")
            print(_bars(run, connections, style))
            print(style("  exact: round robin" if fair else "  NOT the shares that were planned", "bold"))
    print()
    return exact


def _bars(run: Run, connections: int, style: Style) -> str:
    return "\n".join(
        f"  {to:>5} {style('█' * round(_BAR * n / connections), 'green')} {n} ({n / connections:.1%})"
        for to, n in run.counts.items()
    )
