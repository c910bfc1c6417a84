"""nft's symbolic constants: a name and its number are one value, whichever of the two a text has.

`nft list` prints names; with `--numeric`, `--numeric-protocol` or `--service` it prints the other spelling
of some, and people write either. The tables are those of `nft describe` (nft 1.0.6), protocols and services
those of Debian's netbase: no file of this host is read, since a text may come from another one. A word
without an entry stays: names of users, of interface groups, of hosts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|[0-9]{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Symbols:
    """The constants of one data type: numbers by name, and for each number the word that is shown."""

    names: Mapping[str, int]
    words: Mapping[int, str]
    #: A value is the sum of some of the constants.
    bits: bool = False
    #: How a number without a name is written.
    digits: str = "d"

    def number(self, word: str) -> int | None:
        """The number that a word stands for; None for a word that is neither a number nor a name here."""
        if word in self.names:
            return self.names[word]
        if not _NUMBER.fullmatch(word):
            return None
        return int(word, 16) if word[:2].lower() == "0x" else int(word)

    def word(self, number: int) -> str:
        """The word for a number: its name, or several with `|` between; else its digits."""
        if not self.bits or number in self.words:
            return self.words.get(number, f"{number:{self.digits}}")
        named = [bit for bit in sorted(self.words) if number & bit]
        rest = number & ~sum(named)
        return "|".join([*(self.words[bit] for bit in named), *([hex(rest)] if rest else [])]) or "0"


def _symbols(text: str, *, bits: bool = False, shown: bool = True) -> _Symbols:
    """The table of `name=number …`. Of several names of a number, or numbers of a name, the first counts."""
    pairs = [(name, int(number, 0)) for name, _, number in (each.rpartition("=") for each in text.split())]
    words = {number: name for name, number in reversed(pairs)} if shown else {}
    if bits:
        words = {number: name for number, name in words.items() if number.bit_count() == 1}
    return _Symbols(dict(reversed(pairs)), words, bits)


_ADDRESS_TYPES = _symbols(
    "unspec=0 unicast=1 local=2 broadcast=3 anycast=4 multicast=5 blackhole=6 unreachable=7 prohibit=8"
)
#: Each in network order, and as nft 1.0.6 prints it with `--json --numeric` on a little-endian host.
_ETHER_TYPES = """
    ip=0x0800 arp=0x0806 ip6=0x86dd 8021q=0x8100 vlan=0x8100 8021ad=0x88a8
    ip=0x0008 arp=0x0608 ip6=0xdd86 8021q=0x0081 8021ad=0xa888
"""
_FAMILIES = "ipv4=2 ipv6=10"
_STATES = _symbols("invalid=1 established=2 related=4 new=8 untracked=64", bits=True)
#: The last three stand in nft 1.1.7 with the numbers of their bits.
_STATUS = _symbols(
    """
    expected=1 seen-reply=2 assured=4 confirmed=8 snat=0x10 dnat=0x20 seq-adjust=0x40 snat-done=0x80
    dnat-done=0x100 dying=0x200 fixed-timeout=0x400 helper=0xd offload=0xe hw-offload=0xf
    """,
    bits=True,
)
_TCP_FLAGS = _symbols("fin=1 syn=2 rst=4 psh=8 ack=0x10 urg=0x20 ecn=0x40 cwr=0x80", bits=True)
_DSCP = _symbols("""
    cs0=0x00 cs1=0x08 cs2=0x10 cs3=0x18 cs4=0x20 cs5=0x28 cs6=0x30 cs7=0x38 df=0x00 be=0x00 lephb=0x01
    af11=0x0a af12=0x0c af13=0x0e af21=0x12 af22=0x14 af23=0x16 af31=0x1a af32=0x1c af33=0x1e
    af41=0x22 af42=0x24 af43=0x26 va=0x2c ef=0x2e
""")
_PROTOCOLS = _symbols("""
    ip=0 hopopt=0 icmp=1 igmp=2 ggp=3 ipencap=4 st=5 tcp=6 egp=8 igp=9 pup=12 udp=17 hmp=20 xns-idp=22
    rdp=27 iso-tp4=29 dccp=33 xtp=36 ddp=37 idpr-cmtp=38 ipv6=41 ipv6-route=43 ipv6-frag=44 idrp=45 rsvp=46
    gre=47 esp=50 ah=51 skip=57 ipv6-icmp=58 ipv6-nonxt=59 ipv6-opts=60 rspf=73 vmtp=81 eigrp=88 ospf=89
    ax.25=93 ipip=94 etherip=97 encap=98 pim=103 ipcomp=108 vrrp=112 l2tp=115 isis=124 sctp=132 fc=133
    mobility-header=135 udplite=136 mpls-in-ip=137 manet=138 hip=139 shim6=140 wesp=141 rohc=142
    ethernet=143 mptcp=262
    icmpv6=58 ipv4=4
""")
_INTERFACE_TYPES = _symbols("ether=1 ppp=0x200 ipip=0x300 ipip6=0x301 loopback=0x304 sit=0x308 ipgre=0x30a")
_USERS = _symbols("root=0", shown=False)
_GROUPS = _symbols("default=0")
_PLAIN = _symbols("")
_OPTIONS = _symbols("""
    eol=0 nop=1 noop=1 maxseg=2 window=3 sack-perm=4 sack-permitted=4 sack=5 timestamp=8 md5sig=19 mptcp=30
    fastopen=34
""")
_MARKS = _Symbols({}, {}, digits="#x")
_SERVICES = _symbols(
    """
    tcpmux=1 echo=7 discard=9 null=9 sink=9 systat=11 users=11 daytime=13 netstat=15 qotd=17 quote=17
    chargen=19 source=19 ttytst=19 ftp-data=20 fsp=21 fspd=21 ftp=21 ssh=22 telnet=23 mail=25 smtp=25
    time=37 timserver=37 nicname=43 whois=43 tacacs=49 domain=53 bootps=67 bootpc=68 tftp=69 gopher=70
    finger=79 http=80 www=80 kerberos=88 kerberos-sec=88 kerberos5=88 krb5=88 iso-tsap=102 tsap=102
    acr-nema=104 dicom=104 poppassd=106 pop-3=110 pop3=110 portmapper=111 sunrpc=111 auth=113
    authentication=113 ident=113 tap=113 nntp=119 readnews=119 untp=119 ntp=123 epmap=135 loc-srv=135
    netbios-ns=137 netbios-dgm=138 netbios-ssn=139 imap=143 imap2=143 snmp=161 snmp-trap=162 snmptrap=162
    cmip-man=163 cmip-agent=164 mailq=174 xdmcp=177 bgp=179 smux=199 qmtp=209 wais=210 z3950=210 ipx=213
    ptp-event=319 ptp-general=320 pawserv=345 zserv=346 rpc2portmap=369 codaauth2=370 Clearcase=371
    clearcase=371 ldap=389 svrloc=427 https=443 snpp=444 microsoft-ds=445 kpasswd=464 smtps=465 ssmtp=465
    submissions=465 urd=465 saft=487 isakmp=500 biff=512 comsat=512 exec=512 login=513 who=513 whod=513
    cmd=514 shell=514 syslog=514 printer=515 spooler=515 talk=517 ntalk=518 route=520 routed=520 router=520
    gdomap=538 uucp=540 uucpd=540 klogin=543 krcmd=544 kshell=544 dhcpv6-client=546 dhcpv6-server=547
    afpovertcp=548 rtsp=554 nntps=563 snntp=563 submission=587 nqs=607 asf-rmcp=623 qmqp=628 ipp=631
    ldaps=636 ldp=646 tinc=655 silc=706 kerberos-adm=749 kdc=750 kerberos-iv=750 kerberos4=750
    kerberos-master=751 kerberos_master=751 passwd-server=752 passwd_server=752 hprop=754 krb-prop=754
    krb5_prop=754 krb_prop=754 moira-db=775 moira_db=775 moira-update=777 moira_update=777 moira-ureg=779
    moira_ureg=779 spamd=783 domain-s=853 supfilesrv=871 rsync=873 ftps-data=989 ftps=990 telnets=992
    imaps=993 pop3s=995 socks=1080 proofd=1093 rootd=1094 rmiregistry=1099 supfiledbg=1127 skkserv=1178
    openvpn=1194 predict=1210 rmtcfg=1236 xtel=1313 xtelw=1314 lotusnote=1352 lotusnotes=1352 ms-sql-s=1433
    ms-sql-m=1434 ingreslock=1524 datametrics=1645 old-radius=1645 old-radacct=1646 sa-msg-port=1646
    kermit=1649 groupwise=1677 l2f=1701 l2tp=1701 radius=1812 radacct=1813 radius-acct=1813 cisco-sccp=2000
    nfs=2049 gnunet=2086 rtcm-sc104=2101 zephyr-srv=2102 zephyr-clt=2103 zephyr-hm=2104 gsigatekeeper=2119
    iprop=2121 gris=2135 cvspserver=2401 venus=2430 venus-se=2431 codasrv=2432 codasrv-se=2433 mon=2583
    zebrasrv=2600 zebra=2601 ripd=2602 ripngd=2603 ospfd=2604 bgpd=2605 ospf6d=2606 ospfapi=2607 isisd=2608
    dict=2628 f5-globalsite=2792 gsiftp=2811 gpsd=2947 gds-db=3050 gds_db=3050 icp=3130 icpv2=3130 isns=3205
    iscsi-target=3260 mysql=3306 ms-wbt-server=3389 nut=3493 distcc=3632 daap=3689 subversion=3690 svn=3690
    suucp=4031 sysrqd=4094 sieve=4190 f5-iquery=4353 epmd=4369 remctl=4373 ntske=4460 ipsec-nat-t=4500
    fax=4557 hylafax=4559 iax=4569 mtn=4691 radmin-port=4899 lrrd=4949 munin=4949 sip=5060 sip-tls=5061
    jabber-client=5222 xmpp-client=5222 jabber-server=5269 xmpp-server=5269 cfengine=5308 mdns=5353
    postgres=5432 postgresql=5432 rplay=5555 freeciv=5556 rptp=5556 nrpe=5666 nsca=5667 amqps=5671 amqp=5672
    canna=5680 x11=6000 x11-0=6000 x11-1=6001 x11-2=6002 x11-3=6003 x11-4=6004 x11-5=6005 x11-6=6006
    x11-7=6007 gnutella-svc=6346 gnutella-rtr=6347 redis=6379 sge-qmaster=6444 sge_qmaster=6444
    sge-execd=6445 sge_execd=6445 mysql-proxy=6446 syslog-tls=6514 sane=6566 sane-port=6566 saned=6566
    ircd=6667 babel=6696 ircs-u=6697 afs3-fileserver=7000 bbs=7000 afs3-callback=7001 afs3-prserver=7002
    afs3-vlserver=7003 afs3-kaserver=7004 afs3-volser=7005 afs3-bos=7007 afs3-update=7008 afs3-rmtsys=7009
    font-service=7100 xfs=7100 zope-ftp=8021 http-alt=8080 webcache=8080 tproxy=8081 omniorb=8088
    puppet=8140 clc-build-daemon=8990 xinetd=9098 bacula-dir=9101 bacula-fd=9102 bacula-sd=9103 git=9418
    xmms2=9667 zope=9673 webmin=10000 zabbix-agent=10050 zabbix-trapper=10051 amanda=10080 kamanda=10081
    amandaidx=10082 amidxtape=10083 nbd=10809 hkp=11371 sgi-cmsd=17001 sgi-crsd=17002 sgi-gcd=17003
    sgi-cad=17004 db-lsp=17500 dcap=22125 gsidcap=22128 wnn6=22273 binkp=24554 asp=27374 csync2=30865
    dircproxy=57000 tfido=60177 fido=60179
    """,
    shown=False,
)
#: By field: its name in nft's language, or in a selector.
_OF_FIELD: Mapping[str, _Symbols] = {
    "proto": _PROTOCOLS, "ct protocol": _PROTOCOLS, "ct original protocol": _PROTOCOLS,
    "ct reply protocol": _PROTOCOLS,
    "dport": _SERVICES, "sport": _SERVICES, "ctorigdstport": _SERVICES, "ct original proto-src": _SERVICES,
    "ct reply proto-src": _SERVICES, "ct reply proto-dst": _SERVICES,
    "dst-type": _ADDRESS_TYPES, "src-type": _ADDRESS_TYPES,
    "family": _symbols(f"{_FAMILIES} {_ETHER_TYPES}"), "ct l3proto": _symbols(_FAMILIES),
    "ct original l3proto": _symbols(_FAMILIES), "ct reply l3proto": _symbols(_FAMILIES),
    "ether type": _symbols(_ETHER_TYPES), "vlan type": _symbols(_ETHER_TYPES),
    "state": _STATES, "ct state": _STATES, "ct status": _STATUS, "tcp flags": _TCP_FLAGS,
    "dccp type": _symbols(
        "request=0 response=1 data=2 ack=3 dataack=4 closereq=5 close=6 reset=7 sync=8 syncack=9"
    ),
    "ct direction": _symbols("original=0 reply=1"),
    "pkttype": _symbols("host=0 unicast=0 broadcast=1 multicast=2 other=3"),
    "iiftype": _INTERFACE_TYPES, "oiftype": _INTERFACE_TYPES, "iifgroup": _GROUPS, "oifgroup": _GROUPS,
    "skuid": _USERS, "skgid": _USERS, "rtclassid": _symbols("cosmos=0"),
    "ip dscp": _DSCP, "ip6 dscp": _DSCP,
    **dict.fromkeys(("ip ecn", "ip6 ecn"), _symbols("not-ect=0 ect1=1 ect0=2 ce=3")),
    "meta day": _symbols("Sunday=0 Monday=1 Tuesday=2 Wednesday=3 Thursday=4 Friday=5 Saturday=6"),
    "icmp type": _symbols("""
        echo-reply=0 destination-unreachable=3 source-quench=4 redirect=5 echo-request=8
        router-advertisement=9 router-solicitation=10 time-exceeded=11 parameter-problem=12
        timestamp-request=13 timestamp-reply=14 info-request=15 info-reply=16 address-mask-request=17
        address-mask-reply=18
    """),
    "icmp code": _symbols("""
        net-unreachable=0 host-unreachable=1 prot-unreachable=2 port-unreachable=3 frag-needed=4
        net-prohibited=9 host-prohibited=10 admin-prohibited=13
    """),
    "icmpv6 type": _symbols("""
        destination-unreachable=1 packet-too-big=2 time-exceeded=3 parameter-problem=4 echo-request=128
        echo-reply=129 mld-listener-query=130 mld-listener-report=131 mld-listener-done=132
        mld-listener-reduction=132 nd-router-solicit=133 nd-router-advert=134 nd-neighbor-solicit=135
        nd-neighbor-advert=136 nd-redirect=137 router-renumbering=138 ind-neighbor-solicit=141
        ind-neighbor-advert=142 mld2-listener-report=143
    """),
    "icmpv6 code": _symbols("""
        no-route=0 admin-prohibited=1 addr-unreachable=3 port-unreachable=4 policy-fail=5 reject-route=6
    """),
    "mark": _MARKS, "connmark": _MARKS,
    # Without names, but in decimal or hexadecimal digits.
    **dict.fromkeys(
        (
            "cpu", "cgroup", "icmp id", "icmpv6 id", "ip frag-off", "ip id", "ip length", "ip ttl",
            "ip version", "ip6 flowlabel", "ip6 hoplimit", "ip6 length", "ip6 version", "meta length",
            "tcp window", "vlan id",
        ),
        _PLAIN,
    ),
}  # fmt: skip


@lru_cache(maxsize=1 << 16)
def canonical(field: str, word: str) -> str:
    """The one spelling of a value, a range or joined bits of a field; what is not known stays as it is."""
    symbols = _symbols_of(field.partition(" & ")[0])
    if symbols is None:
        return word
    number = _bits(symbols, word) if symbols.bits else symbols.number(word)
    if number is not None:
        return symbols.word(number)
    # Names have dashes too: `cs1-cs3`, `port-unreachable-13`.
    for place, letter in enumerate(word):
        if letter == "-":
            first, last = symbols.number(word[:place]), symbols.number(word[place + 1 :])
            if first is not None and last is not None:
                return f"{symbols.word(first)}-{symbols.word(last)}"
    return word


def option(word: str) -> str:
    """The number of a TCP option, in digits; what is not known stays as it is."""
    number = _OPTIONS.number(word)
    return word if number is None else str(number)


def mask(field: str, text: str) -> int | None:
    """The bits that `syn`, `0x2` or `(syn|ack)` stand for; None for another word, or a field without bits."""
    symbols = _symbols_of(field)
    return _bits(symbols, text) if symbols is not None and symbols.bits else None


def masked(field: str, bits: int) -> str:
    """A field of which only some bits count, as text: `tcp flags & (syn|ack)`, `mark & 0xff`."""
    symbols = _symbols_of(field)
    if symbols is None or not symbols.bits:
        return f"{field} & {bits:#x}"
    word = symbols.word(bits)
    return f"{field} & ({word})" if "|" in word else f"{field} & {word}"


def _symbols_of(field: str) -> _Symbols | None:
    if field.startswith("fib ") and field.endswith(" type"):
        return _ADDRESS_TYPES
    return _OF_FIELD.get(field)


def _bits(symbols: _Symbols, text: str) -> int | None:
    """The sum of some bits; None where one of them is not known."""
    total = 0
    for word in text.strip("()").split("|"):
        number = symbols.number(word)
        if number is None:
            return None
        total |= number
    return total


def span(field: str, word: str) -> tuple[int, int] | None:
    """The numbers that a name of a field, or a range from one name to another, stands for; else None."""
    symbols = _symbols_of(field)
    if symbols is None:
        return None
    if word in symbols.names:
        return symbols.names[word], symbols.names[word]
    # Names have dashes too.
    for place, letter in enumerate(word):
        if letter == "-":
            first, last = symbols.number(word[:place]), symbols.number(word[place + 1 :])
            if first is not None and last is not None:
                return first, last
    return None
