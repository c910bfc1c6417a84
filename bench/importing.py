"""How long the rules of a large cluster take to be read: seconds at 10,000, 30,000 and 100,000 rules.

    python bench/importing.py [KIND …]

Prints the time and the peak of memory of each, and the exponent of time over size between the first and the
last (1 is linear). Flat rules, as scripts write them, and chains, as kube-proxy does, with 9 rules a service;
then one port with rules for many clients, and rules that are each inserted before all others.
"""

import gc
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

SIZES = (10_000, 30_000, 100_000)
RULES = 9


def address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def flat(services: int) -> Iterator[str]:
    yield "*nat"
    yield ":PREROUTING ACCEPT [0:0]"
    for i in range(services):
        for left in range(RULES, 0, -1):
            pick = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
            yield (
                f"-A PREROUTING -d {address(i)}/32 -p tcp -m tcp --dport 80 {pick}"
                f'-m comment --comment "service {i}" -j DNAT --to-destination 192.168.{i >> 8}.{left}:80'
            )
    yield "COMMIT"


def chains(services: int) -> Iterator[str]:
    yield "*nat"
    yield ":PREROUTING ACCEPT [0:0]"
    yield ":OUTPUT ACCEPT [0:0]"
    yield ":SERVICES - [0:0]"
    yield ":MASQ - [0:0]"
    for i in range(services):
        yield f":SVC-{i} - [0:0]"
        for j in range(2):
            yield f":SEP-{i}-{j} - [0:0]"
    yield "-A PREROUTING -j SERVICES"
    yield "-A OUTPUT -j SERVICES"
    yield "-A MASQ -j MARK --set-xmark 0x4000/0x4000"
    for i in range(services):
        about = f'-m comment --comment "shop/web-{i}:http cluster IP"'
        to = f"-d {address(i)}/32 -p tcp {about} -m tcp --dport 80"
        yield f"-A SERVICES {to} -j SVC-{i}"
        yield f"-A SVC-{i} ! -s 10.244.0.0/16 {to} -j MASQ"
        yield f"-A SVC-{i} {about} -m statistic --mode random --probability 0.50000000000 -j SEP-{i}-0"
        yield f"-A SVC-{i} {about} -j SEP-{i}-1"
        for j in range(2):
            yield f"-A SEP-{i}-{j} -s 10.244.{i >> 8}.{j}/32 {about} -j MASQ"
            yield f"-A SEP-{i}-{j} -p tcp {about} -m tcp -j DNAT --to-destination 10.244.{i >> 8}.{j}:8080"
            if j:
                yield f"-A SEP-{i}-{j} -p udp {about} -j RETURN"
    yield "COMMIT"


def clients(services: int) -> Iterator[str]:
    yield "*nat"
    yield ":PREROUTING ACCEPT [0:0]"
    for i in range(services):
        for left in range(RULES, 0, -1):
            pick = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
            yield (
                f"-A PREROUTING -s {address(i)}/32 -p tcp -m tcp --dport 80 {pick}"
                f"-j DNAT --to-destination 192.168.{i >> 8}.{left}:80"
            )
    yield "COMMIT"


def inserted(services: int) -> Iterator[str]:
    table, chain, *rules, commit = flat(services)
    yield from (table, chain)
    yield from (rule.replace("-A PREROUTING", "-I PREROUTING 1") for rule in reversed(rules))
    yield commit


KINDS = {"flat": flat, "chains": chains, "clients": clients, "inserted": inserted}


def measure(kind: str, rules: int) -> None:
    text = "\n".join(KINDS[kind](rules // RULES)) + "\n"
    from lbctl_iptables.reading import read

    # As the program does; and the time of this process alone, whatever else runs.
    gc.disable()
    start = time.process_time()
    reading = read(text)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert reading.accept
    print(len(reading.services), seconds, peak)


def main() -> None:
    if sys.argv[2:] and sys.argv[2].isdigit():
        measure(sys.argv[1], int(sys.argv[2]))
        return
    for kind in sys.argv[1:] or KINDS:
        times = []
        for size in SIZES:
            command = (sys.executable, __file__, kind, str(size))
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            times.append(float(out[1]))
            print(f"{kind}: {size} rules, {out[0]} services: {times[-1]:.2f} s, {out[2]} MB at most")
        exponent = math.log(times[-1] / times[0]) / math.log(SIZES[-1] / SIZES[0])
        print(f"{kind}: exponent {exponent:.2f}")


if __name__ == "__main__":
    main()
