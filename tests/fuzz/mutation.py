"""Input made from input: flips, cuts, splices, tokens that parsers stumble over. The same random, the same input."""

import random
from collections.abc import Callable, Sequence

MAX_LENGTH = 1 << 16  # bytes; what is slow is slow below it, too
NUMBERS = (b"0", b"-1", b"1e999", b"-0", b"1E+400", b"9" * 25, b"4294967296", b"NaN", b"1e-9999", b"0.1")
JSON_TOKENS = (
    *NUMBERS, b"null", b"true", b'""', b"{}", b"[]", b'"\\ud800"', b'"\\u0000"', b"[[[[[[[[", b'{"a":' * 40,
    b'"role":"tool",', b'"content":', b'"tool_calls":[{}],', b'"type":"image_url",', b'"model":"",', b"\xff", b"\x00",
    b'"\\u001b[2J"', b'"$ref":"#",', b'"usage":{"prompt_tokens":1e400},', b'"choices":[],', b",", b'"', b"\xef\xbb\xbf",
)  # fmt: skip
SSE_TOKENS = (b"\r", b"\n", b"\r\n", b"\n\n", b"data:", b"data: [DONE]\n\n", b":", b"event: error\n", b"\xef\xbb\xbf")
BINARY_TOKENS = (b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x10", b"\x00" * 16, b":event-type")

type Step = Callable[[random.Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


def _flip(chance, data, _others, _tokens):
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _cut(chance, data, _others, _tokens):
    return data[: chance.randrange(len(data))]


def _drop(chance, data, _others, _tokens):
    start, end = _span(chance, data)
    return data[:start] + data[end:]


def _repeat(chance, data, _others, _tokens):
    start, end = _span(chance, data)
    return data[:end] + data[start:end] * chance.choice((1, 2, 30)) + data[end:]


def _insert(chance, data, _others, tokens):
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(tokens) + data[at:]


def _overwrite(chance, data, _others, tokens):
    start, end = _span(chance, data)
    return data[:start] + chance.choice(tokens) + data[end:]


def _splice(chance, data, others, _tokens):
    other = chance.choice(others)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


STEPS: tuple[Step, ...] = (_flip, _flip, _cut, _drop, _repeat, _insert, _insert, _overwrite, _overwrite, _splice)


def _span(chance, data):
    start = chance.randrange(len(data))
    return start, min(len(data), start + chance.choice((1, 2, 8, 64, 1024)))


def mutated(chance: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return one of *seeds* after one to six changes, of `MAX_LENGTH` bytes at the most."""
    data = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = chance.choice(STEPS)(chance, data or b"x", seeds, tokens)
    return data[:MAX_LENGTH]
