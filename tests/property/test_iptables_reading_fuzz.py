"""Nothing that a text holds makes the reader of iptables rules fail, or print what is not inert."""

import tomllib

from hypothesis import HealthCheck, example, given, settings, strategies as st

from lbctl.config import dump
from lbctl.documents.reading import document
from lbctl.engine.migrate.intent import imported
from lbctl.engine.migrate.read import read_rules
from lbctl_iptables import backend as iptables
from lbctl_iptables.reading import read

WORDS = st.sampled_from(
    [
        "*nat",
        "*mangle",
        "*filter",
        "COMMIT",
        ":PREROUTING",
        ":OUTPUT",
        ":C",
        "-",
        "ACCEPT",
        "[0:0]",
        "[1:2]",
        "-A",
        "-I",
        "-D",
        "-R",
        "-N",
        "-F",
        "-X",
        "-P",
        "-E",
        "-t",
        "nat",
        "PREROUTING",
        "OUTPUT",
        "POSTROUTING",
        "C",
        "1",
        "-p",
        "tcp",
        "udp",
        "-m",
        "statistic",
        "--mode",
        "nth",
        "random",
        "--every",
        "2",
        "3",
        "0",
        "--packet",
        "--probability",
        "0.5",
        "nan",
        "1e-10",
        "--dport",
        "80",
        "http",
        "80:90",
        "80,443",
        "multiport",
        "--dports",
        "-d",
        "-s",
        "10.0.0.1",
        "10.0.0.0/8",
        "::1",
        "!",
        "-j",
        "-g",
        "DNAT",
        "REDIRECT",
        "MARK",
        "CONNMARK",
        "RETURN",
        "DROP",
        "SNAT",
        "--to-destination",
        "10.0.0.1:80",
        "10.0.0.1-10.0.0.3:1-2",
        "--to-ports",
        "8001",
        "--to",
        "--set-mark",
        "0x1/0x3",
        "--save-mark",
        "--restore-mark",
        "mark",
        "--mark",
        "recent",
        "--rcheck",
        "--set",
        "--name",
        "cluster",
        "--cluster-total-nodes",
        "--cluster-local-node",
        "--cluster-hash-seed",
        "comment",
        "--comment",
        '"a"',
        "'b",
        '"',
        "'",
        "\\",
        "iptables",
        "ip6tables",
        "sudo",
        "$X",
        "${Y}",
        "X=1",
        "for",
        "do",
        "done",
        "if",
        "fi",
        ";",
        "&&",
        "|",
        "(",
        ")",
        "{",
        "}",
        "`",
        "$(",
        "#",
        "<<EOF",
        "iptables-restore",
    ]
)
TEXTS = st.lists(st.lists(WORDS, max_size=16).map(" ".join), max_size=12).map("\n".join)
#: Text for a comment, which must stay one.
COMMENTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters='"\\\n\r\0'), max_size=30)
PATIENT = settings(
    max_examples=3 * settings.default.max_examples, suppress_health_check=[HealthCheck.too_slow]
)


@PATIENT
@given(text=TEXTS | st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    iptables.recognizes(text)
    reading = read(text)
    for service in reading.services:
        assert sum((backend.share for backend in service.backends), service.leak) == 1
    assert document(reading)["accept"] is reading.accept
    made = imported(reading, text.split("\n"))
    assert len(tomllib.loads(dump(made.intent, made.comments)).get("service", [])) == len(
        made.intent.services
    )


@PATIENT
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    reading = read_rules(data, [iptables])
    assert reading.accept or reading.findings


@PATIENT
@given(comment=COMMENTS)
@example(comment="$0")
def test_a_comment_changes_nothing(comment: str) -> None:
    rule = f'-A OUTPUT -p tcp -m tcp --dport 80 -m comment --comment "{comment}" -j REDIRECT --to-ports 8001'
    text = "\n".join(["*nat", ":OUTPUT ACCEPT [0:0]", rule, "COMMIT", ""])
    reading = read(text)
    assert reading.accept
    assert [backend.to for backend in reading.services[0].backends] == ["8001"]
    made = imported(reading, text.split("\n"))
    printed = dump(made.intent, made.comments)
    assert printed.isascii()
    (service,) = tomllib.loads(printed)["service"]
    assert (service["listen"], service["endpoints"]) == ("80/tcp", ["8001"])
