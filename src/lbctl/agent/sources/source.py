"""What a source of endpoints is, and how one is found by its name.

Built-in sources and those of third parties come from the same entry-point group. An entry point is named as
`source` of the intent file names it, and leads to a module (or any object) with the members of `Source`. It
is loaded when an intent uses it.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from lbctl.spi import SOURCES
from lbctl.values import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from lbctl.model import ConsulAccess, DockerAccess, Endpoint, EtcdAccess, KubernetesAccess

#: All endpoints that a source knows at one moment. The weight and the state are what the source says.
Answer: TypeAlias = "tuple[Endpoint, ...]"


class SourceFailed(Exception):
    """A source gave no answer, or one that cannot be read: one sentence for the person who looks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the intent says about reaching sources, besides the name that is asked for; None for nothing."""

    etcd: EtcdAccess | None = None
    docker: DockerAccess | None = None
    consul: ConsulAccess | None = None
    kubernetes: KubernetesAccess | None = None


@runtime_checkable
class Source(Protocol):
    """A source of endpoints."""

    #: True if it may name ports of this host.
    local: bool

    def answers(self, name: str, access: Access) -> AsyncGenerator[Answer, None]:
        """Yield all endpoints behind a name: at once, and again whenever they change or are confirmed.

        An answer is complete: what it does not name is gone. Raises `SourceFailed`, `OSError` or
        `TimeoutError` if there is none; the source is then asked again from the start, with pauses. Nothing
        that is received is trusted: values of the model refuse what could not stand in rules, and bounds
        are the caller's business.
        """


def find(name: str) -> Source:
    """Return the source of a name; raises `SourceFailed` if none is installed or it cannot be loaded."""
    for entry in entry_points(group=SOURCES, name=name):
        try:
            source = entry.load()
        except Exception as error:
            raise SourceFailed(f'source "{name}" ({entry.value}) cannot be loaded: {error}') from error
        if not isinstance(source, Source):
            raise SourceFailed(f'"{entry.value}" is not a source: see lbctl.agent.sources.Source')
        return source
    raise SourceFailed(f'no source "{name}" is installed')
