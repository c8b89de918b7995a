"""Damage to files: bits, ends, parts of others, and values that readers may not expect."""

import random
import re
from collections.abc import Sequence

_VALUE = re.compile(rb'-?\d+(?:\.\d+)?|"[^"\n]{0,200}"|>[^<>\n]{1,200}<')
TOKENS = tuple(token.encode() for token in (
    "", "0", "-1", "1", "2147483648", "-9223372036854775809", "18446744073709551616", "1" + "0" * 400, "9" * 5000,
    "1e308", "-1e999", "NaN", "Infinity", "0x10", "null", "true", "[]", "{}", "[[]]", "[" * 2000, '{"a":' * 2000, '"',
    "\\", "\0", '"\\ud800"', "\ufeff", "\u00e9", "\u0661", '""', '"' + "a" * 300 + '"', "\r\n", ",", ";", '"."', '".."',
    '"../outside.png"', '"../../../../etc/passwd"', '"/etc/passwd"', '"..\\\\outside.png"', '"C:\\\\outside.png"',
    '"file:///etc/passwd"'))


def mutated(draw: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One of ``seeds`` with one to four changes."""
    data = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 1, 1, 2, 4))):
        data = draw.choice(CHANGES)(draw, data, seeds, tokens)
    return data


def flip(draw, data, seeds, tokens):
    """Flip a bit."""
    if not data:
        return data
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def early_flip(draw, data, seeds, tokens):
    """Flip a bit of the header."""
    return flip(draw, data[:64], seeds, tokens) + data[64:]


def overwrite(draw, data, seeds, tokens):
    """Extreme bytes, as of a length."""
    at = draw.randrange(len(data) + 1)
    new = draw.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * draw.choice((1, 2, 4, 8))
    return data[:at] + new + data[at + len(new) :]


def truncate(draw, data, seeds, tokens):
    """Cut the end off."""
    return data[: draw.randrange(len(data) + 1)]


def delete(draw, data, seeds, tokens):
    """Leave a part out."""
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.choice((1, 4, 32, 256)) :]


def repeat(draw, data, seeds, tokens):
    """A part twice, or many times."""
    start = draw.randrange(len(data) + 1)
    end = start + draw.choice((1, 8, 64, 512))
    return data[:end] + data[start:end] * draw.choice((1, 2, 50)) + data[end:]


def splice(draw, data, seeds, tokens):
    """The start of one and the end of another."""
    other = draw.choice(seeds)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def insert(draw, data, seeds, tokens):
    """A word of the dictionary."""
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice((*TOKENS, *tokens)) + data[at:]


def replace_value(draw, data, seeds, tokens):
    """A word of the dictionary instead of a number or a text."""
    found = [match.span() for match in _VALUE.finditer(data[:20_000])]
    if not found:
        return insert(draw, data, seeds, tokens)
    start, end = draw.choice(found)
    new = draw.choice((*TOKENS, *tokens))
    return data[:start] + (b">" + new.strip(b'"') + b"<" if data[start : start + 1] == b">" else new) + data[end:]


CHANGES = (flip, early_flip, overwrite, truncate, delete, repeat, splice, insert, replace_value, replace_value)
