"""The table `agent` of an intent file. Only imported for a file that has it: each model costs a start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from lbctl.config.checks import FILE_SCHEMA, file_of
from lbctl.config.table import ABSENT, TableModel, no_default
from lbctl.model import Announcements


class AgentTable(TableModel):
    """What the agent reports to other programs of this host."""

    track_file: Annotated[Any, file_of("track-file"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="A file that holds 0 while the rules are in place and followed, else 1: for track_file "
        "of keepalived. Its directory must exist.",
        json_schema_extra=no_default,
    )
    exabgp: Annotated[Any, file_of("exabgp"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="The named pipe of exabgp's commands: routes to the addresses of the listeners are "
        "announced while the rules are in place and followed, else withdrawn.",
        json_schema_extra=no_default,
    )


def announcements_of(table: object) -> Announcements:
    """Return what a table stands for; raises pydantic's `ValidationError` for mistakes in it."""
    found = AgentTable.model_validate(table)
    return Announcements(track_file=found.track_file, exabgp=found.exabgp)
