"""What nft reports of a table is what netlink reads of it: for hosts on which no program speaks netlink."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.host import LocalHost
from lbctl.host.netns import Namespace
from lbctl_nftables.observe import observe

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*/nftables.nft"))


class Mute(LocalHost):
    """This host, as if no program on it spoke netlink."""

    def speaks_netlink(self) -> bool:
        return False

    def netlink(self, protocol: int, request: bytes) -> bytes | None:
        return None if protocol == 12 else super().netlink(protocol, request)


class Kernel:
    """A network namespace whose nf_tables is empty at first, read in both ways."""

    def __init__(self, folder: Path) -> None:
        self.speaking, self.mute = LocalHost(folder), Mute(folder)

    def nft(self, text: str) -> None:
        done = self.speaking.run(["nft", "-f", "-"], stdin=text)
        assert done.code == 0, (text, done.err)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    namespace = Namespace(LocalHost(tmp_path))
    with namespace.entered():
        yield Kernel(tmp_path)
    namespace.close()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_a_program_is_read_as_by_netlink(kernel: Kernel, path: Path) -> None:
    kernel.nft(path.read_text(encoding="utf-8"))
    assert observe(kernel.mute, "nft", "lbctl").by_key == observe(kernel.speaking, "nft", "lbctl").by_key
