"""`lbctl backends`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lbctl.cli.options import BackendName, Color, Colors, DriverName, Format, Output
from lbctl.errors import NoBackend

if TYPE_CHECKING:
    from lbctl.spi import Candidate, Census


def backends(
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show what this host offers and holds, which backend is chosen, and why.

    Only looks: loads no kernel module and needs no privilege, but without it no rules are counted. Exits
    with 3 where none is usable.
    """
    from lbctl import spi
    from lbctl.cli.output import Style, print_json, stores_text, table
    from lbctl.host import LocalHost

    host = LocalHost()
    candidates = spi.survey(host, spi.backends())
    counts = spi.census(host, candidates)
    choice, failure = None, None
    try:
        choice = spi.select(candidates, backend=backend, driver=driver, counts=counts)
    except NoBackend as error:
        failure = error
    if output is Format.JSON:
        print_json(
            {
                "chosen": choice.backend.name if choice else None,
                "driver": choice.driver.name if choice else None,
                "reason": choice.reason if choice else str(failure),
                "backends": [_document(candidate, counts) for candidate in candidates],
            }
        )
    else:
        style = Style(color)
        for candidate in candidates:
            usable = bool(candidate.probe.usable)
            print(style(candidate.backend.name, "bold", "green" if usable else "red"))
            rows = [
                (
                    "*" if choice and d is choice.driver else " ",
                    d.name,
                    d.version or "-",
                    "usable" if d.usable else "not usable",
                    "" if d.usable else d.reason,
                )
                for d in candidate.probe.drivers
            ]
            print(table(rows, indent="  "))
            print(f"    rules: {stores_text(_own(candidate, counts))}")
            can = candidate.probe.capabilities
            print(f"    schedulers: {', '.join(sorted(can.schedulers))}")
            print(f"    protocols:  {', '.join(sorted(can.protocols))}")
            print(f"    source-nat: {', '.join(sorted(can.source_nat))}")
            for key, value in candidate.probe.facts.items():
                print(f"    {key}: {value}")
        if choice:
            print(f"chosen: {choice.backend.name} through {choice.driver.name} ({choice.reason})")
    if failure:
        raise failure


def _own(candidate: Candidate, counts: tuple[Census, ...]) -> list[Census]:
    """Those of the stores of one backend."""
    stores = {driver.store for driver in candidate.probe.drivers}
    return [count for count in counts if count.store in stores]


def _document(candidate: Candidate, counts: tuple[Census, ...]) -> dict[str, Any]:
    from lbctl.cli.output import stores_document

    probe = candidate.probe
    can = probe.capabilities
    return {
        "name": candidate.backend.name,
        "usable": bool(probe.usable),
        "reason": "usable" if probe.usable else "; ".join(f"{d.name}: {d.reason}" for d in probe.drivers),
        "remedy": None if probe.usable else probe.remedy,
        "drivers": [
            {"name": d.name, "usable": d.usable, "reason": d.reason, "version": d.version, "store": d.store}
            for d in probe.drivers
        ],
        "stores": stores_document(_own(candidate, counts)),
        "facts": dict(probe.facts),
        "capabilities": {
            "schedulers": sorted(can.schedulers),
            "protocols": sorted(can.protocols),
            "states": sorted(can.states),
            "source_nat": sorted(can.source_nat),
            "affinity": can.affinity,
            "allow": can.allow,
        },
    }
