"""Find where the statement of an INSERT ends and its data begins, by pure functions.

The engine's parser decides in the end: the statement that is found here is inspected as the
engine reads it (``_clickhouse_statements``) before it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

HEAD_BYTES_MAX = 262_144
"""The statement of an INSERT ends within this many bytes (ClickHouse's max_query_size)."""

_TOKEN = re.compile(
    rb"""
      (?P<skip>  \s+ | --[^\n]* | \#[ !][^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted> '(?:[^'\\]|\\.)*(?:'|\Z) | "(?:[^"\\]|\\.)*(?:"|\Z) | `(?:[^`\\]|\\.)*(?:`|\Z) )
    | (?P<word>  [A-Za-z_][A-Za-z0-9_]* )
    | (?P<other> [0-9][A-Za-z0-9_.]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BEFORE_NAMES = frozenset({b"INSERT", b"INTO", b"TABLE", b"FUNCTION", b"."})
_OPENING, _CLOSING = frozenset({b"(", b"[", b"{"}), frozenset({b")", b"]", b"}"})


@dataclass(frozen=True, slots=True)
class Token:
    """A word (in upper case), quoted text or sign, with its end and its depth in brackets."""

    kind: str
    text: bytes
    end: int
    depth: int


@dataclass(frozen=True, slots=True)
class InsertWithData:
    """An INSERT whose data follows its statement."""

    statement: bytes
    """The text up to its SETTINGS, or to FORMAT or VALUES, which are left out."""
    settings: bytes
    """The SETTINGS clause with its word, or nothing."""
    data_format: str
    data_starts: int
    """Position of the first byte of data in the text."""


def tokens(text: bytes) -> Iterator[Token]:
    """Yield the significant tokens of a statement, without comments and white space."""
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "skip":
            continue
        found = match.group()
        if found in _CLOSING:
            depth -= 1
        yield Token(kind, found.upper() if kind == "word" else found, match.end(), depth)
        if found in _OPENING:
            depth += 1


def insert_with_data(text: bytes) -> InsertWithData | None:
    """Find where the data of an INSERT begins; return None for any other statement.

    ``text`` is the beginning of a request, at least its first HEAD_BYTES_MAX bytes.
    """
    stream = tokens(text)
    first = next(stream, None)
    if first is None or first.text != b"INSERT":
        return None
    before = first.text
    settings_start = -1
    for token in stream:
        # Where a name is expected, a word begins no clause: a table may be called "format".
        if token.kind == "word" and token.depth == 0 and before not in _BEFORE_NAMES:
            start = token.end - len(token.text)
            if token.text in (b"VALUES", b"FORMAT"):
                data = _data_format(token, stream, text)
                cut = start if settings_start < 0 else settings_start
                return data and InsertWithData(text[:cut], text[cut:start], *data)
            if token.text == b"SETTINGS":
                settings_start = start
            if token.text in (b"SELECT", b"WITH", b"FROM", b"WATCH"):
                return None
        before = token.text
    return None


def _data_format(clause: Token, rest: Iterator[Token], text: bytes) -> tuple[str, int] | None:
    if clause.text == b"VALUES":
        return "Values", clause.end
    name = next(rest, None)
    if name is None or name.kind != "word":
        return None
    written = text[name.end - len(name.text) : name.end].decode()
    return written, _after_one_line_end(text, name.end)


def _after_one_line_end(text: bytes, position: int) -> int:
    while text[position : position + 1] in (b" ", b"\t", b"\f"):
        position += 1
    if text[position : position + 1] == b"\r":
        position += 1
    if text[position : position + 1] == b"\n":
        position += 1
    return position
