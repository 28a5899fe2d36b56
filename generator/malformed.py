"""Ways in which a record can be broken on its way to us."""

from __future__ import annotations

from collections.abc import Callable

from footfall.schemas.topics import RECORD_BYTES_MAX

NESTING_DEPTH = 20_000
"""Depth of nesting, far beyond that of decoders; a tag has two levels."""

TOO_LARGE = "too_large"

Spoiler = Callable[[bytes, int], bytes]


def spoil(kind: str, value: bytes, chance: int) -> bytes:
    """Break the JSON of a user tag in one way; ``chance`` chooses among the variants."""
    return _SPOILERS[kind](value, chance)


def _not_json(value: bytes, chance: int) -> bytes:
    return (b"view of a product", b"time=1647951300000&action=VIEW", b"<tag/>", b"\x00")[
        chance % 4
    ]


def _cut_json(value: bytes, chance: int) -> bytes:
    return value[: 1 + chance % (len(value) - 1)]


def _wrong_types(value: bytes, chance: int) -> bytes:
    return _replaced(
        value,
        (
            (b'"price":', b'"price":"12.50","was":'),
            (b'"time":', b'"time":1647951300000,"was":'),
            (b'"cookie":', b'"cookie":[17],"was":'),
            (b'"product_info":', b'"product_info":"none","was":'),
            (b'"device":', b'"device":"FRIDGE","was":'),
            (b'"action":', b'"action":true,"was":'),
        ),
        chance,
    )


def _missing_field(value: bytes, chance: int) -> bytes:
    return _replaced(
        value,
        (
            (b'"cookie":', b'"cooky":'),
            (b'"time":', b'"at":'),
            (b'"origin":', b'"source":'),
            (b'"product_info":', b'"product":'),
            (b'"brand_id":', b'"brand":'),
            (b'"price":', b'"cost":'),
        ),
        chance,
    )


def _null(value: bytes, chance: int) -> bytes:
    if chance % 4 == 0:
        return b"null"
    return _replaced(
        value,
        (
            (b'"cookie":', b'"cookie":null,"was":'),
            (b'"product_info":', b'"product_info":null,"was":'),
            (b'"price":', b'"price":null,"was":'),
        ),
        chance,
    )


def _nan(value: bytes, chance: int) -> bytes:
    number = (b"NaN", b"Infinity", b"-Infinity")[chance % 3]
    return value.replace(b'"price":', b'"price":' + number + b',"was":', 1)


def _huge_number(value: bytes, chance: int) -> bytes:
    number = (b"1e999", b"2147483648", b"9" * 400, b"-99999999999999999999")[chance % 4]
    return value.replace(b'"price":', b'"price":' + number + b',"was":', 1)


def _empty_line(value: bytes, chance: int) -> bytes:
    return b""


def _invalid_utf8(value: bytes, chance: int) -> bytes:
    broken = (b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"\xf5\x80\x80\x80")[chance % 4]
    return value.replace(b'"cookie":"', b'"cookie":"' + broken, 1)


def _date_out_of_range(value: bytes, chance: int) -> bytes:
    times = (
        b"2022-02-30T12:15:00.000Z",
        b"2022-13-01T12:15:00.000Z",
        b"9999-12-31T23:59:59.999Z",
        b"1969-12-31T23:59:59.999Z",
        b"2022-03-22T25:61:00.000Z",
    )
    return _with_time(value, times[chance % 5])


def _future_date(value: bytes, chance: int) -> bytes:
    return _with_time(value, b"%d-03-22T12:15:00.000Z" % (2060 + chance % 40))


def _deep_nesting(value: bytes, chance: int) -> bytes:
    nested = b"[" * NESTING_DEPTH + b"]" * NESTING_DEPTH
    field = (b'"extra":', b'"product_info":')[chance % 2]
    return b"{" + field + nested + b"," + value[1:]


def _too_large(value: bytes, chance: int) -> bytes:
    # Everything but its size is right, as where a client sends a whole page as the origin.
    filler = b"x" * (RECORD_BYTES_MAX + 1 + chance % 100_000)
    return value.replace(b'"origin":"', b'"origin":"' + filler, 1)


def _with_time(value: bytes, time: bytes) -> bytes:
    start = value.index(b'"time":"') + len(b'"time":"')
    return value[:start] + time + value[value.index(b'"', start) :]


def _replaced(value: bytes, variants: tuple[tuple[bytes, bytes], ...], chance: int) -> bytes:
    old, new = variants[chance % len(variants)]
    return value.replace(old, new, 1)


_SPOILERS: dict[str, Spoiler] = {
    "not_json": _not_json,
    "cut_json": _cut_json,
    "wrong_types": _wrong_types,
    "missing_field": _missing_field,
    "null": _null,
    "nan": _nan,
    "huge_number": _huge_number,
    "empty_line": _empty_line,
    "invalid_utf8": _invalid_utf8,
    "date_out_of_range": _date_out_of_range,
    "future_date": _future_date,
    "deep_nesting": _deep_nesting,
    TOO_LARGE: _too_large,
}

MALFORMED_KINDS = tuple(_SPOILERS)
