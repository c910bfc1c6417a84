"""`lbctl demo`."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lbctl.cli.options import Color, Colors
from lbctl.errors import LbctlError, NoBackend, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from fractions import Fraction

    from lbctl.cli.output import Style
    from lbctl.demo import Run, World
    from lbctl.engine import Session
    from lbctl.host import Host
    from lbctl.spi import Driver

_BAR = 40
#: What the agent's part kills, and the port that it balances.
_VICTIM, _PORT = 8002, 80
#: Seconds in which all endpoints are checked and the agent has logged that.
_SETTLE = 0.5
#: Connections at most after each step of the fleet.
_FLEET = 120
#: Seconds that rules may take to follow, and connections that are never reached in them.
_REACTION, _ENDLESS = 30.0, 1_000_000


def demo(
    connections: Annotated[
        int,
        typer.Option(
            "--connections",
            metavar="NUMBER",
            min=1,
            max=1_000_000,
            help="Number of connections to each port.",
        ),
    ] = 3000,
    agent: Annotated[
        bool, typer.Option("--agent", help="Kill and restart a process while the agent checks it.")
    ] = False,
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="Show three balancers that follow one intent in etcd, until Ctrl-C."),
    ] = False,
    color: Colors = Color.AUTO,
) -> None:
    """Show real connections being balanced in a private network.

    Changes nothing outside its own network namespaces, and leaves nothing behind. Without root it
    runs the nftables half in a user namespace. Exits with 1 if a backend does not balance as planned, and
    reports which one and what it measured.

    With --agent, a process is killed and restarted under load: the agent takes it out of rotation and puts
    it back, and no connection fails once the agent has detected the failure. With --fleet, which needs root
    and the program etcd, three balancers follow one intent in etcd, on a terminal until Ctrl-C.
    """
    from lbctl.cli.context import open_host
    from lbctl.cli.output import Style, say, say_styled
    from lbctl.demo import World, checked_intent, demo_intent, private
    from lbctl.host.netns import PrivateHost
    from lbctl.model import inert

    # Whatever ends the demo takes the way of Ctrl-C, through every clean-up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    style = Style(color)
    if open_host().which("ip") is None:
        raise NoBackend(
            "the demo makes its network with the command ip, which is not in PATH",
            hint="install iproute2 (Debian: apt install iproute2)",
        )
    if fleet:
        _need_agent()
        from lbctl.cli.fleet_demo import show_fleet

        show_fleet(min(connections, _FLEET), style)
        return
    try:
        rootless = private()
    except OSError as error:
        raise PermissionDenied(
            f"a network namespace cannot be created: {error.strerror}",
            hint="run lbctl demo as root (CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        ) from error
    if rootless:
        say("Not root: running in a user namespace, nftables only; the legacy iptables half is left out.")
    if agent:
        _need_agent()
    half, intent = (_agent_half, checked_intent()) if agent else (_half, demo_intent())
    faults: list[str] = []
    for backend, driver in _halves(PrivateHost(), rootless=rootless):
        # A world for each: what one backend could not remove does not reach the next one.
        with World(intent) as world:
            faults += half(world, backend, driver, connections, style)
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
    from lbctl.model import Family

    # The demo's clients have IPv4 addresses.
    wanted = {service.listeners[0].port: service.shares(Family.IPV4) for service in world.intent.services}
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


def _need_agent() -> None:
    """Raise `NoBackend` where the packages of the agent are missing."""
    try:
        import lbctl.agent.run  # noqa: F401
    except ModuleNotFoundError as error:
        raise NoBackend(
            f"the agent needs the package {error.name}", hint="pip install 'lbctl[agent]'"
        ) from error


def _agent_half(world: World, backend: str, driver: Driver, connections: int, style: Style) -> list[str]:
    """Show the agent on one backend, and return what went wrong, one line each."""
    from fractions import Fraction

    ports = [int(endpoint.to) for endpoint in world.intent.services[0].endpoints]
    all_up = {str(port): Fraction(1, len(ports)) for port in ports}
    without = {str(port): Fraction(1, len(ports) - 1) for port in ports if port != _VICTIM}
    what = f"{backend} (driver {driver.name})"
    faults = []
    tool = f"{driver.name} {driver.version or ''}".rstrip()
    print(style(f"== {backend}, driver {tool}, with the agent", "bold", "cyan"))
    print("Port 80 over three processes; TCP checks, interval 500 ms, fall 3, rise 2")
    try:
        with world.agent(backend, driver.name) as session:
            steps = (
                ("The agent starts.", lambda: None, all_up),
                (f"Process {_VICTIM} is killed.", lambda: world.kill(_VICTIM), without),
                (f"Process {_VICTIM} starts again.", lambda: world.start(_VICTIM), all_up),
            )
            shown = 0
            for title, act, wanted in steps:
                print(style(f"\n{title}", "bold"))
                fault = _followed(world, session, act, wanted, may_fail=wanted is without)
                for line in world.agent_log()[shown:]:
                    print(f"  agent: {line}")
                    shown += 1
                if not fault:
                    run = world.connections(_PORT, connections)
                    fault = _fault(run, wanted, connections)
                    _show(run, fault, style)
                if fault:
                    faults.append(f"{what}, {title.rstrip('.').lower()}: {fault}")
                    break
    except LbctlError as error:
        faults.append(f"{what}: {error}")
    print()
    return faults


def _followed(
    world: World,
    session: Session,
    act: Callable[[], None],
    wanted: Mapping[str, Fraction],
    *,
    may_fail: bool,
) -> str:
    """Do something to the endpoints under load until the rules follow; return what is wrong, or nothing.

    Connections may fail only where an endpoint was killed.
    """
    with world.waiting(session, wanted) as reached:
        act()
        deadline = time.monotonic() + _REACTION
        run = world.connections(
            _PORT, _ENDLESS, until=lambda: reached.is_set() or time.monotonic() > deadline
        )
        # The agent logs what it did after the rules are in.
        time.sleep(_SETTLE)
        if not reached.is_set():
            return f"the rules do not follow within {_REACTION:.0f} s"
    from lbctl.cli.output import count

    failed = sum(run.failures.values())
    seen = ", ".join(f"{number} {how}" for how, number in run.failures.items()) or "none failed"
    print(f"  rules changed after {run.seconds:.2f} s; until then {count(run.made, 'connection')}: {seen}")
    return f"{failed} of {run.made} connections failed" if failed and not may_fail else ""


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
