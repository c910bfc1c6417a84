"""python-iptables and the layout of its options, for a process that starts fast: without lbctl and site.

    python -S -P binding.py FOLDER 'NAME --OPTION'…

prints which of these options of targets (in capitals) and matches the libraries lack, with "; " between them.
FOLDER is where the binding is.

The binding's layout of struct xt_option_entry is that of iptables before 1.8.11, which gave it one field more
under the same version of the library. So `_options_layout` finds out which one the library has.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NAME_SIZE = 16
#: What the layout of options is recognized by.
_KNOWN_MATCH = b"statistic"
_KNOWN_OPTIONS = [b"every", b"mode", b"packet", b"probability"]
_POINTER = ctypes.sizeof(ctypes.c_void_p)


class BindingRefused(Exception):
    """Something in the script, or in the kernel, that stops it."""


@cache
def binding() -> tuple[Any, Any]:
    """Modules iptc and iptc.xtables.

    They look for their own wrapper library as for one of the system, which has ctypes run gcc several times
    before they find it beside themselves; and where setuptools is installed, they import it for one path.
    Without either this takes 0.02 s, not 0.3.
    """
    look_up = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None if "xtwrapper" in name else look_up(name)
    sys.modules["distutils"] = None  # type: ignore[assignment]  # Python's word for "not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their sources are of Python 2, and said to be so by newer ones
            iptc, low = importlib.import_module("iptc"), importlib.import_module("iptc.xtables")
    finally:
        ctypes.util.find_library = look_up
        del sys.modules["distutils"]
    # The binding leaves C through a Python function, by longjmp: no Python survives that for sure.
    low._xt_globals.exit_err = ctypes.cast(low._throw, low._EXIT_FN)
    # The binding steps through the options by its own layout.
    low.xtables._option_lookup = lambda _, options, name: next(
        (entry for entry in entries(options) if entry.name == name), None
    )
    # `_finish` checks all of it, and more.
    low.xtables._options_fcheck = lambda *_: None
    return iptc, low


@cache
def _options_layout() -> Any:
    """Return the layout of an option that the library has; raise `BindingRefused` where none is right.

    The evidence: with one of them, the options of a match that has had the same ones since iptables 1.4.11
    have their names. What a wrong layout takes for a pointer must not be followed, so the memory is read by
    the kernel, which refuses what is not there.
    """
    _, low = binding()
    match = low.xtables(low.NFPROTO_IPV4).find_match(_KNOWN_MATCH)
    table = match and getattr(match[0], "x6_options", None)
    if not table:
        raise BindingRefused(f"the options of {_KNOWN_MATCH.decode()} cannot be found")
    #: Since iptables 1.8.11 (commit f7056d0f), with the base of a number.
    grown = type("xt_option_entry", (low.xt_option_entry,), {"_fields_": (("base", ctypes.c_uint),)})
    address = ctypes.cast(table, ctypes.c_void_p).value or 0
    for layout_ in (low.xt_option_entry, grown):
        if names(address, ctypes.sizeof(layout_)) == _KNOWN_OPTIONS:
            return layout_
    raise BindingRefused("python-iptables does not know how this libxtables lays out its options")


def names(address: int, size: int) -> list[bytes]:
    """The names in a table of options that take `size` bytes each; those before the first that is none."""
    found: list[bytes] = []
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        while len(found) <= len(_KNOWN_OPTIONS):
            try:
                pointer = os.pread(memory.fileno(), _POINTER, address + len(found) * size)
                where = int.from_bytes(pointer, sys.byteorder)
                name = os.pread(memory.fileno(), _NAME_SIZE, where) if where else b""
            except (OSError, OverflowError):
                return []
            if not name:
                break
            found.append(name.partition(b"\0")[0])
    return sorted(found)


def entries(table: Any) -> Iterator[Any]:
    """Yield the options of an extension, one after another."""
    address = ctypes.cast(table, ctypes.c_void_p).value
    size, kind = ctypes.sizeof(_options_layout()), table._type_
    while address and (entry := kind.from_address(address)).name:
        yield entry
        address += size


def lacking(options: Sequence[str]) -> Iterator[str]:
    """Yield those of some options that the libraries lack; raise `BindingRefused` for unreadable ones."""
    _, low = binding()
    tables = low.xtables(low.NFPROTO_IPV4)
    for each in options:
        name, _, option = each.partition(" --")
        find = tables.find_target if name.isupper() else tables.find_match
        found = find(name.encode())
        if not found or all(entry.name != option.encode() for entry in entries(found[0].x6_options)):
            yield each


def main(folder: str, options: Sequence[str]) -> int:
    """See the module."""
    sys.path.append(folder)
    try:
        sys.stdout.write("; ".join(lacking(options)) + "\n")
    except Exception as error:  # noqa: BLE001 (whatever the binding raises, our caller reads one line)
        sys.stderr.write(reason(error) + "\n")
        return 1
    return 0


def reason(error: Exception) -> str:
    """Return what went wrong, in one line."""
    return " ".join(
        (str(error) if isinstance(error, BindingRefused) else f"{type(error).__name__}: {error}").split()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
