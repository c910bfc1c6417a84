"""The tables `check` and `health` of a service: their shape, their short forms, and their values.

`check = "tcp"`, `"http://[HOST][:PORT]/PATH"`, `"https://…"` and `"dns:NAME"` stand for a table with these
keys. Single values are checked as the tables are read; what needs more than one is in `problems`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic.config import JsonDict  # noqa: TC002 (pydantic reads annotations at run time)

from lbctl.config import values
from lbctl.config.table import ABSENT, TableModel, no_default, whole
from lbctl.config.values import MILLISECONDS, InvalidValue, show, time_text
from lbctl.model import (
    DEFAULT_POLICY,
    AllDown,
    Check,
    CheckKind,
    DnsProbe,
    ExecProbe,
    HealthPolicy,
    HttpProbe,
    Initial,
    OnDown,
    Probe,
    RecordType,
    StatusRange,
    TcpProbe,
    TlsOptions,
    UdpProbe,
)
from lbctl.model.check import (
    MAX_ARGUMENTS,
    MAX_COUNT,
    MAX_PATH,
    MAX_TEXT,
    MAX_TIME,
    MIN_TIME,
    check_argv,
    check_file,
    check_host,
    check_path,
    check_text,
    check_user,
    default_timing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TIME_PATTERN = r"([1-9][0-9]{0,8})(ms|s|m|h)"
STATUS_PATTERN = r"[1-5][0-9]{2}(?:-[1-5][0-9]{2})?"
STATUSES_PATTERN = rf"{STATUS_PATTERN}(?:, ?{STATUS_PATTERN})*"
HEX_PATTERN = r"hex:((?:[0-9A-Fa-f]{2})+)"
PERCENT_PATTERN = r"([1-9][0-9]?)%"
URL_PATTERN = r"(https?)://([A-Za-z0-9._-]*)(?::([1-9][0-9]{0,4}))?(/[^\s#]*)?"
TEXT_PATTERN = rf"tcp|dns:[A-Za-z0-9._-]+|{URL_PATTERN}"

_TIME_HINT = 'write a number and a unit, like "500ms", "2s", "1m" or "1h"'
_CHECK_HINT = 'write "tcp", "http://:8080/healthz", "https://www.example.org/", "dns:example.org", or a table'
_COMMON = ("kind", "interval", "fast-interval", "timeout", "rise", "fall", "hold", "initial")
_HTTP = ("port", "path", "host", "status", "body")
#: What can be said about each kind, besides what all have.
_KEYS: Mapping[CheckKind, tuple[str, ...]] = {
    CheckKind.TCP: ("port",),
    CheckKind.HTTP: _HTTP,
    CheckKind.HTTPS: (*_HTTP, "ca", "cert", "key", "sni"),
    CheckKind.DNS: ("port", "name", "type"),
    CheckKind.UDP: ("port", "send", "expect"),
    CheckKind.EXEC: ("argv", "user"),
}
_NEEDED: Mapping[CheckKind, Mapping[str, str]] = {
    CheckKind.DNS: {"name": 'write the name to query: `name = "example.org"`'},
    CheckKind.EXEC: {
        "argv": 'write the program and its arguments: `argv = ["/usr/local/bin/check-web", "--quick"]`',
        "user": 'write who runs the program, not root: `user = "nobody"`',
    },
}


def _time(key: str, least: int = MIN_TIME) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, str) and (found := re.fullmatch(TIME_PATTERN, value)):
            time = int(found[1]) * MILLISECONDS[found[2]]
            if least <= time <= MAX_TIME:
                return time
            raise InvalidValue(f"{key} {show(value)} is not between {least} ms and 24 h", _TIME_HINT)
        hint = f'seconds are written as "{value}s"' if type(value) is int and value > 0 else _TIME_HINT
        raise InvalidValue(f"{key} {show(value)} is not a duration", hint)

    return read


def _number(key: str, most: int, hint: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is int and 1 <= value <= most:
            return value
        raise InvalidValue(f"{key} {show(value)} is not a whole number from 1 to {most}", hint)

    return read


def _text(key: str, check: Callable[[str], str], what: str, hint: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        try:
            if isinstance(value, str):
                return check(value)
        except ValueError:
            pass
        raise InvalidValue(f"{key} {show(value)} is not {what}", hint)

    return read


def _name(text: str) -> str:
    return text if text == "." else check_host(text.removesuffix(".")) and text


def _status(value: object) -> tuple[StatusRange, ...]:
    hint = 'write "200", "200-399" or "200, 301-302"'
    text = str(value) if type(value) is int and 100 <= value <= 599 else value
    if isinstance(text, str) and re.fullmatch(STATUSES_PATTERN, text):
        try:
            ends = [part.strip().partition("-") for part in text.split(",")]
            return tuple(StatusRange(int(low), int(high or low)) for low, _, high in ends)
        except ValueError:
            pass
    raise InvalidValue(f"status {show(value)} is not a list of HTTP status codes", hint)


def _bytes(key: str) -> Callable[[object], bytes]:
    def read(value: object) -> bytes:
        hint = f'write a string of at most {MAX_TEXT} bytes, or bytes like "hex:0d0a"'
        if isinstance(value, str) and value:
            found = re.fullmatch(HEX_PATTERN, value)
            try:
                data = bytes.fromhex(found[1]) if found else value.encode()
            except UnicodeEncodeError:
                data = b""
            if 0 < len(data) <= MAX_TEXT and (found or not value.startswith("hex:")):
                return data
        raise InvalidValue(f"{key} {show(value)} cannot be sent or expected", hint)

    return read


def _argv(key: str) -> Callable[[object], tuple[str, ...]]:
    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            hint = f'write the program and its arguments: `{key} = ["/usr/local/bin/program", "argument"]`'
            raise InvalidValue(f"{key} {show(value)} is not a list of strings", hint)
        try:
            return check_argv(tuple(value))
        except ValueError as error:
            hint = "give the program by its absolute path, and each argument as a string of its own"
            raise InvalidValue(f"{key}: {values.escape(str(error))}", hint) from None

    return read


def _percent(value: object) -> Fraction:
    if isinstance(value, str) and (found := re.fullmatch(PERCENT_PATTERN, value)):
        return Fraction(int(found[1]), 100)
    hint = "leave `max-down` out for no limit" if value == "100%" else 'write "50%": from 1% to 99%'
    raise InvalidValue(f"max-down {show(value)} is not a percentage", hint)


def _short(value: object) -> object:
    """Return the table that a short form of `check` stands for; anything else as it is."""
    if not isinstance(value, str):
        return value
    if value == CheckKind.TCP:
        return {"kind": "tcp"}
    if value.startswith("dns:"):
        return {"kind": "dns", "name": value.removeprefix("dns:")}
    if found := re.fullmatch(URL_PATTERN, value):
        kind, host, port, path = found.groups()
        keys = {"host": host, "port": int(port) if port else None, "path": path}
        return {"kind": kind, **{key: said for key, said in keys.items() if said}}
    raise InvalidValue(f"check {show(value)} is not known", _CHECK_HINT)


def _texts(pattern: str) -> JsonDict:
    return {"type": "string", "pattern": whole(pattern)}


def _lines(most: int) -> JsonDict:
    return {"type": "string", "minLength": 1, "maxLength": most}


def _words(kinds: type[CheckKind | Initial | AllDown | OnDown | RecordType]) -> JsonDict:
    return {"type": "string", "enum": [str(each) for each in kinds]}


_PATH = {**_lines(MAX_PATH), "pattern": r"^/"}
FILE_SCHEMA = {"type": "string", "pattern": r"^/"}
_ARGV: JsonDict = {
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "maxItems": MAX_ARGUMENTS,
}
_NUMBER = {"type": "integer", "minimum": 1}
_FILE_HINT = 'write an absolute path like "/etc/lbctl/ca.pem"'
_HOST_HINT = 'write a name like "www.example.org"'
_TIME = WithJsonSchema(_texts(TIME_PATTERN))
_HOST = WithJsonSchema(_texts(r"[A-Za-z0-9._-]+"))


def file_of(key: str) -> PlainValidator:
    """Return a parser of the absolute path of a file."""
    return PlainValidator(_text(key, check_file, "an absolute path", _FILE_HINT))


def _user(key: str) -> PlainValidator:
    hint = 'write the name of a user of this host like "nobody"; the program never runs as root'
    return PlainValidator(_text(key, check_user, "the name of a user other than root", hint))


def _absent(description: str) -> Any:
    return Field(default=ABSENT, description=description, json_schema_extra=no_default)


class CheckTable(TableModel):
    """How the agent checks the endpoints of a service."""

    kind: Annotated[
        Any, PlainValidator(values.choice(CheckKind, "kind")), WithJsonSchema(_words(CheckKind))
    ] = Field(
        description="tcp: a connection is accepted. http, https: a request is answered. dns: a query is "
        "answered. udp: a datagram is answered. exec: a program ends with 0."
    )
    port: Annotated[
        Any,
        PlainValidator(_number("port", 65535, "use a port from 1 to 65535")),
        WithJsonSchema({**_NUMBER, "maximum": 65535}),
    ] = _absent("The port that is checked. By default that of the endpoint.")
    path: Annotated[
        Any,
        PlainValidator(_text("path", check_path, "a path", 'write it like "/healthz", with %20 for a blank')),
        WithJsonSchema(_PATH),
    ] = _absent('http, https: the path to request. By default "/".')
    host: Annotated[Any, PlainValidator(_text("host", check_host, "a name", _HOST_HINT)), _HOST] = _absent(
        "http, https: the Host header, and the name in TLS unless `sni` gives another. By default the "
        "endpoint's address."
    )
    status: Annotated[
        Any,
        PlainValidator(_status),
        WithJsonSchema({"anyOf": [_texts(STATUSES_PATTERN), {**_NUMBER, "minimum": 100, "maximum": 599}]}),
    ] = _absent('http, https: the status codes that pass, like "200, 301-302". By default "200-399".')
    body: Annotated[
        Any,
        PlainValidator(
            _text("body", check_text, "a text of 1 to 1024 bytes", "write what the answer must contain")
        ),
        WithJsonSchema(_lines(MAX_TEXT)),
    ] = _absent("http, https: a text that the first 64 KiB of the answer must contain.")
    ca: Annotated[Any, file_of("ca"), WithJsonSchema(FILE_SCHEMA)] = _absent(
        "https: file with the CA certificates that verify the server's. By default any is accepted."
    )
    cert: Annotated[Any, file_of("cert"), WithJsonSchema(FILE_SCHEMA)] = _absent(
        "https: file with the certificate of the client."
    )
    key: Annotated[Any, file_of("key"), WithJsonSchema(FILE_SCHEMA)] = _absent(
        "https: file with the key of `cert`, if it is not in the same file."
    )
    sni: Annotated[Any, PlainValidator(_text("sni", check_host, "a name", _HOST_HINT)), _HOST] = _absent(
        "https: the server name to send, and to verify if `ca` is given. By default `host`."
    )
    name: Annotated[Any, PlainValidator(_text("name", _name, "a DNS name", _HOST_HINT)), _HOST] = _absent(
        "dns: the name to query."
    )
    type: Annotated[
        Any, PlainValidator(values.choice(RecordType, "type")), WithJsonSchema(_words(RecordType))
    ] = _absent("dns: the type of the records to query. By default A.")
    send: Annotated[Any, PlainValidator(_bytes("send")), WithJsonSchema(_lines(2 * MAX_TEXT + 4))] = _absent(
        'udp: what is sent, a text or bytes like "hex:0d0a". By default an empty datagram.'
    )
    expect: Annotated[Any, PlainValidator(_bytes("expect")), WithJsonSchema(_lines(2 * MAX_TEXT + 4))] = (
        _absent("udp: what the answer must contain, written as `send` is. By default any answer passes.")
    )
    argv: Annotated[Any, PlainValidator(_argv("argv")), WithJsonSchema(_ARGV)] = _absent(
        "exec: the program, by its absolute path, and its arguments. It and all directories above it belong "
        "to root, and no other user can write them. Its environment is LBCTL_SERVICE, LBCTL_ENDPOINT, "
        "LBCTL_ADDRESS and LBCTL_PORT."
    )
    user: Annotated[Any, _user("user"), WithJsonSchema(_lines(32))] = _absent(
        "exec: the user who runs the program; never root."
    )
    interval: Annotated[Any, PlainValidator(_time("interval")), _TIME] = _absent(
        'Time from one check to the next: from "100ms" to "24h". By default "2s".'
    )
    fast_interval: Annotated[Any, PlainValidator(_time("fast-interval")), _TIME] = _absent(
        "The same while a state is changing. By default a quarter of `interval`, at least 100 ms."
    )
    timeout: Annotated[Any, PlainValidator(_time("timeout")), _TIME] = _absent(
        "A check that takes longer has failed. By default a second, or `interval` if that is less."
    )
    rise: Annotated[
        Any,
        PlainValidator(_number("rise", MAX_COUNT, "the checks in a row that must pass, like 2")),
        WithJsonSchema({**_NUMBER, "maximum": MAX_COUNT}),
    ] = _absent("Checks in a row that must pass before an endpoint returns. By default 2.")
    fall: Annotated[
        Any,
        PlainValidator(_number("fall", MAX_COUNT, "the checks in a row that must fail, like 3")),
        WithJsonSchema({**_NUMBER, "maximum": MAX_COUNT}),
    ] = _absent("Checks in a row that must fail before an endpoint is taken out. By default 3.")
    hold: Annotated[Any, PlainValidator(_time("hold")), _TIME] = _absent(
        "The minimum time that a failed endpoint stays out. It doubles while the endpoint flaps."
    )
    initial: Annotated[
        Any, PlainValidator(values.choice(Initial, "initial")), WithJsonSchema(_words(Initial))
    ] = _absent(
        "How an endpoint that was never checked is treated. down (default): it serves after its first "
        "pass, or at once if the service would be empty. up: it serves at once."
    )


class HealthTable(TableModel):
    """What failed checks do to a service."""

    all_down: Annotated[
        Any, PlainValidator(values.choice(AllDown, "all-down")), WithJsonSchema(_words(AllDown))
    ] = Field(
        default=AllDown.KEEP,
        description="What happens when no endpoint of a family passes, backups included. keep: connections "
        "are balanced as if nothing had been checked. reject: they are refused.",
    )
    max_down: Annotated[Any, PlainValidator(_percent), WithJsonSchema(_texts(PERCENT_PATTERN))] = _absent(
        'The largest part of the endpoints that checks take out, like "50%". By default all.'
    )
    on_down: Annotated[
        Any, PlainValidator(values.choice(OnDown, "on-down")), WithJsonSchema(_words(OnDown))
    ] = Field(
        default=OnDown.KEEP,
        description="What happens to established TCP connections of an endpoint that fails. keep: they live "
        "on. cut: they are ended, so that clients connect again.",
    )
    slow_start: Annotated[Any, PlainValidator(_time("slow-start", 1000)), _TIME] = _absent(
        "Time in which an endpoint that returns gets its share, step by step. By default at once."
    )
    notify: Annotated[Any, PlainValidator(_argv("notify")), WithJsonSchema(_ARGV)] = _absent(
        "A program to run on each change, with its arguments, under the same rules as a check of kind exec."
    )
    notify_user: Annotated[Any, _user("notify-user"), WithJsonSchema(_lines(32))] = Field(
        default=DEFAULT_POLICY.notify_user, description="The user who runs `notify`; never root."
    )


#: The tables of a service, by their keys, and the short form of `check`.
TABLES: Mapping[str, type[TableModel]] = {"check": CheckTable, "health": HealthTable}
TEXT_SCHEMA = _texts(TEXT_PATTERN)


def read_check(value: object) -> CheckTable:
    """Return the table that stands in a document, or that a short form stands for.

    Raises `InvalidValue` for a text that is no short form, and pydantic's `ValidationError` for mistakes in
    a table.
    """
    return CheckTable.model_validate(_short(value))


def problems(table: CheckTable) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with a table as a whole: the key to point at, a message, a hint."""
    kind = table.kind
    allowed = (*_COMMON, *_KEYS[kind])
    for field in table.model_fields_set:
        key = str(type(table).model_fields[field].alias)
        if key not in allowed:
            kinds = " or ".join(each for each in CheckKind if key in _KEYS[each])
            yield key, f"`{key}` is not for a check of kind {kind}", f"it is for {kinds}; remove it"
    for key, hint in _NEEDED.get(kind, {}).items():
        if key not in table.model_fields_set:
            yield "kind", f"a check of kind {kind} without `{key}`", hint
    if kind is CheckKind.HTTPS and table.key is not None and table.cert is None:
        yield "key", "a key without its certificate", "name the certificate: `cert = …`"
    interval = table.interval or Check(probe=TcpProbe()).interval
    for key, time in (("fast-interval", table.fast_interval), ("timeout", table.timeout)):
        if time is not None and time > interval:
            hint = f'write at most "{time_text(interval)}", or a longer interval'
            yield key, f'{key} "{time_text(time)}" is longer than the interval', hint


def check_of(table: CheckTable) -> Check:
    """Return the check that a table without `problems` stands for."""
    said = {
        key: value
        for key in ("port", "interval", "fast_interval", "timeout", "rise", "fall", "hold", "initial")
        if (value := getattr(table, key)) is not None
    }
    if table.interval is not None:
        fast, timeout = default_timing(table.interval)
        said = {"fast_interval": fast, "timeout": timeout, **said}
    return Check(probe=_probe(table), **said)


def _probe(table: CheckTable) -> Probe:
    def said(*keys: str) -> dict[str, Any]:
        return {key: value for key in keys if (value := getattr(table, key)) is not None}

    kind: CheckKind = table.kind
    match kind:
        case CheckKind.TCP:
            return TcpProbe()
        case CheckKind.HTTP:
            return HttpProbe(**said("path", "host", "status", "body"))
        case CheckKind.HTTPS:
            tls = TlsOptions(**said("ca", "cert", "key", "sni"))
            return HttpProbe(**said("path", "host", "status", "body"), tls=tls)
        case CheckKind.DNS:
            return DnsProbe(**said("name", "type"))
        case CheckKind.UDP:
            return UdpProbe(**said("send", "expect"))
        case CheckKind.EXEC:
            return ExecProbe(argv=table.argv, user=table.user)


def policy_of(table: HealthTable) -> HealthPolicy:
    """Return the policy that a table stands for."""
    return HealthPolicy(
        all_down=table.all_down,
        max_down=table.max_down,
        on_down=table.on_down,
        slow_start=table.slow_start or 0,
        notify=table.notify or (),
        notify_user=table.notify_user,
    )
