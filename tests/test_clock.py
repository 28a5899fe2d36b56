"""The progress of event time by the records of a partition alone; a plain loop says the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.streams.batch import AGREEING, NEVER, TIME_MS, UNKNOWN_MS, Batch, Poll
from footfall.streams.clock import FRESH_MS, OF_LAST, Clock

Told = tuple[int, int, int]
"""(offset, event time, append time or UNKNOWN_MS)"""


def batch_of(told: Sequence[Told], agreeing: int = AGREEING) -> Batch:
    offsets, times, appended = (np.array(column, dtype=np.int64) for column in zip(*told))  # noqa: B905
    poll = Poll(
        "topic", 0, int(offsets[0]), b"", len(told), 0, 0,
        offsets=offsets, appended_ms=appended, agreeing=agreeing,
    )  # fmt: skip
    return Batch(poll, pl.DataFrame({TIME_MS: times}))


def reached(told: Sequence[Told], agreeing: int = AGREEING) -> list[int]:
    """Return the event time reached after each record, record by record."""
    newest, stretch, found = NEVER, NEVER, []
    last: deque[tuple[int, bool]] = deque(maxlen=OF_LAST)
    for offset, time_ms, appended_ms in told:
        capped_ms = time_ms if appended_ms == UNKNOWN_MS else min(time_ms, appended_ms)
        is_fresh = appended_ms != UNKNOWN_MS and appended_ms - capped_ms <= FRESH_MS
        last.append((capped_ms, is_fresh))
        if sum(fresh for _, fresh in last) >= agreeing:
            newest = max(newest, capped_ms)
        elif offset // agreeing != stretch and len(last) >= agreeing:
            newest = max(newest, sorted(at for at, _ in last)[-agreeing])
        stretch = offset // agreeing
        found.append(newest)
    return found


@st.composite
def streams(draw: st.DrawFn) -> list[Told]:
    now_ms, offset, found = 1_000_000_000, draw(st.integers(0, 100)), []
    for _ in range(draw(st.integers(1, 6))):
        apart_ms = draw(st.sampled_from((0, 10, 20_000)))
        lag_ms = draw(st.sampled_from((None, 0, 3_000, FRESH_MS, FRESH_MS + 1, 10**9, -5_000)))
        for _ in range(draw(st.integers(1, 150))):
            now_ms += apart_ms
            offset += draw(st.sampled_from((1, 1, 1, 1, 2, 70)))
            ahead_ms = draw(st.sampled_from((0, 0, 0, -2_000, 100_000, 3_000_000)))
            appended_ms = UNKNOWN_MS if lag_ms is None else now_ms + lag_ms
            found.append((offset, now_ms + ahead_ms, appended_ms))
    return found


@settings(deadline=None, max_examples=60)
@given(streams(), st.lists(st.integers(1, 90), min_size=1), st.sampled_from((1, 3, AGREEING)))
def test_it_is_what_a_plain_loop_says_however_it_is_cut_and_taken_up_again(
    told: list[Told], sizes: list[int], agreeing: int
) -> None:
    clock, place, turn, found = Clock(), 0, 0, []
    while place < len(told):
        taken = told[place : place + sizes[turn % len(sizes)]]
        seen = clock.see(batch_of(taken, agreeing)).seen
        found += seen.reached_ms.tolist()
        assert (seen.newest_ms, clock.newest_ms) == (found[-1], found[-1])
        place, turn = place + len(taken), turn + 1
        clock = Clock(clock.snapshot())
    assert found == reached(told, agreeing)


def history(count: int, apart_ms: int = 1_000) -> list[Told]:
    """Return records of years ago that are appended now."""
    return [(n, 10**12 + n * apart_ms, 2 * 10**12) for n in range(count)]


def live(count: int, apart_ms: int = 1_000) -> list[Told]:
    """Return records that are appended two seconds after their event."""
    return [(n, 10**12 + n * apart_ms, 10**12 + n * apart_ms + 2_000) for n in range(count)]


def test_nothing_is_agreed_on_before_enough_records_have_come() -> None:
    for told in (history(65), live(65)):
        assert set(reached(told)[:63]) == {NEVER}
        assert reached(told)[64] > NEVER


def test_in_a_live_stream_each_record_counts_at_once_also_after_a_quiet_night() -> None:
    told = live(100)
    morning_ms = told[-1][1] + 8 * 3_600_000
    clock = Clock()
    clock.see(batch_of(told))
    assert clock.newest_ms == told[-1][1]
    clock.see(batch_of([(100, morning_ms, morning_ms + 2_000)]))
    assert clock.newest_ms == morning_ms


def test_a_clock_that_is_ahead_moves_a_live_stream_to_the_append_time_and_no_further() -> None:
    told = live(100)
    clock = Clock()
    clock.see(batch_of([*told, (100, told[-1][1] + 2_400_000, told[-1][2])]))
    assert clock.newest_ms == told[-1][2]


def test_the_first_record_of_a_history_is_not_believed_either() -> None:
    a_year_ahead = (0, 10**12 + 31_536_000_000, 2 * 10**12)
    clock = Clock()
    seen = clock.see(batch_of([a_year_ahead, *[(n + 1, t, a) for n, t, a in history(500)]])).seen
    assert seen.newest_ms < 10**12 + 500_000
    assert seen.highest_ms == a_year_ahead[1]


def test_a_history_trails_by_128_records_at_most() -> None:
    told = history(1_000)
    assert all(n < 128 or at >= 10**12 + (n - 127) * 1_000 for n, at in enumerate(reached(told)))
