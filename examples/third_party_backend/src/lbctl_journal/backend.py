"""The backend `journal`: everything that `lbctl.spi.Backend` asks for, with a file in the kernel's place.

It balances nothing. It shows what a backend consists of, and is honest about what it cannot do: features that
it does not list in its capabilities are refused by name.
"""

from __future__ import annotations

import json
import os
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lbctl.errors import ApplyFailed, Stale
from lbctl.model import (
    Family,
    Item,
    LiftedProgram,
    LiftedService,
    Listener,
    Program,
    Protocol,
    Scheduler,
    SourceNat,
    State,
    diff,
)
from lbctl.spi import Backend, Capabilities, Count, Driver, Probe, require
from lbctl_journal import document

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbctl.host import Host
    from lbctl.model import Intent, Plan, Service

VARIABLE = "JOURNAL_FILE"
_MODE = {Scheduler.ROUND_ROBIN: "nth", Scheduler.RANDOM: "random"}


class Journal:
    """See `lbctl.spi.Backend` for what each member is for."""

    name = "journal"
    #: Used only with `--backend journal`: no host should come to a journal by `auto`.
    preference: int | None = None

    #: No release of a tool that `lbctl render --for` could name.
    tools = ()

    def probe(self, host: Host, *, driver: str | None = None) -> Probe:  # noqa: ARG002 (this one asks no host)
        """Usable where the environment names a file."""
        path = os.environ.get(VARIABLE)
        reason = "usable" if path else f"{VARIABLE} is not set"
        return Probe(
            drivers=(Driver(name="file", store="journal", usable=bool(path), reason=reason, version="1"),),
            capabilities=Capabilities(
                protocols=frozenset({Protocol.TCP, Protocol.UDP}),
                schedulers=frozenset(_MODE),
                states=frozenset(State),
                source_nat=frozenset({SourceNat.NEVER}),
            ),
            fix=f"set {VARIABLE} to the path of a file that you can write",
            facts={"file": path} if path else {},
        )

    def capabilities_for(self, tool: str, version: str) -> Capabilities:
        """Never called: there is no tool."""
        raise ValueError(f"{tool} {version} is no tool of this backend")

    def compile(
        self,
        intent: Intent,
        capabilities: Capabilities,
        *,
        previous: Program | None = None,  # noqa: ARG002 (our programs have no origin)
    ) -> Program:
        """One item for each listener and family. Its text is all that `lift` needs."""
        require(intent, capabilities, backend=self.name)
        return Program(
            intent.owner,
            tuple(
                Item((family, "listener", str(listener)), _text(service, family), service.name)
                for family in Family
                for service in intent.services
                for listener in service.listeners_of(family)
            ),
        )

    def render(
        self,
        program: Program,
        *,
        dialect: str = "",  # noqa: ARG002 (there is one)
        family: Family | None = None,
        remove: bool = False,
    ) -> str:
        """The journal that would hold this program alone, or what it has of a family."""
        kept = [item for item in program.items if family in {None, item.key[0]}]
        shown = Program(program.owner, () if remove else tuple(kept))
        return document.dump([shown]) if program else ""

    def check(self, host: Host, driver: str, program: Program) -> None:  # noqa: ARG002
        """Whether the journal can be read and replaced."""
        path = _path()
        document.read(path)
        if not os.access(path.parent, os.W_OK):
            raise ApplyFailed(f"{path.parent} cannot be written")

    def observe(self, host: Host, driver: str, owner: str) -> Program:  # noqa: ARG002
        """What the journal holds of an owner, with items that we do not know: a plan shows them."""
        return document.read(_path()).get(owner, Program(owner))

    def generation(self, host: Host, driver: str) -> str | None:  # noqa: ARG002
        """None: a file has no mark that moves with each of its changes."""
        return None

    def notes(self, host: Host, plan: Plan) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing: a plan shows all that changes."""
        return ()

    def apply(self, host: Host, plan: Plan) -> Program:  # noqa: ARG002
        """Replace one owner's program and no other; refuse when the journal moved since the plan."""
        path = _path()
        owner = plan.after.owner
        # lbctl locks an owner in a network namespace; a file is shared by all owners and namespaces.
        with document.locked(path):
            programs = document.read(path)
            if diff(programs.get(owner, Program(owner)), plan.before):
                raise Stale(f"{path} changed since the plan was made", hint="run lbctl plan again")
            programs[owner] = plan.after
            document.write(path, programs.values())
            return document.read(path).get(owner, Program(owner))

    def lift(self, program: Program) -> LiftedProgram:
        """Shares proved from the items alone; what is not ours to read is handed back verbatim."""
        services: list[LiftedService] = []
        unsupported: list[str] = []
        for item in program.items:
            service = _lift(item)
            if service is None:
                unsupported.append(f"{' '.join(item.key)}: {item.text}")
            else:
                services.append(service)
        return LiftedProgram(services=tuple(services), unsupported=tuple(unsupported))

    def stats(
        self,
        host: Host,
        driver: str,
        owner: str,
        *,
        services: Collection[str] | None = None,
        held: Program | None = None,
    ) -> tuple[Count, ...]:
        """Zeros: no connection ever comes through a file."""
        lifted = self.lift(held or self.observe(host, driver, owner))
        every = dict.fromkeys((s.name, s.family, to) for s in lifted.services for to in s.shares)
        return tuple(
            Count(service=name, family=family, to=to, connections=0, packets=0, bytes=0)
            for name, family, to in every
            if services is None or name in services
        )


def _path() -> Path:
    return Path(os.environ[VARIABLE])


def _text(service: Service, family: Family) -> str:
    slots = service.slots(family)
    mode = _MODE[service.scheduler] if len(slots) > 1 else "single" if slots else "none"
    return json.dumps({"mode": mode, "slots": [endpoint.to for endpoint in slots]})


def _lift(item: Item) -> LiftedService | None:
    """The service of an item, or None where the item is none of ours."""
    try:
        family, kind, listener = item.key
        content: Any = json.loads(item.text)
        if kind != "listener" or item.service is None:
            return None
        return LiftedService(
            name=item.service,
            family=Family(family),
            listener=_listener(listener),
            mode=content["mode"],
            # Without an endpoint, one period is one connection that nobody takes.
            slots=tuple(content["slots"]) or (None,),
            action="none",
        )
    except (KeyError, TypeError, ValueError):
        return None


def _listener(text: str) -> Listener:
    """`80/tcp`, `192.0.2.1:80/tcp` or `[2001:db8::1]:80/tcp`, as `str` of a listener gives it."""
    place, _, protocol = text.rpartition("/")
    host, _, port = place.rpartition(":")
    address = ip_address(host.strip("[]")) if host else None
    return Listener(protocol=Protocol(protocol), port=int(port), address=address)


#: What the entry point leads to. The annotation has the type checker hold it against the protocol.
backend: Backend = Journal()
