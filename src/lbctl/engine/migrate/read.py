"""Existing rules, from a text, a file or the live kernel → what they do."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, overload

from lbctl.engine.change.render import capabilities_here
from lbctl.engine.migrate.rule_files import extract
from lbctl.engine.record.next_hops import with_next_hops
from lbctl.errors import ApplyFailed, IntentError, NoBackend
from lbctl.host import need_privilege
from lbctl.model import Analysis, Finding, Severity
from lbctl.spi import AUTO, Reader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbctl.host import Host
    from lbctl.model import Intent
    from lbctl.spi import Backend, Driver


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
            message="nothing in the text looks like a rule of a known language: iptables-save, "
            "scripts of iptables or nft commands, `nft list ruleset`; `lbctl import --from STORE` reads the "
            "rules of this host",
        )
        return Analysis(format="commands", accept=False, findings=(empty,))
    # A script may speak several languages: the one that most services are written in.
    return max(readings, key=lambda reading: (reading.accept, len(reading.services)))


def read_intent(host: Host, intent: Intent, *, backend: str = AUTO) -> Analysis:
    """Return what the rules do that a backend makes of an intent, by default the preferred one.

    Reads no rules of the host and needs no privilege. Raises `IntentError` for an unknown backend,
    `ApplyFailed` for one that cannot read rules, and `Unsupported`.
    """
    chosen, capabilities = capabilities_here(host, backend, None)
    return reader(chosen).read(chosen.render(chosen.compile(with_next_hops(host, intent), capabilities)))


def reader(backend: Backend) -> Reader:
    """Return the backend itself; raises `ApplyFailed` for one that cannot read rules."""
    if not isinstance(backend, Reader):
        raise ApplyFailed(f"backend {backend.name} cannot read rules, and so cannot verify them")
    return backend


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
        message=f"line {line} has {what}: this is not text",
    )


class SourceLines(Sequence[str]):
    """The lines of a text, each decoded when it is asked for: a large text is there once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        #: Where each line begins, and where the next one would.
        self._begin = array("Q", [0])
        end = data.find(b"\n")
        while end >= 0:
            self._begin.append(end + 1)
            end = data.find(b"\n", end + 1)
        self._begin.append(len(data) + 1)

    def __len__(self) -> int:
        return len(self._begin) - 1

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[str]: ...
    def __getitem__(self, number: int | slice) -> str | Sequence[str]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        begin, end = self._begin[number], self._begin[number + 1] - 1
        return self._data[begin:end].decode(errors="replace").removeprefix("\ufeff")


def read_live(host: Host, store: str, backends: Iterable[Backend]) -> Analysis:
    """Return what the rules in a store of the live kernel do.

    `store` is its name, the beginning of it, or the name of one of its drivers.

    Raises `IntentError` for an unknown store, `NoBackend` for one that nothing here can read, and
    `PermissionDenied`: without privilege, a legacy kernel shows no table instead of refusing.
    """
    readers = [backend for backend in backends if isinstance(backend, Reader)]
    drivers = [(each, driver) for each in readers for driver in each.probe(host).drivers]
    name = _store_named(store, [driver for _, driver in drivers])
    reasons = []
    for each, driver in drivers:
        if driver.store != name:
            continue
        if driver.usable:
            need_privilege(host, otherwise="name a file of rules")
            return each.read(each.dump(host, driver.name))
        reasons.append(f"{driver.name}: {driver.reason}")
    raise NoBackend(f"the rules of {name} cannot be read: {'; '.join(reasons)}")


def _store_named(name: str, drivers: Sequence[Driver]) -> str:
    """Return the store that a name means; raises `IntentError` for none and for several."""
    stores = list(dict.fromkeys(driver.store for driver in drivers))
    exact = [store for store in stores if store == name]
    by_driver = dict.fromkeys(driver.store for driver in drivers if driver.name == name)
    found = exact or list(by_driver) or [store for store in stores if name and store.startswith(name)]
    if len(found) != 1:
        which = "the name of several stores" if found else "no store of rules"
        raise IntentError(f'"{name}" is {which}', hint=f"one of {', '.join(found or stores)}")
    return found[0]
