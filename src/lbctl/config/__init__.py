"""Documents in, intents out: the one room that knows the file format.

`load` and its kin read TOML or JSON into `lbctl.model.Intent` and report every mistake with its line;
`dump` writes an intent as tidy TOML; `json_schema` describes the format to editors.
"""

from lbctl.config.documents import is_intent
from lbctl.config.load import find, find_local, load, load_merged, loads
from lbctl.config.render import dump, revive
from lbctl.config.schema import SCHEMA_ID, json_schema

__all__ = [
    "SCHEMA_ID",
    "dump",
    "find",
    "find_local",
    "is_intent",
    "json_schema",
    "load",
    "load_merged",
    "loads",
    "revive",
]
