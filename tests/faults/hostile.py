"""Hostile versions of a file's bytes: what cameras, downloads, editors and strangers make of it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

VALUES = (
    *("null", "true", "false", "0", "-1", "1e400", "-1e308", "1e-320", "NaN", "Infinity"),
    *("9223372036854775808", "[]", "{}", "[[]]", "[[],[1]]", '""', '"[1]"', '"nan"'),
    *('"\\u0000"', '"\\ud83d"', '"\\udce9"', '"../../x"', '"/dev/zero"'),
    *("1" * 400, "9" * 5000, "[" * 5000, '{"a":' * 3000, f'"{"x" * 100_000}"'),
)
WHOLE = (
    b"",
    b"\n\n",
    b"\0" * 64,
    b"<!DOCTYPE html><html><body>403 Forbidden</body></html>",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    b"PK\x05\x06" + b"\0" * 18,
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999,), }\n",
    b"\x93NUMPY\x01\x00\xff\xff",
    b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    b"\xff\xfe{\0}\0",
    b"[" * 100_000,
    b"#EXTM3U\nhttp://127.0.0.1/x.ts\n",
    b"a: &a [x]\nb: [*a, *a, *a]\n",
)
Change = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, rng: random.Random) -> bytes:
    """A few bits."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    """An end, a beginning, or a piece in the middle is missing."""
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice((content[:last], content[first:], content[:first] + content[last:]))


def repeat(content: bytes, rng: random.Random) -> bytes:
    """A piece comes twice, or in the place of another."""
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    place = rng.randrange(len(content) + 1)
    last = min(last, first + 4096)
    return content[:place] + content[first:last] + content[place + rng.choice((0, last - first)) :]


def put_number(content: bytes, rng: random.Random) -> bytes:
    """Four or eight bytes that a reader may take for a size."""
    number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10 * 2**30))
    width = rng.choice((4, 8))
    place = rng.randrange(max(min(len(content), rng.choice((64, 4096, 2**30))), 1))
    value = (number % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
    return content[:place] + value + content[place + width :]


def put_value(content: bytes, rng: random.Random) -> bytes:
    """A value of JSON or YAML is another one."""
    found = list(re.finditer(rb'"[^"\n]*"|-?\d+(?:\.\d+)?|true|false|null', content[:20_000]))
    if not found:
        return flip(content, rng)
    start, end = rng.choice(found).span()
    return content[:start] + rng.choice(VALUES).encode() + content[end:]


def put_key(content: bytes, rng: random.Random) -> bytes:
    """A key is gone, comes twice, or is another one's."""
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    try:
        record = json.loads(lines[number])
        key = rng.choice(list(record))
    except (ValueError, RecursionError, TypeError, IndexError):
        return cut(content, rng)
    value = record.pop(key)
    rest = json.dumps(record)[1:]
    text = json.dumps(value)
    other = rng.choice(list(record) or [key])
    lines[number] = rng.choice(
        (
            f"{{{rest}",
            f'{{"{key}": {text}, "{key}": {text}, {rest}',
            f'{{"{other}": {text}, {rest}',
            f'{{"{key}": [{text}], {rest}',
        )
    ).encode("utf-8", "surrogatepass")  # a key may be half a character
    return b"\n".join(lines)


def encode(content: bytes, rng: random.Random) -> bytes:
    """Text in another encoding, with other line ends, or with a mark."""
    text = content.decode("utf-8", "replace").replace("e", "é", 3)
    encoding = rng.choice(("latin-1", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp1252"))
    changed = text.encode(encoding, "replace")
    return changed.replace(b"\n", rng.choice((b"\n", b"\r\n", b"\r")))


def replace(content: bytes, rng: random.Random) -> bytes:
    """Another kind of file."""
    return rng.choice((*WHOLE, rng.randbytes(rng.choice((1, 100, 5000)))))


TEXT: tuple[Change, ...] = (
    flip,
    cut,
    repeat,
    put_value,
    put_value,
    put_key,
    put_key,
    encode,
    replace,
)
BINARY: tuple[Change, ...] = (flip, flip, cut, repeat, put_number, put_number, replace)
