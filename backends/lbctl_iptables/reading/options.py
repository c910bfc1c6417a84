"""The options of iptables: its own, and those of each match and target, with how many words each takes.

From what iptables 1.8 documents, and from older releases whose options texts still hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def _table(text: str) -> Mapping[str, int]:
    """`a b=1 c=2` → how many words each option takes."""
    return {name: int(count or 0) for name, _, count in (word.partition("=") for word in text.split())}


#: Match → its options. A match that is not here is unknown, and so are the words behind it.
MATCHES: Mapping[str, Mapping[str, int]] = {
    name: _table(text)
    for name, text in {
        "tcp": "source-port=1 sport=1 destination-port=1 dport=1 syn tcp-flags=2 tcp-option=1",
        "udp": "source-port=1 sport=1 destination-port=1 dport=1",
        "udplite": "source-port=1 sport=1 destination-port=1 dport=1",
        "sctp": "source-port=1 sport=1 destination-port=1 dport=1 chunk-types=2",
        "dccp": "source-port=1 sport=1 destination-port=1 dport=1 dccp-types=1 dccp-option=1",
        "icmp": "icmp-type=1",
        "icmp6": "icmpv6-type=1",
        "icmpv6": "icmpv6-type=1",
        "ipv6-icmp": "icmpv6-type=1",
        "multiport": "source-ports=1 sports=1 destination-ports=1 dports=1 ports=1 "
        "source-port=1 destination-port=1 sport=1 dport=1",
        "mport": "source-ports=1 sports=1 destination-ports=1 dports=1 ports=1",
        "statistic": "mode=1 probability=1 every=1 packet=1",
        "nth": "every=1 packet=1 counter=1 start=1",
        "random": "average=1",
        "cluster": "cluster-total-nodes=1 cluster-local-node=1 cluster-local-nodemask=1 cluster-hash-seed=1",
        "bpf": "bytecode=1 object-pinned=1",
        "recent": "set rcheck update remove seconds=1 reap hitcount=1 rttl name=1 rsource rdest mask=1",
        "mark": "mark=1",
        "connmark": "mark=1",
        "addrtype": "src-type=1 dst-type=1 limit-iface-in limit-iface-out",
        "conntrack": "ctstate=1 ctproto=1 ctorigsrc=1 ctorigdst=1 ctreplsrc=1 ctrepldst=1 ctorigsrcport=1 "
        "ctorigdstport=1 ctreplsrcport=1 ctrepldstport=1 ctstatus=1 ctexpire=1 ctdir=1",
        "state": "state=1",
        "comment": "comment=1",
        "iprange": "src-range=1 dst-range=1",
        "mac": "mac-source=1",
        "time": "datestart=1 datestop=1 timestart=1 timestop=1 monthdays=1 weekdays=1 kerneltz utc localtz "
        "contiguous",
        "owner": "uid-owner=1 gid-owner=1 pid-owner=1 sid-owner=1 cmd-owner=1 socket-exists suppl-groups",
        "limit": "limit=1 limit-burst=1",
        "hashlimit": "hashlimit=1 hashlimit-upto=1 hashlimit-above=1 hashlimit-mode=1 hashlimit-srcmask=1 "
        "hashlimit-dstmask=1 hashlimit-name=1 hashlimit-burst=1 hashlimit-htable-size=1 "
        "hashlimit-htable-max=1 hashlimit-htable-gcinterval=1 hashlimit-htable-expire=1 "
        "hashlimit-rate-match hashlimit-rate-interval=1",
        "connlimit": "connlimit-upto=1 connlimit-above=1 connlimit-mask=1 connlimit-saddr connlimit-daddr",
        "connbytes": "connbytes=1 connbytes-dir=1 connbytes-mode=1",
        "connlabel": "label=1 set",
        "quota": "quota=1",
        "length": "length=1",
        "ttl": "ttl-eq=1 ttl-gt=1 ttl-lt=1 ttl=1",
        "hl": "hl-eq=1 hl-gt=1 hl-lt=1",
        "tos": "tos=1",
        "dscp": "dscp=1 dscp-class=1",
        "ecn": "ecn-tcp-cwr ecn-tcp-ece ecn-ip-ect=1",
        "helper": "helper=1",
        "pkttype": "pkt-type=1",
        "physdev": "physdev-in=1 physdev-out=1 physdev-is-in physdev-is-out physdev-is-bridged",
        "policy": "dir=1 pol=1 strict reqid=1 spi=1 proto=1 mode=1 tunnel-src=1 tunnel-dst=1 next",
        "realm": "realm=1",
        "rpfilter": "loose validmark accept-local invert",
        "set": "match-set=2 set=2 return-nomatch bytes-eq=1 packets-eq=1 update-counters "
        "update-subcounters packets-lt=1 packets-gt=1 bytes-lt=1 bytes-gt=1",
        "socket": "transparent nowildcard restore-skmark",
        "string": "from=1 to=1 algo=1 string=1 hex-string=1 icase",
        "tcpmss": "mss=1",
        "u32": "u32=1",
        "cgroup": "path=1 cgroup=1",
        "cpu": "cpu=1",
        "devgroup": "src-group=1 dst-group=1",
        "ah": "ahspi=1",
        "esp": "espspi=1",
        "ipcomp": "ipcompspi=1 compres",
        "ipvs": "ipvs vproto=1 vaddr=1 vport=1 vdir=1 vmethod=1 vportctl=1",
        "geoip": "src-cc=1 source-country=1 dst-cc=1 destination-country=1",
        "condition": "condition=1",
    }.items()
}

#: Matches that iptables had once: what is there today in their place.
REMOVED: Mapping[str, str] = {
    "nth": "-m statistic --mode nth",
    "random": "-m statistic --mode random",
    "mport": "-m multiport",
    "unclean": "nothing: drop the match",
    "fuzzy": "-m hashlimit",
    "ipv4options": "nothing in the kernel itself",
    "psd": "-m recent",
    "dstlimit": "-m hashlimit",
    "childlevel": "nothing",
    "account": "nfacct",
}

#: Target → its options.
TARGETS: Mapping[str, Mapping[str, int]] = {
    name: _table(text)
    for name, text in {
        "ACCEPT": "",
        "DROP": "",
        "QUEUE": "",
        "RETURN": "",
        "REDIRECT": "to-ports=1 random random-fully persistent",
        "DNAT": "to-destination=1 random random-fully persistent",
        "SNAT": "to-source=1 random random-fully persistent",
        "MASQUERADE": "to-ports=1 random random-fully persistent",
        "NETMAP": "to=1",
        "MARK": "set-xmark=1 set-mark=1 and-mark=1 or-mark=1 xor-mark=1",
        "CONNMARK": "set-xmark=1 set-mark=1 and-mark=1 or-mark=1 xor-mark=1 save-mark restore-mark mask=1 "
        "ctmask=1 nfmask=1 left-shift-mark=1 right-shift-mark=1",
        "CONNSECMARK": "save restore",
        "SECMARK": "selctx=1",
        "REJECT": "reject-with=1",
        "LOG": "log-level=1 log-prefix=1 log-tcp-sequence log-tcp-options log-ip-options log-uid "
        "log-macdecode",
        "NFLOG": "nflog-group=1 nflog-prefix=1 nflog-range=1 nflog-size=1 nflog-threshold=1",
        "ULOG": "ulog-nlgroup=1 ulog-prefix=1 ulog-cprange=1 ulog-qthreshold=1",
        "NFQUEUE": "queue-num=1 queue-balance=1 queue-bypass queue-cpu-fanout",
        "TPROXY": "on-port=1 on-ip=1 tproxy-mark=1",
        "TEE": "gateway=1",
        "TRACE": "",
        "NOTRACK": "",
        "CT": "notrack helper=1 ctevents=1 expevents=1 zone=1 zone-orig=1 zone-reply=1 timeout=1",
        "CHECKSUM": "checksum-fill",
        "CLASSIFY": "set-class=1",
        "CLUSTERIP": "new hashmode=1 clustermac=1 total-nodes=1 local-node=1 hash-init=1",
        "DSCP": "set-dscp=1 set-dscp-class=1",
        "ECN": "ecn-tcp-remove",
        "HL": "hl-set=1 hl-dec=1 hl-inc=1",
        "HMARK": "hmark-tuple=1 hmark-mod=1 hmark-offset=1 hmark-src-prefix=1 hmark-dst-prefix=1 "
        "hmark-sport-mask=1 hmark-dport-mask=1 hmark-spi-mask=1 hmark-proto-mask=1 hmark-rnd=1",
        "IDLETIMER": "timeout=1 label=1 alarm",
        "LED": "led-trigger-id=1 led-delay=1 led-always-blink",
        "RATEEST": "rateest-name=1 rateest-interval=1 rateest-ewmalog=1",
        "SET": "add-set=2 del-set=2 map-set=2 timeout=1 exist map-mark map-prio map-queue",
        "SYNPROXY": "mss=1 wscale=1 sack-perm timestamp ecn",
        "TCPMSS": "set-mss=1 clamp-mss-to-pmtu",
        "TCPOPTSTRIP": "strip-options=1",
        "TOS": "set-tos=1 and-tos=1 or-tos=1 xor-tos=1",
        "TTL": "ttl-set=1 ttl-dec=1 ttl-inc=1",
        "AUDIT": "type=1",
        "DNPT": "src-pfx=1 dst-pfx=1",
        "SNPT": "src-pfx=1 dst-pfx=1",
        "SAME": "to=1 nodst random",
        "BALANCE": "to-destination=1",
        "MIRROR": "",
        "ROUTE": "oif=1 iif=1 gw=1 continue tee",
    }.items()
}


def _words(text: str) -> Mapping[str, str]:
    """`a b=c` → what each word stands for, which may be itself."""
    return {name: other or name for name, _, other in (word.partition("=") for word in text.split())}


#: Options that stand for another.
SAME = _words(
    "source-port=sport destination-port=dport source-ports=sports destination-ports=dports "
    "source-country=src-cc destination-country=dst-cc"
)
_SHORT = _words(
    "p=protocol s=source d=destination i=in-interface o=out-interface j=jump g=goto m=match t=table "
    "f=fragment c=set-counters n=numeric v=verbose x=exact w=wait W=wait-interval 4=ipv4 6=ipv6 A=append "
    "I=insert R=replace D=delete N=new-chain X=delete-chain F=flush Z=zero P=policy E=rename-chain L=list "
    "S=list-rules C=check V=version h=help M=modprobe"
)
#: The options of iptables itself in their long form: what each is called here.
LONG = _words(
    "protocol proto=protocol source src=source destination dst=destination in-interface out-interface jump "
    "goto match table fragments=fragment fragment set-counters numeric verbose exact wait wait-interval ipv4 "
    "ipv6 line-numbers=numeric modprobe append insert replace delete new-chain new=new-chain delete-chain "
    "flush zero policy rename-chain list list-rules check version help"
)
#: Those options as a rule has them, with their dashes.
OWN = {f"-{name}": option for name, option in _SHORT.items()}
FLAGS = frozenset({"fragment", "numeric", "verbose", "exact", "ipv4", "ipv6", "version", "help"})
#: Options that ask for fields of a packet, in iptables-save's order and spelling.
HEADER = _words("source=-s destination=-d in-interface=-i out-interface=-o protocol=-p")
#: Commands → how many words each takes at most.
COMMANDS = _table(
    "append=1 insert=2 replace=2 delete=2 new-chain=1 delete-chain=1 flush=1 zero=2 policy=2 rename-chain=2 "
    "list=2 list-rules=2 check=1 version help"
)
#: Protocols by their numbers and other names; most bring a match of their own name.
PROTOCOLS = _words("0=all 1=icmp 6=tcp 17=udp 33=dccp 58=ipv6-icmp 132=sctp 136=udplite icmpv6=ipv6-icmp")
