"""What `lbctl import` of the rules of a large cluster takes: 10,000, 30,000 and 100,000 rules of iptables.

    python bench/importing.py [KIND …]

The whole command, from its start to the last line of the intent. Prints the processor's time and the peak of
memory at each size, and the exponent of time over size between the first and the last (1 is linear). Flat
rules, as scripts write them, and chains, as kube-proxy does, with 9 rules a service; then one port with rules
for many clients, and rules that are each inserted before all others. Exits with 1 where the largest of the
first two takes more than it may.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

SIZES = (10_000, 30_000, 100_000)
RULES = 9
#: What the largest size may take.
SECONDS, MEGABYTES = 6, 1000


def address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def flat(services: int) -> Iterator[str]:
    return ladders(services, "-d", lambda i: f'-m comment --comment "service {i}" ')


def clients(services: int) -> Iterator[str]:
    return ladders(services, "-s", lambda _: "")


def ladders(services: int, side: str, about: Callable[[int], str]) -> Iterator[str]:
    """A ladder for each address, which is on one side of its connections."""
    yield "*nat"
    yield ":PREROUTING ACCEPT [0:0]"
    for i in range(services):
        for left in range(RULES, 0, -1):
            pick = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
            yield (
                f"-A PREROUTING {side} {address(i)}/32 -p tcp -m tcp --dport 80 {pick}{about(i)}"
                f"-j DNAT --to-destination 192.168.{i >> 8}.{left}:80"
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


def inserted(services: int) -> Iterator[str]:
    table, chain, *rules, commit = flat(services)
    yield from (table, chain)
    yield from (rule.replace("-A PREROUTING", "-I PREROUTING 1") for rule in reversed(rules))
    yield commit


KINDS = {"flat": flat, "chains": chains, "clients": clients, "inserted": inserted}


#: Those that are held to the limits.
LIMITED = ("flat", "chains")


def measure(kind: str, rules: int, folder: Path) -> tuple[float, float]:
    """Seconds of the processor's time, and megabytes at the peak."""
    text = folder / "rules"
    with text.open("w") as file:
        # Line by line: what this process holds would count as the command's.
        file.writelines(f"{line}\n" for line in KINDS[kind](rules // RULES))
    command = (sys.executable, "-m", "lbctl", "import", str(text))
    with (folder / "intent").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def held(kind: str, folder: Path) -> bool:
    """Print what a kind takes; False where that is more than it may."""
    times = []
    for size in SIZES:
        seconds, megabytes = measure(kind, size, folder)
        times.append(seconds)
        print(f"{kind}: {size:,} rules: {seconds:.2f} s, {megabytes:.0f} MB at most")
    exponent = math.log(times[-1] / times[0]) / math.log(SIZES[-1] / SIZES[0])
    print(f"{kind}: exponent {exponent:.2f}")
    if kind not in LIMITED:
        return True
    met = times[-1] <= SECONDS and megabytes <= MEGABYTES
    print(f"{kind}: bar of {SECONDS} s and {MEGABYTES} MB: {'met' if met else 'MISSED'}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "kinds", metavar="KIND", nargs="*", help=f"of the rules: {', '.join(KINDS)}; without any, all"
    )
    given = parser.parse_args().kinds
    if unknown := set(given) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as name:
        missed = [kind for kind in given or KINDS if not held(kind, Path(name))]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
