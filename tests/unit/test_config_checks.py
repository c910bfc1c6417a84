"""The tables `check` and `health`: short forms, defaults, mistakes with their lines, and the JSON Schema."""

from __future__ import annotations

from fractions import Fraction

import jsonschema
import pytest
from hypothesis import given, strategies as st

from lbctl.config import dump, json_schema, loads
from lbctl.errors import IntentError
from lbctl.model import (
    AllDown,
    Check,
    DnsProbe,
    Endpoint,
    ExecProbe,
    HealthPolicy,
    HttpProbe,
    Initial,
    Intent,
    Listener,
    OnDown,
    Protocol,
    RecordType,
    Service,
    StatusRange,
    TcpProbe,
    TlsOptions,
    UdpProbe,
)

HEAD = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001", "8002"]\n'


def service(text: str) -> Service:
    return loads(HEAD + text).services[0]


def mistakes(text: str) -> list[tuple[int, str]]:
    """The mistakes of a service; lines count from its first line behind `HEAD`."""
    with pytest.raises(IntentError) as caught:
        loads(HEAD + text)
    assert all(problem.hint for problem in caught.value.problems)
    return [
        (p.line - HEAD.count("\n"), p.message.removeprefix('service "web": ')) for p in caught.value.problems
    ]


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("tcp", Check(probe=TcpProbe())),
        ("dns:example.org", Check(probe=DnsProbe(name="example.org"))),
        ("http:///healthz", Check(probe=HttpProbe(path="/healthz"))),
        ("http://:8080", Check(probe=HttpProbe(), port=8080)),
        ("http://:8080/a?b=c", Check(probe=HttpProbe(path="/a?b=c"), port=8080)),
        ("https://www.example.org/", Check(probe=HttpProbe(host="www.example.org", tls=TlsOptions()))),
    ],
)
def test_short_forms(text: str, check: Check) -> None:
    assert service(f'check = "{text}"').check == check


def test_the_example_of_the_reference() -> None:
    found = service(
        '[service.check]\nkind = "http"\npath = "/healthz"\ninterval = "2s"\n'
        '[service.health]\nall-down = "keep"\nmax-down = "50%"\non-down = "keep"\nslow-start = "30s"\n'
        'notify = ["/usr/local/bin/on-change"]\n'
    )
    assert found.check == Check(probe=HttpProbe(path="/healthz"))
    assert found.health == HealthPolicy(
        max_down=Fraction(1, 2), slow_start=30_000, notify=("/usr/local/bin/on-change",)
    )


def test_defaults_follow_the_interval() -> None:
    found = service('check = { kind = "tcp", interval = "500ms" }').check
    assert found is not None
    assert (found.interval, found.fast_interval, found.timeout) == (500, 125, 500)


def test_every_mistake_is_reported_with_its_line() -> None:
    assert mistakes(
        '[service.check]\nkind = "https"\nintervall = "2s"\nstatus = "200-700"\ntimeout = 3\nrise = 0\n'
        'path = "healthz"\nhost = "a b"\nca = "ca.pem"\n'
        '[service.health]\nmax-down = "50"\nnotify = ["on-change"]\nnotify-user = "root"\n'
    ) == [
        (3, "unknown key `intervall`"),
        (4, 'status "200-700" is not a list of HTTP status codes'),
        (5, "timeout 3 is not a duration"),
        (6, "rise 0 is not a whole number from 1 to 100"),
        (7, 'path "healthz" is not a path'),
        (8, 'host "a b" is not a name'),
        (9, 'ca "ca.pem" is not an absolute path'),
        (11, 'max-down "50" is not a percentage'),
        (12, "notify: 'on-change' is not an absolute path"),
        (13, 'notify-user "root" is not the name of a user other than root'),
    ]


def test_keys_belong_to_kinds() -> None:
    assert mistakes('[service.check]\nkind = "exec"\nsend = "x"\n') == [
        (2, "a check of kind exec without `argv`"),
        (2, "a check of kind exec without `user`"),
        (3, "`send` is not for a check of kind exec"),
    ]
    assert mistakes('[service.check]\nkind = "tcp"\nsni = "a"\n') == [
        (3, "`sni` is not for a check of kind tcp"),
    ]
    assert mistakes('[service.check]\nkind = "https"\nkey = "/k"\n') == [(3, "a key without its certificate")]
    assert mistakes('check = { kind = "tcp", interval = "1s", timeout = "2s" }\n') == [
        (1, 'timeout "2s" is longer than the interval')
    ]


def test_endpoints_without_a_port_need_one_for_the_check() -> None:
    text = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["10.0.0.1"]\ncheck = '
    with pytest.raises(IntentError) as caught:
        loads(text + '"tcp"')
    [problem] = caught.value.problems
    assert "the check has no port, and endpoint 10.0.0.1 has none either" in problem.message
    for fine in ('{ kind = "tcp", port = 80 }', '"dns:example.org"', '"http://:8080/"'):
        assert loads(text + fine).services[0].check is not None


@pytest.mark.parametrize(
    "text",
    [
        'check = "tcpp"',
        "check = 3",
        'check = "http://a:99999/"',
        'check = "http://a/ b"',
        'check = "dns:"',
        "check = []",
        "health = 5",
        'health = { all-down = "keep" }',
        "check = true",
    ],
)
def test_what_is_no_table_is_refused_at_its_line(text: str) -> None:
    assert mistakes(text + "\n")[0][0] == 1


@pytest.mark.parametrize("argv", ['["/bin/../x"]', '["x"]', "[]", '["/x", 1]', '["/x\\u0000"]', '"/x"'])
def test_programs_are_absolute_and_printable(argv: str) -> None:
    assert len(mistakes(f'check = {{ kind = "exec", user = "nobody", argv = {argv} }}\n')) == 1


TIMES = st.sampled_from([100, 250, 1000, 1500, 60_000, 3_600_000])
HOSTS = st.sampled_from(["a", "www.example.org", "_x.y"])
FILES = st.none() | st.sampled_from(["/etc/a.pem", '/x y/"z"'])
STATUSES = st.lists(
    st.tuples(st.integers(100, 599), st.integers(0, 100)).map(lambda x: StatusRange(x[0], min(sum(x), 599))),
    min_size=1,
    max_size=3,
).map(tuple)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TLS = st.builds(TlsOptions, ca=FILES, sni=st.none() | HOSTS) | st.just(TlsOptions(cert="/c", key="/k"))
PROBES = (
    st.just(TcpProbe())
    | st.builds(
        HttpProbe,
        path=st.sampled_from(["/", "/healthz?a=b%20c"]),
        host=st.none() | HOSTS,
        status=STATUSES | st.just((StatusRange(200, 399),)),
        body=st.none() | TEXTS,
        tls=st.none() | TLS,
    )
    | st.builds(DnsProbe, name=HOSTS | st.just("."), type=st.sampled_from(RecordType))
    | st.builds(UdpProbe, send=st.binary(max_size=9), expect=TEXTS.map(str.encode))
    | st.builds(
        ExecProbe,
        argv=st.lists(st.sampled_from(["a", 'b "c"', ""]), max_size=3).map(lambda x: ("/usr/bin/p", *x)),
        user=st.just("nobody"),
    )
)


@st.composite
def checks(draw: st.DrawFn) -> Check:
    interval = draw(TIMES)
    return Check(
        probe=draw(PROBES),
        port=draw(st.none() | st.integers(1, 65535)),
        interval=interval,
        fast_interval=draw(st.integers(100, interval)),
        timeout=draw(st.integers(100, interval)),
        rise=draw(st.integers(1, 100)),
        fall=draw(st.integers(1, 100)),
        hold=draw(st.sampled_from([0, 100, 30_000])),
        initial=draw(st.sampled_from(Initial)),
    )


POLICIES = st.builds(
    HealthPolicy,
    all_down=st.sampled_from(AllDown),
    max_down=st.none() | st.integers(1, 99).map(lambda n: Fraction(n, 100)),
    on_down=st.sampled_from(OnDown),
    slow_start=st.sampled_from([0, 1000, 30_000]),
    notify=st.sampled_from([(), ("/bin/x", "y z")]),
    notify_user=st.sampled_from(["nobody", "web"]),
)


@given(checks() | PROBES.map(lambda probe: Check(probe=probe)), POLICIES)
def test_what_is_written_reads_back(check: Check, health: HealthPolicy) -> None:
    if isinstance(check.probe, ExecProbe) and check.port is not None:
        check = Check(probe=check.probe)
    intent = Intent(
        services=(
            Service(
                name="web",
                listeners=(Listener(protocol=Protocol.TCP, port=80),),
                endpoints=(Endpoint(port=8001, weight=2), Endpoint(port=8002)),
                check=check,
                health=health,
            ),
        )
    )
    assert loads(dump(intent)) == intent


@pytest.mark.parametrize(
    ("document", "fits"),
    [
        ({"check": "tcp"}, True),
        ({"check": "http://:80/x"}, True),
        ({"check": "tcpp"}, False),
        ({"check": {"kind": "dns", "name": "a", "type": "AAAA"}}, True),
        ({"check": {"kind": "exec", "argv": ["/a", "b"], "user": "nobody"}}, True),
        ({"check": {"name": "a"}}, False),
        ({"check": {"kind": "tcp", "interval": "2"}}, False),
        ({"check": "tcp", "health": {"max-down": "50%", "slow-start": "30s"}}, True),
        ({"check": "tcp", "health": {"max-down": "100%"}}, False),
        ({"check": "tcp", "health": {"on": 1}}, False),
    ],
)
def test_the_schema(document: dict[str, object], fits: bool) -> None:
    whole = {
        "schema": 1,
        "service": [{"name": "web", "listen": "80/tcp", "endpoints": ["8001"], **document}],
    }
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(whole) is fits
