"""A fresh clone on a system that has only its base, git and make."""

from __future__ import annotations

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


def test_make_demo_installs_what_it_needs_and_is_exact(cloned):
    output = cloned.run("make", "-C", "/root/lbctl", "demo")
    assert output.count("exact: round robin") >= 4
    assert "Installing Debian packages" in output


def test_the_fast_tests_pass(cloned):
    cloned.run("make", "-C", "/root/lbctl", "test-fast")
