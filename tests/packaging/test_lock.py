"""packages/requirements.txt has all that packages bundle, in versions that pyproject.toml takes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_each_dependency_is_locked_in_a_version_that_fits() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "packages" / "requirements.txt").read_text(encoding="utf-8")
    locked = {
        canonicalize_name(name): version for name, version in re.findall(r"(?m)^(\S+)==(\S+) \\$", text)
    }
    for line in (*project["dependencies"], *project["optional-dependencies"]["agent"]):
        required = Requirement(line)
        # Not there: `make lock`.
        assert locked[canonicalize_name(required.name)] in required.specifier, line


def test_each_version_has_hashes() -> None:
    text = (ROOT / "packages" / "requirements.txt").read_text(encoding="utf-8")
    assert re.fullmatch(r"#.*\n(?:\S+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n)+", text)
