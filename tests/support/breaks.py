"""Ways to break a text: each takes numbers and bytes, and gives other bytes."""

import re
from pathlib import Path
from random import Random

_HERE = Path(__file__).parents[1] / "property"
#: Texts of the shapes that real programs and people write.
SEEDS = tuple(path.read_bytes() for path in sorted((_HERE / "seeds").iterdir()))

#: Words of every language, and what languages are broken with.
_WORDS = (_HERE / "words.txt").read_text(encoding="utf-8").split()
_ODD = (
    "\0", "\ufeff", "\u202e", "\x1b[31m", "\x9b1m", "\u2028", "\x85", "\x0c", "\r", "\r\n", "\t", "é",
    "\u0661", "\U000e0001", "\n\n", " ",
)  # fmt: skip
_BYTES = (
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\r\n", b"\r", b"\x1b", b"\n", b'"',
    b"\\", b"\x7f", b"\x80",
)  # fmt: skip
_NUMBERS = (0, 1, 2, 3, 16, 255, 256, 65535, 65536, 1 << 31, (1 << 32) - 1, 1 << 32, 10**20, -1)
_PAIRS = (
    ("{", "}"),
    ("[", "]"),
    ("(", ")"),
    ("$(", ")"),
    ('{"a":', "}"),
    ("if x; then ", "; fi\n"),
    ("table ip t { chain c { ", "\n}}"),
    ("x = [", "]"),
    ("a.", ""),
    ('"', '"'),
)


def broken(random: Random, data: bytes) -> bytes:
    """`data` with one thing changed."""
    return random.choice(_BREAKS)(random, data)


def flooded(random: Random, data: bytes) -> bytes:
    """`data`, made large or deep."""
    return random.choice(_FLOODS)(random, data)


def _part(random: Random, data: bytes, size: int) -> tuple[int, int]:
    begin = random.randint(0, len(data))
    return begin, min(len(data), begin + random.randint(0, size))


def _bytes(random: Random, data: bytes) -> bytes:
    begin, end = _part(random, data, 4)
    return data[:begin] + random.choice(_BYTES) + data[end:]


def _odd(random: Random, data: bytes) -> bytes:
    begin, end = _part(random, data, 2)
    return data[:begin] + random.choice(_ODD).encode() + data[end:]


def _cut(random: Random, data: bytes) -> bytes:
    begin, end = _part(random, data, 200)
    return data[:begin] + data[end:]


def _truncated(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _other_word(random: Random, data: bytes) -> bytes:
    parts = data.split(b" ")
    parts[random.randrange(len(parts))] = random.choice(_WORDS).encode()
    return b" ".join(parts)


def _one_more_word(random: Random, data: bytes) -> bytes:
    parts = data.split(b" ")
    parts.insert(random.randint(0, len(parts)), random.choice(_WORDS).encode())
    return b" ".join(parts)


def _other_number(random: Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data
    at = random.choice(found)
    return data[: at.start()] + str(random.choice(_NUMBERS)).encode() + data[at.end() :]


def _lines(random: Random, data: bytes) -> bytes:
    """A line less, twice, elsewhere, or from another text."""
    lines = data.split(b"\n")
    at, to = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, lines[at])
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case _:
            lines.insert(to, random.choice(random.choice(SEEDS).split(b"\n")))
    return b"\n".join(lines)


def _spliced(random: Random, data: bytes) -> bytes:
    """The beginning of one text and the end of another."""
    other = random.choice(SEEDS)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _other_endings(random: Random, data: bytes) -> bytes:
    return data.replace(b"\n", random.choice([b"\r\n", b"\r", b";\n", b" \\\n", b"\n\n"]))


_BREAKS = (
    _bytes,
    _odd,
    _cut,
    _truncated,
    *[_other_word] * 2,
    _one_more_word,
    *[_other_number] * 2,
    *[_lines] * 2,
    _spliced,
    _other_endings,
)


def _repeated(random: Random, data: bytes) -> bytes:
    """One of the lines, as one long line or as many."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    piece = lines[at] + random.choice([b"\n", b" ", b";"])
    lines[at] = piece * (random.choice([1000, 20_000, 200_000]) // len(piece))
    return b"\n".join(lines)


def _nested(random: Random, data: bytes) -> bytes:
    opening, closing = random.choice(_PAIRS)
    depth = random.choice([50, 1000, 20_000])
    begin = random.randint(0, len(data))
    deep = opening * depth + closing * random.choice([0, depth])
    return data[:begin] + deep.encode() + data[begin:]


def _chained(random: Random, data: bytes) -> bytes:
    """Chains that lead on and on, each on several ways."""
    count, ways = random.choice([(40, 2), (200, 2), (300, 1), (12, 6)])
    condition = random.choice(
        [
            "",
            "-m statistic --mode nth --every 2 --packet 0",
            "-m statistic --mode random --probability 0.5",
            "-m tcp --dport {}",
        ]
    )
    lines = ["*nat", ":OUTPUT ACCEPT [0:0]", *(f":C{i} - [0:0]" for i in range(count + 1)), "-A OUTPUT -j C0"]
    lines += [
        f"-A C{i} -p tcp {condition.format(i + 1)} -j C{i + 1}" for i in range(count) for _ in range(ways)
    ]
    lines += [f"-A C{count} -p tcp -j REDIRECT --to-ports 1", "COMMIT", ""]
    return "\n".join(lines).encode() + data


_FLOODS = (_repeated, _nested, _chained)
