"""Programs of the administrator that are run when the health of an endpoint changes.

They are run by the same rules as the programs of checks, in threads of their own, so that no check waits for
them. For one endpoint of a family at most one runs at a time; of the changes behind it, only the last one is
passed on: what a program hears last is how things are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lbctl.agent.checks import outcomes, program
from lbctl.agent.journal import Priority
from lbctl.model import inert
from lbctl.values import dataclass

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Mapping

    from lbctl.agent.health import Subject
    from lbctl.agent.journal import Journal
    from lbctl.model import Endpoint, HealthPolicy, Intent, Verdict

#: Programs that run at once, seconds that each may take, and changes that wait; more of them are dropped.
MOST, TIMEOUT, WAITING = 16, 10.0, 4096
_WORDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A program and the environment that describes the change."""

    policy: HealthPolicy
    environment: Mapping[str, str]


class Notices:
    """The programs of `notify`. Constructed in a running loop, in whose thread all but the programs runs."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._programs = program.Programs(MOST)
        self._services: dict[str, tuple[HealthPolicy, dict[str, Endpoint]]] = {}
        self._running: set[Subject] = set()
        self._waiting: dict[Subject, _Change] = {}

    def follow(self, intent: Intent) -> None:
        """Go on with the `notify` of another intent."""
        self._services = {
            service.name: (service.health, {each.name: each for each in service.endpoints})
            for service in intent.services
            if service.health.notify
        }

    def changed(self, changes: Iterable[tuple[Subject, Verdict]]) -> None:
        """Run the programs of services for endpoints whose health changed; returns at once."""
        for subject, verdict in changes:
            policy, endpoints = self._services.get(subject[0], (None, {}))
            if policy is None or (endpoint := endpoints.get(subject[1])) is None:
                continue
            change = _Change(policy=policy, environment=_environment(subject, endpoint, verdict))
            if subject not in self._running and len(self._running) < MOST:
                self._start(subject, change)
            elif subject in self._waiting or len(self._waiting) < WAITING:
                self._waiting[subject] = change
            else:
                self._complain(subject, "too many changes wait for their programs")

    def close(self) -> None:
        """Start no more programs; those that run end by themselves, or at their timeout."""
        self._waiting.clear()
        self._programs.finish()

    def _start(self, subject: Subject, change: _Change) -> None:
        self._running.add(subject)
        policy = change.policy
        future = self._programs.run(policy.notify, policy.notify_user, change.environment, TIMEOUT)
        future.add_done_callback(partial(self._ended, subject))

    def _ended(self, subject: Subject, future: asyncio.Future[program.Ended]) -> None:
        self._running.discard(subject)
        if future.cancelled():
            return
        if (fault := _fault(future)) is not None:
            self._complain(subject, fault)
        for following in [each for each in self._waiting if each not in self._running]:
            if len(self._running) >= MOST:
                return
            self._start(following, self._waiting.pop(following))

    def _complain(self, subject: Subject, fault: str) -> None:
        service, endpoint, family = subject
        self._journal.say(
            f"notify of {service}/{endpoint} ({family}): {fault}",
            Priority.WARNING,
            service=service,
            endpoint=endpoint,
            family=family,
        )


def _environment(subject: Subject, endpoint: Endpoint, verdict: Verdict) -> dict[str, str]:
    service, name, family = subject
    address = outcomes.LOOPBACK[family] if endpoint.address is None else endpoint.address
    return {
        "LBCTL_SERVICE": service,
        "LBCTL_ENDPOINT": name,
        "LBCTL_FAMILY": str(family),
        "LBCTL_ADDRESS": str(address),
        "LBCTL_PORT": str(endpoint.port or ""),
        "LBCTL_STATE": str(verdict.health),
        "LBCTL_REASON": verdict.result,
    }


def _fault(future: asyncio.Future[program.Ended]) -> str | None:
    """Return what went wrong with a program; None if it ended with 0."""
    match future.exception():
        case None:
            ended = future.result()
        case program.ProgramRefused() as refused:
            return f"not run: {refused}"
        case OSError() as error:
            return f"not run: {error.strerror}"
        case BaseException() as error:
            raise error
    said = inert(ended.output.decode("utf-8", "replace").strip())[:_WORDS]
    match ended.code:
        case 0:
            return None
        case None:
            return f"ended after {TIMEOUT:g} s: it took too long"
        case code:
            return f"exit {code}{': ' if said else ''}{said}"
