"""Random rules of both grammars, next to a ladder that they do not touch."""

from collections.abc import Sequence
from random import Random

from support import extensions, nft_samples

#: The ladder that stays what it is, whatever is asked of port 80.
BYSTANDER = 443


def saved(random: Random) -> str:
    """A nat table of iptables with a few random rules about port 80."""
    rules = [_saved_rule(random) for _ in range(random.randint(1, 5))]
    return beside_saved(rules)


def beside_saved(rules: Sequence[str]) -> str:
    """Rules of a nat table, ahead of the ladder of the bystander."""
    where = f"-A PREROUTING -p tcp -m tcp --dport {BYSTANDER}"
    head = [f":{hook} ACCEPT [0:0]" for hook in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")]
    ladder = [
        f"{where} -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.1:443",
        f"{where} -j DNAT --to-destination 10.0.0.2:443",
    ]
    return "\n".join(["*nat", *head, *rules, *ladder, "COMMIT", ""])


def _saved_rule(random: Random) -> str:
    plain = [
        each
        for each in extensions.SAMPLES
        if not each.target and each.program == extensions.IPV4 and each.proto == extensions.TCP and each.loads
    ]
    targets = [
        each
        for each in extensions.SAMPLES
        if each.target
        and each.program == extensions.IPV4
        and (each.table, each.chain) == ("nat", "PREROUTING")
    ]
    matches = random.sample(plain, random.randint(0, 3))
    words = ["-A PREROUTING", extensions.TCP, *(each.text for each in matches if each.chain == "PREROUTING")]
    return " ".join([*words, random.choice(targets).text])


#: Spellings of one condition, as people write them. Port 80 is always asked for.
_PORT_80 = (
    "-p tcp -m tcp --dport 80", "-p tcp --dport 80", "--protocol tcp --destination-port 80",
    "--proto 6 --dport 80:80", "-p TCP -m multiport --dports 80,8080", "-p tcp -m multiport --ports 80,90",
    "-m tcp -p tcp --dport http", "-p tcp -m tcp --sport 1024: --dport 80", "-p tcp --syn --dport 80",
    "-p tcp --tcp-fl SYN,ACK SYN --dp 80",
)  # fmt: skip
_MORE = (
    "-s 198.51.100.0/24", "! -s 198.51.100.7", "--source 198.51.100.0/255.255.255.0",
    "-s 198.51.100.1,198.51.100.2", "-d 203.0.113.9", "! -d 203.0.113.0/24", "--dst 203.0.113.9/32",
    "-i eth0",
    "! -i eth+", "-i +", "--in-interface eth1", "-f", "! -f", "-c 1 2", "--set-counters 3 4",
    '-m comment --comment "a \\"b\\" c"', "-m comment --comment it's", '-m comment --comment x"y z"',
    '-m comment --comment "a""-m" comment --comment b', "-m state --state NEW,ESTABLISHED",
    "-m mark ! --mark 0x0/0xff", "-4", "-m conntrack --ctstate DNAT", "-m conntrack --ctreplsrc 10.0.0.9",
    "-m ttl --ttl-g 5", "-m iprange --src-range 10.0.0.1-10.0.0.1", "-m addrtype --src-type UNICAST,LOCAL",
    "-m tos --tos 0x10",
)  # fmt: skip
_DOING = (
    "-j DNAT --to-destination 10.0.0.9", "-j DNAT --to 10.0.0.9:80-90", "--jump REDIRECT --to-ports 81-82",
    "-j REDIRECT --to-port http", "-g side", "-j side", "--goto=side", "-j RETURN", "-j ACCEPT", "",
    "-jACCEPT",
    "-j MARK --set-mark 0x1/0x1", "-j CONNMARK --save-mark --mask 0xff", '-j LOG --log-prefix "a b"',
    "-j DNAT --to-destination 10.0.0.1-10.0.0.3:80 --persistent",
)  # fmt: skip


def written(random: Random) -> str:
    """Tables of iptables with a few rules about port 80, in the spellings that people use."""
    rules = [_written_rule(random, "PREROUTING") for _ in range(random.randint(1, 5))]
    rules += [_written_rule(random, "side") for _ in range(random.randint(0, 2))]
    other = random.choice(("raw", "mangle"))
    counted = (f"[{random.randint(0, 9)}:0] {rule}" if random.random() < 0.2 else rule for rule in rules)
    head = [f"*{other}", ":side - [0:0]", f"{_written_rule(random, 'PREROUTING', passing=True)}", "COMMIT"]
    lines = beside_saved([":side - [0:0]", *counted]).split("\n")
    return "\n".join([*(head if random.random() < 0.5 else []), *lines])


def _written_rule(random: Random, chain: str, *, passing: bool = False) -> str:
    command = random.choice(("-A", "-A", "--append", "-I"))
    parts = [random.choice(_PORT_80), *random.sample(_MORE, random.randint(0, 3))]
    random.shuffle(parts)
    doing = "" if passing else random.choice(_DOING)
    if chain == "side" and "side" in doing:
        doing = "-j RETURN"
    return " ".join([command, chain, *parts, doing]).strip()


def native(random: Random) -> str:
    """A nat table of nft with a few random rules about port 80."""
    return beside_native([_native_rule(random) for _ in range(random.randint(1, 5))])


def beside_native(rules: Sequence[str]) -> str:
    """Rules of a chain at prerouting, ahead of the ladder of the bystander."""
    ladder = [
        f"tcp dport {BYSTANDER} numgen inc mod 2 0 dnat to 10.0.0.1:443",
        f"tcp dport {BYSTANDER} dnat to 10.0.0.2:443",
    ]
    body = "\n".join([*rules, *ladder])
    pre = f"chain other {{ }}\nchain pre {{\n{nft_samples.NAT}; policy accept;\n{body}\n}}\n"
    return f"table ip t {{\n{nft_samples.OBJECTS}{pre}}}\n"


def _native_rule(random: Random) -> str:
    here = [each for each in nft_samples.SAMPLES if each.family == "ip" and each.hook == nft_samples.NAT]
    conditions = [each for each in here if not each.statement and each.where == nft_samples.PORT]
    passing = [each for each in here if each.statement and each.name in {"counter", "log", "set", "nftrace"}]
    ending = [
        each
        for each in here
        if each.statement and each.name in {"verdict", "vmap", "dnat", "redirect", "limit", "quota"}
    ]
    words = [each.text for each in random.sample(conditions, random.randint(0, 3))]
    words += [random.choice(passing).text] if random.random() < 0.3 else []
    return " ".join([nft_samples.PORT, *words, random.choice(ending).text])
