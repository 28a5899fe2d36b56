"""Event times of a whole batch at once: the columnar twin of ``schemas.times``.

Texts of one fixed layout are read as a matrix of characters: the minute that each begins with
once for all that have it in a row, the rest of each on its own. Days are counted from the civil
calendar by Howard Hinnant's ``days_from_civil`` (http://howardhinnant.github.io/date_algorithms.html).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.times import YEAR_MAX, BadTimeError, parse_time_ms
from streams.batch import Int64s

LAYOUTS = {
    len(layout): layout
    for layout in (
        "YYYY-MM-DDThh:mm:ss.fffZ",
        "YYYY-MM-DD hh:mm:ss UTC",
        "YYYY-MM-DDThh:mm:ssZ",
    )
}
"""The layouts that are read at once; every other text is read one by one."""

BAD_TIME = -1

_DIGITS = "YMDhmsf"
_MINUTE_CHARS = 16
"""Each layout begins with the minute, to which many texts in a row belong."""
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)

Chars = npt.NDArray[np.uint8]


def parse_times_ms(texts: Sequence[str]) -> Int64s:
    """Milliseconds since 1970 UTC of each text; BAD_TIME where a text is no time."""
    times = _parse_layout("\n".join([*texts, ""]), len(texts))
    return _parse_each(texts) if times is None else times


def parse_lines_ms(lines: str, count: int) -> Int64s | None:
    """The same of ``count`` texts, each ended by a newline; None where a text holds another."""
    times = _parse_layout(lines, count)
    if times is not None:
        return times
    texts = lines.split("\n")[:-1]
    return _parse_each(texts) if len(texts) == count else None


def _parse_each(texts: Sequence[str]) -> Int64s:
    return np.fromiter(map(_parse_one, texts), dtype=np.int64, count=len(texts))


def _parse_one(text: str) -> int:
    try:
        return parse_time_ms(text)
    except BadTimeError:
        return BAD_TIME


def _parse_layout(lines: str, count: int) -> Int64s | None:
    """The times of ``count`` texts if all of them are valid ones of one layout, else None."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    width, rest = divmod(len(lines), count)
    layout = LAYOUTS.get(width - 1)
    if layout is None or rest or not lines.isascii():
        return None
    # Each text is a row: its newline stands in the last place of the row, and no place before
    # takes one.
    layout += "\n"
    raw = lines.encode()
    chars = np.frombuffer(raw, dtype=np.uint8).reshape(count, width)
    starts, lengths = _runs_of_minutes(raw, count, width)
    minutes = _minutes(chars[starts, :_MINUTE_CHARS], layout[:_MINUTE_CHARS])
    rest_ms = _rest_of_minute_ms(chars[:, _MINUTE_CHARS:], layout[_MINUTE_CHARS:])
    if minutes is None or rest_ms is None:
        return None
    times: Int64s = np.repeat(minutes * 60_000, lengths)
    times += rest_ms
    return times


def _runs_of_minutes(raw: bytes, count: int, width: int) -> tuple[Int64s, Int64s]:
    """Where the minute differs from that of the text before, and how many texts follow it."""
    first, second = (
        np.ndarray((count,), dtype="<u8", buffer=raw, offset=at, strides=(width,)).copy()
        for at in (0, 8)
    )
    differs = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.concatenate(([0], np.flatnonzero(differs) + 1))
    return starts, np.diff(starts, append=count)


def _minutes(chars: Chars, layout: str) -> Int64s | None:
    """Minutes since 1970 that the texts begin with; None where one is no minute of ours."""
    digits = _digits(chars, layout)
    if digits is None:
        return None
    hour, minute = (_number(digits, layout, mark) for mark in "hm")
    if hour.max() > 23 or minute.max() > 59:
        return None
    days = _days(digits, layout)
    return None if days is None else days * 1440 + hour * 60 + minute


def _rest_of_minute_ms(chars: Chars, layout: str) -> npt.NDArray[np.int32] | None:
    """Seconds and fractions in milliseconds; None where a text has something else there."""
    digits = _digits(chars, layout)
    if digits is None:
        return None
    second = _number(digits, layout, "s")
    if second.max() > 59:
        return None
    return second * 1000 + (_number(digits, layout, "f") if "f" in layout else 0)


def _digits(chars: Chars, layout: str) -> Chars | None:
    """What stands in each place of the layout, less "0"; None if any is not as in the layout.

    One place a row: each is contiguous then.
    """
    digits = np.ascontiguousarray(chars.T) - np.uint8(ord("0"))
    for place, mark in zip(digits, layout, strict=True):
        if mark in _DIGITS:
            if place.max() > 9:
                return None
        elif (place != np.uint8((ord(mark) - ord("0")) % 256)).any():
            return None
    return digits


def _number(digits: Chars, layout: str, mark: str) -> npt.NDArray[np.int32]:
    """The decimal number that the places marked ``mark`` spell, for each text."""
    first, last = layout.index(mark), layout.rindex(mark)
    total: npt.NDArray[np.int32] = digits[first].astype(np.int32)
    for place in range(first + 1, last + 1):
        total *= 10
        total += digits[place]
    return total


def _days(digits: Chars, layout: str) -> Int64s | None:
    """Days since 1970-01-01 of each text; None where one is no date within our years."""
    year, month, day = (_number(digits, layout, mark).astype(np.int64) for mark in "YMD")
    if year.min() < 1970 or year.max() > YEAR_MAX or month.min() < 1 or month.max() > 12:
        return None
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    if (day < 1).any() or (day > _MONTH_DAYS[month - 1] + (leap & (month == 2))).any():
        return None
    # Years start in March here, so that the leap day is the last day of one.
    shifted_year = year - (month <= 2)
    era, year_of_era = np.divmod(shifted_year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days: Int64s = era * 146_097 + day_of_era - 719_468
    return days
