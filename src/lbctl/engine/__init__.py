"""The use cases. They neither print nor read arguments; the command line and tests call them alike.

They are imported when the first of them is asked for: a command that only reads rules starts without most of
them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.engine.use_cases import *  # noqa: F403 (one list of the names)
else:

    def __getattr__(name: str) -> object:
        """Import all use cases, and return one; raise `AttributeError` for any other name."""
        from importlib import import_module

        found = import_module("lbctl.engine.use_cases")
        globals().update({each: getattr(found, each) for each in found.__all__ if hasattr(found, each)})
        if name not in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=found)
        return globals()[name]
