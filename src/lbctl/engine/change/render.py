"""Rules as a text, for this host or for one that lbctl cannot look at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbctl.engine.record.next_hops import with_next_hops
from lbctl.errors import IntentError
from lbctl.model import SourceNat
from lbctl.spi import AUTO, backends, named_candidates, select, survey
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbctl.host import Host
    from lbctl.model import Family, Intent, Network
    from lbctl.spi import Backend, Capabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """The backend that wrote a text, the text, and what the user should know of it."""

    backend: str
    rules: str
    notes: tuple[str, ...] = ()


def render(
    host: Host,
    intent: Intent,
    *,
    backend: str = AUTO,
    driver: str | None = None,
    target: str | None = None,
    family: Family | None = None,
    remove: bool = False,
    networks: Sequence[Network] = (),
    allow_remap: bool = False,
) -> Rendering:
    """Return the text that adds the rules of an intent, or with `remove` removes them.

    `target` is TOOL=VERSION of another host, and nothing of this one is looked at; `networks` are those of
    its links. Without it the text is for the backend that this host has. A backend that is named need not be
    usable here.

    Raises `IntentError` for a target that is none, `NoBackend` and `Unsupported` for what it cannot express.
    """
    if target is not None:
        if backend != AUTO or driver is not None:
            raise IntentError("--for names the tool, and with it the backend: --backend and --driver do not")
        chosen, capabilities = _targeted(target)
    else:
        chosen, capabilities = _here(host, backend, driver)
        intent = with_next_hops(host, intent)
    if networks:
        capabilities = replace(capabilities, networks=tuple(networks))
    program = chosen.compile(intent, replace(capabilities, remap=allow_remap))
    text = chosen.render(program, dialect=capabilities.dialect, family=family, remove=remove)
    notes: tuple[str, ...] = ()
    if family is not None and not text:
        notes = (f"no service of this intent is balanced for {family}",)
    elif not remove:
        notes = _unknown_networks(intent, capabilities)
    return Rendering(backend=chosen.name, rules=text, notes=notes)


def _unknown_networks(intent: Intent, capabilities: Capabilities) -> tuple[str, ...]:
    names = [s.name for s in intent.services if s.remote and s.source_nat is SourceNat.HAIRPIN]
    if not names or capabilities.networks or not capabilities.needs_networks:
        return ()
    note = (
        f"source-nat hairpin of {', '.join(names)}: the networks of the target's links are unknown. A client "
        "on the link of an endpoint keeps its source address, and gets no answer. --network names them."
    )
    return (note,)


def _here(host: Host, backend: str, driver: str | None) -> tuple[Backend, Capabilities]:
    if backend != AUTO and driver is None:
        return capabilities_here(host, backend, driver)
    chosen = select(survey(host, backends()), backend=backend, driver=driver)
    return chosen.backend, chosen.probe.capabilities


def capabilities_here(host: Host, backend: str, driver: str | None) -> tuple[Backend, Capabilities]:
    """Return a backend and what it can express by a passive probe, be it usable on this host or not.

    It is the one that is named, else the one that `auto` prefers. Raises `IntentError` for unknown names, and
    `NoBackend` for a driver that cannot be used.
    """
    candidates = survey(host, backends())
    if driver is not None:
        chosen = select(candidates, backend=backend, driver=driver)
        return chosen.backend, chosen.probe.capabilities
    found = named_candidates(candidates, backend)[0]
    return found.backend, found.probe.capabilities


def _targeted(target: str) -> tuple[Backend, Capabilities]:
    """Return the backend of a target, and what the release that it names can express."""
    tool, equals, version = target.partition("=")
    by_tool = {each: b for b in backends() for each in b.tools}
    hint = f"write TOOL=VERSION, where TOOL is one of {', '.join(sorted(by_tool))}; for example nft=1.0.6"
    if not equals or tool not in by_tool:
        raise IntentError(f'--for "{target}" is not a tool and a version', hint=hint)
    chosen = by_tool[tool]
    try:
        return chosen, chosen.capabilities_for(tool, version)
    except ValueError as error:
        raise IntentError(f"--for: {error}", hint=hint) from None
