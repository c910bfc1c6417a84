"""Each expression and statement of nft's manual (1.0.6) in a rule that nft takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NAT = "type nat hook prerouting priority -100"
FILTER = "type filter hook prerouting priority -150"
FORWARD = "type filter hook forward priority 0"
INPUT = "type filter hook input priority 0"
OUTPUT = "type nat hook output priority -100"
SOURCE = "type nat hook postrouting priority 100"

PORT = "tcp dport 80"
#: Objects that some of them name.
OBJECTS = """set clients { type ipv4_addr; elements = { 198.51.100.1 } }
set seen { type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }
map marks { type ipv4_addr : mark; elements = { 198.51.100.1 : 7 } }
counter hits { packets 0 bytes 0 }
quota much { over 100 mbytes }
limit few { rate 400/minute burst 5 packets }
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """An expression or a statement, as `text`, under `name` of the manual."""

    name: str
    text: str
    #: False for an expression, which is a condition of a rule of a ladder.
    statement: bool = False
    hook: str = NAT
    where: str = PORT
    family: str = "ip"

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"

    @property
    def native(self) -> str:
        """The sample in front of, or in, a ladder over two endpoints."""
        one, two = ("10.0.0.1", "10.0.0.2") if self.family == "ip" else ("2001:db8::1", "2001:db8::2")
        ends = (f"dnat to {one}", f"dnat to {two}")
        if self.statement:
            return self._text([f"{PORT} numgen inc mod 2 0 {ends[0]}", f"{PORT} {ends[1]}"], self.line)
        where = f"{self.where} {self.text}".strip()
        return self._text([f"{where} numgen inc mod 2 0 {ends[0]}", f"{where} {ends[1]}"], "")

    @property
    def line(self) -> str:
        """The rule of a statement."""
        return f"{self.where} {self.text}".strip()

    def _text(self, ladder: Sequence[str], rule: str) -> str:
        objects = OBJECTS if self.family == "ip" else ""
        at_hook = self.hook if not self.statement and self.hook == OUTPUT else NAT
        chains = [("pick", at_hook, ladder)]
        if rule and self.hook == NAT:
            chains = [("pick", NAT, [rule, *ladder])]
        elif rule:
            chains.insert(0, ("own", self.hook, [rule]))
        bodies = "".join(
            f"chain {name} {{\n{hook}; policy accept;\n{chr(10).join(rules)}\n}}\n"
            for name, hook, rules in chains
        )
        return f"table {self.family} t {{\n{objects}{bodies}}}\n"


def _is(name: str, *texts: str, **more: str) -> Iterator[Sample]:
    for text in texts:
        yield Sample(name, text, **more)  # type: ignore[arg-type]


def _does(name: str, *texts: str, **more: str) -> Iterator[Sample]:
    for text in texts:
        yield Sample(name, text, statement=True, **more)  # type: ignore[arg-type]


NO_PORT = {"where": "meta l4proto tcp"}
BARE = {"where": ""}
SIX = {"family": "ip6"}

SAMPLES: Sequence[Sample] = (
    # Forms of conditions.
    *_is("relation", "tcp dport ge 80", "tcp dport lt 81", "ip saddr > 10.0.0.1", "tcp dport != 80-90",
         "tcp dport != { 22, 23 }", "ip saddr != @clients", "ip saddr != 10.0.0.1-10.0.0.5",
         "ip ttl { 1-5, 64 }", "ip saddr { 10.0.0.1 counter, 10.0.0.2 comment \"x\" }"),
    *_is("bits", "meta mark and 0xff eq 0x10", "meta mark & (0xf0 | 0x0f) == 1",
         "ip saddr & 0.0.0.255 == 0.0.0.5",
         "ip saddr & 255.255.255.0 == 10.0.0.0", "ip frag-off & 0x1fff != 0", "ip dscp & 0x20 == 0x20",
         "ether daddr & ff:ff:00:00:00:00 == 01:00:00:00:00:00", "meta mark | 0x1 == 0x3",
         "meta mark & 0xf0 & 0x30 == 0x10"),
    *_is("concatenation", "iifname . ip saddr { \"lo\" . 10.0.0.1, \"eth*\" . 10.0.0.0/8 }",
         "tcp sport . tcp dport { 0-65535 . 80, 80 . 0-65535 }",
         "tcp sport . tcp dport { 0-65535 . 80, 80 . 70-90 }", "meta mark . ip saddr { 1 . 10.0.0.1 }",
         "ip saddr . ip daddr . tcp dport { 10.0.0.0/8 . 10.0.0.2 . 80-90 }",
         "ct original ip daddr . ct original proto-dst { 203.0.113.9 . 80 }",
         "ether saddr . ip saddr { 02:00:00:00:00:01 . 10.0.0.1 }"),
    *_is("map of verdicts", "tcp dport vmap { 80 : continue }",
         "ip saddr vmap { 10.0.0.1 : continue, 10.0.0.2 : drop }",
         "ip saddr . tcp dport vmap { 10.0.0.1 . 80 : continue, 10.0.0.2 . 80 : drop }",
         "ct state vmap { established : accept, invalid : drop }",
         "meta l4proto vmap { tcp : continue, udp : drop }"),
    # Expressions: meta.
    *_is("meta length", "meta length 100-1500", "meta length > 40"),
    *_is("meta l4proto", "meta l4proto tcp", "meta l4proto { tcp, udp }"),
    *_is("meta protocol", "meta protocol ip"),
    *_is("meta priority", "meta priority 1:10"),
    *_is("meta mark", "meta mark 1", "meta mark != 1", "meta mark & 0xf0 == 0x10", "meta mark { 1, 2 }",
         "mark 1"),
    *_is("meta iif", 'iif "lo"', 'meta iif != "lo"'),
    *_is("meta iifname", 'iifname "eth0"', 'iifname != "eth0"', 'iifname "eth*"',
         'iifname { "eth0", "eth1" }'),
    *_is("meta iiftype", "meta iiftype ether"),
    *_is("meta oif", 'oifname "eth0"'),
    *_is("meta skuid", "meta skuid 33", "meta skuid != 33", "meta skgid 33", hook=OUTPUT),
    *_is("meta rtclassid", "meta rtclassid 1"),
    *_is("meta pkttype", "meta pkttype host", "meta pkttype != broadcast"),
    *_is("meta cpu", "meta cpu 0"),
    *_is("meta iifgroup", "meta iifgroup 1"),
    *_is("meta cgroup", "meta cgroup 1", hook=OUTPUT),
    *_is("meta random", "meta random & 0x7fffffff < 0x40000000", "meta random > 1000000"),
    *_is("meta ipsec", "meta ipsec exists", "meta secpath missing"),
    *_is("meta iifkind", 'meta iifkind "veth"'),
    *_is("meta time", "meta time > \"2020-01-01 00:00:00\"", 'meta day "Monday"',
         'meta hour "10:00"-"12:00"'),
    # Expressions: sockets, routing, hashes.
    *_is("socket", "socket transparent 1", "socket mark 1", "socket wildcard 0"),
    *_is("osf", 'osf name "Linux"'),
    *_is("meta sdif", 'meta sdif "lo"', 'meta sdifname "lo"'),
    *_is("fib", "fib daddr . mark type local", "fib daddr type { local, broadcast }",
         'fib saddr oifname "lo"',
         "fib daddr type local", "fib daddr type != local", "fib saddr . iif oif missing",
         "fib saddr type unicast",
         "fib daddr . iif type local"),
    *_is("rt", "rt classid 1", "rt ip nexthop 10.0.0.1", "rt nexthop 10.0.0.1", "rt mtu 1500",
         "rt ipsec exists", hook=OUTPUT),
    *_is("ipsec", "ipsec in reqid 1", "ipsec in ip saddr 10.0.0.1"),
    *_is("numgen", "numgen inc mod 3 0", "numgen random mod 100 < 25", "numgen inc mod 3 { 0, 2 }"),
    *_is("jhash", "jhash ip saddr mod 2 seed 0x1 0", "jhash ip saddr . tcp sport mod 4 seed 0x1 < 2"),
    *_is("symhash", "symhash mod 2 0"),
    # Expressions: headers.
    *_is("ether", "ether saddr 02:00:00:00:00:01", "ether saddr != 02:00:00:00:00:01", "ether type ip"),
    *_is("vlan", "vlan id 1", hook=NAT),
    *_is("ip", "ip saddr 198.51.100.0/24", "ip daddr != 203.0.113.10", "ip dscp ef", "ip ttl 64",
         "ip ttl < 5", "ip length 60",
         "ip id 1", "ip ecn ce", "ip protocol tcp", "ip version 4", "ip hdrlength 5", "ip saddr @clients",
         "ip saddr { 198.51.100.1, 198.51.100.9-198.51.100.12 }", "ip frag-off 0"),
    *_is("ip option", "ip option rr exists", "ip option rr ptr 1", "ip option ra value 0"),
    *_is("icmp", "icmp type echo-request", where=""),
    *_is("igmp", "igmp type membership-query", where=""),
    *_is("ip6", "ip6 saddr 2001:db8::/32", "ip6 hoplimit 64", "ip6 flowlabel 1", "ip6 nexthdr tcp", **SIX),
    *_is("icmpv6", "icmpv6 type echo-request", where="", **SIX),
    *_is("tcp", "tcp sport 1024-65535", "tcp sport != 53", "tcp flags syn", "tcp flags & (syn|ack) == syn",
         "tcp flags syn / syn,ack", "tcp flags ! fin,rst", "tcp flags & (fin|syn) == 0",
         "tcp flags & syn != 0",
         "tcp flags { syn, syn | ack }", "tcp flags syn,ack", "tcp flags != syn", "tcp doff 5",
         "tcp urgptr 0",
         "tcp sequence 1", "tcp window 1", "tcp dport { 80, 443 }",
         "tcp sport . ip saddr { 53 . 198.51.100.1 }"),
    *_is("tcp option", "tcp option maxseg size 1460", "tcp option sack-perm exists", "tcp option @8,0,8 1",
         "tcp option timestamp tsval 1", "tcp option mptcp subtype 1", "tcp option 254 exists"),
    *_is("udp", "udp dport 53", "udp length 60", where=""),
    *_is("udplite", "udplite dport 53", where=""),
    *_is("sctp", "sctp dport 80", "sctp chunk init exists", where="meta l4proto sctp"),
    *_is("dccp", "dccp dport 80", "dccp type request", where=""),
    *_is("ah", "ah spi 500", where=""),
    *_is("esp", "esp spi 500-600", where=""),
    *_is("comp", "comp cpi 18", where=""),
    *_is("th", "th sport 1024-65535"),
    *_is("payload", "@nh,0,4 4", "@th,16,16 80", "@ll,0,16 1"),
    *_is("exthdr", "frag id 1", "hbh hdrlength 1", "rt type 0", "dst nexthdr 6", "mh type 1",
         "exthdr frag exists",
         where="", **SIX),
    *_is("ct state", "ct state new", "ct state != invalid", "ct state new,related",
         "ct state { new, related }", "ct state established", "ct state new | established",
         "ct state & new == new"),
    *_is("ct direction", "ct direction original"),
    *_is("ct status", "ct status snat", "ct status != dnat", "ct status & dnat == dnat",
         "ct status expected,assured"),
    *_is("ct mark", "ct mark 1", "ct mark != 0", "ct mark & 0xf0 == 0x10", "ct mark 0x80000000/1"),
    *_is("ct expiration", "ct expiration < 1m"),
    *_is("ct helper", 'ct helper "ftp"'),
    *_is("ct label", "ct label 1"),
    *_is("ct id", "ct id 1"),
    *_is("ct zone", "ct zone 1"),
    *_is("ct count", "ct count 10", "ct count over 10"),
    *_is("ct bytes", "ct bytes > 100000", "ct original packets > 10", "ct avgpkt > 100"),
    *_is("ct tuple", "ct original ip daddr 203.0.113.10", "ct original ip saddr != 198.51.100.0/24",
         "ct original proto-dst 80",
         "ct protocol tcp", "ct l3proto ipv4", "ct reply ip saddr 10.0.0.1"),
    # Statements that let the packet go on.
    *_does("counter", "counter", "counter packets 1 bytes 2", 'counter name "hits"'),
    *_does("counter", 'counter name tcp dport map { 80 : "hits" }'),
    *_does("log", "log level audit", "log flags tcp sequence,options", "log flags ip options",
         "log flags skuid"),
    *_does("log", "log", 'log prefix "web " level debug', "log group 1 queue-threshold 2", "log flags all"),
    *_does("comment", 'counter comment "web server"'),
    *_does("nftrace", "meta nftrace set 1"),
    *_does("meta set", "meta mark set 1", "meta mark set meta mark | 4", "meta priority set 1:10",
         "meta pkttype set host",
           "meta mark set ct mark", "meta mark set ip saddr map @marks", hook=FILTER),
    *_does("ct set", "ct mark set 1", "ct mark set meta mark", "ct label set 1", "ct event set new",
         "ct mark set ct mark & 0xf0 | 1", "ct event set new,destroy",
           hook=FILTER),
    *_does("ct zone set", "ct zone set 1", hook="type filter hook prerouting priority -300"),
    *_does("notrack", "notrack",
         hook="type filter hook prerouting priority -300", where="ip saddr 198.51.100.1"),
    *_does("payload set", "ip dscp set ef", "ip ttl set 64", "ether saddr set 02:00:00:00:00:01",
         "tcp sport set 1", hook=FILTER),
    *_does("exthdr set", "tcp option maxseg size set rt mtu", "tcp option maxseg size set 1400",
         "reset tcp option sack-perm", "@th,16,16 set 8080",
           hook=FORWARD, where="tcp flags syn"),
    *_does("set", "add @seen { ip saddr }", "update @seen { ip saddr timeout 60s }",
         "delete @seen { ip saddr }",
           "add @seen { ip saddr counter }", "set update ip saddr timeout 5s @seen",
         "add @seen { ip saddr & 255.255.255.0 }"),
    *_does("last", "last"),
    *_does("dup", "dup to 10.0.0.9", hook=FILTER),
    # Statements that ask for a rate.
    *_does("limit", "limit rate 10/second dnat to 10.0.0.9", "limit rate over 10/second drop",
           "limit rate over 1 mbytes/second drop", "limit rate 1024 bytes/second burst 2048 bytes accept",
         'limit name ip saddr map { 198.51.100.1 : "few" } accept', 'limit name "few" dnat to 10.0.0.9'),
    *_does("quota", "quota 100 mbytes dnat to 10.0.0.9", "quota over 100 mbytes drop",
         "quota over 1 mbytes used 5 bytes drop",
         'quota name "much" drop'),
    *_does("connlimit", "ct count over 100 drop", "add @seen { ip saddr ct count over 10 } drop",
           "add @seen { ip saddr limit rate over 10/second } drop"),
    # Statements that decide.
    *_does("verdict", "accept", "return", "drop", "continue", where="ip saddr 198.51.100.0/24"),
    *_does("vmap", "ip saddr vmap { 198.51.100.0/24 : accept, 203.0.113.0/24 : drop }",
         "meta mark vmap { 1 : accept }", "numgen random mod 10 vmap { 0-4 : accept, 5-9 : return }"),
    *_does("reject", "reject", "reject with tcp reset", "reject with icmp type admin-prohibited", hook=INPUT),
    *_does("dnat", "dnat to 10.0.0.9", "dnat to 10.0.0.9:8080", "dnat to 10.0.0.9-10.0.0.12",
         "dnat to 10.0.0.9:8001-8003",
           "dnat to 10.0.0.9 random", "dnat to 10.0.0.9 persistent",
         "dnat to ip saddr map { 198.51.100.1 : 10.0.0.9 }",
           "dnat ip to tcp dport map { 80 : 10.0.0.9 . 8080 }",
           "dnat ip prefix to ip daddr map { 203.0.113.0/24 : 10.0.0.0/24 }"),
    *_does("redirect", "redirect", "redirect to :8080", "redirect to :8001-8003",
         "redirect to :8001-8003 random"),
    *_does("snat", "snat to 198.51.100.1", "snat to 198.51.100.1-198.51.100.3",
         "snat to 198.51.100.1:1024-65535",
           "snat to 198.51.100.1 fully-random", hook=SOURCE),
    *_does("masquerade", "masquerade", "masquerade to :1024-65535", "masquerade random",
         "masquerade fully-random,persistent",
           hook=SOURCE),
    *_does("tproxy", "tproxy to 10.0.0.1:8080", "tproxy to :8080", "tproxy to :8080 accept", hook=FILTER),
    *_does("synproxy", "synproxy mss 1460 wscale 7 timestamp sack-perm", hook=INPUT),
    *_does("queue", "queue num 1", "queue flags bypass to 1", "queue flags fanout to 0-3", hook=FILTER),
)  # fmt: skip

#: Commands, each behind a table `ip t` with the chains `pre` and `other`, a set, a map and objects.
COMMANDS: Sequence[str] = (
    "reset counters", "reset quotas", "list ruleset", "list counters", "describe ip saddr",
    "flush chain ip t other",
    "flush set ip t seen", "delete element ip t clients { 198.51.100.1 }",
    "create element ip t clients { 10.0.0.2 }",
    "add element ip t clients { 10.0.0.3 }", "element ip t clients { 10.0.0.4 }", "add counter ip t more",
    "add quota ip t more over 5 mbytes", "add limit ip t more { rate 5/second; }",
    "add synproxy ip t y mss 1460 wscale 7",
    'add ct helper ip t h { type "ftp" protocol tcp; }',
    "add ct timeout ip t o { protocol tcp; policy = { close: 4 }; }",
    "add map ip t v { type ipv4_addr : verdict; elements = { 10.0.0.1 : accept }; }",
    "add set t v { typeof ip saddr; }",
    "add rule t other ip saddr 10.0.0.1 accept", "add t other ip saddr 10.0.0.1 accept", "ip t other accept",
    "add ip t other accept", "rule ip t other accept",
    "insert rule t pre index 0 ip saddr 10.0.0.1 counter", "chain ip t z",
    "set ip t z { type ipv4_addr; }", "map t z { type ipv4_addr : mark; }", "table ip z",
    "add table z { flags dormant; }",
    "add chain t z { type filter hook input priority filter + 1; policy drop; comment \"x\"; }",
    "delete chain t other",
    "table arp a { chain i { type filter hook input priority 0; arp operation request counter; }; }",
    "table bridge b { chain f { type filter hook forward priority 0; ether type ip accept; }; }",
    "table ip6 t { chain c { type nat hook prerouting priority dstnat - 5; accept; }; }",
    "table ip t { chain more { ip saddr 10.0.0.1 \\\n accept # end }\n }\n}",
    "define a = { 10.0.0.5 }\nadd set t d { type ipv4_addr; elements = $a; }",
)  # fmt: skip
