"""The table `follow` of an intent file. Only imported for a file that has it: each model costs a start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from lbctl.config import values
from lbctl.config.checks import FILE_SCHEMA, file_of
from lbctl.config.table import ABSENT, TableModel, no_default, whole
from lbctl.config.values import InvalidValue, show
from lbctl.model import Follow
from lbctl.model.follow import (
    DEFAULT_ENDPOINTS,
    DEFAULT_SERVICES,
    INTENT_NAME,
    MAX_REVISION,
    MOST_ENDPOINTS,
    MOST_SERVICES,
    REPORT_NAME,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_NETWORK = {"type": "string", "pattern": whole(values.NETWORK_PATTERN)}


def _name(key: str, pattern: Any, example: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and pattern.match(value):
            return value
        raise InvalidValue(f"{key} {show(value)} is not a name", f'write it like "{example}"')

    return parse


def _number(key: str, most: int) -> Any:
    def parse(value: object) -> int:
        if type(value) is int and 1 <= value <= most:
            return value
        raise InvalidValue(f"{key} {show(value)} is not a whole number from 1 to {most}", "write a number")

    return PlainValidator(parse)


def _count(most: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": 1, "maximum": most})


def _pattern(pattern: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": "^" + pattern.pattern.removesuffix(r"\Z") + "$"})


class FollowTable(TableModel):
    """The published intent that this host follows, and what it accepts of it."""

    intent: Annotated[Any, PlainValidator(_name("intent", INTENT_NAME, "edge")), _pattern(INTENT_NAME)] = (
        Field(description="Name of the published intent in the etcd of the [etcd] table.")
    )
    host: Annotated[Any, PlainValidator(_name("host", REPORT_NAME, "lb1")), _pattern(REPORT_NAME)] = Field(
        default=ABSENT,
        description="The name under which this host reports. By default its host name.",
        json_schema_extra=no_default,
    )
    listen_within: list[
        Annotated[Any, PlainValidator(values.network_of("listen-within")), WithJsonSchema(_NETWORK)]
    ] = Field(
        min_length=1,
        description="Networks that the addresses of published listeners lie in. A listener without an "
        'address needs "0.0.0.0/0", "::/0" or both, as its endpoints have.',
    )
    endpoints_within: list[
        Annotated[Any, PlainValidator(values.network_of("endpoints-within")), WithJsonSchema(_NETWORK)]
    ] = Field(
        min_length=1,
        description="Networks that published endpoints lie in, and `within` of their sources. A port of this "
        "host needs 127.0.0.1 or ::1.",
    )
    max_services: Annotated[Any, _number("max-services", MOST_SERVICES), _count(MOST_SERVICES)] = Field(
        default=DEFAULT_SERVICES, description="An intent with more services is refused."
    )
    max_endpoints: Annotated[Any, _number("max-endpoints", MOST_ENDPOINTS), _count(MOST_ENDPOINTS)] = Field(
        default=DEFAULT_ENDPOINTS, description="An intent with more endpoints is refused."
    )
    least_revision: Annotated[Any, _number("least-revision", MAX_REVISION), _count(MAX_REVISION)] = Field(
        default=1,
        description="An older publication is refused, as is always one that is older than the last that was "
        "accepted.",
    )
    signed_by: Annotated[Any, file_of("signed-by"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="File of allowed signers, as ssh-keygen(1) describes it: what none of them signed is "
        "refused. By default signatures are not required.",
        json_schema_extra=no_default,
    )


def follow_of(value: object) -> Follow:
    """Return what a table stands for; raises pydantic's `ValidationError` for mistakes in it."""
    table = FollowTable.model_validate(value)
    return Follow(
        intent=table.intent,
        host=table.host,
        listen_within=tuple(table.listen_within),
        endpoints_within=tuple(table.endpoints_within),
        max_services=table.max_services,
        max_endpoints=table.max_endpoints,
        least_revision=table.least_revision,
        signed_by=table.signed_by,
    )
