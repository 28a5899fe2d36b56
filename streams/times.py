"""Parse the event times of a whole batch at once: the columnar twin of ``schemas.times``.

Texts of one fixed layout are read as a matrix of characters. The minute that a text begins with is
parsed once for all successive texts that share it, the rest of each text on its own. Most polls
are one such matrix; in the others the texts of each length make one. Days are counted from the
civil calendar by Howard Hinnant's ``days_from_civil``
(http://howardhinnant.github.io/date_algorithms.html).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from footfall.schemas.times import YEAR_MAX, BadTimeError, parse_time_ms
from footfall.streams.batch import Int64s

LAYOUTS = (
    "YYYY-MM-DDThh:mm:ss.fffZ",
    "YYYY-MM-DD hh:mm:ss UTC",
    "YYYY-MM-DDThh:mm:ss.fff",
    "YYYY-MM-DDThh:mm:ss.fffuuuZ",
    "YYYY-MM-DDThh:mm:ss.fff+HH:NN",
    "YYYY-MM-DDThh:mm:ss.fff-HH:NN",
    "YYYY-MM-DDThh:mm:ss.fffuuu",
    "YYYY-MM-DDThh:mm:ss.fffuuu+HH:NN",
    "YYYY-MM-DDThh:mm:ss.fffuuu-HH:NN",
    "YYYY-MM-DDThh:mm:ssZ",
    "YYYY-MM-DDThh:mm:ss+HH:NN",
    "YYYY-MM-DDThh:mm:ss-HH:NN",
    "YYYY-MM-DDThh:mm:ss",
    "YYYY-MM-DD hh:mm:ss",
)
"""Layouts that are parsed as a matrix; every other text is parsed on its own.

``u`` is a digit past the milliseconds, and ``HH:NN`` is the zone's offset.
"""

BAD_TIME = -1

_DIGITS = "YMDhmsfuHN"
_MINUTE_CHARS = 16
"""Characters of the minute that each layout begins with, and many successive texts share."""
_FEW = 128
"""Number of texts below which parsing them one by one is faster than as a matrix of their own."""
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.int64)

# Each text is a row of the matrix. Its newline is in the last column, and no other column accepts
# one.
_BY_WIDTH: dict[int, list[str]] = defaultdict(list)
for _layout in LAYOUTS:
    _BY_WIDTH[len(_layout) + 1].append(_layout + "\n")

Chars = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


def parse_times_ms(texts: Sequence[str]) -> Int64s:
    """Return each text's milliseconds since 1970 UTC; BAD_TIME where a text is not a time."""
    times = parse_lines_ms("\n".join([*texts, ""]), len(texts))
    return _parse_each(texts) if times is None else times


def parse_lines_ms(lines: str, count: int) -> Int64s | None:
    """Return the same for ``count`` texts, each ended by a newline; None where a text holds
    another."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    # A character that is not ASCII becomes one byte too, which no layout accepts.
    raw = np.frombuffer(lines.encode("ascii", "replace"), dtype=np.uint8)
    width, rest = divmod(len(raw), count)
    if not rest and width in _BY_WIDTH:
        times, good = _parse_layout(raw.reshape(count, width), _BY_WIDTH[width][0])
        if good.all():
            return times
    ends = np.flatnonzero(raw == ord("\n"))
    return _parse_groups(lines, raw, ends) if len(ends) == count else None


def _parse_each(texts: Sequence[str]) -> Int64s:
    return np.fromiter(map(_parse_one, texts), dtype=np.int64, count=len(texts))


def _parse_one(text: str) -> int:
    try:
        return parse_time_ms(text)
    except BadTimeError:
        return BAD_TIME


def _parse_groups(lines: str, raw: Chars, ends: Int64s) -> Int64s:
    """Return the times of the texts before each newline, parsed by length and layout."""
    times = np.empty(len(ends), dtype=np.int64)
    is_read = np.zeros(len(ends), dtype=np.bool_)
    widths = np.diff(ends, prepend=-1)
    for width, layouts in _BY_WIDTH.items():
        places = np.flatnonzero(widths == width)
        for layout in layouts:
            if len(places) < _FEW:
                break
            found, good = _parse_layout(_rows(raw, ends[places], width), layout)
            times[places] = found
            is_read[places] = good
            places = places[~good]
    left = np.flatnonzero(~is_read)
    starts = ends[left] - widths[left] + 1
    cuts = zip(starts.tolist(), ends[left].tolist(), strict=True)
    times[left] = _parse_each([lines[start:end] for start, end in cuts])
    return times


def _rows(raw: Chars, ends: Int64s, width: int) -> Chars:
    """Return the characters before each end, and the newline there, as a matrix."""
    items = np.ndarray((len(raw) - width + 1,), dtype=f"V{width}", buffer=raw, strides=(1,))
    return items[ends - width + 1].view(np.uint8).reshape(len(ends), width)


def _parse_layout(chars: Chars, layout: str) -> tuple[Int64s, Bools]:
    """Return (the time of each row, whether it is a time in this layout); if not, it may be
    anything."""
    starts, lengths = _runs_of_minutes(chars)
    minutes, minute_good = _minutes(chars[starts, :_MINUTE_CHARS], layout[:_MINUTE_CHARS])
    rest_ms, rest_good = _rest_of_minute_ms(chars[:, _MINUTE_CHARS:], layout[_MINUTE_CHARS:])
    times: Int64s = np.repeat(minutes * 60_000, lengths)
    times += rest_ms
    good = rest_good if minute_good.all() else rest_good & np.repeat(minute_good, lengths)
    if "H" in layout:
        good &= times >= 0
    return times, good


def _runs_of_minutes(chars: Chars) -> tuple[Int64s, Int64s]:
    """Return where the minute differs from that of the text before, and how many texts share
    it."""
    count, width = chars.shape
    first, second = (
        np.ndarray((count,), dtype="<u8", buffer=chars, offset=at, strides=(width,)).copy()
        for at in (0, 8)
    )
    differs = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.concatenate(([0], np.flatnonzero(differs) + 1))
    return starts, np.diff(starts, append=count)


def _minutes(chars: Chars, layout: str) -> tuple[Int64s, Bools]:
    """Return (the minutes since 1970 that the texts begin with, whether they are valid)."""
    digits, good = _digits(chars, layout)
    number = _reader(digits, layout)
    hour, minute = number("h"), number("m")
    days, days_good = _days(number("Y"), number("M"), number("D"))
    good &= days_good & (hour <= 23) & (minute <= 59)
    return days * 1440 + hour * 60 + minute, good


def _rest_of_minute_ms(chars: Chars, layout: str) -> tuple[npt.NDArray[np.int32], Bools]:
    """Return (seconds, fractions and the zone's correction to UTC in milliseconds, whether
    valid)."""
    digits, good = _digits(chars, layout)
    number = _reader(digits, layout)
    second = number("s")
    good &= second <= 59
    rest_ms = second * 1000
    if "f" in layout:
        rest_ms += number("f")
    if "H" in layout:
        hours, minutes = number("H"), number("N")
        good &= (hours <= 23) & (minutes <= 59)
        off_ms = (hours * 60 + minutes) * 60_000
        rest_ms += off_ms if "-HH" in layout else -off_ms
    return rest_ms, good


def _digits(chars: Chars, layout: str) -> tuple[Chars, Bools]:
    """Return (the digits at each place of the layout, which texts fit the layout).

    There is one place per row, so that each place is contiguous.
    """
    digits = np.ascontiguousarray(chars.T) - np.uint8(ord("0"))
    highest = np.zeros(len(chars), dtype=np.uint8)
    differs = np.zeros(len(chars), dtype=np.uint8)
    for place, mark in zip(digits, layout, strict=True):
        if mark in _DIGITS:
            np.maximum(highest, place, out=highest)
        else:
            differs |= place ^ np.uint8((ord(mark) - ord("0")) % 256)
    return digits, (highest <= 9) & (differs == 0)


def _reader(digits: Chars, layout: str) -> Callable[[str], npt.NDArray[np.int32]]:
    """Return a function that gives, for each text, the number spelled by a mark's places."""

    def number(mark: str) -> npt.NDArray[np.int32]:
        first, last = layout.index(mark), layout.rindex(mark)
        total: npt.NDArray[np.int32] = digits[first].astype(np.int32)
        for place in range(first + 1, last + 1):
            total *= 10
            total += digits[place]
        return total

    return number


def _days(
    year: npt.NDArray[np.int32], month: npt.NDArray[np.int32], day: npt.NDArray[np.int32]
) -> tuple[Int64s, Bools]:
    """Return (days since 1970-01-01 of each date, whether it is a date from 1970 to YEAR_MAX)."""
    good = (year >= 1970) & (year <= YEAR_MAX) & (month >= 1) & (month <= 12) & (day >= 1)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    good &= day <= _MONTH_DAYS[np.clip(month, 1, 12) - 1] + (leap & (month == 2))
    # Years start in March here, so that the leap day is the last day of one.
    shifted_year = year.astype(np.int64) - (month <= 2)
    era, year_of_era = np.divmod(shifted_year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days: Int64s = era * 146_097 + day_of_era - 719_468
    return days, good
