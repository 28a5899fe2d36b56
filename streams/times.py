"""Event times of a whole batch at once: the columnar twin of ``schemas.times``.

Texts of one fixed layout are read as a matrix of digits; days are counted from the civil
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
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)


def parse_times_ms(texts: Sequence[str]) -> Int64s:
    """Milliseconds since 1970 UTC of each text; BAD_TIME where a text is no time."""
    if not texts:
        return np.empty(0, dtype=np.int64)
    lengths = set(map(len, texts))
    if len(lengths) == 1:
        layout = LAYOUTS.get(lengths.pop())
        if layout is not None:
            times = _parse_layout(texts, layout)
            if times is not None:
                return times
    return np.fromiter(map(_parse_one, texts), dtype=np.int64, count=len(texts))


def _parse_one(text: str) -> int:
    try:
        return parse_time_ms(text)
    except BadTimeError:
        return BAD_TIME


def _parse_layout(texts: Sequence[str], layout: str) -> Int64s | None:
    """The times if every text is a valid one of this layout, else None."""
    try:
        raw = "".join(texts).encode("ascii")
    except UnicodeEncodeError:
        return None
    chars = np.frombuffer(raw, dtype=np.uint8).reshape(len(texts), len(layout))
    # One character of the layout a row: each is contiguous then.
    by_place = np.ascontiguousarray(chars.T)
    for place, mark in enumerate(layout):
        if mark not in _DIGITS and (by_place[place] != ord(mark)).any():
            return None
    digits = by_place - np.uint8(ord("0"))
    is_digit = [mark in _DIGITS for mark in layout]
    if digits[is_digit].max() > 9:
        return None
    hour, minute, second = (_number(digits, layout, mark) for mark in "hms")
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None
    same_day = bool((by_place[:10] == by_place[:10, :1]).all())
    days = _days(digits[:, :1] if same_day else digits, layout)
    if days is None:
        return None
    seconds: Int64s = np.add(days * 86_400, (hour * 60 + minute) * 60 + second)
    return seconds * 1000 + (_number(digits, layout, "f") if "f" in layout else 0)


def _number(digits: npt.NDArray[np.uint8], layout: str, mark: str) -> npt.NDArray[np.int32]:
    """The decimal number that the places marked ``mark`` spell, for each text."""
    first, last = layout.index(mark), layout.rindex(mark)
    total: npt.NDArray[np.int32] = digits[first].astype(np.int32)
    for place in range(first + 1, last + 1):
        total *= 10
        total += digits[place]
    return total


def _days(digits: npt.NDArray[np.uint8], layout: str) -> Int64s | None:
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
