"""What `lbctl import` of the rules of a large cluster takes: 10,000, 30,000 and 100,000 rules.

    python bench/importing.py [KIND …] [--base CHECKOUT]

The whole command, from its start to the last line of the intent. Prints CPU time and peak memory at each
size, and the exponent of time over size between the first and the last (1 is linear). Flat rules, as scripts
write them, and chains, as kube-proxy does, with 9 rules a service, in both syntaxes; then one port with rules
for many clients, and rules that are each inserted before all others. Exits with 1 if the largest of the first
two exceeds its limit in either syntax.

CHECKOUT is another checkout of lbctl with an environment of its own (`make venv`): both read the same 10,000
rules, in turns, and the ratio of the medians is printed.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

SIZES = (10_000, 30_000, 100_000)
RULES = 9
#: What the largest size may take.
SECONDS, MEGABYTES = 6, 400
#: Runs of each side for a ratio.
ROUNDS = 5


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


def native(chains: Mapping[str, Iterable[str]]) -> Iterator[str]:
    """A table of nft with these chains."""
    yield "table ip nat {"
    for name, rules in chains.items():
        yield f"chain {name} {{"
        yield from rules
        yield "}"
    yield "}"


HOOK = "type nat hook {} priority dstnat; policy accept;"


def flat_nft(services: int) -> Iterator[str]:
    def rules() -> Iterator[str]:
        yield HOOK.format("prerouting")
        for i in range(services):
            for left in range(RULES, 0, -1):
                pick = f"numgen inc mod {left} 0 " if left > 1 else ""
                to = f"192.168.{i >> 8}.{left}:80"
                yield f'ip daddr {address(i)} tcp dport 80 {pick}counter dnat to {to} comment "service {i}"'

    return native({"prerouting": rules()})


def chains_nft(services: int) -> Iterator[str]:
    """As kube-proxy's chains, in the order that a listing has."""

    def service(i: int) -> Iterator[str]:
        to = f"ip daddr {address(i)} tcp dport 80"
        yield f"ip saddr != 10.244.0.0/16 {to} jump MASQ"
        yield f"numgen random mod 2 vmap {{ 0 : goto SEP-{i}-0, 1 : goto SEP-{i}-1 }}"

    def endpoint(i: int, j: int) -> Iterator[str]:
        yield f"ip saddr 10.244.{i >> 8}.{j} jump MASQ"
        yield f"meta l4proto tcp dnat to 10.244.{i >> 8}.{j}:8080"
        if j:
            yield "meta l4proto udp return"

    found: dict[str, Iterable[str]] = {"MASQ": ("meta mark set meta mark or 0x4000",)}
    for i in range(services):
        for j in range(2):
            found[f"SEP-{i}-{j}"] = endpoint(i, j)
        found[f"SVC-{i}"] = service(i)
    found["SERVICES"] = (f"ip daddr {address(i)} tcp dport 80 jump SVC-{i}" for i in range(services))
    for hook in ("prerouting", "output"):
        found[hook] = (HOOK.format(hook), "jump SERVICES")
    return native(found)


KINDS = {
    "flat": flat,
    "flat-nft": flat_nft,
    "chains": chains,
    "chains-nft": chains_nft,
    "clients": clients,
    "inserted": inserted,
}
#: Those that are held to the limits.
LIMITED = ("flat", "flat-nft", "chains", "chains-nft")


def write(kind: str, rules: int, folder: Path) -> Path:
    """The rules in a file."""
    text = folder / "rules"
    with text.open("w") as file:
        # Line by line: what this process holds would count as the command's.
        file.writelines(f"{line}\n" for line in KINDS[kind](rules // RULES))
    return text


def measure(text: Path, folder: Path, python: str = sys.executable) -> tuple[float, float]:
    """CPU seconds, and megabytes at the peak, of a command with compiled modules, as it is installed."""
    command = (python, "-m", "lbctl", "import", str(text))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    with (folder / "intent").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=environment)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def compile_modules(folder: Path, *pythons: str) -> None:
    """Have a command compile its modules before it is measured."""
    for python in pythons:
        for kind in ("flat", "flat-nft"):
            measure(write(kind, RULES, folder), folder, python)


def held(kind: str, folder: Path) -> bool:
    """Print what a kind takes; False if that is above its limits."""
    times = []
    for size in SIZES:
        seconds, megabytes = measure(write(kind, size, folder), folder)
        times.append(seconds)
        print(f"{kind}: {size:,} rules: {seconds:.2f} s, {megabytes:.0f} MB at most")
    exponent = math.log(times[-1] / times[0]) / math.log(SIZES[-1] / SIZES[0])
    print(f"{kind}: exponent {exponent:.2f}")
    if kind not in LIMITED:
        return True
    met = times[-1] <= SECONDS and megabytes <= MEGABYTES
    print(f"{kind}: target of {SECONDS} s and {MEGABYTES} MB: {'met' if met else 'MISSED'}")
    return met


def ratio(kind: str, base: Path, folder: Path) -> None:
    """Print the CPU time of 10,000 rules, against that of another checkout."""
    sides = (sys.executable, str(base / ".venv/bin/python"))
    compile_modules(folder, *sides)
    text = write(kind, SIZES[0], folder)
    times = [[measure(text, folder, python)[0] for python in sides] for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{kind}: {SIZES[0]:,} rules: {ours:.2f} s, the other checkout {theirs:.2f} s, {ours / theirs:.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "kinds", metavar="KIND", nargs="*", help=f"of the rules: {', '.join(KINDS)}; without any, all"
    )
    parser.add_argument("--base", type=Path, metavar="CHECKOUT", help="another checkout, for a ratio")
    arguments = parser.parse_args()
    given, base = arguments.kinds, arguments.base
    if unknown := set(given) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as name:
        if base is not None:
            for kind in given or LIMITED:
                ratio(kind, base.resolve(), Path(name))
            return 0
        compile_modules(Path(name), sys.executable)
        missed = [kind for kind in given or KINDS if not held(kind, Path(name))]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
