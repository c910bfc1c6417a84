"""Files of the distribution that take out every table of the kernel, ours too, when a unit loads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.host import applies_again, enabled, unit_file
from lbctl.model import Severity
from lbctl.spi import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host

UNIT = "nftables.service"
#: What the unit loads on most distributions.
_USUAL = "/etc/nftables.conf"
_COMMAND = re.compile(r"(?m)^\s*Exec\w+\s*=.*\bnft\b.*$")
_LOADED = re.compile(r"(?:-f|--file)[ =]?(\S+)")
_FLUSHING = re.compile(r"\bflush[ \t]+ruleset\b")
_FLUSH = re.compile(r"(?m)^[^#\n\"]*?\bflush[ \t]+ruleset\b")
_INCLUDE = re.compile(r'(?m)^\s*include\s+"([^"\n]+)"')
#: Files that include each other are read once each, and so many.
_MOST = 64


def flush_hazard(host: Host) -> Iterator[Problem]:
    """Yield a reload or restart of the unit that wipes our rules, where nothing applies them again."""
    unit = unit_file(host, UNIT, then=[_USUAL])
    if unit is None or applies_again(host, UNIT):
        return
    wipes = [f"{path}, line {line}: {text}" for path, line, text in _flushes(host, unit[1])]
    wipes += [f"{unit[0]}: {c.strip()}" for c in _COMMAND.findall(unit[1]) if _FLUSHING.search(c)]
    if not wipes:
        return
    yield Problem(
        code="flush-ruleset",
        severity=Severity.WARNING,
        message=f"a reload, restart or stop of {UNIT} deletes all tables of nf_tables, those of lbctl too"
        + ("" if enabled(host, UNIT) else "; it is not enabled, but may be reloaded by hand"),
        evidence="; ".join(wipes),
        fix="enable lbctl.service, which applies again after a reload (lbctl's packages and examples/systemd "
        "have it); or remove `flush ruleset` from that file",
    )


def boot_files(host: Host) -> tuple[str, ...]:
    """See `lbctl.spi.Migrator`."""
    unit = unit_file(host, UNIT)
    if unit is None or not enabled(host, UNIT):
        return ()
    return tuple(path for path, text in _loaded(host, unit[1]) if text)


def _flushes(host: Host, unit: str) -> Iterator[tuple[str, int, str]]:
    """The lines that flush everything, in the files that the unit loads."""
    for path, text in _loaded(host, unit):
        for found in _FLUSH.finditer(text):
            line = text.count("\n", 0, found.end()) + 1
            yield path, line, text.split("\n")[line - 1].strip()


def _loaded(host: Host, unit: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of the files that the unit loads, and of those that they include."""
    waiting = [found[1] for command in _COMMAND.findall(unit) if (found := _LOADED.search(command))]
    seen: set[str] = set()
    while waiting and len(seen) < _MOST:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        text = host.read(path) or ""
        yield path, text
        for name in _INCLUDE.findall(text):
            # A relative name is looked for in /etc, as the distributions' nft is built.
            whole = name if name.startswith("/") else f"/etc/{name}"
            waiting += host.glob(whole) if set(whole) & set("*?[") else [whole]
