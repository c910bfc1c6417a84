"""Which publication a host follows, and why it refuses one. Pure but for the signature."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.agent.fleet import keys
from lbctl.agent.fleet.publication import read
from lbctl.agent.fleet.signing import NotSigned
from lbctl.errors import Damaged, IntentError
from lbctl.model import refusals
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lbctl.agent.fleet.publication import Publication
    from lbctl.model import Follow, Intent

#: Reasons of one refusal that are shown.
_FEW = 5


class PublicationRefused(Exception):
    """A publication that this host does not accept: one sentence, and its revision where that is known."""

    def __init__(self, message: str, revision: int | None = None) -> None:
        super().__init__(message)
        self.message, self.revision = message, revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A publication that this host follows, what it makes of its local intent, and the text of etcd.

    `signer` is who signed it, where signatures are asked for.
    """

    publication: Publication
    intent: Intent
    text: str
    signer: str | None = None

    @property
    def canary(self) -> bool:
        """True if this host is one of few that try it."""
        return bool(self.publication.hosts)


def candidate(found: Mapping[str, str], name: str, host: str) -> str | None:
    """Return the text that a host follows, of those below `keys.intent(name)`; None for none.

    A canary that names this host comes before what is current, if it is newer. One that cannot be read names
    no host.
    """
    current, canary = found.get(keys.current(name)), found.get(keys.canary(name))
    if canary is None:
        return current
    try:
        tried = read(canary).publication
        newer = current is None or tried.revision > read(current).publication.revision
    except Damaged:
        return current
    return canary if newer and host in tried.hosts else current


def accept(
    text: str,
    local: Intent,
    follow: Follow,
    *,
    host: str,
    floor: int,
    verify: Callable[[str, str | None, str], str],
) -> Accepted:
    """Return what a host makes of a publication; raises `PublicationRefused`.

    `local` is the host's own intent, `floor` the last revision for all hosts that it has accepted, `verify`
    returns who signed a body or raises `NotSigned`.
    """
    try:
        sealed = read(text)
    except Damaged as error:
        raise PublicationRefused(f"the published intent is damaged: {error.message}") from error
    publication = sealed.publication
    revision = publication.revision

    def refused(reason: str) -> PublicationRefused:
        return PublicationRefused(f"revision {revision} of {publication.name} is refused: {reason}", revision)

    if publication.name != follow.intent:
        raise refused(f'it was published as "{publication.name}", not as "{follow.intent}"')
    least = max(follow.least_revision, floor)
    if revision < least:
        raise refused(f"it is older than revision {least}")
    if publication.hosts and (host not in publication.hosts or revision <= floor):
        raise refused("it is a canary for other hosts")
    try:
        signer = verify(sealed.body, sealed.signature, follow.signed_by) if follow.signed_by else None
        intent = publication.intent()
    except NotSigned as error:
        raise refused(str(error)) from error
    except IntentError as error:
        raise refused("; ".join(map(str, error.problems[:_FEW])) or error.message) from error
    if reasons := refusals(intent, follow):
        more = f"; and {len(reasons) - _FEW} more" if len(reasons) > _FEW else ""
        raise refused("; ".join(reasons[:_FEW]) + more)
    merged = replace(local, services=intent.services, follow=None)
    return Accepted(publication=publication, intent=merged, text=text, signer=signer)
