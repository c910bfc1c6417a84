"""Real servers, unpacked by `make test-servers`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.network import Network

UNPACKED = Path(sys.executable).parents[1] / "servers"


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "these tests need root: run `make test-servers` as root"


@pytest.fixture(scope="session")
def servers() -> Path:
    """Where Debian's packages are unpacked."""
    assert UNPACKED.is_dir(), "run `make test-servers`, which unpacks the servers"
    return UNPACKED


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()
