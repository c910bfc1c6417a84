"""What commands import: what they do not need costs each of them a part of its time."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lbctl

SOURCES = Path(lbctl.__file__).parent
#: Packages that no command may import which shows a plan, a status, or whether a file is right.
HEAVY = (
    "lbctl.agent",
    "lbctl.conformance",
    "lbctl.demo",
    "lbctl.documents.history",
    "lbctl.documents.shares",
    "lbctl.documents.status",
    "lbctl.engine.migrate",
    "lbctl.engine.undo",
    "lbctl_netfilter",
    "lbctl_nftables.reading",
    "lbctl_nftables.rivals",
    "lbctl_iptables.compile",
    "lbctl_iptables.reading",
    "lbctl_iptables.rivals",
    "rich",
    "asyncio",
)
INTENT = 'schema = 1\n[[service]]\nname = "web"\nlisten = "80/tcp"\nendpoints = ["8001-8003"]\n'
SCRIPT = """
import json, sys
from lbctl.cli import main
try:
    main()
except SystemExit as end:
    print(json.dumps({"code": end.code, "modules": sorted(sys.modules)}), file=sys.stderr)
"""
#: Commands without privilege → those of the modules of commands that they may import.
COMMANDS = {
    ("check", "web.toml"): {"check"},
    ("plan", "--against", "other.toml", "web.toml"): {"plan", "shares"},
    ("render", "--backend", "nftables", "web.toml"): {"render"},
    ("init", "--listen", "80/tcp", "--to", "8001-8003"): {"init"},
}
#: Modules of the command line that are of one command, or of few.
OWN = frozenset(
    """
    activate agent apply backends check compare confirm demo doctor drain explain history hosts import_ init
    migrate plan publish register remove render rollback schema shares status status_text weight
    """.split()  # noqa: SIM905 (a list of words)
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_command_imports_what_it_needs(words: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("web.toml", "other.toml"):
        (tmp_path / name).write_text(INTENT)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stderr.splitlines()[-1])
    assert found["code"] in {0, None}, done.stderr
    heavy = [name for name in found["modules"] if name.startswith(HEAVY)]
    assert heavy == []
    commands = {name.removeprefix("lbctl.cli.") for name in found["modules"] if name.startswith("lbctl.cli.")}
    assert commands & OWN <= COMMANDS[words]


@pytest.mark.parametrize("package", ["config", "engine", "host", "model"])
def test_names_are_imported_from_where_they_are_said_to_be(package: str) -> None:
    module = importlib.import_module(f"lbctl.{package}")
    tree = ast.parse((SOURCES / package / "__init__.py").read_text())
    homes = {
        alias.asname: node.module or ""
        for block in tree.body
        if isinstance(block, ast.With)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(homes) == module.__all__
    assert set(homes) < set(dir(module))
    for name, home in homes.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    # Once its module is imported, a name that is the module's would be the module.
    assert not set(homes) & {path.stem for path in (SOURCES / package).iterdir()}
    with pytest.raises(AttributeError, match=f"module 'lbctl.{package}' has no attribute 'nonesuch'"):
        _ = module.nonesuch


def test_only_the_imports_of_the_block_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other modules that are imported meanwhile, and those behind the block, are carried out."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "far_thing.py").write_text("THING = 1\n")
    (tmp_path / "near_thing.py").write_text("from far_thing import THING\n")
    program = """
import importlib
from lbctl.lazy import imported_on_use
with imported_on_use(globals()):
    from nowhere.at_all import nothing
    importlib.import_module("near_thing")
from far_thing import THING
"""
    late: dict[str, Any] = {"__name__": "late"}
    exec(program, late)
    assert late["THING"] == sys.modules["near_thing"].THING == 1
    assert "nothing" not in late
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        late["__getattr__"]("nothing")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        exec("from nowhere.at_all import nothing", late)
