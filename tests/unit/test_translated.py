"""What `iptables-restore-translate` makes of rules is read as the rules are, for all that both tools know."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from lbctl.engine.inspect.compare import compare
from lbctl.model import Analysis
from lbctl_iptables.reading import read as read_saved
from lbctl_nftables.reading.read import read as read_native
from support.extensions import OTHERS, SAMPLES, Sample

#: Translations that do not mean what the rule means, or that nft refuses, each with the reason.
WRONG = {
    "conntrack: -m conntrack --ctstatus NONE": "nft takes no empty status",
    "ah: -m ah --ahspi 500 (IPv6)": "nft sees what an IPv6 authentication header stands in front of",
    "ecn: -m ecn ! --ecn-tcp-ece": "the translation asks for any other flags than ECE alone",
    "TOS: -j TOS --set-tos 0x10/0xff": "nft 1.0.6 takes ip for ip6 here",
    "udp: -p udp -m udp ! --dport 53": "the translator of iptables 1.8.9 loses the negation",
}
PLACES = [Path("/usr/lib", machine, "xtables") for machine in ("x86_64-linux-gnu", "aarch64-linux-gnu")]


@cache
def translated(sample: Sample) -> str | None:
    """The rules as nft; None for what the translator does not know."""
    done = subprocess.run(
        [f"{sample.program}-restore-translate", "-f", "/dev/stdin"],
        input=sample.saved,
        capture_output=True,
        text=True,
        check=False,
    )
    # A rule that it does not know stays as a comment.
    return None if done.returncode or re.search(r"(?m)^# -", done.stdout) else done.stdout


def alike(one: Analysis, other: Analysis) -> bool:
    """True if both say the same of the connections, and leave as many rules unread."""
    pairs = compare(one, other)
    return (
        all(pair.verdict.equal for pair in pairs.pairs)
        and (one.accept, len(one.unsupported)) == (other.accept, len(other.unsupported))
        and [each.exact for each in one.services] == [each.exact for each in other.services]
    )


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_a_translation_is_read_as_its_source(sample: Sample) -> None:
    text = translated(sample)
    if text is None or str(sample) in WRONG:
        # Nothing to hold it against: what it is read as, others test.
        assert read_saved(sample.saved).accept
        return
    assert alike(read_saved(sample.saved), read_native(text))


def test_each_extension_has_a_sample() -> None:
    found = {
        match[1]
        for place in PLACES
        for path in place.glob("lib*.so")
        if (match := re.match(r"lib(?:xt|ipt|ip6t)_(\w+)\.so", path.name))
    }
    assert len(found) > 100
    assert found <= {sample.name for sample in SAMPLES} | OTHERS.keys()


def test_the_translator_knows_most_of_them() -> None:
    assert sum(translated(sample) is not None for sample in SAMPLES) > len(SAMPLES) * 2 / 3
