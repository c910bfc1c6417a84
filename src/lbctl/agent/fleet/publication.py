"""An intent as it is published.

In etcd it is a JSON object of two texts:

    {"format_version": 1, "body": "{\"name\": \"edge\", \"revision\": 7, …}", "signature": "-----BEGIN SSH …"}

The signature is over the bytes of `body`, which is JSON itself: nothing has to be put in a canonical form.
The revision and the name of the intent are in it, so that a signed publication is good for one place only.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.config import loads
from lbctl.engine.record.overrides import ROW, rows
from lbctl.errors import Damaged
from lbctl.model import MAX_WHO, Override, State, check_intent_name, check_report_name, read_record
from lbctl.model.follow import MAX_REVISION
from lbctl.values import dataclass

if TYPE_CHECKING:
    from lbctl.model import Intent, Shape

VERSION = 1
#: Characters of a publication: etcd takes 1.5 MiB in a request, and each is written to two keys.
MAX_TEXT = 700 << 10
MAX_MESSAGE = 500
_OUTER: Shape = {"format_version": int, "body": str, "signature": str | None}
_BODY: Shape = {
    "name": str,
    "revision": int,
    "origin": int | None,
    "time": str,
    "author": str,
    "message": str,
    "intent": str,
    "overrides": [ROW],
    "hosts": [str],
}

#: The keys of a body that are fields of a publication as they stand.
_SAME = ("name", "revision", "origin", "time", "author", "message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A published intent.

    `text` is an intent file, `overrides` the drains and weights of the whole fleet. `hosts` try it as
    canaries; () for all hosts. `origin` is the revision whose intent this one repeats, None for a new one.
    """

    name: str
    revision: int
    time: str
    author: str
    text: str
    message: str = ""
    overrides: tuple[Override, ...] = ()
    hosts: tuple[str, ...] = ()
    origin: int | None = None

    def __post_init__(self) -> None:
        check_intent_name(self.name)
        if not 1 <= self.revision <= MAX_REVISION:
            raise ValueError(f"revision {self.revision} is not between 1 and {MAX_REVISION}")
        if self.origin is not None and not 1 <= self.origin < self.revision:
            raise ValueError(f"origin {self.origin} is not an earlier revision")
        lines = (
            ("time", self.time, MAX_WHO),
            ("author", self.author, MAX_WHO),
            ("message", self.message, MAX_MESSAGE),
        )
        for what, text, most in lines:
            if len(text) > most or not text.isprintable():
                raise ValueError(f"{what} is not a line of at most {most} characters")
        for host in self.hosts:
            check_report_name(host)
        if len({each.place for each in self.overrides}) < len(self.overrides):
            raise ValueError("two overrides of one endpoint")

    @property
    def number_of_intent(self) -> int:
        """The revision that first had this intent."""
        return self.revision if self.origin is None else self.origin

    def intent(self) -> Intent:
        """Return the intent, with the drains and weights of the fleet; raises `IntentError`."""
        found = loads(self.text, f"etcd://{self.name}")
        for each in self.overrides:
            service = next((s for s in found.services if s.name == each.service), None)
            endpoint = service and next((e for e in service.endpoints if e.name == each.endpoint), None)
            if service is not None and endpoint is not None:
                state = State.DRAIN if each.drained else None
                found = found.with_endpoint(service.name, endpoint.name, weight=each.weight, state=state)
        return found

    def body(self) -> str:
        """Return what is signed."""
        fields = {key: getattr(self, key) for key in _SAME}
        more = {"intent": self.text, "overrides": rows(self.overrides), "hosts": list(self.hosts)}
        return json.dumps({**fields, **more}, separators=(",", ":"))

    def for_all(self) -> Publication:
        """Return this publication for all hosts."""
        return replace(self, hosts=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A publication as it was found: what it says, the bytes that say so, and the signature over them."""

    publication: Publication
    body: str
    signature: str | None = None


def write(body: str, signature: str | None = None) -> str:
    """Return the text for etcd; raises `ValueError` if it is too long."""
    text = json.dumps(
        {"format_version": VERSION, "body": body, "signature": signature}, separators=(",", ":")
    )
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text)} characters are more than the {MAX_TEXT} that etcd can hold")
    return text


def read(text: str) -> Sealed:
    """Return the publication in a text of etcd; raises `Damaged`."""
    if len(text) > MAX_TEXT:
        raise Damaged(f"longer than {MAX_TEXT} characters")
    outer = read_record(text, _OUTER)
    if outer["format_version"] != VERSION:
        raise Damaged(f"format_version {outer['format_version']} is from another version of lbctl")
    fields = read_record(outer["body"], _BODY)
    try:
        publication = Publication(
            **{key: fields[key] for key in _SAME},
            text=fields["intent"],
            overrides=tuple([Override(**row) for row in fields["overrides"]]),
            hosts=tuple(fields["hosts"]),
        )
    except ValueError as error:
        raise Damaged(str(error)) from error
    return Sealed(publication=publication, body=outer["body"], signature=outer["signature"])
