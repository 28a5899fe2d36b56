"""Steps of requests as records, and what a slow model makes of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
from hypothesis import strategies as st

from footfall.schemas.operations import missing_step, operation_of
from footfall.schemas.times import iso_ms, parse_time_ms
from footfall.streams.batch import Batch, Poll
from footfall.streams.testing import NOW_MS

START_MS = parse_time_ms("2022-03-22T12:00:00.000Z")
MINUTE = 60_000
DELAY, LATENESS, GAP, SPAN = 5_000, 120_000, 60_000, 300_000


@dataclass(frozen=True, order=True)
class Told:
    """A step, some milliseconds after the start."""

    request: str
    after_ms: int
    server: str
    action: str
    failed: bool = False
    user: str = "17"


def log(told: Told) -> bytes:
    """Return a record of platform_logs."""
    record = {
        "action": told.action,
        "commonData": {
            "time": iso_ms(START_MS + told.after_ms),
            "userId": told.user,
            "requestId": told.request,
            "serverName": told.server,
        },
        "data": {"status": "Error", "error": "why"} if told.failed else {},
    }
    return msgspec.json.encode(record)


def poll_of(
    steps: Sequence[Told], first_offset: int = 0, *, polled_at_ms: int = NOW_MS, end: bool = False
) -> Poll:
    """Return a poll of partition 0."""
    data = b"".join(log(told) + b"\n" for told in steps)
    return Poll("memory", 0, first_offset, data, len(steps), 0, polled_at_ms, end, agreeing=1)


def on_time(steps: Iterable[Told]) -> list[Told]:
    """Return the steps that are not late."""
    found = []
    newest_ms = -(2**62)
    for told in steps:
        newest_ms = max(newest_ms, told.after_ms)
        if told.after_ms >= newest_ms - DELAY - LATENESS:
            found.append(told)
    return found


@dataclass(frozen=True)
class Life:
    """A request, by itself."""

    id: str
    steps: list[Told]

    @property
    def operation(self) -> str:
        return operation_of([(told.server, told.action) for told in self.steps])

    @property
    def missing(self) -> str:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for told in self.steps:
            counts[told.server, told.action] += 1
        return ".".join(missing_step(self.operation, counts) or ())

    @property
    def took_ms(self) -> int:
        return self.steps[-1].after_ms - self.steps[0].after_ms


def lives_of(steps: Iterable[Told], steps_max: int = 1_000) -> Iterator[Life]:
    """Yield the requests that these steps make, those of one id in order."""
    by_id: dict[str, list[Told]] = defaultdict(list)
    for told in steps:
        by_id[told.request].append(told)
    for request, all_of in by_id.items():
        life: list[Told] = []
        for told in sorted(all_of, key=lambda t: (t.after_ms, t.server, t.action, t.user)):
            if life and (
                told.after_ms - life[-1].after_ms > GAP
                or told.after_ms - life[0].after_ms > SPAN
                or len(life) == steps_max
            ):
                yield Life(request, life)
                life = []
            life.append(told)
        yield Life(request, life)


_KNOWN = (
    ("Login", "LoginReq"),
    ("Login", "LoginDbReq"),
    ("Login", "LoginRep"),
    ("Login", "LogoutReq"),
    ("Payment", "BuyReq"),
    ("Payment", "PaymentProviderReq"),
    ("Payment", "PaymentProviderRep"),
    ("Payment", "BuyRep"),
    ("Reservation", "ReserveDbReq"),
    ("Search", "Ask"),
)
_APART_MS = (0, 0, 1, 20, 900, 4_999, 5_000, 29_000, 31_000, 60_000, 60_001, 130_000)
cuts = st.lists(st.sampled_from((0, 1, 1, 2, 3, 7, 40)), min_size=1, max_size=5).filter(any)
_step = st.tuples(
    st.integers(0, 4),
    st.sampled_from(_APART_MS),
    st.sampled_from(_KNOWN),
    st.booleans(),
    st.sampled_from("ab"),
    st.sampled_from((0, 0, 0, 3_000, 40_000, 119_000, 126_000)),
)


def _arranged(drawn: list[Any]) -> list[Told]:
    now_ms = 200_000
    found = []
    for number, apart_ms, (server, action), failed, user, behind_ms in drawn:
        now_ms += apart_ms
        found.append(Told(f"r{number}", now_ms - behind_ms, server, action, failed, user))
    return found


streams = st.lists(_step, max_size=45).map(_arranged)
"""Steps of few ids, beside every border: of a gap, of the delay, of the lateness."""


def shuffled(steps: list[Told], held_up_ms: Sequence[int]) -> list[Told]:
    """Return the steps in an order in which none meets a watermark that has passed it."""
    ordered = sorted(steps, key=lambda told: told.after_ms)
    moved = zip(ordered, held_up_ms, strict=False)
    return [told for told, _ in sorted(moved, key=lambda pair: pair[0].after_ms + pair[1])]


def hour_of_steps(rate: int, seconds: int, poll_rows: int) -> Iterator[pl.DataFrame]:
    """Yield frames as the decoder gives them: requests of four steps within half a second, one in
    fifty of which loses the last step. ``rate`` is steps per second."""
    known = np.array([0, 1, 5, 2])
    names = [pl.Series([pair[at] for pair in _KNOWN]) for at in (0, 1)]
    for first in range(0, rate * seconds, poll_rows):
        step = np.arange(first, min(first + poll_rows, rate * seconds))
        request, place = np.divmod(step, 4)
        pair = np.where((request % 50 == 0) & (place == 3), 9, known[place])
        yield pl.DataFrame(
            {
                "time_ms": START_MS + step * 1000 // rate + place * 100,
                "user_id": pl.Series(request % 977).cast(pl.String),
                "request_id": pl.Series(request).cast(pl.String),
                "server": names[0][pair],
                "log": names[1][pair],
                "status": pl.Series([None], dtype=pl.String).new_from_index(0, len(step)),
                "error": pl.Series([None], dtype=pl.String).new_from_index(0, len(step)),
                "failed": pl.Series([False]).new_from_index(0, len(step)),
            }
        )


def frames_of(frames: Iterable[pl.DataFrame]) -> Iterator[Batch]:
    """Yield batches of these frames, one after another."""
    offset = 0
    for frame in frames:
        poll = Poll("memory", 0, offset, b"", len(frame), 0, NOW_MS, agreeing=1)
        offset = poll.next_offset
        yield Batch(poll, frame)
