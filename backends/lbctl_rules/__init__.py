"""What the built-in backends share about rules as text: scripts that hold them, problems, their removal.

No syntax of a backend is known here, and no backend of a third party needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def late(module: str, name: str) -> Callable[..., Any]:
    """Return a function that is imported when it is first called.

    The modules that read existing rules are the largest, and few commands need them: with them, every other
    command would start by a sixth later.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
