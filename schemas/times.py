"""Event times: ISO 8601 text to and from milliseconds since 1970-01-01 UTC.

Scalar and exact; ``streams.decode`` has the columnar twin of the common layouts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_MAX = 2105
"""ClickHouse's DateTime ends early in 2106: an event past it could never be written."""

FUTURE_MAX_MS = 3_600_000
"""An event further ahead of the wall clock than this is refused: it would drag the watermark
along, and make all that follows it late."""

_MILLISECOND = timedelta(milliseconds=1)


class BadTimeError(ValueError):
    """A text that is no time of ours; the message says why."""


def parse_time_ms(text: str) -> int:
    """Milliseconds since the epoch of an ISO 8601 text or ``2019-10-01 00:00:00 UTC``.

    A time without a zone is UTC. Finer fractions than a millisecond are cut off.
    Raises BadTimeError for anything else, and for years outside 1970 to 2105.
    """
    plain = text.removesuffix(" UTC")
    if len(plain) < len("2019-10-01T00:00") or plain[10] not in "T ":
        raise BadTimeError(f"not a date and time: {text[:40]!r}")
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError as error:
        raise BadTimeError(f"not a date and time: {text[:40]!r} ({error})") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if not 1970 <= moment.year <= YEAR_MAX:
        raise BadTimeError(f"year {moment.year} is outside 1970 to {YEAR_MAX}: {text[:40]!r}")
    time_ms = (moment - EPOCH) // _MILLISECOND
    if time_ms < 0:
        raise BadTimeError(f"before 1970: {text[:40]!r}")
    return time_ms


def datetime_of(time_ms: int) -> datetime:
    """The moment as an aware UTC datetime."""
    return EPOCH + timedelta(milliseconds=time_ms)


def iso_ms(time_ms: int) -> str:
    """``2022-03-22T12:15:00.000Z``"""
    return datetime_of(time_ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}Z"
