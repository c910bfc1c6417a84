"""The tables `etcd`, `docker`, `consul` and `kubernetes`. Only imported if a file has one, as `discover`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field, PlainValidator, WithJsonSchema

from lbctl.config import values
from lbctl.config.checks import FILE_SCHEMA, file_of
from lbctl.config.table import ABSENT, TableModel, no_default
from lbctl.config.values import InvalidValue, show
from lbctl.model import ConsulAccess, DockerAccess, EtcdAccess, KubernetesAccess, check_server
from lbctl.model.access import ETCD_USER, MAX_MEMBERS

if TYPE_CHECKING:
    from collections.abc import Mapping

AccessValue: TypeAlias = EtcdAccess | DockerAccess | ConsulAccess | KubernetesAccess

_CA = "File with the CA certificates that verify the server's. By default those of the system, or of the pod."
_CERT, _KEY = "File with the certificate of this host.", "File with the key of `cert`."
_TOKEN = "File with a token: readable by its owner alone (0600)."  # noqa: S105
_FILE = WithJsonSchema(FILE_SCHEMA)
_URL = WithJsonSchema({"type": "string", "pattern": r"^https?://[^/]+:[0-9]+/?$"})


def _members(value: object) -> tuple[str, ...]:
    hint = 'write the URLs of its members: `endpoints = ["https://192.0.2.1:2379"]`'
    urls = [value] if isinstance(value, str) else value
    if not isinstance(urls, list) or not 1 <= len(urls) <= MAX_MEMBERS:
        raise InvalidValue(f"endpoints {show(value)} is not a list of 1 to {MAX_MEMBERS} URLs", hint)
    try:
        return tuple(check_server(url if isinstance(url, str) else "") for url in urls)
    except ValueError as error:
        raise InvalidValue(f"endpoints: {values.escape(str(error))}", hint) from None


def _server(value: object) -> str:
    try:
        return check_server(value if isinstance(value, str) else "")
    except ValueError:
        hint = 'write it like `server = "https://192.0.2.1:8501"`'
        raise InvalidValue(f"server {show(value)} is not a URL of a host and a port", hint) from None


def _user(value: object) -> str:
    if isinstance(value, str) and ETCD_USER.match(value):
        return value
    raise InvalidValue(f"user {show(value)} is not the name of a user of etcd", 'write it like "lbctl-agent"')


def _absent(description: str) -> Any:
    return Field(default=ABSENT, description=description, json_schema_extra=no_default)


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
    ca: Annotated[Any, file_of("ca"), _FILE] = _absent(_CA)
    cert: Annotated[Any, file_of("cert"), _FILE] = _absent(_CERT)
    key: Annotated[Any, file_of("key"), _FILE] = _absent(_KEY)
    user: Annotated[
        Any, PlainValidator(_user), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 64})
    ] = _absent("A user of etcd.")
    password_file: Annotated[Any, file_of("password-file"), _FILE] = _absent(
        "File with the password of `user`: readable by its owner alone (0600)."
    )


class DockerTable(TableModel):
    """How Docker is reached, or Podman."""

    socket: Annotated[Any, file_of("socket"), _FILE] = Field(
        default=DockerAccess().socket, description="The unix socket of its API. It is only read from."
    )


class ConsulTable(TableModel):
    """How Consul is reached."""

    server: Annotated[Any, PlainValidator(_server), _URL] = Field(
        default=ConsulAccess().server, description="The URL of an agent of Consul."
    )
    ca: Annotated[Any, file_of("ca"), _FILE] = _absent(_CA)
    cert: Annotated[Any, file_of("cert"), _FILE] = _absent(_CERT)
    key: Annotated[Any, file_of("key"), _FILE] = _absent(_KEY)
    token_file: Annotated[Any, file_of("token-file"), _FILE] = _absent(_TOKEN)


class KubernetesTable(TableModel):
    """How the API of Kubernetes is reached: by `server`, by a kubeconfig, or else as from a pod."""

    server: Annotated[Any, PlainValidator(_server), _URL] = _absent("The URL of the API.")
    ca: Annotated[Any, file_of("ca"), _FILE] = _absent(_CA)
    cert: Annotated[Any, file_of("cert"), _FILE] = _absent(_CERT)
    key: Annotated[Any, file_of("key"), _FILE] = _absent(_KEY)
    token_file: Annotated[Any, file_of("token-file"), _FILE] = _absent(_TOKEN)
    kubeconfig: Annotated[Any, file_of("kubeconfig"), _FILE] = _absent(
        "File as kubectl reads it, in place of the other keys: its current context is used."
    )


#: The tables, by their names in an intent file, each with the value that it stands for.
TABLES: Mapping[str, tuple[type[TableModel], type[AccessValue]]] = {
    "etcd": (EtcdTable, EtcdAccess),
    "docker": (DockerTable, DockerAccess),
    "consul": (ConsulTable, ConsulAccess),
    "kubernetes": (KubernetesTable, KubernetesAccess),
}


def access_of(key: str, value: object) -> AccessValue:
    """Return what the table of a name stands for; raises `InvalidValue`, or pydantic's `ValidationError`."""
    table, kind = TABLES[key]
    found = table.model_validate(value)
    keys = {name: getattr(found, name) for name in table.model_fields}
    try:
        return kind(**{name: each for name, each in keys.items() if each is not ABSENT})
    except ValueError as error:
        raise InvalidValue(f"{key}: {values.escape(str(error))}", "see the reference, Sources") from None
