"""The tables `discover` of a service and `etcd`. Only imported if a file has one: models cost a start."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from lbctl.config import values
from lbctl.config.checks import FILE_SCHEMA, file_of
from lbctl.config.table import ABSENT, TableModel, no_default, whole
from lbctl.config.values import InvalidValue, show
from lbctl.model import Discovery, EtcdAccess, WeightOwner, check_member, check_source_name
from lbctl.model.discovery import DEFAULT_MAX, ETCD_USER, MAX_MEMBERS, MOST, SOURCE_NAME

_SOURCES = "dns, etcd, file, systemd, or one of a package that is installed"
_NETWORK = {"type": "string", "pattern": whole(values.NETWORK_PATTERN)}
_NAME = {"type": "string", "pattern": "^" + SOURCE_NAME.pattern.removesuffix(r"\Z") + "$"}


def _source(value: object) -> str:
    if isinstance(value, str) and SOURCE_NAME.match(value):
        return value
    raise InvalidValue(f"source {show(value)} is not the name of a source", f"one of {_SOURCES}")


def _name(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidValue(f"name {show(value)} is not a text", "write what the source is asked for")


def _max(value: object) -> int:
    if type(value) is int and 1 <= value <= MOST:
        return value
    raise InvalidValue(
        f"max {show(value)} is not a whole number from 1 to {MOST}", "write the endpoints of a large answer"
    )


def _members(value: object) -> tuple[str, ...]:
    hint = 'write the URLs of its members: `endpoints = ["https://192.0.2.1:2379"]`'
    urls = [value] if isinstance(value, str) else value
    if not isinstance(urls, list) or not 1 <= len(urls) <= MAX_MEMBERS:
        raise InvalidValue(f"endpoints {show(value)} is not a list of 1 to {MAX_MEMBERS} URLs", hint)
    try:
        return tuple(check_member(url if isinstance(url, str) else "") for url in urls)
    except ValueError as error:
        raise InvalidValue(f"endpoints: {values.escape(str(error))}", hint) from None


def _user(value: object) -> str:
    if isinstance(value, str) and ETCD_USER.match(value):
        return value
    raise InvalidValue(f"user {show(value)} is not the name of a user of etcd", 'write it like "lbctl-agent"')


class DiscoverTable(TableModel):
    """Where endpoints of a service come from, instead of or beside `endpoints`."""

    source: Annotated[Any, PlainValidator(_source), WithJsonSchema(_NAME)] = Field(
        description=f"Who is asked: {_SOURCES}. The agent asks; commands use its last good answer."
    )
    name: Annotated[
        Any,
        PlainValidator(_name),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 255}),
    ] = Field(
        description='What it is asked for. dns: "_http._tcp.api.example.internal" for SRV records, '
        '"api.example.internal:8080" for addresses. etcd: a prefix of keys. file: the path of a JSON file as '
        'Prometheus reads it. systemd: "app@*.service", whose instances are ports of this host.'
    )
    weight: Annotated[
        Any,
        PlainValidator(values.choice(WeightOwner, "weight")),
        WithJsonSchema({"type": "string", "enum": [str(each) for each in WeightOwner]}),
    ] = Field(
        default=WeightOwner.FILE,
        description="Who owns the weight. file: an endpoint that only the source has gets 1. source: its "
        "weight counts, for endpoints of the file too.",
    )
    within: list[Annotated[Any, PlainValidator(values.network_of("within")), WithJsonSchema(_NETWORK)]] = (
        Field(
            default=ABSENT,
            min_length=1,
            description="Networks that discovered addresses lie in. By default any but loopback, link-local "
            "and multicast ones. An answer beyond is wrong: the last good one is kept. Listeners of this "
            "file are never endpoints.",
            json_schema_extra=no_default,
        )
    )
    max: Annotated[
        Any, PlainValidator(_max), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST})
    ] = Field(default=DEFAULT_MAX, description="A larger answer is wrong: the last good one is kept.")
    allow_empty: bool = Field(
        default=False,
        description="Whether an answer without endpoints can be right. If so, it counts once it was given "
        "three times in a row.",
    )


class EtcdTable(TableModel):
    """How etcd is reached."""

    endpoints: Annotated[
        Any,
        PlainValidator(_members),
        WithJsonSchema(
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_MEMBERS}
        ),
    ] = Field(
        description='URLs of the members, like "https://192.0.2.1:2379": the first that answers is used.'
    )
    ca: Annotated[Any, file_of("ca"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="File with the certificates that those of the members are verified against. By default "
        "those of the system.",
        json_schema_extra=no_default,
    )
    cert: Annotated[Any, file_of("cert"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT, description="File with the certificate of this host.", json_schema_extra=no_default
    )
    key: Annotated[Any, file_of("key"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT, description="File with the key of `cert`.", json_schema_extra=no_default
    )
    user: Annotated[
        Any, PlainValidator(_user), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 64})
    ] = Field(default=ABSENT, description="A user of etcd.", json_schema_extra=no_default)
    password_file: Annotated[Any, file_of("password-file"), WithJsonSchema(FILE_SCHEMA)] = Field(
        default=ABSENT,
        description="File with the password of `user`: readable by its owner alone (0600).",
        json_schema_extra=no_default,
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


def etcd_of(value: object) -> EtcdAccess:
    """Return what a table stands for; raises `InvalidValue`, or pydantic's `ValidationError`."""
    table = EtcdTable.model_validate(value)
    try:
        return EtcdAccess(
            endpoints=table.endpoints,
            ca=table.ca,
            cert=table.cert,
            key=table.key,
            user=table.user,
            password_file=table.password_file,
        )
    except ValueError as error:
        raise InvalidValue(f"etcd: {error}", "both belong together") from None
