"""The table `hosts` of an intent file: names for `--host`. Only imported for a file that has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbctl.config.values import InvalidValue, show

if TYPE_CHECKING:
    from collections.abc import Mapping

#: As for services. What stands for all hosts is no name of one.
NAME_PATTERN = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
EVERY = "all"
_NAME = re.compile(NAME_PATTERN)
_MOST = 1024
_LONGEST = 320

#: The JSON Schema of the table.
HOSTS_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "maxProperties": _MOST,
    "propertyNames": {"pattern": f"^{NAME_PATTERN}$"},
    "additionalProperties": {"type": "string", "minLength": 1, "maxLength": _LONGEST},
}


def is_name(text: str) -> bool:
    """Return True for what may be a name of the table, or stand for all of it."""
    return bool(_NAME.fullmatch(text))


def hosts_of(table: object) -> Mapping[str, str]:
    """Return the destinations of ssh by their names; raises `InvalidValue`."""
    example = 'write it like `lb1 = "admin@lb1.example.net"`'
    if not isinstance(table, dict) or len(table) > _MOST:
        raise InvalidValue(f"hosts {show(table)} is not a table of at most {_MOST} destinations", example)
    for name, destination in table.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == EVERY:
            raise InvalidValue(f"hosts: {show(name)} is not a name of a host", example)
        if not isinstance(destination, str) or not 0 < len(destination) <= _LONGEST:
            raise InvalidValue(f"hosts: {name} = {show(destination)} is not a destination of ssh", example)
    return dict(table)
