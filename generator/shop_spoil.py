"""Records of the simulated shop that are broken on their way: no flow can decode them."""

from __future__ import annotations

from collections.abc import Callable

from footfall.generator.malformed import NESTING_DEPTH

_TIME = (b'"time":"', b'"timestamp":"', b'"event_time":"', b'"time":"')
_NAME = (b'"action":"', b'"event":"', b'"event_type":"', b'"action":"')
_USER = (b'"userId":', b'"user_id":', b'"user_id":', b'"cookie":')
"""Fields, as _TIME and _NAME, that every record has, by topic in the order of
shop_records.TOPICS."""

_BAD_TIMES = (
    b"yesterday",
    b"2022-02-30T12:15:00.000Z",
    b"2022-13-01T12:15:00.000Z",
    b"9999-12-31T23:59:59.999Z",
    b"1969-12-31T23:59:59.999Z",
    b"2098-03-22T12:15:00.000Z",
)
_NOT_OURS = (b"view of a product", b"<tag/>", b"\x00", b"[1,2", b'"text"', b"", b"null", b"[]")
_NUMBERS = (b"NaN", b"1e999", b"-Infinity", b"9" * 400)
_NESTED_SHARE = 0.01
"""Share of broken records that are nested too deeply: one is as large as a hundred others."""


def spoiled(topic: int, value: bytes, random: Callable[[], float]) -> bytes:
    """Return a broken copy of a record; the last of the bad times is in the future."""
    if random() < _NESTED_SHARE:
        return b'{"extra":' + b"[" * NESTING_DEPTH + b"]" * NESTING_DEPTH + b"," + value[1:]
    spoil = _SPOILERS[int(random() * len(_SPOILERS))]
    return spoil(topic, value, int(random() * 2**32))


def _not_ours(topic: int, value: bytes, chance: int) -> bytes:
    return _NOT_OURS[chance % len(_NOT_OURS)]


def _cut(topic: int, value: bytes, chance: int) -> bytes:
    return value[: 1 + chance % (len(value) - 1)]


def _without_a_field(topic: int, value: bytes, chance: int) -> bytes:
    field = (_TIME, _NAME, _USER)[chance % 3][topic]
    return value.replace(field, b'"not_' + field[1:], 1)


def _of_another_type(topic: int, value: bytes, chance: int) -> bytes:
    if chance % 3 == 0:
        return _replaced(value, _USER[topic], b'[17],"was":')
    return _replaced(value, (_TIME, _NAME)[chance % 2][topic].rstrip(b'"'), b'17,"was":')


def _bad_number(topic: int, value: bytes, chance: int) -> bytes:
    return _replaced(value, _USER[topic], _NUMBERS[chance % len(_NUMBERS)] + b',"was":')


def _bad_time(topic: int, value: bytes, chance: int) -> bytes:
    start = value.index(_TIME[topic]) + len(_TIME[topic])
    time = _BAD_TIMES[chance % len(_BAD_TIMES)]
    return value[:start] + time + value[value.index(b'"', start) :]


def _replaced(value: bytes, field: bytes, now: bytes) -> bytes:
    return value.replace(field, field + now, 1)


_SPOILERS = (_not_ours, _cut, _without_a_field, _of_another_type, _bad_number, _bad_time)
