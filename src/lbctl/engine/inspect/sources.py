"""Whether the sources of endpoints that an intent names can be asked on this host, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbctl.engine.record import discovered, verdicts
from lbctl.model import Severity
from lbctl.spi import Problem, source_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbctl.host import Host
    from lbctl.model import Effective, Intent


def source_problems(host: Host, intent: Intent) -> Iterator[Problem]:
    """Yield the services whose source is not installed, or is not asked since no agent runs."""
    asked = [(service.name, service.discover) for service in intent.services if service.discover is not None]
    if not asked:
        return
    installed, live = source_names(), verdicts.is_live(host, intent.owner)
    answers = discovered.read(host, intent.owner)
    for name, discovery in asked:
        if discovery.source not in installed:
            yield Problem(
                code="source-missing",
                severity=Severity.ERROR,
                message=f'no source "{discovery.source}" is installed: no endpoint is discovered',
                evidence=f"installed: {', '.join(sorted(installed))}",
                fix="install the package that brings it",
                service=name,
            )
        elif not live:
            known = answers.get(name)
            answer = (
                f"last good answer: {len(known.endpoints)} endpoints" if known else "no good answer so far"
            )
            yield Problem(
                code="source-unasked",
                severity=Severity.WARNING,
                message="no agent runs: the answers of its source are not applied",
                evidence=f"{discovery}: {answer}",
                fix="start lbctl agent, e.g. as lbctl-agent.service",
                service=name,
            )


def waiting_lines(effective: Effective) -> Iterator[str]:
    """Yield a line for each service that is not in the rules, since its source has not answered yet."""
    for service in effective.waiting:
        yield f"{service.name} is not in the rules: it waits for an answer of its source, {service.discover}"
