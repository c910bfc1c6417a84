"""A fresh clone on a system that has only its base, git and make."""

from __future__ import annotations

import os
import subprocess

import pytest

from matrix.roots import REPOSITORY
from systems.system import RELEASES, System, fresh

_BASE = ("git", "make")


@pytest.fixture(scope="module", params=RELEASES)
def cloned(request, tmp_path_factory) -> System:
    system = fresh(request.param, tmp_path_factory.mktemp("clone") / "root", packages=_BASE)
    git = ["git", "-c", f"safe.directory={REPOSITORY}", "clone", "--quiet"]
    subprocess.run([*git, REPOSITORY, system.file("/root/lbctl")], check=True)
    return system


@pytest.mark.parametrize("target", os.environ.get("CLONE", "demo test-fast").split())
def test_a_target_does_its_work(cloned, target):
    """The first of them installs what it needs."""
    output = cloned.follow("make", "-C", "/root/lbctl", target)
    if target == "demo":
        assert output.count("exact: round robin") >= 4, output
