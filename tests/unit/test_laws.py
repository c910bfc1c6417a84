"""Laws of the house that no linter knows."""

import re
from pathlib import Path

from lbctl.spi import Backend
from lbctl_iptables import backend as iptables
from lbctl_nftables import backend as nftables

CORE = Path(__file__).parents[2] / "src" / "lbctl"
BACKENDS = Path(__file__).parents[2] / "backends"
KERNEL_WORDS = re.compile(
    r"\b(chains?|numgen|statistic|vmaps?|jhash|prerouting|postrouting|masquerade|nth_every)\b|--dport\b", re.I
)


def test_kernel_words_live_only_under_backends() -> None:
    found = [
        f"{path.relative_to(CORE)}:{number}: {line.strip()}"
        for path in CORE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        # Names in the kernel's connection table and in other programs' files, which belong to no backend.
        if KERNEL_WORDS.search(line) and path.name not in {"conntrack.py", "rule_files.py"}
    ]
    assert found == []


def test_both_backends_have_the_same_rooms() -> None:
    rooms = {"backend", "layout", "probe", "compile", "script", "observe", "apply", "lift", "stats"}
    for name in ("lbctl_nftables", "lbctl_iptables"):
        files = {path.stem for path in (BACKENDS / name).glob("*.py")}
        assert rooms <= files
        assert (BACKENDS / name / "drivers").is_dir()


def test_the_built_in_backends_are_backends() -> None:
    checked: tuple[Backend, ...] = (nftables, iptables)
    assert all(isinstance(backend, Backend) for backend in checked)
    assert [backend.name for backend in checked] == ["nftables", "iptables"]
