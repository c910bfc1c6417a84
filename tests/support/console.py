"""Documents whose console blocks are true: each command is run, and prints what stands below it.

A line `$ command`, or `old$ command` where there are several hosts, is run in that host's shell, which is one
for all commands of a document. A command ends with 0 unless the next line is `echo $?`. One that ends with &
goes on beside the next ones: below it stands what it prints at first, and the rest below a `wait`.

UPDATE_GOLDEN=1 writes the output anew; read the difference before it is committed.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path

from lbctl.host.netns import Namespace

#: What each run prints otherwise.
VOLATILE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    r"|[\d.]+(?= s (before its end|after its time|left\)))"
    r"|(?<=iptables-restore v)[\d.]+"
)
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", flags=re.DOTALL | re.MULTILINE)
_PROMPT = re.compile(r"([a-z]*)\$ (.*)")
#: Where a host's programs are.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: Ends the output of a command, before its exit code.
_END = "\x01"


@dataclass(slots=True)
class Command:
    """A command of a document, and the lines below it."""

    host: str
    text: str
    printed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"{self.host}$ {self.text}", *self.printed, ""])


class Shell:
    """Bash on a host, with this environment's lbctl."""

    def __init__(self, namespace: Namespace, folder: Path, state: Path, path: str = PATH) -> None:
        with namespace.entered():
            self._bash = subprocess.Popen(
                ["/bin/bash", "--noprofile", "--norc"],
                cwd=folder,
                env={"PATH": f"{Path(sys.executable).parent}:{path}", "LBCTL_STATE_DIR": str(state)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.code = 0

    def run(self, command: Command) -> list[str]:
        """What a command prints; `code` is its exit code then."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        script = f"(exit {self.code})\n{{ {command.text}\n}} < /dev/null\necho {_END}$?\n"
        self._bash.stdin.write(script)
        self._bash.stdin.flush()
        awaited = command.printed[-1:] if command.text.endswith("&") else []
        ended = False
        lines: list[str] = []
        while not ended or steady(lines[-1:]) != steady(awaited or lines[-1:]):
            line = self._bash.stdout.readline()
            assert line, f"{command.text}: the shell has ended, having printed {lines}"
            text, end, code = line.removesuffix("\n").partition(_END)
            if end:
                ended, self.code = True, int(code)
            if text or not end:
                lines.append(text)
        return lines

    def close(self) -> None:
        """End the shell, and wait for nothing that it started."""
        with self._bash:
            self._bash.kill()


@contextmanager
def shells(folder: Path, hosts: Mapping[str, Namespace], path: str = PATH) -> Iterator[dict[str, Shell]]:
    """A shell for each host, all in one folder; what lbctl knows of a host is that host's own."""
    opened = {name: Shell(host, folder, folder / f"state-{name}", path) for name, host in hosts.items()}
    try:
        yield opened
    finally:
        for shell in opened.values():
            shell.close()


def replay(document: Path, opened: Mapping[str, Shell]) -> None:
    """Run all commands of a document in their order, and hold them against what it says."""
    old = document.read_text(encoding="utf-8")
    new, blocks = _BLOCK.subn(lambda block: "".join(_true(opened, commands(block[0]))), old)
    assert blocks
    if new != old:
        document.write_text(new, encoding="utf-8")


def commands(block: str) -> list[Command]:
    """The commands of a console block."""
    found: list[Command] = []
    for line in block.splitlines():
        if prompt := _PROMPT.fullmatch(line):
            found.append(Command(prompt[1], prompt[2]))
        else:
            found[-1].printed.append(line)
    return found


def steady(lines: list[str]) -> list[str]:
    """Lines without what each run prints otherwise."""
    return [VOLATILE.sub("…", line) for line in lines]


def _true(opened: Mapping[str, Shell], block: list[Command]) -> Iterator[str]:
    for number, command in enumerate(block):
        shell = opened[command.host]
        real = Command(command.host, command.text, shell.run(command))
        asked = any(after.text == "echo $?" for after in block[number + 1 : number + 2])
        assert shell.code == 0 or asked, f"{real}exit code {shell.code}"
        if steady(real.printed) == steady(command.printed):
            real = command
        if not os.environ.get("UPDATE_GOLDEN"):
            wanted, got = str(command).splitlines(), str(real).splitlines()
            assert wanted == got, "\n".join(unified_diff(wanted, got, "document", "now", lineterm=""))
        yield str(real)


def end_processes(namespace: Namespace) -> None:
    """End the processes that a document has left in a network namespace."""
    for number in inhabitants(namespace):
        os.kill(number, signal.SIGKILL)


def inhabitants(namespace: Namespace) -> list[int]:
    """The processes that a document has left in a network namespace."""
    with namespace.entered():
        ours = Path("/proc/thread-self/ns/net").stat().st_ino
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (path / "ns" / "net").stat().st_ino == ours and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found
