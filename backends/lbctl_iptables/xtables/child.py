"""The process behind driver `iptc`: texts of iptables-save and iptables-restore here, libiptc there.

    python -S -P -c START FOLDER… save iptables|ip6tables TABLE…
    python -S -P -c START FOLDER… load|check iptables|ip6tables

Of python-iptables (1.2.0) this uses the tables, and the extensions with their C parsers and printers; entries
are filled and read here, since its rules are not fit for it: a `Rule` asks every table of the family whether
it has a chain, which makes those tables; `Rule6` writes masks of interfaces with 1 in place of 0xff, does not
mask addresses and loses the protocol of a negated `-p`; a value that begins with `!` is taken for a negation;
adding a rule prints and parses all of its options once more, through a buffer of 1,024 bytes.

"""

from __future__ import annotations

import ctypes
import ctypes.util
import fcntl
import os
import re
import socket
import sys
import time
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from lbctl_iptables import spelling
from lbctl_iptables.xtables import LOCK_SECONDS
from lbctl_iptables.xtables.binding import BindingRefused, binding, entries, reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: As `lbctl_iptables.layout` has them, which takes all of lbctl's model to import.
FOUR, SIX = "iptables", "ip6tables"
TABLES = ("filter", "nat")
HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
_LOCK = "/run/xtables.lock"
_NAME_SIZE = 16
#: The protocols that iptables spells by name whatever /etc/protocols holds.
_PROTOCOLS = {
    6: "tcp",
    17: "udp",
    132: "sctp",
    136: "udplite",
    1: "icmp",
    58: "ipv6-icmp",
    50: "esp",
    51: "ah",
}
_NUMBERS = {name: number for number, name in _PROTOCOLS.items()} | {"icmpv6": 58}

# The same in both families, except the flags of an entry.
_INV_IN, _INV_OUT, _INV_SOURCE, _INV_DESTINATION, _INV_FRAGMENT, _INV_PROTOCOL = 1, 2, 8, 16, 32, 64
_FRAGMENT = 1
_HAS_PROTOCOL_6 = 1

#: The name of an extension becomes the name of a library that is loaded.
_EXTENSION = re.compile(r"[A-Za-z0-9_]{1,28}\Z")
_CHAIN = re.compile(r"[!-~]{1,28}\Z")
_COUNTED = re.compile(r"\[(?P<packets>\d{1,20}):(?P<bytes>\d{1,20})\] (?P<rest>-A .*)\Z")
_DECLARED = re.compile(r":(?P<chain>\S+) - \[0:0\]\Z")


class XtTable:
    """A table of one family in this network namespace, as it was when this was made."""

    def __init__(self, word: str, name: str) -> None:
        self.six = word == SIX
        self._iptc, self._low = binding()
        self._xtables = self._low.xtables(self._low.NFPROTO_IPV6 if self.six else self._low.NFPROTO_IPV4)
        try:
            self.table = (self._iptc.Table6 if self.six else self._iptc.Table)(name, autocommit=False)
        except self._iptc.IPTCError as error:
            raise BindingRefused(_plain(error)) from None
        # A rule asks its tables which of its targets are chains; by default, it makes all tables for that.
        base = self._iptc.Rule6 if self.six else self._iptc.Rule
        self._new_rule = type("Rule", (base,), {"tables": [self.table]})

    # ---- reading

    def dump(self) -> bytes:
        """Return the table as iptables-save prints it, with counters."""
        lines = [b"*" + self.table.name.encode()]
        low, handle = self.table._iptc, self.table._handle
        chains = []
        # By bytes: the binding decodes names, and a name of somebody else's need not be text.
        name = low.iptc_first_chain(handle)
        while name:
            chains.append(name)
            name = low.iptc_next_chain(handle)
        lines += [b":%s %s" % (name, self._policy(name)) for name in chains]
        with _Printed() as printed:
            for name in chains:
                entry = low.iptc_first_rule(name, handle)
                while entry:
                    lines.append(self._spell(name, entry[0], printed))
                    entry = low.iptc_next_rule(entry, handle)
        return b"\n".join([*lines, b"COMMIT", b""])

    def _policy(self, chain: bytes) -> bytes:
        low, handle = self.table._iptc, self.table._handle
        if not low.iptc_builtin(chain, handle):
            return b"- [0:0]"
        counters = self._low.xt_counters()
        policy = low.iptc_get_policy(chain, ctypes.byref(counters), handle)
        return b"%s [%d:%d]" % (policy, counters.pcnt, counters.bcnt)

    def _spell(self, chain: bytes, entry: Any, printed: _Printed) -> bytes:
        ip = entry.ipv6 if self.six else entry.ip
        text = b"[%d:%d] -A %s" % (entry.counters.pcnt, entry.counters.bcnt, chain)
        text += _spell_address(b"-s", bytes(ip.src), bytes(ip.smsk), ip.invflags & _INV_SOURCE)
        text += _spell_address(b"-d", bytes(ip.dst), bytes(ip.dmsk), ip.invflags & _INV_DESTINATION)
        text += _spell_interface(b"-i", ip.iniface, ip.iniface_mask, ip.invflags & _INV_IN)
        text += _spell_interface(b"-o", ip.outiface, ip.outiface_mask, ip.invflags & _INV_OUT)
        if ip.proto:
            name = _PROTOCOLS.get(ip.proto) or _protocol_name(ip.proto) or str(ip.proto)
            text += _not(ip.invflags & _INV_PROTOCOL) + b" -p " + name.encode()
        if not self.six and ip.flags & _FRAGMENT:
            text += _not(ip.invflags & _INV_FRAGMENT) + b" -f"
        start, offset = ctypes.addressof(entry), ctypes.sizeof(entry)
        while offset < entry.target_offset:
            match = self._low.xt_entry_match.from_address(start + offset)
            text += b" -m " + self._spell_extension("match", match, ip, printed)
            offset += match.u.match_size or entry.target_offset
        target = self._low.xt_entry_target.from_address(start + entry.target_offset)
        arrow = b" -g " if ip.flags & self._goto else b" -j "
        if target.u.user.name:
            return text + arrow + self._spell_extension("target", target, ip, printed)
        verdict = self.table._iptc.iptc_get_target(ctypes.byref(entry), self.table._handle)
        return text + arrow + verdict if verdict else text

    def _spell_extension(self, kind: str, data: Any, ip: Any, printed: _Printed) -> bytes:
        """The name and options of a match or target; the name alone where nobody here knows the options."""
        name = bytes(data.u.user.name)
        module = self._revision(kind, name, data.u.user.revision)
        if module is None:
            return name
        alias = getattr(module, "alias", None)
        word = (alias(ctypes.pointer(data)) if alias else None) or name
        if not module.save:
            return bytes(word)
        self._xtables.save(module, ip, ctypes.cast(ctypes.pointer(data), ctypes.c_void_p))
        return bytes(word) + printed.take()

    def _revision(self, kind: str, name: bytes, revision: int) -> Any:
        """Return the extension that knows a layout.

        None where none does. The binding knows one of each name.
        """
        if not _EXTENSION.match(name.decode("ascii", "replace")):
            return None
        newest = self._find(kind, name)
        if not newest:
            return None
        if newest[0].revision == revision:
            return newest[0]
        find = getattr(self._low._lib_xtables, f"xtables_find_{kind}_revision", None)
        if find is None:
            return None
        find.restype = ctypes.c_void_p
        find.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
        found = find(name, self._low.XTF_DONT_LOAD, newest, revision)
        return ctypes.cast(found, type(newest))[0] if found else None

    def _find(self, kind: str, name: bytes) -> Any:
        return self._xtables.find_match(name) if kind == "match" else self._xtables.find_target(name)

    @property
    def _goto(self) -> int:
        return 4 if self.six else 2

    # ---- changing

    def execute(self, line: str) -> None:
        """Carry out one line of a script between `*nat` and `COMMIT`, in our copy of the table."""
        try:
            if line.startswith(":"):
                self._declare(line)
                return
            counters = (0, 0)
            if found := _COUNTED.match(line):
                counters, line = (int(found["packets"]), int(found["bytes"])), found["rest"]
                if max(counters) >= 1 << 64:
                    raise BindingRefused("a counter has 64 bits")
            tokens = spelling.split(line)
            if spelling.join(tokens) != line:
                raise BindingRefused("not spelled as iptables-save spells it")
            match tokens:
                case ["-A", chain, *rule]:
                    entry = self._rule(rule)
                    entry.counters = counters
                    self.table.append_entry(_chain(chain), entry.rule)
                case ["-I", chain, "1", *rule]:
                    self.table.insert_entry(_chain(chain), self._rule(rule).rule, 0)
                case ["-D", chain, *rule]:
                    entry = self._rule(rule)
                    self.table.delete_entry(_chain(chain), entry.rule, entry.mask)
                case ["-N", chain]:
                    self.table.create_chain(_chain(chain))
                case ["-X", chain]:
                    self.table.delete_chain(_chain(chain))
                case _:
                    raise BindingRefused("unknown command")
        except self._iptc.IPTCError as error:
            raise BindingRefused(_plain(error)) from None
        except ValueError as error:
            raise BindingRefused(str(error)) from None

    def _declare(self, line: str) -> None:
        """Make a chain, or empty it where it is there already, as iptables-restore --noflush does."""
        found = _DECLARED.match(line)
        if found is None or found["chain"] in HOOKS:
            raise BindingRefused("not the declaration of a chain managed by lbctl")
        name = _chain(found["chain"])
        if self.table.is_chain(name):
            self.table.flush_entries(name)
        else:
            self.table.create_chain(name)

    def commit(self) -> None:
        """Give our copy to the kernel, which takes all of it or nothing."""
        try:
            self.table.commit()
            # The binding hands the same table out again, for a later section too.
            self.table.refresh()
        except self._iptc.IPTCError as error:
            raise BindingRefused(_plain(error)) from None

    def _rule(self, tokens: Sequence[str]) -> Any:
        """Return the tokens of a rule → a rule of the binding."""
        rule = self._new_rule()
        ip = rule.get_ip()
        words = _Words(tokens)
        extension: Any = None
        while words:
            invert = words.take_if("!")
            word = words.take()
            if word.startswith("--"):
                if extension is None:
                    raise BindingRefused(f"{word} does not belong to a -m or -j")
                self._option(extension, word, words, invert=invert)
                continue
            if extension is not None:
                self._finish(extension)
                extension = None
            value = "" if word == "-f" else words.take()
            if word in {"-m", "-j", "-g"}:
                if invert:
                    raise BindingRefused(f"{word} cannot be negated")
                if rule.target is not None:
                    raise BindingRefused(f"{word} {value} after the target")
                extension = self._extension(rule, word, value)
            else:
                self._selector(ip, word, value, invert=invert)
        if extension is not None:
            self._finish(extension)
        if rule.target is None:
            raise BindingRefused("a rule without a target")
        return rule

    def _selector(self, ip: Any, word: str, value: str, *, invert: bool) -> None:
        flag = 0
        match word:
            case "-s":
                flag = _INV_SOURCE
                self._fill_address(ip.src, ip.smsk, value)
            case "-d":
                flag = _INV_DESTINATION
                self._fill_address(ip.dst, ip.dmsk, value)
            case "-i":
                flag = _INV_IN
                ip.iniface, ip.iniface_mask = _interface(value)
            case "-o":
                flag = _INV_OUT
                ip.outiface, ip.outiface_mask = _interface(value)
            case "-p":
                flag = _INV_PROTOCOL
                ip.proto = _protocol(value)
                if self.six:
                    ip.flags |= _HAS_PROTOCOL_6
            case "-f" if not self.six:
                flag = _INV_FRAGMENT
                ip.flags |= _FRAGMENT
            case _:
                raise BindingRefused(f"unknown option {word}")
        if invert:
            ip.invflags |= flag

    def _fill_address(self, address: Any, mask: Any, text: str) -> None:
        plain, slash, length = text.partition("/")
        size, family = (16, socket.AF_INET6) if self.six else (4, socket.AF_INET)
        try:
            packed = socket.inet_pton(family, plain)
            if not slash:
                bits = b"\xff" * size
            elif length.isascii() and length.isdigit() and int(length) <= size * 8:
                bits = (((1 << int(length)) - 1) << (size * 8 - int(length))).to_bytes(size, "big")
            else:
                bits = socket.inet_pton(family, length)
        except (OSError, ValueError):
            raise BindingRefused(f"{text} is not an address of this family") from None
        masked = bytes(a & b for a, b in zip(packed, bits, strict=True))
        ctypes.memmove(ctypes.addressof(address), masked, size)
        ctypes.memmove(ctypes.addressof(mask), bits, size)

    def _extension(self, rule: Any, word: str, name: str) -> Any:
        chain = word != "-m" and self.table.is_chain(name)
        if not (chain and _CHAIN.match(name)) and not _EXTENSION.match(name):
            raise BindingRefused(f"{name} is neither a chain nor an extension")
        if word == "-g" and not chain:
            raise BindingRefused(f"{name} is not a chain")
        try:
            if word == "-m":
                extension = rule.create_match(name)
            else:
                extension = rule.create_target(name, goto=word == "-g")
        except (self._low.XTablesError, AttributeError) as error:
            raise BindingRefused(f"{word} {name}: {error}") from None
        # The binding shows each option to its parser as if it were the first.
        extension._given = set()
        size = getattr(extension._module, "udata_size", 0)
        if size:
            # The binding's own scratch space is freed before the extension writes into it.
            extension._scratch = (ctypes.c_ubyte * size)()
            extension._module.udata = ctypes.cast(extension._scratch, ctypes.c_void_p)
        return extension

    def _option(self, extension: Any, word: str, words: _Words, *, invert: bool) -> None:
        option = word[2:].encode()
        new, entries = self._options(extension)
        entry = next((entry for entry in entries if entry.name == option), None)
        if entry is None:
            raise BindingRefused(f"{extension.name} has no option {word}")
        values = [words.take()] if (entry.type if new else entry.has_arg) else []
        # Some options of the old interface have more values than one.
        while values and not new and words and not words.first.startswith(("-", "!")):
            values.append(words.take())
        if word in extension._given and not (new and entry.flags & self._low.XTOPT_MULTI):
            raise BindingRefused(f"{extension.name} takes {word} only once")
        extension._given.add(word)
        argv = (ctypes.c_char_p * (len(values) + 1))(option, *(_bytes(value) for value in values))
        try:
            extension._parse(argv, ctypes.c_int(invert), ctypes.pointer(extension.rule.entry))
        except (self._low.XTablesError, ValueError, AttributeError):
            raise BindingRefused(
                f"{extension.name} does not take {'! ' * invert}{word} {' '.join(values)}"
            ) from None

    def _options(self, extension: Any) -> tuple[bool, list[Any]]:
        """Whether an extension's options are of the interface that iptables has since 1.4.11, and they."""
        module = extension._module
        table = extension._orig_options or getattr(module, "x6_options", None)
        if table:
            return True, list(entries(table))
        return False, list(takewhile(lambda entry: entry.name, module.extra_opts or ()))

    def _flags(self, extension: Any) -> int:
        """Return the options that an extension was given so far, as bits."""
        module = extension._module
        return int(module.mflags if hasattr(module, "mflags") else module.tflags)

    def _finish(self, extension: Any) -> None:
        """What an extension demands behind its last option. Before the next one: its flags are global."""
        new, entries = self._options(extension)
        flags = self._flags(extension)
        known = {1 << entry.id for entry in entries} if new else set()
        # The library's own check of these leaves by a jump that the binding has no wrapper for.
        for entry in entries if new else ():
            given = flags >> entry.id & 1
            others = sum(known - {1 << entry.id})
            if entry.flags & self._low.XTOPT_MAND and not given:
                raise BindingRefused(f"{extension.name} needs --{entry.name.decode()}")
            if given and others & (entry.excl & flags | entry.also & ~flags):
                raise BindingRefused(
                    f"{extension.name} does not take --{entry.name.decode()} with what else is there"
                )
        try:
            extension._final_check()
        except self._low.XTablesError:
            raise BindingRefused(f"{extension.name}: options are missing") from None


class _Words:
    """The tokens of a rule, taken from the front."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._left = list(reversed(tokens))

    def __bool__(self) -> bool:
        return bool(self._left)

    @property
    def first(self) -> str:
        return self._left[-1]

    def take(self) -> str:
        if not self._left:
            raise BindingRefused("the rule ends too early")
        return self._left.pop()

    def take_if(self, token: str) -> bool:
        return self._left[-1] == token and bool(self._left.pop())


class _Printed:
    """What C prints while this is entered: extensions print their options to stdout and nowhere else."""

    def __enter__(self) -> _Printed:
        sys.stdout.flush()
        self._libc = ctypes.CDLL(None)
        self._libc.fflush(None)
        self._stdout = os.dup(1)
        self._file = os.memfd_create("options", os.MFD_CLOEXEC)
        self._read = 0
        os.dup2(self._file, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._libc.fflush(None)
        os.dup2(self._stdout, 1)
        os.close(self._stdout)
        os.close(self._file)

    def take(self) -> bytes:
        """Return what was printed since the last call. One line: nothing of a rule may begin another."""
        self._libc.fflush(None)
        size = os.fstat(self._file).st_size - self._read
        text = os.pread(self._file, size, self._read)
        self._read += size
        return b" " + text.strip().replace(b"\n", b" ") if text.strip() else b""


def _chain(name: str) -> str:
    if not _CHAIN.match(name) or name[0] in "-!":
        raise BindingRefused(f"{name!r} cannot be the name of a chain")
    return name


def _interface(name: str) -> tuple[bytes, bytes]:
    """Return a name, or its beginning and `+` → the bytes to compare and which of them count."""
    data = _bytes(name)
    if not 0 < len(data) < _NAME_SIZE:
        raise BindingRefused(f"{name!r} cannot be the name of an interface")
    if data.endswith(b"+"):
        return data[:-1], b"\xff" * (len(data) - 1)
    return data, b"\xff" * (len(data) + 1)


def _protocol(text: str) -> int:
    if text in _NUMBERS:
        return _NUMBERS[text]
    if text.isascii() and text.isdigit() and 0 < int(text) < 256:
        return int(text)
    try:
        return socket.getprotobyname(text)
    except OSError:
        raise BindingRefused(f"unknown protocol {text}") from None


def _protocol_name(number: int) -> str | None:
    class Entry(ctypes.Structure):
        _fields_ = (("name", ctypes.c_char_p),)

    find = ctypes.CDLL(None).getprotobynumber
    find.restype = ctypes.POINTER(Entry)
    found = find(number)
    return found[0].name.decode("ascii", "replace") if found else None


def _not(inverted: int) -> bytes:
    return b" !" if inverted else b""


def _spell_address(option: bytes, address: bytes, mask: bytes, inverted: int) -> bytes:
    if not any(mask) and not any(address) and not inverted:
        return b""
    bits = int.from_bytes(mask, "big")
    length = bits.bit_count()
    leading = bits == ((1 << length) - 1) << (len(mask) * 8 - length)
    family = socket.AF_INET if len(mask) == 4 else socket.AF_INET6
    end = str(length) if leading else socket.inet_ntop(family, mask)
    return _not(inverted) + b" %s %s/%s" % (option, socket.inet_ntop(family, address).encode(), end.encode())


def _spell_interface(option: bytes, name: bytes, mask: bytes, inverted: int) -> bytes:
    if not mask:
        return b""
    more = b"+" if len(mask) < _NAME_SIZE and len(name) >= len(mask) else b""
    return _not(inverted) + b" " + option + b" " + name[: len(mask)] + more


def _bytes(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise BindingRefused("a NUL in a value")
    return data


def _plain(error: Exception) -> str:
    """Return the binding puts bytes into its messages by their repr."""
    return re.sub(r"""\bb(['"])(.*)\1""", r"\2", str(error))


@contextmanager
def _lock() -> Iterator[None]:
    """The lock of the iptables commands, in the place where they look for it."""
    path = os.environ.get("XTABLES_LOCKFILE") or _LOCK
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BindingRefused(f"cannot open the lock {path}: {error.strerror}") from None
    deadline = time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BindingRefused(
                        f"another program has held {path} for {LOCK_SECONDS} seconds"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def load(word: str, script: str, *, check: bool) -> None:
    """Run a script, each section as one commit; with `check`, all of it but the commits."""
    other = "-4" if word == SIX else "-6"
    with _lock():
        table: XtTable | None = None
        committed = False
        for number, raw in enumerate(script.split("\n"), 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            option, _, rest = line.partition(" ")
            if option == other:
                continue
            try:
                if table is None and line[:1] == "*" and line[1:] in TABLES:
                    table, committed = XtTable(word, line[1:]), False
                elif table is not None and line == "COMMIT":
                    if not check:
                        table.commit()
                    table, committed = None, True
                elif table is not None:
                    table.execute(rest if option in {"-4", "-6"} else line)
                else:
                    raise BindingRefused("outside of *table … COMMIT")
            except BindingRefused as error:
                raise BindingRefused(f"line {number}: {error}") from None
        if not committed:
            raise BindingRefused("the script does not end with COMMIT")


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    match list(arguments):
        case ["save" as verb, word, *tables] if word in (FOUR, SIX) and {*tables} <= {*TABLES}:
            pass
        case [("load" | "check") as verb, word] if word in (FOUR, SIX):
            pass
        case _:
            print(__doc__, file=sys.stderr)  # noqa: T201 (a command)
            return 2
    try:
        if verb == "save":
            for table in tables:
                sys.stdout.buffer.write(XtTable(word, table).dump())
        else:
            script = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
            load(word, script, check=verb == "check")
    except Exception as error:  # noqa: BLE001 (whatever the binding raises, our caller reads one line)
        sys.stderr.buffer.write(reason(error).encode("utf-8", "surrogateescape") + b"\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
