"""What the reader says of rules is what the kernel does with them, connection by connection."""

import select
import shlex
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl_iptables.reading import read
from support.findings import CASES, corrected_text

ENDPOINTS = range(9001, 9006)
LISTENERS = range(7001, 7009)
#: Connections after which a period is followed no further.
LONGEST = 30

EVERY = st.integers(1, 5).flatmap(
    lambda every: st.tuples(st.just(every), st.integers(0, every - 1), st.sampled_from(["", "", "", "! "]))
)


@st.composite
def conditions(draw: st.DrawFn) -> str:
    words = []
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        if draw(st.integers(0, 3)):
            every, packet, inverted = draw(EVERY)
            words.append(f"-m statistic --mode nth {inverted}--every {every} --packet {packet}")
        else:
            inverted = draw(st.sampled_from(["", "! "]))
            words.append(f"-m mark {inverted}--mark {draw(st.integers(0, 2))}/3")
    return " ".join(words)


TARGETS = st.one_of(
    st.sampled_from(ENDPOINTS).map(lambda port: f"-j REDIRECT --to-ports {port}"),
    st.sampled_from(ENDPOINTS).map(lambda port: f"-j REDIRECT --to-ports {port}"),
    st.sampled_from(["-j RETURN", "-j ACCEPT"]),
    st.integers(0, 3).map(lambda mark: f"-j MARK --set-xmark {mark}/3"),
    st.integers(1, 3).map(lambda mark: f"-j MARK --or-mark {mark}"),
    st.tuples(st.sampled_from("jg"), st.integers(1, 2)).map(lambda pair: f"-{pair[0]} <{pair[1]}>"),
)
CHAIN = st.lists(st.tuples(conditions(), TARGETS), min_size=1, max_size=6)
#: The rules of a listener: those of the hook, and two chains, of which one leads to the next.
RULES = st.tuples(CHAIN, CHAIN, CHAIN)


def text_of(rulesets: list[tuple[list[tuple[str, str]], ...]]) -> str:
    head = ["*nat", ":OUTPUT ACCEPT [0:0]"]
    # So that marks are known to be what rules of the text set.
    rules = ["-A OUTPUT -p tcp -j MARK --set-xmark 0x0/0x3"]
    for port, chains in zip(LISTENERS, rulesets, strict=False):
        for number, chain in enumerate(chains):
            name = f"C{port}-{number}" if number else "OUTPUT"
            if number:
                head.append(f":{name} - [0:0]")
            about = "" if number else f"-p udp -m udp --dport {port}"
            for condition, target in chain:
                leads = int(target[4]) if target.endswith(">") else 0
                if leads and leads <= number:
                    target = "-j RETURN"
                target = target.replace(f"<{leads}>", f"C{port}-{leads}")
                if "REDIRECT" in target and number:
                    about = "-p udp"
                rules.append(" ".join(f"-A {name} {about} {condition} {target}".split()))
    return "\n".join([*head, *rules, "COMMIT", ""])


class Receivers:
    """Whoever gets a datagram: an endpoint, or the listener's own port where nobody is picked."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._sources = count()
        self._sockets = {port: self._bound(port) for port in (*ENDPOINTS, *LISTENERS)}
        self._ports = {each.fileno(): port for port, each in self._sockets.items()}
        self._poll = select.poll()
        for each in self._sockets.values():
            self._poll.register(each, select.POLLIN)

    def _bound(self, port: int) -> socket.socket:
        made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind(("127.0.0.1", port))
        return made

    def gets(self, port: int) -> str | None:
        """Who gets the next connection to `port`."""
        # Never a source that the kernel still remembers: its datagrams go where the first one went.
        number = next(self._sources)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((f"127.1.{number // 200}.{number % 200 + 1}", 30000))
            client.sendto(b"x", ("127.0.0.1", port))
            ready = self._poll.poll(2000)
            assert len(ready) == 1
            found = self._ports[ready[0][0]]
            self._sockets[found].recv(16)
        return None if found == port else str(found)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, Receivers]]:
    namespace = Namespace(LocalHost(Path(tmp_path_factory.mktemp("state"))))
    namespace.ip("link", "set", "lo", "up")
    with ExitStack() as stack, namespace.entered():
        yield namespace, Receivers(stack)
    namespace.close()


@settings(
    max_examples=36, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(rulesets=st.lists(RULES, min_size=6, max_size=len(LISTENERS)))
def test_the_computed_sequence_is_what_connections_get(
    host: tuple[Namespace, Receivers], rulesets: list[tuple[list[tuple[str, str]], ...]]
) -> None:
    namespace, receivers = host
    text = text_of(rulesets)
    reading = read(text)
    assert reading.accept
    assert not reading.unsupported
    # What has a mark that none of these rules sets has it from elsewhere.
    services = {
        service.dport: service
        for service in reading.services
        if service.action == "redirect" and not service.when
    }
    namespace.run("iptables-legacy-restore", stdin=text)
    for port, _ in zip(LISTENERS, rulesets, strict=False):
        service = services.get(str(port))
        slots: tuple[str | None, ...] = service.slots if service else (None,)
        if service and not slots:
            # A period too long to follow is said by its shares alone.
            continue
        got = [receivers.gets(port) for _ in range(min(len(slots), LONGEST))]
        assert got == list(slots[:LONGEST]), "\n".join(x for x in text.split("\n") if str(port) in x)


@pytest.mark.parametrize("flavour", ["legacy", "nft"])
def test_corrected_rules_load(host: tuple[Namespace, Receivers], flavour: str) -> None:
    namespace, _ = host
    for _, has, _ in CASES:
        for found in read(has).findings:
            if not found.corrected:
                continue
            text = corrected_text(has, found)
            if text.startswith("*"):
                namespace.run(f"iptables-{flavour}-restore", "--test", stdin=text)
                continue
            for line in text.splitlines():
                program, *words = shlex.split(line)
                namespace.run(f"{program}-{flavour}", *words)
