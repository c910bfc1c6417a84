"""Existing rules, from a text, a file or the live kernel → what they do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.migrate.rule_files import extract
from lbctl.errors import IntentError, NoBackend
from lbctl.host import need_privilege
from lbctl.model import Analysis, Finding, Severity
from lbctl.spi import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.spi import Backend


def read_rules(data: bytes, backends: Iterable[Backend]) -> Analysis:
    """Return what the rules of a text do, by the first reader that knows its language.

    The text may also be a file in which commands for rules are kept; see `lbctl.engine.rule_files`.
    """
    text, found = decode(data)
    if found is not None:
        return Analysis(format="commands", accept=False, findings=(found,))
    kept = extract(text)
    if kept is None:
        return _read(text, backends)
    refused = Analysis(format="commands", accept=False)
    reading = refused if kept.refused else _read(kept.text, backends)
    findings = sorted([*kept.findings, *reading.findings], key=lambda each: each.line)
    unsupported = (*kept.unsupported, *reading.unsupported)
    return replace(reading, findings=tuple(findings), unsupported=unsupported)


def _read(text: str, backends: Iterable[Backend]) -> Analysis:
    readers = [backend for backend in backends if isinstance(backend, Reader) and backend.recognizes(text)]
    readings = [reader.read(text) for reader in readers]
    if not readings:
        empty = Finding(
            code="unparsable-line",
            severity=Severity.ERROR,
            line=1,
            rule="",
            message="nothing in the text looks like a rule of a language that is known here: iptables-save, "
            "scripts of iptables or nft commands, `nft list ruleset`; `lbctl import --from STORE` reads the "
            "rules of this host",
        )
        return Analysis(format="commands", accept=False, findings=(empty,))
    # A script may speak several languages: the one that most services are written in.
    return max(readings, key=lambda reading: (reading.accept, len(reading.services)))


def decode(data: bytes) -> tuple[str, Finding | None]:
    """Bytes → text; or what is wrong with them, with the line."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    at, what = data.find(b"\0"), "a byte of zero"
    if at < 0:
        try:
            return data.decode(), None
        except UnicodeDecodeError as error:
            at, what = error.start, "bytes that are not UTF-8"
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        at, what = 0, "UTF-16: save it as UTF-8"
    line = data.count(b"\n", 0, at) + 1
    return "", Finding(
        code="input-not-text",
        severity=Severity.ERROR,
        line=line,
        rule="",
        message=f"line {line} has {what}: this is no text",
    )


def read_live(host: Host, store: str, backends: Iterable[Backend]) -> Analysis:
    """Return what the rules in a store of the live kernel do; the beginning of one store's name is enough.

    Raises `IntentError` for an unknown store, `NoBackend` for one that nothing here can read, and
    `PermissionDenied`: without privilege, a legacy kernel shows no table instead of refusing.
    """
    readers = [backend for backend in backends if isinstance(backend, Reader)]
    drivers = [(reader, driver) for reader in readers for driver in reader.probe(host).drivers]
    stores = list(dict.fromkeys(driver.store for _, driver in drivers))
    named = [store] if store in stores else [each for each in stores if store and each.startswith(store)]
    if len(named) != 1:
        which = "the name of several stores" if named else "no store of rules"
        raise IntentError(f'"{store}" is {which}', hint=f"one of {', '.join(named or stores)}")
    reasons = []
    for reader, driver in drivers:
        if driver.store != named[0]:
            continue
        if driver.usable:
            need_privilege(host, otherwise="name a file of rules")
            return reader.read(reader.dump(host, driver.name))
        reasons.append(f"{driver.name}: {driver.reason}")
    raise NoBackend(f"the rules of {named[0]} cannot be read: {'; '.join(reasons)}")
