"""Imports that are carried out when a name is used.

A command needs a tenth of lbctl. What it does not ask for is not imported: a program that runs for a tenth of
a second would spend most of it on classes of other commands. The imports stay ordinary statements for type
checkers, linters and editors. Python 3.15 has them as `lazy from … import …` (PEP 810).
"""

from __future__ import annotations

import builtins
import threading
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Held by the one block whose imports are replaced.
_BLOCK = threading.Lock()


class Home(NamedTuple):
    """Where a name is imported from."""

    module: str
    name: str

    def load(self) -> Any:
        """Import it."""
        return getattr(import_module(self.module), self.name)


class _Module:
    """Stands for a module that is not imported yet."""

    def __init__(self, name: str, replace: Callable[[Home], object]) -> None:
        self.__name = name
        self.__replace = replace

    def __getattr__(self, name: str) -> object:
        return self.__replace(Home(self.__name, name))


@contextmanager
def replaced_imports(namespace: dict[str, Any], replace: Callable[[Home], object]) -> Iterator[None]:
    """Have `from … import …` in this block import nothing, and bind each name to what `replace` returns.

    `namespace` is `globals()` of the module that the block stands in: imports elsewhere, in other threads
    too, are what they are.
    """

    def find(name: str, importing: Any = None, *others: Any, **named: Any) -> Any:
        return _Module(name, replace) if importing is namespace else real(name, importing, *others, **named)

    with _BLOCK:
        real = builtins.__import__
        builtins.__import__ = find  # type: ignore[assignment]
        try:
            yield
        finally:
            builtins.__import__ = real


@contextmanager
def imported_on_use(namespace: dict[str, Any]) -> Iterator[None]:
    """Have a package import the names of this block when they are asked for; `namespace` is its `globals()`.

    No name may be that of a module of the package: once imported, the module would be found instead.
    """
    with replaced_imports(namespace, lambda home: home):
        yield
    homes = {name: namespace.pop(name) for name, home in tuple(namespace.items()) if isinstance(home, Home)}

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")
        namespace[name] = found = homes[name].load()
        return found

    namespace |= {
        "__all__": sorted(homes),
        "__dir__": lambda: sorted({*namespace, *homes}),
        "__getattr__": find,
    }


@contextmanager
def imported_on_call(namespace: dict[str, Any]) -> Iterator[None]:
    """Have a module import the functions of this block when they are called; `namespace` as above."""
    with replaced_imports(namespace, _caller):
        yield


def _caller(home: Home) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return home.load()(*args, **kwargs)

    return call
