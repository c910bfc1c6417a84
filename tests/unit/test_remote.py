"""What a remote host answers is untrusted: framing, sizes, escape sequences; and so is a destination."""

import os
import signal
import sys
from pathlib import Path

import pytest

from lbctl.errors import (
    ApplyFailed,
    ConnectionLost,
    LbctlError,
    PermissionDenied,
    Unreachable,
    WrongUsage,
)
from lbctl.host.remote import Destination, RemoteHost, SshSession, session
from lbctl.host.remote.session import RemoteRequest

#: Takes the place of ssh: answers the first line with the mark of a session, then prints what the test says.
_SSH = """#!{python} -IS
import os, sys
if {announces}:
    nonce = sys.stdin.buffer.readline().strip()
    sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
    sys.stdout.buffer.write({noise!r} + b"lbctl-session " + nonce + b"\\n")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.readline()
sys.stderr.write({said!r})
sys.stdout.buffer.write({answer!r})
sys.stdout.buffer.flush()
sys.exit({code})
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Ssh":
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Ssh(tmp_path)


class Ssh:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "ssh"

    def answers(
        self,
        answer: bytes = b"",
        *,
        noise: bytes = b"",
        said: str = "",
        code: int = 0,
        announces: bool = True,
    ) -> SshSession:
        text = _SSH.format(
            python=sys.executable, answer=answer, noise=noise, said=said, code=code, announces=announces
        )
        return self.runs(text)

    def runs(self, text: str) -> SshSession:
        self._path.write_text(text, encoding="utf-8")
        self._path.chmod(0o755)
        return SshSession(Destination.of("far"))


def ask(session: SshSession) -> bytes:
    try:
        return session.ask(RemoteRequest(verb="hello"))[0].out
    finally:
        session.close()


def test_an_answer_is_that_of_its_request(ssh: Ssh) -> None:
    assert ask(ssh.answers(b"1 0 3 0\nabc", noise=b"Welcome!\r\n\x1b[2J")) == b"abc"


@pytest.mark.parametrize(
    "answer",
    [
        b"2 0 0 0\n",  # to what was not asked
        b"1 0 99999999999 0\n",  # 100 GB
        b"1 0 999999999 0\n",
        b"1 0 -1 0\n",
        b"1 0 0\n",
        b"one 0 0 0\n",
        b"x" * 1000,  # a line without end
        b"1 0 10 0\nabc",  # cut short
        b"",
    ],
)
def test_what_is_no_answer_ends_the_session(ssh: Ssh, answer: bytes) -> None:
    with pytest.raises(Unreachable):
        ask(ssh.answers(answer))


def test_a_shell_that_prints_without_end_is_left(ssh: Ssh) -> None:
    with pytest.raises(Unreachable, match="without end"):
        ask(ssh.answers(b"y\n" * 100_000, announces=False))


def test_a_session_is_not_waited_for_before_it_is_used(ssh: Ssh) -> None:
    session = ssh.runs("#!/bin/sh\nexec sleep 600\n")
    session.open()
    process = session._process
    assert process
    session.close()
    # Not SIGKILL: ssh that asks for a password has turned off the terminal's echo.
    assert process.returncode == -signal.SIGTERM


def test_what_ssh_says_is_escaped(ssh: Ssh) -> None:
    said = "\x1b]0;owned\x07sudo: a password is required\n"
    with pytest.raises(Unreachable) as caught:
        ask(ssh.answers(said=said, code=1, announces=False))
    assert "\x1b" not in caught.value.message
    assert "a password is required" in caught.value.message
    assert "sudo" in str(caught.value.hint)


def test_what_a_login_shell_prints_instead_of_a_session_is_shown(ssh: Ssh) -> None:
    with pytest.raises(Unreachable, match="This account is currently not available") as caught:
        ask(ssh.answers(b"\x1b[1mThis account is currently not available.\n", code=1, announces=False))
    assert "\x1b" not in caught.value.message


def test_the_last_messages_are_shown_and_no_sign_of_life_is(ssh: Ssh) -> None:
    said = "debug1: something\n" * 10_000 + "Connection reset by peer\n" + "lbctl-alive\n" * 100
    with pytest.raises(Unreachable, match=r"something; Connection reset by peer$"):
        ask(ssh.answers(said=said, code=255, announces=False))


@pytest.mark.parametrize(
    ("code", "kind"), [(69, Unreachable), (73, ApplyFailed), (77, Unreachable), (78, PermissionDenied)]
)
def test_what_the_script_refuses_has_a_code_and_a_hint_of_its_own(
    ssh: Ssh, code: int, kind: type[LbctlError]
) -> None:
    with pytest.raises(kind) as caught:
        ask(ssh.answers(said="lbctl: this is not as it should be\n", code=code, announces=False))
    assert caught.value.message == "far: this is not as it should be"
    assert "by hand" not in str(caught.value.hint)


def test_a_session_that_does_not_begin_is_left(ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_BEGINNING_BY_HAND", 0)
    monkeypatch.setattr(session, "_PAUSE", 0.01)
    with pytest.raises(Unreachable, match="does not begin"):
        ask(ssh.runs("#!/bin/sh\nexec cat\n"))


def test_a_host_without_a_sign_of_life_is_left(ssh: Ssh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_LIFELESS", 0)
    monkeypatch.setattr(session, "_PAUSE", 0.01)
    wait = "#!/bin/sh\nread -r nonce\nprintf 'lbctl-session %s\\n' \"$nonce\"\nexec sleep 600\n"
    with pytest.raises(Unreachable, match="nothing has come from it"):
        ask(ssh.runs(wait))


def test_after_a_change_has_begun_the_state_is_unknown(ssh: Ssh) -> None:
    cut = ssh.answers(b"")
    cut.changing = True
    with pytest.raises(ConnectionLost):
        ask(cut)


def test_a_word_with_a_line_break_is_not_sent(ssh: Ssh) -> None:
    session = ssh.answers(b"1 0 0 0\n")
    with pytest.raises(LbctlError, match="line break"):
        session.ask(RemoteRequest(verb="read", words=("/etc/x\n2 run 1 0\nreboot",)))
    session.close()


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=reboot",
        "root@-oProxyCommand=reboot",
        "-l@host",
        "host -p 1",
        "host\n",
        "ho\x1bst",
        "host:0",
        "host:65536",
        "host:2222:1",
        "a@b@c",
        "[::1",
        "host;reboot",
        "$(reboot)",
        "`reboot`",
        "../host",
        "",
        "user@",
        "%h",
    ],
)
def test_a_destination_is_nothing_else(text: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        Destination.of(text)
    assert "\x1b" not in caught.value.message


def test_destinations_as_ssh_takes_them() -> None:
    assert Destination.of("lb1").words() == ("--", "lb1")
    assert Destination.of("admin@lb1.example.net:2222").words() == (
        "-l", "admin", "-p", "2222", "--", "lb1.example.net",
    )  # fmt: skip
    found = Destination.of("root@[fe80::1%eth0]:22")
    assert (found.words()[-1], str(found)) == ("fe80::1%eth0", "root@[fe80::1%eth0]:22")


#: What a host answers at the beginning: to the greeting, to what is saved and known, and to files.
_TIME = b"now 1\nuptime 1.0 1\nnetwork 1\n"
_BEGINNING = b"1 0 %d 0\n%b" % (len(_TIME), _TIME) + b"".join(b"%d 0 0 0\n" % n for n in range(2, 20))


def test_a_name_that_leads_elsewhere_is_not_saved(ssh: Ssh) -> None:
    ssh.answers(_BEGINNING).close()
    host = RemoteHost(Destination.of("far"))
    for name in ("../x", ".x", "a/b", "a\nb", ""):
        with pytest.raises(ApplyFailed, match="not a name"):
            host.save(name, "text")
    host.close()
