"""What is done to the published intent: publish, roll back, drain, look at the hosts.

Each writer reads the publication that is current, and writes the next one only if that still is: of two that
write at once, one is refused and has to read it again.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.agent.etcd import Client
from lbctl.agent.fleet import keys, report
from lbctl.agent.fleet.publication import Publication, Sealed, read, write
from lbctl.agent.fleet.report import Stand, overall, stand
from lbctl.agent.sources.source import SourceFailed
from lbctl.config import dump
from lbctl.errors import Damaged, IntentError, Stale, Unreachable
from lbctl.model import Override, time_of, unpublishable
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from lbctl.agent.fleet.report import HostReport
    from lbctl.host import Host
    from lbctl.model import EtcdAccess, Intent

#: Publications that are kept for a rollback.
KEPT = 50
#: Seconds of a canary's lease, between two looks at its hosts, and for it to be carried out there.
_LEASE, _LOOK, CARRIED_OUT = 15, 0.25, 30.0
_FEW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The publication that all hosts follow, and the revision of etcd that wrote it; None and 0 for none."""

    publication: Publication | None = None
    written: int = 0

    @property
    def next(self) -> int:
        """The revision of the next publication."""
        return 1 if self.publication is None else self.publication.revision + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All that etcd knows of the hosts of one intent.

    `reports` are the last ones, by host; None for a host whose agent reports no longer. `quorum` is False if
    this is what one member knew that is cut off from the others: then nothing of it may be true any more.
    """

    name: str
    current: Publication | None
    canary: Publication | None
    reports: Mapping[str, HostReport | None]
    problems: tuple[str, ...] = ()
    quorum: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Writes one intent's publications. `seal` returns the signature of a body, None for none."""

    client: Client
    host: Host
    name: str
    author: str
    seal: Callable[[str], str | None]

    async def current(self) -> Current:
        """Return what is current; raises `Damaged` if it cannot be read."""
        entry = await self.client.get(keys.current(self.name))
        if entry is None:
            return Current()
        return Current(publication=self._read(entry.value).publication, written=entry.revision)

    def next_of(
        self, current: Current, intent: Intent, message: str, *, hosts: Sequence[str] = ()
    ) -> Publication:
        """Return the publication of an intent that follows on the current one; raises `IntentError`."""
        if reasons := unpublishable(intent):
            more = f"; and {len(reasons) - _FEW} more" if len(reasons) > _FEW else ""
            raise IntentError(
                "this intent cannot be published: " + "; ".join(reasons[:_FEW]) + more,
                hint="put what each host decides for itself into the host's own intent file",
            )
        kept = current.publication.overrides if current.publication is not None else ()
        ends = {(service.name, each.name) for service in intent.services for each in service.endpoints}
        return self._publication(
            revision=current.next,
            message=message,
            text=dump(intent),
            overrides=tuple(each for each in kept if each.place in ends),
            hosts=tuple(hosts),
        )

    async def before(self, current: Current, to: int | None = None) -> Publication:
        """Return what a rollback publishes: the intent before the current one, or that of a revision."""
        now = current.publication
        if now is None:
            raise IntentError(f'no intent "{self.name}" is published')
        _, found = await self.client.range(keys.past(self.name))
        past = {each.revision: each for each in (self._read(text).publication for text in found.values())}
        wanted = max((n for n in past if n < now.number_of_intent), default=None) if to is None else to
        if wanted is None or wanted not in past:
            what = "nothing before it" if wanted is None else f"revision {wanted}"
            raise IntentError(f"{what} is on record of {self.name}", hint=f"the last {KEPT} are kept")
        target = past[wanted]
        return self._publication(
            revision=current.next,
            message=f"back to revision {wanted}",
            text=target.text,
            overrides=now.overrides,
            origin=target.number_of_intent,
        )

    def overridden(self, current: Current, overrides: Sequence[Override], message: str) -> Publication:
        """Return the current intent with other drains and weights of the fleet."""
        if current.publication is None:
            raise IntentError(f'no intent "{self.name}" is published')
        return self._publication(
            revision=current.next,
            message=message,
            text=current.publication.text,
            overrides=tuple(overrides),
            origin=current.publication.number_of_intent,
        )

    async def publish(self, publication: Publication, seen: Current, *, over_canary: bool = False) -> None:
        """Have all hosts follow a publication; raises `Stale` if another one was published since `seen`."""
        text = self._sealed(publication)
        key, trial = keys.current(self.name), keys.canary(self.name)
        wanted = {key: seen.written} if over_canary else {key: seen.written, trial: 0}
        put = {key: text, keys.past(self.name, publication.revision): text}
        old = publication.revision - KEPT
        delete = [trial] if over_canary else []
        if old > 0:
            delete.append(keys.past(self.name, old))
        if not await self.client.swap(wanted, put, delete=delete):
            raise Stale(
                f"{self.name} was published by another writer, or a canary runs: nothing was published",
                hint="lbctl hosts shows what is current; then publish again",
            )

    async def try_out(
        self,
        publication: Publication,
        seen: Current,
        seconds: float,
        show: Callable[[str], object],
    ) -> str | None:
        """Have the hosts of a publication follow it for a time, then all; return why it was stopped instead.

        It lasts while this runs: should this process be gone, its lease ends, and the hosts go back.
        """
        before = (await self.fleet()).reports
        for host in publication.hosts:
            if before.get(host) is None:
                raise IntentError(f"{host} does not report: it cannot be a canary", hint="lbctl hosts")
        lease = await self.client.grant(_LEASE)
        trial = keys.canary(self.name)
        try:
            wanted = {keys.current(self.name): seen.written, trial: 0}
            if not await self.client.swap(wanted, {trial: self._sealed(publication)}, lease=lease):
                raise Stale(
                    f"{self.name} was published by another writer, or another canary runs",
                    hint="lbctl hosts shows what is current; then publish again",
                )
            watched = {host: each for host, each in before.items() if host in publication.hosts and each}
            stopped = await self._watch(publication.revision, watched, seconds, lease, show)
            if stopped is None:
                await self.publish(publication.for_all(), seen, over_canary=True)
            return stopped
        finally:
            await self.client.revoke(lease)

    async def _watch(
        self,
        revision: int,
        before: Mapping[str, HostReport],
        seconds: float,
        lease: int,
        show: Callable[[str], object],
    ) -> str | None:
        loop = asyncio.get_running_loop()
        begun = kept = loop.time()
        good: float | None = None
        said = ""
        while True:
            reports = (await self.fleet()).reports
            found, why = overall(
                {host: stand(revision, was, reports.get(host)) for host, was in before.items()}
            )
            now = loop.time()
            if found is Stand.BAD:
                return why
            if found is Stand.GOOD:
                good = now if good is None else good
                if now - good >= seconds:
                    return None
            elif now - begun > CARRIED_OUT and good is None:
                return f"{why} after {CARRIED_OUT:g} s"
            text = "The canary is in sync" if found is Stand.GOOD else f"Waiting: {why}"
            if text != said:
                show(f"{text}.")
                said = text
            if now - kept > _LEASE / 4:
                if not await self.client.keep_alive(lease):
                    return "the lease of the canary ended"
                kept = now
            await asyncio.sleep(_LOOK)

    async def fleet(self) -> Fleet:
        """Return what is known of all hosts."""
        return await read_fleet(self.client, self.name)

    async def forget(self, host: str) -> None:
        """Have a host that reports no longer not be listed."""
        await self.client.delete(keys.known(self.name, host))
        await self.client.delete(keys.hosts(self.name, host))

    def _publication(self, **fields: object) -> Publication:
        try:
            return Publication(
                name=self.name,
                time=time_of(self.host.now()),
                author=self.author,
                **fields,  # type: ignore[arg-type]
            )
        except ValueError as error:
            raise IntentError(str(error)) from error

    def _sealed(self, publication: Publication) -> str:
        body = publication.body()
        try:
            return write(body, self.seal(body))
        except ValueError as error:
            raise IntentError(f"this intent cannot be published: {error}") from error

    def _read(self, text: str) -> Sealed:
        try:
            return read(text)
        except Damaged as error:
            raise Damaged(f"what is published as {self.name} is damaged: {error.message}") from error


async def read_fleet(client: Client, name: str, *, stale: bool = False) -> Fleet:
    """Return what etcd knows of all hosts of an intent. What cannot be read is a problem, not an end."""
    problems: list[str] = []
    _, found = await client.entries(keys.intent(name), stale=stale)
    _, reported = await client.entries(keys.hosts(name), stale=stale)
    _, known = await client.entries(keys.known(name), stale=stale)

    def publication(key: str) -> Publication | None:
        try:
            return read(found[key].value).publication if key in found else None
        except Damaged as error:
            problems.append(f"{key} is damaged: {error.message}")
            return None

    reports: dict[str, HostReport | None] = {key.removeprefix(keys.known(name)): None for key in known}
    for key, entry in reported.items():
        host = key.removeprefix(keys.hosts(name))
        try:
            reports[host] = report.read(entry.value, host)
        except (Damaged, ValueError) as error:
            problems.append(f"{key} is damaged: {error}")
            reports[host] = None
    return Fleet(
        name=name,
        current=publication(keys.current(name)),
        canary=publication(keys.canary(name)),
        reports=dict(sorted(reports.items())),
        problems=tuple(problems),
        quorum=not stale,
    )


async def look(access: EtcdAccess, name: str) -> Fleet:
    """Return what etcd knows of all hosts; what one member knows, if the others cannot be reached.

    Raises as `reaching`.
    """
    with_quorum: Exception
    try:
        return await read_fleet(await Client.of(access), name)
    except (SourceFailed, OSError, TimeoutError) as error:
        with_quorum = error
    async with reaching():
        try:
            return await read_fleet(await Client.of(access, stale=True), name, stale=True)
        except (SourceFailed, OSError, TimeoutError):
            raise with_quorum from None


@asynccontextmanager
async def reaching() -> AsyncIterator[None]:
    """Raise `Unreachable` for what goes wrong inside with etcd."""
    try:
        yield
    except TimeoutError as error:
        raise Unreachable("etcd: no answer in time") from error
    except (SourceFailed, OSError) as error:
        raise Unreachable(f"etcd: {error}", hint="the [etcd] table says where etcd is") from error


def with_override(found: Sequence[Override], new: Override) -> tuple[Override, ...]:
    """Return overrides with one added, joined with what there is of the same endpoint."""
    old = next((each for each in found if each.place == new.place), None)
    if old is not None:
        weight = old.weight if new.weight is None else new.weight
        new = replace(new, drained=new.drained or old.drained, weight=weight)
    return (*(each for each in found if each.place != new.place), new)


def without_override(
    found: Sequence[Override], place: tuple[str, str], *, drain: bool, weight: bool
) -> tuple[Override, ...]:
    """Return overrides without the drain, the weight or both of an endpoint."""
    left = []
    for each in found:
        if each.place != place:
            left.append(each)
            continue
        drained, number = each.drained and not drain, None if weight else each.weight
        if drained or number is not None:
            left.append(replace(each, drained=drained, weight=number))
    return tuple(left)
