"""`lbctl backends`."""

from __future__ import annotations

from lbctl.cli.options import BackendName, Color, Colors, DriverName, Format, Output
from lbctl.errors import NoBackend


def backends(
    backend: BackendName = "auto",
    driver: DriverName = None,
    output: Output = Format.TEXT,
    color: Colors = Color.AUTO,
) -> None:
    """Show each backend, what it offers, and which one is chosen.

    Read-only: loads no kernel module. Needs no privilege, but without CAP_NET_ADMIN rules are not counted.
    Exits with 3 if no backend is usable.
    """
    from lbctl import spi
    from lbctl.cli.context import open_host
    from lbctl.cli.output import Style, print_json, stores_text, table
    from lbctl.documents.backends import backends as document

    host = open_host()
    candidates = spi.survey(host, spi.backends())
    counts = spi.count_rules(host, candidates)
    choice, failure = None, None
    try:
        choice = spi.select(candidates, backend=backend, driver=driver, counts=counts)
    except NoBackend as error:
        failure = error
    if output is Format.JSON:
        print_json(document(candidates, counts, choice, str(failure)))
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
            _line(f"    rules: {stores_text(candidate.own(counts))}")
            can = candidate.probe.capabilities
            _line(f"    schedulers: {', '.join(sorted(can.schedulers))}")
            _line(f"    protocols:  {', '.join(sorted(can.protocols))}")
            _line(f"    source-nat: {', '.join(sorted(can.source_nat))}")
            for key, value in candidate.probe.facts.items():
                _line(f"    {key}: {value}")
        if choice:
            _line(f"chosen: {choice.backend.name} through {choice.driver.name} ({choice.reason})")
    if failure:
        raise failure


def _line(text: str) -> None:
    """Print a line, wrapped at the width of a terminal."""
    import sys

    from lbctl.cli.output import prose

    print(prose(text, hang=8, stream=sys.stdout))
