"""What the built-in backends share about rules as text: scripts that hold them, problems, their removal.

No syntax of a backend is known here, and no backend of a third party needs it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lbctl.lazy import Home, replaced_imports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def imported_on_call(namespace: dict[str, Any]) -> Iterator[None]:
    """Have a module import the functions of this block when they are called; `namespace` is its `globals()`.

    The modules that read existing rules are the largest, and few commands need them: with them, every other
    command would start by a sixth later.
    """
    with replaced_imports(namespace, _caller):
        yield


def _caller(home: Home) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return home.load()(*args, **kwargs)

    return call
