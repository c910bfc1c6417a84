"""The table `agent` of an intent file. Only imported for a file that has it: each model costs a start."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from lbctl.config import values
from lbctl.config.checks import FILE_SCHEMA, file_of
from lbctl.config.table import ABSENT, TableModel, no_default, whole
from lbctl.model import Announcements

_DEVICE = whole(r"(?!lo$)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}")


class AgentTable(TableModel):
    """What the agent reports to other programs of this host, and what the kernel forwards by a flowtable."""

    track_file: Annotated[Any, file_of("track-file"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="A file that contains 0 while the rules are in place and followed, else 1: for "
        "track_file of keepalived. Its directory must exist.",
        json_schema_extra=no_default,
    )
    exabgp: Annotated[Any, file_of("exabgp"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="The named pipe of exabgp's commands: routes to the addresses of the listeners are "
        "announced while the rules are in place and followed, else withdrawn.",
        json_schema_extra=no_default,
    )
    exabgp_routes: list[
        Annotated[
            Any,
            PlainValidator(values.network_of("exabgp-routes")),
            WithJsonSchema({"type": "string", "pattern": whole(values.NETWORK_PATTERN)}),
        ]
    ] = Field(
        default=ABSENT,
        min_length=1,
        description="More networks whose routes are announced and withdrawn with those: e.g. of clients, for "
        "the way back from the endpoints.",
        json_schema_extra=no_default,
    )

    offload: list[
        Annotated[Any, PlainValidator(values.device), WithJsonSchema({"type": "string", "pattern": _DEVICE})]
    ] = Field(
        default=ABSENT,
        min_length=1,
        max_length=values.MAX_INTERFACES,
        description="The network interfaces between which the kernel forwards established connections to "
        "endpoints on other hosts by a flowtable, past all rules. nftables only.",
        json_schema_extra=no_default,
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.exabgp_routes and not self.exabgp:
            raise values.InvalidValue(
                "`exabgp-routes` without `exabgp`: no program announces them",
                'add its named pipe, e.g. `exabgp = "/run/exabgp.in"`',
            )
        if self.offload and len(set(self.offload)) < len(self.offload):
            raise values.InvalidValue("`offload` names an interface twice", "name each once")
        return self


def fields_of(table: object) -> dict[str, Any]:
    """Return the fields of an `Intent` that a table gives; raises pydantic's `ValidationError`."""
    found = AgentTable.model_validate(table)
    routes = tuple(found.exabgp_routes or ())
    return {
        "announce": Announcements(track_file=found.track_file, exabgp=found.exabgp, exabgp_routes=routes),
        "offload": tuple(sorted(found.offload or ())),
    }
