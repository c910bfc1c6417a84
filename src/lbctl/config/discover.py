"""The table `discover` of a service. Only imported if a file has one: models cost a start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from lbctl.config import values
from lbctl.config.table import ABSENT, TableModel, no_default, whole
from lbctl.config.values import InvalidValue, show
from lbctl.model import Discovery, WeightOwner, check_source_name
from lbctl.model.discovery import DEFAULT_MAX, MOST, SOURCE_NAME

_SOURCES = "dns, etcd, file, systemd, docker, consul, kubernetes, or one of a package that is installed"
_NETWORK = {"type": "string", "pattern": whole(values.NETWORK_PATTERN)}
_NAME = {"type": "string", "pattern": "^" + SOURCE_NAME.pattern.removesuffix(r"\Z") + "$"}


def _source(value: object) -> str:
    if isinstance(value, str) and SOURCE_NAME.match(value):
        return value
    raise InvalidValue(f"source {show(value)} is not the name of a source", f"one of {_SOURCES}")


def _name(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidValue(f"name {show(value)} is not a string", "write what to ask the source for")


def _max(value: object) -> int:
    if type(value) is int and 1 <= value <= MOST:
        return value
    raise InvalidValue(
        f"max {show(value)} is not a whole number from 1 to {MOST}", "write the endpoints of a large answer"
    )


class DiscoverTable(TableModel):
    """Where endpoints of a service come from, instead of or beside `endpoints`."""

    source: Annotated[Any, PlainValidator(_source), WithJsonSchema(_NAME)] = Field(
        description=f"The kind of source: {_SOURCES}. The agent asks it; commands use its last good answer."
    )
    name: Annotated[
        Any,
        PlainValidator(_name),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255}),
    ] = Field(
        description='What to ask it for. dns: "_http._tcp.api.example.internal" for SRV records, '
        '"api.example.internal:8080" for addresses. etcd: a prefix of keys. file: the path of a JSON file as '
        'Prometheus reads it. systemd: "app@*.service", whose instances are ports of this host. docker: '
        'a label of containers, like "lbctl.service=api". consul: the name of a service. kubernetes: a '
        'service, like "default/api" or "default/api:http".'
    )
    weight: Annotated[
        Any,
        PlainValidator(values.choice(WeightOwner, "weight")),
        WithJsonSchema({"type": "string", "enum": [str(each) for each in WeightOwner]}),
    ] = Field(
        default=WeightOwner.FILE,
        description="Whose weight is used. file: an endpoint that only the source has gets 1. source: its "
        "weight, for endpoints of the file too.",
    )
    within: list[Annotated[Any, PlainValidator(values.network_of("within")), WithJsonSchema(_NETWORK)]] = (
        Field(
            default=ABSENT,
            min_length=1,
            description="Networks that discovered addresses lie in. By default any but loopback, link-local "
            "and multicast ones. An answer with an endpoint elsewhere is rejected: the last good one is "
            "kept. Listeners of this file are never endpoints.",
            json_schema_extra=no_default,
        )
    )
    max: Annotated[
        Any, PlainValidator(_max), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST})
    ] = Field(default=DEFAULT_MAX, description="A larger answer is rejected: the last good one is kept.")
    allow_empty: bool = Field(
        default=False,
        description="Whether an answer without endpoints can be valid. If so, it is used once it was given "
        "three times in a row.",
    )


def discovery_of(value: object) -> Discovery:
    """Return what a table stands for; raises `InvalidValue`, or pydantic's `ValidationError`."""
    table = DiscoverTable.model_validate(value)
    try:
        check_source_name(table.source, table.name)
    except ValueError as error:
        hint = f"this is what a source of kind {table.source} can be asked for"
        raise InvalidValue(f"name {values.escape(str(error))}", hint) from None
    return Discovery(
        source=table.source,
        name=table.name,
        weight=table.weight,
        within=tuple(table.within or ()),
        max=table.max,
        allow_empty=table.allow_empty,
    )
