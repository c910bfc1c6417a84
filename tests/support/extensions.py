"""Each extension of iptables 1.8 in rules that iptables takes: what the readers are asked about."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: The families of rules, by the name of their programs.
IPV4, IPV6 = "iptables", "ip6tables"


@dataclass(frozen=True, slots=True)
class Sample:
    """A match or a target in a rule. A target with `ends` False lets the packet go on to the next rule."""

    name: str
    text: str
    target: bool = False
    ends: bool = True
    table: str = "nat"
    chain: str = "PREROUTING"
    proto: str = "-p tcp -m tcp --dport 80"
    program: str = IPV4
    #: False for what names an object that another program makes.
    loads: bool = True

    def __str__(self) -> str:
        family = " (IPv6)" if self.program == IPV6 else ""
        words = self.proto.removeprefix("-p tcp -m tcp --dport 80").strip()
        return f"{self.name}: {' '.join(f'{words} {self.text}'.split())}{family}"

    @property
    def saved(self) -> str:
        """The extension in front of, or in, a ladder over two endpoints, as iptables-save."""
        lines: list[str] = []
        for table, rules in self._tables().items():
            hooks = {"nat": "PREROUTING INPUT OUTPUT POSTROUTING", "filter": "INPUT FORWARD OUTPUT"}
            base = hooks.get(
                table,
                "PREROUTING OUTPUT" if table == "raw" else "PREROUTING INPUT FORWARD OUTPUT POSTROUTING",
            )
            lines += [f"*{table}", *(f":{hook} ACCEPT [0:0]" for hook in base.split()), *rules, "COMMIT"]
        return "\n".join([*lines, ""])

    def _tables(self) -> dict[str, list[str]]:
        first, second = (
            ("10.0.0.1", "10.0.0.2") if self.program == IPV4 else ("[2001:db8::1]", "[2001:db8::2]")
        )
        hook = self.chain if self.chain == "OUTPUT" else "PREROUTING"
        match = "" if self.target else self.text
        where = " ".join(f"-A {hook} {self.proto} {match}".split())
        ladder = [
            f"{where} -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination {first}:80",
            f"{where} -j DNAT --to-destination {second}:80",
        ]
        if not any(f"-p {word}" in self.proto for word in ("tcp", "udp", "sctp", "dccp")):
            ladder = [each.replace(":80", "").replace("[", "").replace("]", "") for each in ladder]
        if not self.target:
            return {"nat": ladder}
        rule = " ".join(f"-A {self.chain} {self.proto} {self.text}".split())
        order = sorted({self.table, "nat"}, key=["raw", "mangle", "nat", "filter", "security"].index)
        return {
            table: ([rule] if table == self.table else []) + (ladder if table == "nat" else [])
            for table in order
        }


def _matches(name: str, *texts: str, proto: str | None = None, **more: object) -> Iterator[Sample]:
    for text in texts:
        given = {} if proto is None else {"proto": proto}
        yield Sample(name, f"-m {name} {text}".strip(), **given, **more)  # type: ignore[arg-type]


def _targets(name: str, *texts: str, **more: object) -> Iterator[Sample]:
    for text in texts:
        yield Sample(name, f"-j {name} {text}".strip(), target=True, **more)  # type: ignore[arg-type]


TCP = "-p tcp -m tcp --dport 80"
#: A rule without a protocol of its own, for matches that bring one.
BARE = ""
OTHER = {"proto": BARE}
SIX = {"program": IPV6}
MANGLE = {"table": "mangle"}
ABSENT = {"loads": False}

SAMPLES: Sequence[Sample] = (
    # Protocols and addresses.
    *_matches("tcp", "", "--sport 1024:65535", "! --sport 1:1023", "--tcp-flags FIN,SYN,RST,ACK SYN", "--syn",
              "! --syn", "--tcp-option 8"),
    Sample("tcp", "", proto="-p tcp -m tcp ! --dport 22"),
    Sample("tcp", "", proto="-p tcp -m tcp --dport 8000:8080"),
    *_matches("udp", "--dport 53", "--sport 53 --dport 1024:65535", "! --dport 53", proto="-p udp"),
    *_matches("sctp", "--dport 80", "--chunk-types any DATA,INIT", proto="-p sctp"),
    *_matches("dccp", "--dport 80", "--dccp-types REQUEST,RESPONSE", proto="-p dccp"),
    *_matches("icmp", "--icmp-type 8", "! --icmp-type echo-request", proto="-p icmp"),
    *_matches("multiport", "--dports 80,443", "--dports 80,8000:8080", "! --dports 22,25", "--sports 53,80",
              "--ports 80,443", proto="-p tcp"),
    *_matches("iprange", "--src-range 10.0.0.10-10.0.0.20", "--dst-range 203.0.113.1-203.0.113.9",
              "! --src-range 10.0.0.10-10.0.0.20"),
    *_matches("addrtype", "--dst-type LOCAL", "! --dst-type LOCAL", "--src-type UNICAST",
              "--dst-type LOCAL --limit-iface-in"),
    *_matches("mac", "--mac-source 02:00:00:00:00:01", "! --mac-source 02:00:00:00:00:01"),
    *_matches("pkttype", "--pkt-type unicast", "! --pkt-type broadcast"),
    *_matches("physdev", "--physdev-in eth0", "--physdev-is-bridged"),
    *_matches("devgroup", "--src-group 1", "! --src-group 1"),
    *_matches("rpfilter", "", "--invert", "--loose"),
    # Headers.
    *_matches("dscp", "--dscp 0x2e", "! --dscp-class EF", "--dscp-class AF21"),
    *_matches("tos", "--tos 0x10/0xff", "! --tos 0x10/0x3f"),
    *_matches("ttl", "--ttl-eq 64", "--ttl-lt 5", "--ttl-gt 5", "! --ttl-eq 1"),
    *_matches("ecn", "--ecn-tcp-cwr", "! --ecn-tcp-ece", "--ecn-ip-ect 2"),
    *_matches("length", "--length 100:1500", "! --length 40", "--length 60"),
    *_matches("tcpmss", "--mss 536:65535", "! --mss 536"),
    *_matches("ah", "--ahspi 500", "! --ahspi 500", proto="-p ah"),
    *_matches("esp", "--espspi 500:600", proto="-p esp"),
    *_matches("ipcomp", "--ipcompspi 18", proto="-p ipcomp"),
    *_matches("u32", '--u32 "6 & 0xFF = 1"'),
    *_matches("string", '--algo bm --string "GET "', '--algo kmp ! --string "x"'),
    *_matches("bpf", '--bytecode "1,6 0 0 65535"'),
    *_matches("osf", "--genre Linux --ttl 0"),
    # State.
    *_matches("state", "--state NEW", "! --state NEW", "--state NEW,RELATED", "--state RELATED,ESTABLISHED"),
    *_matches("conntrack", "--ctstate NEW", "! --ctstate INVALID", "--ctproto 6", "--ctorigdst 203.0.113.10",
              "--ctorigdstport 80", "--ctdir ORIGINAL", "--ctstatus NONE", "--ctorigsrc 198.51.100.0/24",
              "! --ctorigdst 203.0.113.10", "--ctexpire 1:100"),
    *_matches("connmark", "--mark 0x1", "--mark 0x10/0xf0", "! --mark 0x0"),
    *_matches("mark", "--mark 0x1", "--mark 0x10/0xf0", "! --mark 0x1"),
    *_matches("connlabel", "--label 1"),
    *_matches("connbytes", "--connbytes 1000: --connbytes-dir both --connbytes-mode bytes",
              "! --connbytes 10:20 --connbytes-dir both --connbytes-mode avgpkt"),
    *_matches("helper", "--helper ftp", "! --helper ftp"),
    *_matches("realm", "--realm 0x1"),
    *_matches("policy", "--dir in --pol none", "--dir in --pol ipsec"),
    *_matches("socket", "", "--transparent"),
    *_matches("owner", "--uid-owner 33", "! --uid-owner 33", "--gid-owner 33", "--uid-owner 1000-2000",
              "--socket-exists",
              chain="OUTPUT"),
    *_matches("cgroup", "--cgroup 1", chain="OUTPUT"),
    *_matches("cpu", "--cpu 0", "! --cpu 0"),
    *_matches("ipvs", "--ipvs"),
    *_matches("set", "--match-set clients src", "! --match-set clients src,dst", **ABSENT),
    *_matches("nfacct", "--nfacct-name x"),
    *_matches("rateest", "--rateest x --rateest-lt --rateest-bps 1mbit"),
    # Rates, times, memories, numbers.
    *_matches("limit", "--limit 10/sec", "--limit 3/hour --limit-burst 7"),
    *_matches("hashlimit", "--hashlimit-upto 10/sec --hashlimit-mode srcip --hashlimit-name x",
              "--hashlimit-above 10/sec --hashlimit-mode srcip,dstport --hashlimit-name y"),
    *_matches("connlimit", "--connlimit-upto 10 --connlimit-mask 32",
              "--connlimit-above 10 --connlimit-mask 24",
              "--connlimit-above 10 --connlimit-daddr"),
    *_matches("quota", "--quota 100000", "! --quota 100000"),
    *_matches("time", "--timestart 10:00 --timestop 12:00", "--weekdays Mon,Tue", "--datestart 2020-01-01"),
    *_matches("recent", "--set --name x", "--rcheck --seconds 60 --name x", "! --rcheck --name x",
              "--update --seconds 60 --hitcount 4 --name x"),
    *_matches("statistic", "--mode random --probability 0.25", "--mode nth --every 3 --packet 1",
              "--mode random ! --probability 0.25"),
    *_matches("cluster", "--cluster-total-nodes 2 --cluster-local-node 1 --cluster-hash-seed 7"),
    *_matches("comment", '--comment "web server"'),
    # IPv6.
    *_matches("icmp6", "--icmpv6-type 128", proto="-p ipv6-icmp", **SIX),
    *_matches("hl", "--hl-eq 64", "--hl-lt 5", **SIX),
    *_matches("frag", "--fragid 1:2", "--fragfirst", proto=BARE, **SIX),
    *_matches("dst", "--dst-len 8", proto=BARE, **SIX),
    *_matches("hbh", "--hbh-len 8", proto=BARE, **SIX),
    *_matches("rt", "--rt-type 0", proto=BARE, **SIX),
    *_matches("mh", "--mh-type 1", proto="-p ipv6-mh", **SIX),
    *_matches("ah", "--ahspi 500", proto=BARE, **SIX),
    *_matches("eui64", "", **SIX),
    *_matches("ipv6header", "--header frag --soft", **SIX),
    *_matches("srh", "--srh-segs-left-eq 1", proto=BARE, **SIX),
    # Targets that translate.
    *_targets("DNAT", "--to-destination 10.0.0.9", "--to-destination 10.0.0.9:8080",
              "--to-destination 10.0.0.9-10.0.0.12",
              "--to-destination 10.0.0.9:8001-8003", "--to-destination 10.0.0.9 --random",
              "--to-destination 10.0.0.9 --persistent"),
    *_targets("REDIRECT", "", "--to-ports 8080", "--to-ports 8001-8003", "--to-ports 8001-8003 --random"),
    *_targets("SNAT", "--to-source 198.51.100.1", "--to-source 198.51.100.1-198.51.100.3",
              "--to-source 198.51.100.1:1024-65535",
              "--to-source 198.51.100.1 --random-fully", chain="POSTROUTING"),
    *_targets("MASQUERADE", "", "--to-ports 1024-65535", "--random", "--random-fully", chain="POSTROUTING"),
    *_targets("NETMAP", "--to 10.0.0.0/24"),
    *_targets("TPROXY", "--on-port 8080 --on-ip 10.0.0.1 --tproxy-mark 0x1/0x1", **MANGLE),
    # Targets that mark.
    *_targets("MARK", "--set-xmark 0x1/0xffffffff", "--set-xmark 0x10/0xf0", "--or-mark 0x4",
              "--and-mark 0xfb",
              "--xor-mark 0x4", ends=False, **MANGLE),
    *_targets("CONNMARK", "--set-xmark 0x1/0xffffffff", "--save-mark", "--restore-mark",
              "--save-mark --nfmask 0xff --ctmask 0xff",
              "--restore-mark --nfmask 0xf0 --ctmask 0xf0", ends=False, **MANGLE),
    *_targets("HMARK", "--hmark-tuple src,dst --hmark-mod 2 --hmark-offset 1 --hmark-rnd 0x1", ends=False,
              **MANGLE),
    *_targets("CLASSIFY", "--set-class 1:10", ends=False, table="mangle", chain="POSTROUTING"),
    *_targets("DSCP", "--set-dscp 0x2e", "--set-dscp-class AF21", ends=False, **MANGLE),
    *_targets("TOS", "--set-tos 0x10/0xff", ends=False, **MANGLE),
    *_targets("ECN", "--ecn-tcp-remove", ends=False, **MANGLE),
    *_targets("TTL", "--ttl-set 64", "--ttl-dec 1", ends=False, **MANGLE),
    *_targets("TCPMSS", "--set-mss 1400", "--clamp-mss-to-pmtu", ends=False, table="mangle", chain="FORWARD",
              proto="-p tcp -m tcp --tcp-flags SYN,RST SYN"),
    *_targets("TCPOPTSTRIP", "--strip-options wscale", ends=False, **MANGLE),
    *_targets("CHECKSUM", "--checksum-fill", ends=False, **MANGLE),
    *_targets("CONNSECMARK", "--save", ends=False, **MANGLE),
    *_targets("SECMARK", "--selctx x", ends=False, **MANGLE),
    # Targets that copy, count, log.
    *_targets("LOG", '--log-prefix "web "', "--log-level 7", ends=False),
    *_targets("NFLOG", "--nflog-group 1 --nflog-prefix web", ends=False),
    *_targets("ULOG", "--ulog-nlgroup 1", ends=False),
    *_targets("AUDIT", "--type accept", ends=False, **MANGLE),
    *_targets("TRACE", "", ends=False, table="raw"),
    *_targets("TEE", "--gateway 10.0.0.9", ends=False, **MANGLE),
    *_targets("LED", "--led-trigger-id x", ends=False, **MANGLE),
    *_targets("IDLETIMER", "--timeout 60 --label x", ends=False, **MANGLE),
    *_targets("RATEEST", "--rateest-name x --rateest-interval 250ms --rateest-ewma 0.5s", ends=False,
              **MANGLE),
    *_targets("SET", "--add-set clients src", ends=False, **MANGLE, **ABSENT),
    # Targets that decide.
    Sample("standard", "-s 198.51.100.0/24 -j ACCEPT", target=True),
    Sample("standard", "-s 198.51.100.0/24 -j RETURN", target=True),
    Sample("standard", "-s 198.51.100.0/24 -j DROP", target=True, table="filter", chain="FORWARD"),
    *_targets("REJECT", "", "--reject-with tcp-reset", table="filter", chain="FORWARD"),
    *_targets("NFQUEUE", "--queue-num 1", "--queue-balance 0:3", "--queue-balance 0:3 --queue-bypass",
              **MANGLE),
    *_targets("SYNPROXY", "--sack-perm --timestamp --wscale 7 --mss 1460", table="filter", chain="INPUT"),
    *_targets("CT", "--notrack", "--zone 1", ends=False, table="raw"),
    *_targets("NOTRACK", "", ends=False, table="raw"),
    *_targets("CLUSTERIP",
              "--new --hashmode sourceip --clustermac 01:00:5e:00:00:20 --total-nodes 2 --local-node 1",
              table="filter", chain="INPUT"),
    *_targets("DNPT", "--src-pfx 2001:db8:1::/64 --dst-pfx 2001:db8:2::/64", **MANGLE, **SIX),
    *_targets("SNPT",
              "--src-pfx 2001:db8:1::/64 --dst-pfx 2001:db8:2::/64", table="mangle", chain="POSTROUTING",
              **SIX),
    *_targets("HL", "--hl-set 64", ends=False, **MANGLE, **SIX),
    *_targets("REJECT", "--reject-with icmp6-port-unreachable", table="filter", chain="FORWARD", **SIX),
    *_targets("NETMAP", "--to 2001:db8:2::/64", **SIX),
)  # fmt: skip
#: Parts of other programs in the same folder, and names that stand for several of these.
OTHERS: Mapping[str, str] = {
    "NAT": "DNAT, SNAT, REDIRECT and MASQUERADE of one file",
    "mangle": "of arptables",
}
