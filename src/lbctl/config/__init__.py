"""Documents in, intents out: the one package that knows the file format.

`load` and its kin read TOML or JSON into `lbctl.model.Intent` and report every mistake with its line;
`dump` writes an intent as tidy TOML; `json_schema` describes the format to editors.

Each is imported when it is asked for: a command that only writes an intent starts without pydantic's models.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbctl.config.documents import is_intent
    from lbctl.config.loader import find, find_local, finder, load, load_merged, loads, unread
    from lbctl.config.render import dump, revive
    from lbctl.config.schema import SCHEMA_ID, json_schema

_HOMES = {
    "documents": ("is_intent",),
    "loader": ("find", "find_local", "finder", "load", "load_merged", "loads", "unread"),
    "render": ("dump", "revive"),
    "schema": ("SCHEMA_ID", "json_schema"),
}

__all__ = [
    "SCHEMA_ID",
    "dump",
    "find",
    "find_local",
    "finder",
    "is_intent",
    "json_schema",
    "load",
    "load_merged",
    "loads",
    "revive",
    "unread",
]


def __getattr__(name: str) -> object:
    """Import one of these names; raise `AttributeError` for any other."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            found: object = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
