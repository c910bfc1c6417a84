"""The collection of examples/ansible, with a real ansible-core: see `make test-ansible`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.network import Network


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "these tests need root: run `make test-ansible` as root"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()
