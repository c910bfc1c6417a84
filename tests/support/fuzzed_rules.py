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
