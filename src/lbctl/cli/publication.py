"""How a published intent is changed, by `lbctl publish` and by `--fleet` of other commands."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from lbctl.cli.options import Format
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from lbctl.agent.fleet.publication import Publication
    from lbctl.agent.fleet.publisher import Current, Publisher
    from lbctl.documents.fleet import PublicationDocument, PublishDocument
    from lbctl.model import Override


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishing:
    """How a publication is made: the options of its command."""

    config: Path | None
    sign: Path | None
    yes: bool
    output: Format
    seconds: float = 0.0


def change(make: Callable[[Publisher, Current], Coroutine[None, None, Publication]], how: Publishing) -> None:
    """Show what a publication changes, ask, and publish it; raises `typer.Exit` if it was not published."""
    from lbctl.cli.fleet import described
    from lbctl.cli.output import print_json, say

    outcome = asyncio.run(_changed(make, how))
    if how.output is Format.JSON:
        print_json(_document(outcome))
    if outcome.published:
        say(f"Published {described(outcome.publication.for_all())}.")
    elif outcome.stopped is not None:
        say(f"The canary was stopped, and nothing was published: {outcome.stopped}.")
    elif outcome.changed:
        say("Nothing was published.")
    else:
        say("Nothing to publish: the published intent is the same.")
    if outcome.changed and not outcome.published:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    before: Publication | None
    publication: Publication
    changed: bool
    published: bool = False
    stopped: str | None = None


async def _changed(
    make: Callable[[Publisher, Current], Coroutine[None, None, Publication]], how: Publishing
) -> _Outcome:
    from lbctl.agent.etcd import Client
    from lbctl.agent.fleet.publisher import Publisher, reaching
    from lbctl.agent.fleet.signing import sign
    from lbctl.cli.context import open_host
    from lbctl.cli.fleet import author_of, change_lines, place
    from lbctl.cli.output import say
    from lbctl.cli.work import confirmed

    name, access = place(how.config)
    host, key = open_host(), how.sign
    async with reaching():
        client = await Client.of(access)
        publisher = Publisher(
            client=client,
            host=host,
            name=name,
            author=author_of(host),
            seal=lambda body: None if key is None else sign(host, body, key),
        )
        current = await publisher.current()
        publication = await make(publisher, current)
        before = current.publication
        same = before is not None and (before.text, before.overrides) == (
            publication.text,
            publication.overrides,
        )
        outcome = _Outcome(before=before, publication=publication, changed=not same)
        if same:
            return outcome
        for line in change_lines(before, publication):
            say(line)
        if not confirmed(f"Publish this as revision {publication.revision} of {name}?", yes=how.yes):
            return outcome
        if not publication.hosts:
            await publisher.publish(publication, current)
            return replace(outcome, published=True)
        stopped = await publisher.try_out(publication, current, how.seconds, say)
        return replace(outcome, published=stopped is None, stopped=stopped)


def _document(outcome: _Outcome) -> PublishDocument:
    from lbctl.documents.fleet import PublishDocument, services_of
    from lbctl.model import Intent, intent_changes

    before = outcome.before
    old = before.intent() if before is not None else Intent()
    return PublishDocument(
        name=outcome.publication.name,
        before=None if before is None else before.revision,
        publication=publication_document(outcome.publication),
        published=outcome.published,
        stopped=outcome.stopped,
        services=services_of(intent_changes(old, outcome.publication.intent())),
    )


def publication_document(publication: Publication) -> PublicationDocument:
    """Return the document of a publication."""
    from lbctl.documents.fleet import PublicationDocument, overrides_of

    return PublicationDocument(
        revision=publication.revision,
        origin=publication.origin,
        time=publication.time,
        author=publication.author,
        message=publication.message,
        hosts=list(publication.hosts),
        overrides=overrides_of(publication.overrides),
    )


def roll_back(to: int | None, how: Publishing) -> None:
    """Publish the intent before the current one, or that of a revision."""

    async def make(publisher: Publisher, current: Current) -> Publication:
        return await publisher.before(current, to)

    change(make, how)


def override(
    names: list[str],
    how: Publishing,
    *,
    drain: bool | None = None,
    weight: int | None = None,
    why: str = "",
) -> None:
    """Set or end a drain (`drain` is a bool) or a weight (`drain` is None) of endpoints, for all hosts."""
    from lbctl.agent.fleet.publisher import with_override, without_override
    from lbctl.engine.change.operate import resolve
    from lbctl.errors import IntentError
    from lbctl.model import Override

    async def make(publisher: Publisher, current: Current) -> Publication:
        if current.publication is None:
            raise IntentError(f'no intent "{publisher.name}" is published', hint="lbctl publish FILE")
        found = current.publication.overrides
        known = current.publication.intent()
        for service, name, _ in resolve(known, names, found, where=f"published as {publisher.name}"):
            if drain or weight is not None:
                new = Override(
                    service=service,
                    endpoint=name,
                    drained=bool(drain),
                    weight=weight,
                    who=publisher.author,
                    since=publisher.host.now(),
                    why=why,
                )
                if any(_alike(each, new) for each in found):
                    continue
                found = with_override(found, new)
            else:
                found = without_override(found, (service, name), drain=drain is False, weight=drain is None)
        return publisher.overridden(current, found, _message(names, drain=drain, weight=weight, why=why))

    change(make, how)


def _alike(old: Override, new: Override) -> bool:
    """Return True if an override says already what another one would."""
    same = old.place == new.place and (old.drained or not new.drained)
    return same and new.weight in (None, old.weight) and new.why in ("", old.why)


def _message(names: list[str], *, drain: bool | None, weight: int | None, why: str) -> str:
    what = "drain" if drain else "activate" if drain is False else f"weight {weight or 'reset'}"
    text = f"{what} {', '.join(names)}" + (f": {why}" if why else "")
    return text[:200]
