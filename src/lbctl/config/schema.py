"""The shape of an intent file, as pydantic models, and the JSON Schema that follows from them.

The models know shapes, words and ranges of single values; what needs more than one value (unique names,
overlapping listeners, families) is checked in `services` and `listeners`. The tables `check` and `health` of
a service and the table `agent` are those of `lbctl.config.checks` and `lbctl.config.agent`, which are only
imported for a file that has them: each model costs a start.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from lbctl.config import values
from lbctl.config.table import ABSENT, TableModel, no_default, whole
from lbctl.model import (
    DEFAULT_MARK,
    DEFAULT_OWNER,
    MAX_OWNER,
    MAX_WEIGHT,
    NAME,
    Forward,
    Scheduler,
    SourceNat,
    State,
)

#: Where editors find the JSON Schema of this format: docs/schema has it.
SCHEMA_ID = (
    f"https://raw.githubusercontent.com/lbctl/lbctl/main/docs/schema/intent-{values.SCHEMA_VERSION}.json"
)
MAX_SEED = 0xFFFFFFFF
#: No list, since pydantic would copy that for each table.
_EMPTY: Any = ()


_NAME = {"type": "string", "pattern": "^" + NAME.pattern.removesuffix(r"\Z") + "$"}
_LISTENER = {"type": "string", "pattern": whole(values.LISTENER_PATTERN)}
_PORT_NUMBER = {"type": "integer", "minimum": 1, "maximum": 65535}
_TARGET = {
    "anyOf": [
        {"type": "string", "pattern": whole(f"{values.ENDPOINT_PATTERN}|{values.PORTS_PATTERN}")},
        _PORT_NUMBER,
    ]
}
_INTERFACE = {"type": "string", "pattern": whole(values.INTERFACE_PATTERN), "not": {"const": "lo"}}
_NETWORK = {"type": "string", "pattern": whole(values.NETWORK_PATTERN)}
_SOME: JsonDict = {"type": "array", "minItems": 1}
_HAS_ENDPOINTS: JsonDict = {
    "anyOf": [
        {"required": ["endpoints"], "properties": {"endpoints": _SOME}},
        {"required": ["endpoint"], "properties": {"endpoint": _SOME}},
        {"required": ["discover"]},
    ]
}


# PlainValidator replaces pydantic's own reading of the type; Any keeps it from building that first.
NameText = Annotated[Any, PlainValidator(values.name), WithJsonSchema(_NAME)]
ListenerText = Annotated[Any, PlainValidator(values.listener), WithJsonSchema(_LISTENER)]
TargetText = Annotated[Any, PlainValidator(values.target), WithJsonSchema(_TARGET)]
AllowedText = Annotated[Any, PlainValidator(values.network_of("allow")), WithJsonSchema(_NETWORK)]
DeniedText = Annotated[Any, PlainValidator(values.network_of("deny")), WithJsonSchema(_NETWORK)]
ExcludedText = Annotated[Any, PlainValidator(values.network_of("exclude")), WithJsonSchema(_NETWORK)]
InterfaceText = Annotated[Any, PlainValidator(values.interface), WithJsonSchema(_INTERFACE)]
DurationText = Annotated[
    Any,
    PlainValidator(values.duration),
    WithJsonSchema({"type": "string", "pattern": whole(values.DURATION_PATTERN)}),
]
Version = Annotated[
    Any, PlainValidator(values.version), WithJsonSchema({"type": "integer", "const": values.SCHEMA_VERSION})
]
OwnerText = Annotated[Any, PlainValidator(values.owner), WithJsonSchema({**_NAME, "maxLength": MAX_OWNER})]
# Two bits are more than JSON Schema can say; the smallest and the largest such number are not.
MarkNumber = Annotated[
    Any,
    PlainValidator(values.mark),
    WithJsonSchema({"type": "integer", "minimum": 0x3, "maximum": 0xC0000000}),
]
SchedulerText = Annotated[
    Any,
    PlainValidator(values.choice(Scheduler, "scheduler")),
    WithJsonSchema({"type": "string", "enum": [str(x) for x in Scheduler]}),
]
StateText = Annotated[
    Any,
    PlainValidator(values.choice(State, "state")),
    WithJsonSchema({"type": "string", "enum": [str(x) for x in State]}),
]
SourceNatText = Annotated[
    Any,
    PlainValidator(values.choice(SourceNat, "source-nat")),
    WithJsonSchema({"type": "string", "enum": [str(x) for x in SourceNat]}),
]
ForwardText = Annotated[
    Any,
    PlainValidator(values.choice(Forward, "forward")),
    WithJsonSchema({"type": "string", "enum": [str(x) for x in Forward]}),
]
MacText = Annotated[
    Any, PlainValidator(values.mac), WithJsonSchema({"type": "string", "pattern": whole(values.MAC_PATTERN)})
]


class EndpointTable(TableModel):
    """One endpoint of a service that needs a name, a weight or a state."""

    name: NameText = Field(
        default="",
        description="Name of the endpoint in reports, unique in its service. By default its address.",
        json_schema_extra=no_default,
    )
    address: TargetText = Field(
        description='Where connections go: "8001", a process on this host, or "10.0.0.11:8443", '
        '"[2001:db8::11]:8443"; "10.0.0.11" without a port keeps that of the connection. "8001-8004" are '
        "four endpoints of this weight and state. Names of hosts are not resolved."
    )
    weight: int = Field(
        default=1,
        ge=1,
        le=MAX_WEIGHT,
        description="Share of new connections relative to the other endpoints of the service. Exact.",
    )
    state: StateText = Field(
        default=State.ACTIVE,
        description="active: takes new connections. drain: takes no new ones, established ones continue. "
        "backup: takes new ones when no endpoint is active.",
    )
    mac: MacText = Field(
        default="",
        description='MAC address of the endpoint, for `forward = "dsr"`. By default that of the kernel\'s '
        "neighbour table.",
        json_schema_extra=no_default,
    )


def _shape(value: object) -> str:
    return "table" if isinstance(value, dict | EndpointTable) else "text"


EndpointEntry = Annotated[
    Annotated[TargetText, Tag("text")] | Annotated[EndpointTable, Tag("table")], Discriminator(_shape)
]


class ServiceTable(TableModel):
    """One balanced service: where it is reached, who serves it, and how to choose among them."""

    model_config = ConfigDict(json_schema_extra=_HAS_ENDPOINTS)

    name: NameText = Field(description="Name of the service, unique on this host.")
    listen: Annotated[
        list[ListenerText],
        BeforeValidator(values.one_or_many),
        WithJsonSchema({"anyOf": [_LISTENER, {"type": "array", "items": _LISTENER, "minItems": 1}]}),
    ] = Field(
        description='Where the service is reached: "80/tcp" on any address of this host, '
        '"192.0.2.10:443/tcp" or "[2001:db8::10]:53/udp" on one; a list for several. tcp, udp or sctp. '
        '"20000-50000/udp" is a range of ports: listeners with a single port have precedence over it.'
    )
    endpoints: list[EndpointEntry] = Field(
        default=_EMPTY,
        description='Endpoints of equal weight: "8001" is a process on this host, "8001-8008" is eight of '
        'them, "10.0.0.11:8443" is another host, "10.0.0.11" keeps the port that the client chose. All of '
        "one service are of one kind. A table as in `endpoint` is one with a name, a weight or a state: "
        '{ address = "10.0.0.12:8443", weight = 2 }.',
    )
    endpoint: list[EndpointTable] = Field(
        default=_EMPTY, description="Endpoints with a name, a weight or a state; they come after `endpoints`."
    )
    scheduler: SchedulerText = Field(
        default=Scheduler.ROUND_ROBIN, description="How the endpoint of a new connection is chosen."
    )
    local_clients: bool = Field(
        default=True, description="Whether connections made on this host itself are balanced too."
    )
    seed: int = Field(
        default=ABSENT,
        ge=0,
        le=MAX_SEED,
        description="Seed of the hash of source-hash and maglev. By default derived from the service's name, "
        "the same on every host.",
        json_schema_extra=no_default,
    )
    affinity: DurationText = Field(
        default=ABSENT,
        description="How long a client keeps its endpoint after its last new connection: "
        '"90s", "15m", "3h", "1d"; from 1 second to 30 days.',
        json_schema_extra=no_default,
    )
    source_nat: SourceNatText = Field(
        default=SourceNat.HAIRPIN,
        description="When this host's address replaces the client's: hairpin, only if replies would bypass "
        "this host; always; never.",
    )
    allow: list[AllowedText] = Field(
        default=ABSENT,
        min_length=1,
        description="Only clients in these networks are served, others are refused. By default all.",
        json_schema_extra=no_default,
    )
    deny: list[DeniedText] = Field(
        default=ABSENT,
        min_length=1,
        description="Clients in these networks are refused, whatever `allow` says.",
        json_schema_extra=no_default,
    )
    interfaces: list[InterfaceText] = Field(
        default=ABSENT,
        min_length=1,
        max_length=values.MAX_INTERFACES,
        description="Only connections that arrive on these network interfaces are balanced; others are left "
        'alone. "ppp*" is every interface whose name begins with ppp. Connections made on this host arrive '
        "on none: local-clients decides about them.",
        json_schema_extra=no_default,
    )
    exclude: list[ExcludedText] = Field(
        default=ABSENT,
        min_length=1,
        description="Addresses of this host that the listeners without an address leave alone.",
        json_schema_extra=no_default,
    )
    takeover: bool = Field(
        default=False,
        description="Whether another host with the same file may take over established connections, and this "
        "one its: with source-hash or maglev, and endpoints on other hosts.",
    )
    forward: ForwardText = Field(
        default=Forward.NAT,
        description="nat: this host translates addresses and replies pass it. dsr: direct server return, "
        "endpoints on one layer-2 segment have the listener's address and reply to clients directly; "
        "connections made on this host are not balanced. Only nftables.",
    )
    check: Any = Field(
        default=ABSENT,
        description='How the agent checks the endpoints: "tcp", "http://[HOST][:PORT]/PATH", "https://…", '
        '"dns:NAME", or a table. By default not at all.',
        json_schema_extra=no_default,
    )
    health: Any = Field(
        default=ABSENT,
        description="What failed checks do to the service.",
        json_schema_extra=no_default,
    )
    discover: Any = Field(
        default=ABSENT,
        description="Where endpoints come from, instead of or beside `endpoints`.",
        json_schema_extra=no_default,
    )


def _access(what: str) -> Any:
    return Field(
        default=ABSENT,
        description=f"How {what} is reached, for services that discover endpoints there.",
        json_schema_extra=no_default,
    )


class IntentTable(TableModel):
    """A whole intent file."""

    schema_: Version = Field(description="Version of this format.")
    owner: OwnerText = Field(
        default=DEFAULT_OWNER,
        description="Names the rules of this file, so that several files can live on one host.",
    )
    mark: MarkNumber = Field(
        default=DEFAULT_MARK,
        description="Two bits of the packet mark that nothing else on this host uses. Only iptables needs "
        "them, for source-nat; by default 0x3000.",
    )
    agent: Any = Field(
        default=ABSENT,
        description="What the agent reports to other programs of this host, and offload.",
        json_schema_extra=no_default,
    )
    etcd: Any = _access("etcd")
    docker: Any = _access("Docker")
    consul: Any = _access("Consul")
    kubernetes: Any = _access("the API of Kubernetes")
    follow: Any = Field(
        default=ABSENT,
        description="The published intent that services come from, and what this host accepts of it.",
        json_schema_extra=no_default,
    )
    hosts: Any = Field(
        default=ABSENT,
        description="Names for --host: destinations of ssh, [USER@]HOST[:PORT], that this intent is for.",
        json_schema_extra=no_default,
    )
    service: list[ServiceTable] = Field(default=_EMPTY, description="The services.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an intent file."""
    from pydantic.json_schema import GenerateJsonSchema

    from lbctl.config import access
    from lbctl.config.agent import AgentTable
    from lbctl.config.checks import TABLES, TEXT_SCHEMA
    from lbctl.config.discover import DiscoverTable
    from lbctl.config.follow import FollowTable
    from lbctl.config.hosts import HOSTS_SCHEMA

    class Generator(GenerateJsonSchema):
        def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
            return False

    body = IntentTable.model_json_schema(by_alias=True, mode="validation", schema_generator=Generator)
    body["title"] = "lbctl intent file"
    tables: dict[str, type[TableModel]] = {
        **TABLES,
        "discover": DiscoverTable,
        "agent": AgentTable,
        "follow": FollowTable,
        **{key: table for key, (table, _) in access.TABLES.items()},
    }
    for key, table in tables.items():
        found = table.model_json_schema(by_alias=True, mode="validation", schema_generator=Generator)
        body["$defs"][table.__name__] = found
        entry: dict[str, Any] = {"$ref": f"#/$defs/{table.__name__}"}
        outer = body if key in {"agent", "follow", *access.TABLES} else body["$defs"]["ServiceTable"]
        outer["properties"][key] |= {"anyOf": [TEXT_SCHEMA, entry]} if key == "check" else entry
    body["properties"]["hosts"] |= HOSTS_SCHEMA
    for definition in body["$defs"].values():
        definition.pop("title", None)
    return {"$schema": GenerateJsonSchema.schema_dialect, "$id": SCHEMA_ID, **body}
