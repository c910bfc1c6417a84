"""What a plain command may not import: start-up time is lost one import at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INTENT = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8003"]\n'

#: Never for --help or check, whoever would bring it.
NEVER = {
    "asyncio",
    "ctypes",
    "http",
    "iptc",
    "lbctl.demo",
    "lbctl.engine",
    "lbctl.host",
    "lbctl.spi",
    "lbctl_iptables",
    "lbctl_nftables",
    "multiprocessing",
    "nftables",
    "ssl",
    "unittest",
}
#: Typer itself draws help with rich; a command that prints plain text needs none of it.
NEVER_FOR_CHECK = {"logging", "pygments", "rich"}
#: Files are not read, and values not made, to print help.
NEVER_FOR_HELP = {"json", "lbctl.config", "lbctl.model", "tomllib"}
#: Where no rules of others are read, the rooms that read them are not entered.
NEVER_FOR_RENDER = {
    f"lbctl_{name}.{room}" for name in ("nftables", "iptables") for room in ("reading", "diagnose")
}
#: What `check` brings besides what reading takes. All else that it imports, a Typer program without a task
#: imports too.
CHECK_BRINGS = {"encodings", "lbctl"}
HELP_BRINGS = {"gc", "lbctl"}

RUN = """\
import sys
sys.argv[0] = "program"
try:
    {program}
except SystemExit as end:
    assert not end.code, end.code
finally:
    print(*sys.modules, file=sys.stderr)
"""
LBCTL = "from lbctl.cli import main; main()"
# gc and atexit are built into the interpreter. What the others import differs from one Python to the next.
READING = "import atexit, gc, hashlib, json, tomllib"
# Two commands, as bench/startup.py has it: with one, Typer takes another way.
TRIVIAL = (
    "import typer; app = typer.Typer(); app.command('a')(lambda: print()); app.command('b')(print); app()"
)


def modules(program: str, *words: str) -> set[str]:
    """All modules that a run has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(program=program), *words],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("LBCTL_", "_LBCTL", "PYTHON"))},
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def within(names: set[str], packages: set[str]) -> set[str]:
    """Those of `names` that are, or are inside, one of `packages`."""
    return {name for name in names if any(f"{name}.".startswith(f"{package}.") for package in packages)}


@pytest.fixture
def check(tmp_path: Path) -> set[str]:
    intent = tmp_path / "lbctl.toml"
    intent.write_text(INTENT)
    return modules(LBCTL, "check", "--config", str(intent))


@pytest.fixture
def help_() -> set[str]:
    return modules(LBCTL, "--help")


def test_help_imports_nothing_that_it_does_not_print(help_: set[str]) -> None:
    assert within(help_, NEVER | NEVER_FOR_HELP) == set()


def test_check_imports_no_backend_and_no_drawing(check: set[str]) -> None:
    assert within(check, NEVER | NEVER_FOR_CHECK) == set()


def test_render_imports_no_reader_of_rules(tmp_path: Path) -> None:
    intent = tmp_path / "lbctl.toml"
    intent.write_text(INTENT)
    brought = modules(LBCTL, "render", "--backend", "nftables", "--config", str(intent))
    assert "lbctl_nftables.compile" in brought
    assert within(brought, NEVER_FOR_RENDER) == set()


def test_help_brings_nothing_but_its_own_modules(help_: set[str]) -> None:
    brought = help_ - modules(TRIVIAL, "--help")
    assert brought - within(brought, HELP_BRINGS) == set()


def test_check_brings_nothing_but_what_reading_takes(check: set[str]) -> None:
    brought = check - modules(TRIVIAL, "a") - modules(READING)
    assert brought - within(brought, CHECK_BRINGS) == set()


def test_the_end_does_not_look_through_what_was_made() -> None:
    """Python looks for cycles once more when it ends: a quarter of a second with 10,000 services."""
    # What is registered first runs last.
    program = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count())); " + LBCTL
    printed = subprocess.check_output([sys.executable, "-c", program, "schema"], text=True)
    assert int(printed.splitlines()[-1]) > 0


def test_the_measure_sees_imports() -> None:
    # The bad case, so that an empty list elsewhere means something.
    assert "asyncio" in within(modules("import asyncio"), NEVER)
