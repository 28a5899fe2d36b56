"""Reasons why a record cannot be decoded: which field is wrong and what it takes, or the bytes.

msgspec says which field it is and what type it expects. These functions add what it leaves out:
the choices of a field that takes few values, and what the bytes are that are not JSON.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors that decoding a record may raise. Only msgspec.ValidationError is about a field."""

_SHOWN_CHARS = 40
_STEP = re.compile(r"\.([^.\[\]]+)|\[[^\]]*\]")
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_AT_BYTE = re.compile(r"\(byte (\d+)\)$")
_NOT_NUMBERS = (b"NaN", b"Infinity", b"-Infinity")
_STARTS = {
    codecs.BOM_UTF16_LE: "UTF-16 text, where JSON is UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text, where JSON is UTF-8",
    codecs.BOM_UTF8: "begins with a byte-order mark, which JSON does not have: leave it out",
}


def field_reason(type_: Any, error: msgspec.ValidationError) -> tuple[str, str]:
    """Return (path, reason) of what is wrong with a record that was decoded as this type.

    The path is like ``product_info.price`` or ``data.products[0]``, and empty where it is the
    record as a whole.
    """
    reason, _, path = str(error).partition(" - at `")
    path = path.rstrip("`").removeprefix("$").lstrip(".")
    if reason.startswith("Object missing required field `"):
        missing = reason.split("`")[1]
        return f"{path}.{missing}" if path else missing, "required, and missing"
    if reason.startswith(("Invalid enum value ", "Invalid value ")):
        value = reason.partition("value ")[2]
        shown = value if len(value) <= _SHOWN_CHARS else value[:_SHOWN_CHARS] + "..."
        return path, f"takes {_listed(_choices(type_, path))}, not {shown}"
    if reason.endswith((">= 0", ">= 0.0")):
        return path, "is negative, and must be 0 or more"
    if reason.endswith("of length >= 1"):
        return path, "is empty"
    return path, reason[:1].lower() + reason[1:]


def bytes_reason(data: bytes, error: Exception) -> str:
    """Return what is wrong with bytes that are not one JSON value; error is one of UNREADABLE."""
    if not data.strip():
        return "empty"
    for start, reason in _STARTS.items():
        if data.startswith(start):
            return reason
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start})"
    return _half_pair_reason(data) or _not_number_reason(data, str(error)) or str(error)


def _not_number_reason(data: bytes, said: str) -> str | None:
    found = _AT_BYTE.search(said)
    if found and data.startswith(_NOT_NUMBERS, int(found[1])):
        return f"NaN and Infinity are not numbers in JSON: send null (byte {found[1]})"
    return None


def _half_pair_reason(data: bytes) -> str | None:
    """Return the reason for the first escape that is half of a pair; None without one."""
    half: re.Match[bytes] | None = None
    for escape in _ESCAPE.finditer(data):
        unit = int(escape[1], 16) if escape[1] else 0
        is_low = 0xDC00 <= unit <= 0xDFFF
        if half is not None:
            if not is_low or escape.start() != half.end():
                break
            half = None
        elif 0xD800 <= unit <= 0xDFFF:
            half = escape
            if is_low:
                break
    if half is None:
        return None
    return (
        f"half of a surrogate pair, {half[0].decode()}: a character beyond U+FFFF takes two "
        f"escapes (byte {half.start()})"
    )


@lru_cache(256)
def _choices(type_: Any, path: str) -> tuple[Any, ...]:
    """Return the values that the field at this path takes, of a type that takes only some."""
    types = [inspect.type_info(type_)]
    for step in _STEP.finditer(f".{path}"):
        types = [inner for outer in types for inner in _inside(outer, step[1])]
    return tuple(dict.fromkeys(value for one in types for value in _values(one)))


def _alternatives(type_: inspect.Type) -> Iterator[inspect.Type]:
    """Yield the members of a union, or the type itself."""
    if isinstance(type_, inspect.UnionType):
        yield from type_.types
    else:
        yield type_


def _inside(outer: inspect.Type, field: str | None) -> Iterator[inspect.Type]:
    """Yield what a field of a type may be; None is any item of a list or value of an object."""
    for one in _alternatives(outer):
        if isinstance(one, inspect.StructType) and field is not None:
            if field == one.tag_field:
                yield inspect.LiteralType(values=(one.tag,))
            yield from (each.type for each in one.fields if each.encode_name == field)
        elif isinstance(one, inspect.ListType) and field is None:
            yield one.item_type
        elif isinstance(one, inspect.DictType) and field is None:
            yield one.value_type


def _values(type_: inspect.Type) -> Iterator[Any]:
    for one in _alternatives(type_):
        if isinstance(one, inspect.LiteralType):
            yield from one.values


def _listed(choices: tuple[Any, ...]) -> str:
    texts = [str(choice) for choice in choices]
    return " or ".join([*([", ".join(texts[:-1])] if texts[1:] else []), *texts[-1:]])
