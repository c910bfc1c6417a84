"""`status` as it is used: what needs attention, without a file, on a trial, on a terminal."""

import codecs
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbctl.conformance.network import HOST4
from support.network import Network, intent, service

LBCTL = str(Path(sys.executable).with_name("lbctl"))
WEB = intent(service("web", "80/tcp", "8001", "8002", "8003"))
NEW = intent(service("web", "80/tcp", "8001", "8002"))
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
PATIENCE = 20


def environment(network: Network, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
    return {**kept, "TERM": "xterm", "LBCTL_STATE_DIR": str(network.folder), **more}


def apply(network: Network, text: str, *words: str) -> None:
    done = network.lbctl("apply", "--yes", *words, config=text)
    assert done.code == 0, done.err


class Trial:
    """`lbctl apply --trial` in a process of its own."""

    def __init__(self, network: Network, seconds: str, text: str) -> None:
        (network.folder / "lbctl.toml").write_text(text)
        with network.host.entered():
            self.process = subprocess.Popen(
                [LBCTL, "apply", "--yes", "--trial", seconds, "--config", str(network.folder / "lbctl.toml")],
                env=environment(network),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        until = time.monotonic() + PATIENCE
        while not is_tried(network, text):
            assert time.monotonic() < until
            assert self.process.poll() is None, self.process.communicate()[1]

    def end(self) -> int:
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


def is_tried(network: Network, text: str) -> bool:
    found = network.lbctl("status", "--brief", "--output", "json", config=text).json
    return found["trial"] is not None and found["in_sync"]


@contextmanager
def trial(network: Network, seconds: str = "60s", text: str = NEW) -> Iterator[Trial]:
    begun = Trial(network, seconds, text)
    try:
        yield begun
    finally:
        begun.process.kill()
        begun.process.communicate()
        network.lbctl("rollback", "--yes")


def test_a_trial_is_the_first_line_of_each_command(network: Network) -> None:
    apply(network, WEB)
    with trial(network) as running:
        for words in (("status",), ("status", "--brief"), ("plan",), ("history",), ("doctor",)):
            lines = network.lbctl(*words, config=NEW).out.splitlines()
            assert lines[0].startswith("On trial: reverted in "), words
            assert lines[0].endswith(" s unless you run lbctl confirm."), words
        for command in ("status", "plan", "history"):
            found = network.lbctl(command, "--output", "json", config=NEW).json["trial"]
            assert (found["state"], 0 < found["left"] <= 60) == ("running", True)
        assert "apply: trial " in network.lbctl("history").out

        # The file says what the kernel holds, but not for long.
        again = network.lbctl("apply", "--yes", config=NEW)
        assert (again.code, "Nothing to change" in again.out) == (7, False)
        assert "On trial: reverted in" in again.err
        error = network.lbctl("apply", "--yes", "--output", "json", config=NEW).json["error"]
        assert error["exit"] == 7

        assert network.lbctl("confirm").code == 0
        assert running.end() == 0
    shown = network.lbctl("history")
    assert "apply: trial, confirmed" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert [each["trial"] for each in network.lbctl("history", "--output", "json").json["history"]][:2] == [
        None,
        "confirmed",
    ]
    assert "On trial" not in network.lbctl("status", config=NEW).out


def test_a_trial_that_was_reverted_is_so_in_the_history(network: Network) -> None:
    apply(network, WEB)
    with trial(network, "3s") as running:
        assert running.end() == 8
        assert [each["trial"] for each in network.lbctl("history", "--output", "json").json["history"]] == [
            None,
            "reverted",
            None,
        ]
        assert "apply: trial, reverted" in network.lbctl("history").out
        assert network.lbctl("apply", "--yes", config=NEW).code == 0


def test_a_trial_without_a_way_back_is_refused_before_the_question(network: Network) -> None:
    apply(network, WEB)
    network.tool("nft", "delete", "table", "ip", "lbctl")
    # Without --yes, and no terminal: to ask would end with another error.
    refused = network.lbctl("apply", "--trial", "60s", config=NEW)
    assert (refused.code, refused.out) == (7, "")
    assert "the kernel rules differ from the last recorded state" in refused.err


def test_what_needs_attention_comes_first(network: Network) -> None:
    text = intent(service("web", "80/tcp", *(f"{port}" for port in range(8001, 8009))))
    network.local_endpoints((8001, 8002, 8003, 8004, 8005, 8006, 8007))
    apply(network, WEB)
    assert network.lbctl("drain", "web/8003", "--yes", "--why", "kernel update", config=WEB).code == 0
    with trial(network, text=text):
        network.tool("nft", "delete", "table", "ip", "lbctl")
        first = network.lbctl("status", config=text).out.splitlines()[:10]
        assert first[0].startswith("On trial: reverted in ")
        assert first[2] == "Attention:"
        assert any("web differs: IPv4 clients are not balanced" in line for line in first)
        assert "  nothing listens: web/8008" in first
        assert any("web/8003 drained by " in line and line.endswith(" (kernel update)") for line in first)
        _look_at_endpoints(network, text)


def _look_at_endpoints(network: Network, text: str) -> None:
    [web] = network.lbctl("status", "--output", "json", config=text).json["services"]
    dead, drained, well = (web["endpoints"][place] for place in (7, 2, 0))
    assert (dead["mark"], well["mark"]) == ("nothing listens", None)
    assert (drained["admin"], drained["state"], drained["operator"]["why"]) == (
        "active",
        "drain",
        "kernel update",
    )
    assert "drained by " in drained["reason"]
    assert (well["admin"], well["operator"], well["health"], well["reason"]) == (
        "active",
        None,
        None,
        "active in the file",
    )


def test_services_by_name_and_the_intent_that_was_applied_last(network: Network) -> None:
    two = intent(service("web", "80/tcp", "8001"), service("api", "81/tcp", "8002"))
    apply(network, two)
    for words, wanted in ((("web",), ["web"]), (("api", "web"), ["web", "api"]), ((), ["web", "api"])):
        found = network.lbctl("status", *words, "--output", "json", config=two).json
        assert [each["name"] for each in found["services"]] == wanted
        assert found["applied"] is None
    wrong = network.lbctl("status", "wbe", config=two)
    assert (wrong.code, wrong.out) == (2, "")
    assert 'there is no service "wbe"' in wrong.err
    assert 'did you mean "web"?' in wrong.err

    (network.folder / "lbctl.toml").unlink()
    bare = network.lbctl("status", "web")
    assert bare.code == 0
    assert "No intent file: this is the intent of apply number 1, of " in bare.err
    assert "in sync with the intent" in bare.out
    document = network.lbctl("status", "--output", "json").json
    assert (document["applied"], document["in_sync"]) == (1, True)

    other = f'owner = "other"\n{intent(service("more", "82/tcp", "8003"))}'
    apply(network, other)
    (network.folder / "lbctl.toml").write_text(two)
    named = network.lbctl("status", "--owner", "other")
    assert (named.code, "more  82/tcp" in named.out) == (0, True)
    nobody = network.lbctl("status", "--owner", "nobody")
    assert (nobody.code, "on record: --owner lbctl, --owner other" in nobody.err) == (2, True)
    missing = network.lbctl("status", config=network.folder / "no.toml")
    assert missing.code == 2


def test_a_rollback_that_the_file_contradicts_is_shown(network: Network) -> None:
    apply(network, WEB)
    apply(network, NEW)
    assert network.lbctl("rollback", "--yes", config=NEW).code == 0
    shown = network.lbctl("status", config=NEW)
    assert "The last change was rollback number 3" in shown.err
    document = network.lbctl("status", "--output", "json", config=NEW).json
    assert (document["rolled_back"]["number"], document["in_sync"]) == (3, False)
    # The intent of that state itself is no contradiction.
    assert network.lbctl("status", "--output", "json", config=WEB).json["rolled_back"] is None


def test_two_namespaces_with_one_state_directory_have_a_history_each(network: Network) -> None:
    apply(network, WEB)

    def elsewhere(*words: str) -> tuple[int, str]:
        with network.client.entered():
            done = subprocess.run(
                [LBCTL, *words], env=environment(network), cwd="/", capture_output=True, text=True, timeout=60
            )
        return done.returncode, done.stdout + done.stderr

    code, shown = elsewhere("history")
    assert (code, "Nothing was applied here" in shown) == (0, True)
    assert elsewhere("status")[0] == 2
    path = network.folder / "client.toml"
    path.write_text(NEW)
    assert elsewhere("apply", "--yes", "--config", str(path))[0] == 0
    apply(network, intent(service("web", "80/tcp", "8009")))
    [entry] = json.loads(elsewhere("history", "--output", "json")[1])["history"]
    assert entry["number"] == 1
    assert len(network.lbctl("history", "--output", "json").json["history"]) == 2


class Terminal:
    """A terminal, and a program that has all of it."""

    def __init__(self, network: Network, *words: str, lines: int = 24, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        with network.host.entered():
            self.process = subprocess.Popen(
                [LBCTL, *words, "--config", str(network.folder / "lbctl.toml")],
                env=environment(network),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        os.close(slave)
        self.shown = ""
        self._ending = False
        # A part may end within a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def unread(self) -> int:
        """How many bytes wait to be read; what has no room waits in the process."""
        return int.from_bytes(fcntl.ioctl(self._master, termios.FIONREAD, bytes(4)), sys.byteorder)

    def read(self, enough: Callable[[str], bool]) -> str:
        """Read until that is enough."""
        until = time.monotonic() + PATIENCE
        while not enough(self.shown):
            assert select.select([self._master], [], [], max(0, until - time.monotonic()))[0], self.shown
            try:
                part = os.read(self._master, 1 << 16)
            except OSError:
                part = b""
            if not part:
                assert self._ending, self.shown
                break
            self.shown += self._decoder.decode(part)
        return self.shown

    def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self._ending = True
        self.process.send_signal(number)
        self.read(lambda _: False)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def watched(network: Network) -> Iterator[Terminal]:
    network.local_endpoints((8001, 8002, 8003))
    many = intent(
        service("web", "80/tcp", "8001", "8002", "8003"),
        *(service(f"s{n}", f"{n}/tcp", "8001") for n in range(100, 150)),
    )
    apply(network, many)
    terminal = Terminal(network, "status", "--watch")
    try:
        yield terminal
    finally:
        terminal.close()


def screens(shown: str) -> list[str]:
    """What was drawn, screen by screen."""
    return [each.partition(LEAVE)[0] for each in shown.split("\x1b[H")[1:]]


def test_watch_draws_on_a_screen_of_its_own(network: Network, watched: Terminal) -> None:
    watched.read(lambda shown: len(screens(shown)) >= 2)
    network.ask(network.client, HOST4, 80, 30)
    watched.read(lambda shown: "█" in shown and len(screens(shown)) >= 4)
    assert watched.end(signal.SIGINT) == 0
    assert watched.shown.startswith(ENTER)
    assert watched.shown.endswith(LEAVE)
    assert "Traceback" not in watched.shown
    first, *_, last = screens(watched.shown)
    for each in (first, last):
        lines = each.removesuffix("\x1b[J").split("\r\n")
        assert len(lines) <= 24
        assert lines[-1].startswith("… ")
        assert "more services" in lines[-1]
        assert "in sync with the intent" in lines[1]
    # A clock.
    assert first.split("\r\n")[0] != last.split("\r\n")[0]
    row = next(line for line in last.split("\r\n") if line.startswith("  8001"))
    assert row.split()[:5] == ["8001", "active", "1/3", "33.3%", "10"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_watch_leaves_the_screen_when_it_is_ended(watched: Terminal, number: signal.Signals) -> None:
    watched.read(lambda shown: ENTER in shown and len(screens(shown)) >= 1)
    assert watched.end(number) == 128 + number
    assert watched.shown.count(ENTER) == watched.shown.count(LEAVE) == 1


def stop_and_continue(watched: Terminal) -> None:
    """Stop it, continue it and end it: the screen is left while it is stopped."""
    watched.process.send_signal(signal.SIGTSTP)
    watched.read(lambda shown: LEAVE in shown)
    # What continues it before it has stopped is lost.
    os.waitid(os.P_PID, watched.process.pid, os.WSTOPPED)
    watched.process.send_signal(signal.SIGCONT)
    watched.read(lambda shown: shown.count(ENTER) == 2)
    assert watched.end(signal.SIGINT) == 0


def test_watch_leaves_the_screen_while_it_is_stopped(watched: Terminal) -> None:
    watched.read(lambda shown: len(screens(shown)) >= 1)
    stop_and_continue(watched)
    assert watched.shown.endswith(LEAVE)


def test_watch_can_be_stopped_while_it_draws(watched: Terminal) -> None:
    """A terminal that does not take what is written interrupts the drawing of a screen."""
    until = time.monotonic() + PATIENCE
    while watched.unread() == 0 or "woken" not in Path(f"/proc/{watched.process.pid}/wchan").read_text():
        assert time.monotonic() < until, "the terminal takes all that is written"
        time.sleep(0.05)
    stop_and_continue(watched)


@pytest.mark.parametrize("output", ["text", "json"])
def test_watch_prints_plain_lines_where_there_is_no_terminal(network: Network, output: str) -> None:
    apply(network, WEB)
    with network.host.entered():
        process = subprocess.Popen(
            [LBCTL, "status", "--watch", "--output", output, "--config", str(network.folder / "lbctl.toml")],
            env=environment(network),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    wanted = 2 if output == "json" else 14
    lines = [process.stdout.readline() for _ in range(wanted)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    assert not any("\x1b" in line for line in lines)
    if output == "json":
        assert [json.loads(line)["in_sync"] for line in lines] == [True, True]
    else:
        assert sum("in sync with the intent" in line for line in lines) == 2
