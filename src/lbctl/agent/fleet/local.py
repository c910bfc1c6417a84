"""The local intent file of a host that follows a published one, and what it follows now."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lbctl.agent.etcd import Client
from lbctl.agent.fleet import keys, record, signing
from lbctl.agent.fleet.acceptance import PublicationRefused, accept, candidate
from lbctl.agent.fleet.subscriber import host_name
from lbctl.agent.sources.source import SourceFailed
from lbctl.config import load_merged
from lbctl.errors import IntentError, Unreachable
from lbctl.host.files import untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lbctl.agent.fleet.acceptance import Accepted
    from lbctl.host import Host
    from lbctl.model import EtcdAccess, Intent


def load_local(paths: Sequence[Path], name: str | None = None) -> Intent:
    """Return the intent in local files; `name` is followed instead of the one that they name.

    Raises `IntentError`, also where another user could widen what a published intent may do.
    """
    local = load_merged(paths)
    if local.follow is None:
        if name is None:
            return local
        raise IntentError(
            f"etcd://{name} is not followed: {_named(paths)} has no [follow] table",
            hint="it says what this host accepts of a published intent",
        )
    if name is not None:
        local = replace(local, follow=replace(local.follow, intent=name))
    if local.services:
        raise IntentError(
            f"{_named(paths)} has services and a [follow] table, which brings other ones",
            hint="give services of this host a file with an owner of its own",
        )
    if local.etcd is None:
        raise IntentError(f"{_named(paths)} has no [etcd] table", hint="it says where etcd is")
    for path in paths:
        if (reason := untrusted(path)) is not None:
            raise IntentError(f"[follow] is not used: {reason}", hint="it bounds what etcd may change here")
    return local


def resolve(host: Host, local: Intent) -> tuple[Accepted, str | None]:
    """Return what a host that follows an intent accepts of it now; without etcd, what it accepted last.

    The second value says that etcd did not answer, and why. Raises `IntentError` for a publication that is
    refused, and `Unreachable` if nothing is known.
    """
    if local.follow is None or local.etcd is None:
        raise ValueError("nothing is followed")
    follow, etcd, here = local.follow, local.etcd, host_name(local.follow)
    last = record.read(host, local.owner, follow.intent)
    trouble = None
    try:
        text = candidate(asyncio.run(_found(etcd, follow.intent)), follow.intent, here)
        if text is None:
            raise IntentError(f'no intent "{follow.intent}" is published', hint="lbctl publish FILE")
    except (SourceFailed, OSError, TimeoutError) as error:
        trouble = f"etcd: {error or 'no answer in time'}"
        if last is None:
            raise Unreachable(trouble, hint="no publication was accepted from etcd yet") from error
        text = last.text
    floor = 0 if last is None else last.floor
    try:
        verify = partial(signing.verify, host)
        return accept(text, local, follow, host=here, floor=floor, verify=verify), trouble
    except PublicationRefused as error:
        raise IntentError(error.message, hint="the [follow] table says what is accepted") from error


async def _found(etcd: EtcdAccess, name: str) -> Mapping[str, str]:
    client = await Client.of(etcd)
    _, found = await client.range(keys.intent(name))
    return found


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
