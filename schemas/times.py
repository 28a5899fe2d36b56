"""Event times: ISO 8601 text to and from milliseconds since 1970-01-01 UTC.

Scalar and exact; ``streams.decode`` has the columnar twin of the common layouts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_MAX = 2105
"""Last year of an event: ClickHouse's DateTime ends early in 2106."""

FUTURE_MAX_MS = 3_600_000
"""An event further ahead of the wall clock than this is refused: it would drag the watermark
along, and make all that follows it late."""

_MILLISECOND = timedelta(milliseconds=1)


_PARTS = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"[T ](?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,]\d+)?)?"
    r"(?:Z|(?P<offset>[+-]\d\d:?(?:\d\d)?))?",
    re.ASCII,
)
_HIGHEST = {"month": 12, "hour": 23, "minute": 59, "second": 59}
_TAKES = "takes ISO 8601, like 2022-03-22T12:15:00.000Z"
_CHARS_MIN = len("2019-10-01T00:00")
_SHOWN_CHARS = 40


class BadTimeError(ValueError):
    """A text that is not an event time; the message shows it and says why."""


def parse_time_ms(text: str) -> int:
    """Return the milliseconds since the epoch of an ISO 8601 time or ``2019-10-01 00:00:00 UTC``.

    A time without a zone is UTC. Finer fractions than a millisecond are cut off.
    Raises BadTimeError for anything else, and for years outside 1970 to 2105.
    """
    # RFC 3339 allows lower case.
    plain = text.upper().removesuffix(" UTC")
    # The standard library would also accept a week in place of a day, and anything behind a NUL.
    if len(plain) < _CHARS_MIN or plain[10] not in "T " or plain[5] == "W" or "\0" in plain:
        raise _bad(_TAKES, text)
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        raise _bad(_why_none(plain), text) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if not 1970 <= moment.year <= YEAR_MAX:
        raise BadTimeError(f"year {moment.year} is outside 1970 to {YEAR_MAX}: {_shown(text)}")
    time_ms = (moment - EPOCH) // _MILLISECOND
    if time_ms < 0:
        raise BadTimeError(f"before 1970: {_shown(text)}")
    return time_ms


def _why_none(text: str) -> str:
    """Say why there is no such moment."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return _TAKES
    if parts["second"] == "60":
        return "second 60: leap seconds are not counted, send 59 or the second after it"
    for name, highest in _HIGHEST.items():
        if parts[name] is not None and int(parts[name]) > highest:
            return f"{name} {parts[name]} is over {highest}"
    if parts["offset"] is not None and parts["offset"][1:3] > "23":
        return f"offset {parts['offset']} is a day or more"
    is_odd = parts["day"] > "28" or "00" in (parts["day"], parts["month"])
    return "the calendar has no such day" if is_odd else _TAKES


def _bad(reason: str, text: str) -> BadTimeError:
    return BadTimeError(f"not a date and time: {_shown(text)} ({reason})")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


def datetime_of(time_ms: int) -> datetime:
    """Return the moment as an aware UTC datetime."""
    return EPOCH + timedelta(milliseconds=time_ms)


def iso_ms(time_ms: int) -> str:
    """Return the moment as text: ``2022-03-22T12:15:00.000Z``."""
    return datetime_of(time_ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}Z"
