"""The forge's workflows are valid YAML, and each of their steps is a target of the Makefile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_VALUE = r'[\w.-]+|"[\w -]+"|\$\{\{ matrix\.\w+ \}\}|"\$\(command -v python\)"'
#: `make`, targets, variables: no second command.
_STEP = re.compile(rf"make((?: [a-z-]+)+)((?: [A-Z_]+=(?:{_VALUE}))*)")


def jobs(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]


def steps() -> Iterator[str]:
    for file in WORKFLOWS:
        for job in jobs(file).values():
            yield from (step["run"] for step in job["steps"] if "run" in step)


def targets() -> set[str]:
    """The targets that `make help` lists."""
    return set(re.findall(r"(?m)^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8")))


@pytest.mark.parametrize("step", sorted(set(steps())))
def test_a_step_is_a_target_that_exists(step: str) -> None:
    found = _STEP.fullmatch(step)
    assert found, step
    assert set(found[1].split()) <= targets()
    for variable in re.findall(r"([A-Z_]+)=", found[2]):
        assert re.search(rf"(?m)^{variable} :?=", (ROOT / "Makefile").read_text(encoding="utf-8")), variable


def test_what_the_project_promises_is_run() -> None:
    run = {word for step in steps() for word in step.split()}
    assert {"test-fast", "check", "test-clone", "matrix", "packages", "test-packages", "docs"} <= run


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_can_only_read_the_repository(file: Path) -> None:
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    for name, job in jobs(file).items():
        assert "permissions" not in job, name
