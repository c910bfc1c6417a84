"""What `iptables-restore-translate` makes of rules is read as the rules are, for all that both tools know."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from lbctl.engine.comparing import compare
from lbctl.model import Reading
from lbctl_iptables.reading import read as read_saved
from lbctl_nftables.reading import read as read_native
from support.extensions import OTHERS, SAMPLES, Sample

#: Samples whose translation is not yet read alike. One that is must leave this list.
NOT_YET: frozenset[str] = frozenset(
    {
        "NFQUEUE: -j NFQUEUE --queue-balance 0:3",
        "NFQUEUE: -j NFQUEUE --queue-balance 0:3 --queue-bypass",
        "NFQUEUE: -j NFQUEUE --queue-num 1",
        "SNAT: -j SNAT --to-source 198.51.100.1:1024-65535",
        "TCPMSS: -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
        "TCPMSS: -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400",
        "addrtype: -m addrtype ! --dst-type LOCAL",
        "addrtype: -m addrtype --dst-type LOCAL --limit-iface-in",
        "addrtype: -m addrtype --src-type UNICAST",
        "ah: -m ah --ahspi 500 (IPv6)",
        "ah: -p ah -m ah ! --ahspi 500",
        "ah: -p ah -m ah --ahspi 500",
        "connlimit: -m connlimit --connlimit-above 10 --connlimit-daddr",
        "connlimit: -m connlimit --connlimit-upto 10 --connlimit-mask 32",
        "connmark: -m connmark ! --mark 0x0",
        "connmark: -m connmark --mark 0x10/0xf0",
        "conntrack: -m conntrack ! --ctorigdst 203.0.113.10",
        "conntrack: -m conntrack ! --ctstate INVALID",
        "conntrack: -m conntrack --ctdir ORIGINAL",
        "conntrack: -m conntrack --ctexpire 1:100",
        "conntrack: -m conntrack --ctorigsrc 198.51.100.0/24",
        "conntrack: -m conntrack --ctproto 6",
        "cpu: -m cpu ! --cpu 0",
        "dccp: -p dccp -m dccp --dccp-types REQUEST,RESPONSE",
        "devgroup: -m devgroup ! --src-group 1",
        "devgroup: -m devgroup --src-group 1",
        "dscp: -m dscp ! --dscp-class EF",
        "dscp: -m dscp --dscp 0x2e",
        "dscp: -m dscp --dscp-class AF21",
        "ecn: -m ecn ! --ecn-tcp-ece",
        "ecn: -m ecn --ecn-ip-ect 2",
        "ecn: -m ecn --ecn-tcp-cwr",
        "esp: -p esp -m esp --espspi 500:600",
        "helper: -m helper ! --helper ftp",
        "helper: -m helper --helper ftp",
        "hl: -m hl --hl-eq 64 (IPv6)",
        "hl: -m hl --hl-lt 5 (IPv6)",
        "icmp6: -p ipv6-icmp -m icmp6 --icmpv6-type 128 (IPv6)",
        "icmp: -p icmp -m icmp ! --icmp-type echo-request",
        "icmp: -p icmp -m icmp --icmp-type 8",
        "iprange: -m iprange ! --src-range 10.0.0.10-10.0.0.20",
        "iprange: -m iprange --dst-range 203.0.113.1-203.0.113.9",
        "length: -m length ! --length 40",
        "length: -m length --length 100:1500",
        "length: -m length --length 60",
        "limit: -m limit --limit 10/sec",
        "limit: -m limit --limit 3/hour --limit-burst 7",
        "mac: -m mac ! --mac-source 02:00:00:00:00:01",
        "mac: -m mac --mac-source 02:00:00:00:00:01",
        "mark: -m mark ! --mark 0x1",
        "mark: -m mark --mark 0x10/0xf0",
        "multiport: -p tcp -m multiport ! --dports 22,25",
        "multiport: -p tcp -m multiport --ports 80,443",
        "owner: -m owner ! --uid-owner 33",
        "owner: -m owner --gid-owner 33",
        "owner: -m owner --uid-owner 1000-2000",
        "owner: -m owner --uid-owner 33",
        "pkttype: -m pkttype ! --pkt-type broadcast",
        "pkttype: -m pkttype --pkt-type unicast",
        "policy: -m policy --dir in --pol ipsec",
        "policy: -m policy --dir in --pol none",
        "realm: -m realm --realm 0x1",
        "rpfilter: -m rpfilter",
        "rpfilter: -m rpfilter --invert",
        "rpfilter: -m rpfilter --loose",
        "standard: -s 198.51.100.0/24 -j ACCEPT",
        "standard: -s 198.51.100.0/24 -j RETURN",
        "state: -m state ! --state NEW",
        "tcp: -m tcp ! --sport 1:1023",
        "tcp: -m tcp ! --syn",
        "tcp: -m tcp --syn",
        "tcp: -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
        "tcp: -m tcp --tcp-option 8",
        "tcp: -p tcp -m tcp ! --dport 22",
        "tcpmss: -m tcpmss ! --mss 536",
        "tcpmss: -m tcpmss --mss 536:65535",
        "time: -m time --datestart 2020-01-01",
        "time: -m time --timestart 10:00 --timestop 12:00",
        "time: -m time --weekdays Mon,Tue",
        "ttl: -m ttl ! --ttl-eq 1",
        "ttl: -m ttl --ttl-eq 64",
        "ttl: -m ttl --ttl-gt 5",
        "ttl: -m ttl --ttl-lt 5",
        "udp: -p udp -m udp ! --dport 53",
    }
)
#: Translations that do not mean what the rule means, or that nft refuses, each with the reason.
WRONG = {
    "conntrack: -m conntrack --ctstatus NONE": "nft takes no empty status",
    "TOS: -j TOS --set-tos 0x10/0xff": "nft 1.0.6 takes ip for ip6 here",
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


def alike(one: Reading, other: Reading) -> bool:
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
        assert read_saved(sample.saved).accept or str(sample) in NOT_YET
        return
    same = alike(read_saved(sample.saved), read_native(text))
    assert same is (str(sample) not in NOT_YET)


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
