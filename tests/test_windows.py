"""Windows as arithmetic: when rows are written, with which version, and what is kept."""

from __future__ import annotations

import polars as pl
import pytest

from footfall.schemas.versions import FINAL, PROVISIONAL, REVISED, events_of, phase_of, version_of
from footfall.streams.tumbling import EVENTS, VERSION, WINDOW, Tumbling
from footfall.streams.windows import WindowSizeError, WindowState

SPEC = Tumbling(
    size_ms=60_000,
    delay_ms=5_000,
    lateness_ms=600_000,
    by=("kind",),
    sums={"price": pl.col("price")},
    write_every_ms=2_000,
)

Written = list[tuple[int, str, int, int, int]]


def events(*found: tuple[float, str, int]) -> pl.DataFrame:
    """Return (event time in s, kind, price) each."""
    return pl.DataFrame(
        {
            "time_ms": [round(time_s * 1000) for time_s, _, _ in found],
            "kind": [kind for _, kind, _ in found],
            "price": [price for _, _, price in found],
        },
        schema={"time_ms": pl.Int64, "kind": pl.String, "price": pl.Int64},
    )


def written(rows: pl.DataFrame | None) -> Written:
    """Return (window in s, kind, events, price, phase) of each row."""
    if rows is None:
        return []
    found = []
    for row in rows.to_dicts():
        assert events_of(row[VERSION]) == row[EVENTS]
        phase = phase_of(row[VERSION])
        found.append((row[WINDOW] // 1000, row["kind"], row[EVENTS], row["price"], phase))
    return sorted(found)


def add(state: WindowState, *found: tuple[float, str, int], wall_ms: int = 0) -> Written:
    return written(state.add(events(*found), wall_ms).rows)


def test_a_window_is_final_when_the_watermark_passes_its_end() -> None:
    state = WindowState(SPEC)
    assert add(state, (0, "a", 1), (59.999, "a", 2), (64.999, "b", 4)) == []
    assert add(state, (65, "b", 8)) == [(0, "a", 2, 3, FINAL)]
    assert state.watermark_ms == 60_000


def test_a_closed_window_is_corrected_within_the_lateness() -> None:
    state = WindowState(SPEC)
    add(state, (0, "a", 1), (65, "b", 2))
    assert add(state, (30, "a", 4), (31, "c", 5)) == [
        (0, "a", 2, 5, REVISED),
        (0, "c", 1, 5, REVISED),
    ]
    assert add(state, (664.999, "b", 9)) == [(60, "b", 1, 2, FINAL)]
    assert add(state, (30, "a", 8)) == [(0, "a", 3, 13, REVISED)]


def test_an_event_past_the_lateness_is_late() -> None:
    state = WindowState(SPEC)
    add(state, (0, "a", 1), (665, "b", 2))
    found = state.add(events((59.999, "a", 4), (60, "c", 5)), 0)
    assert found.late.tolist() == [0]
    assert found.watermarks_ms.tolist() == [660_000]
    assert written(found.rows) == [(60, "c", 1, 5, REVISED)]


def test_a_window_without_events_can_still_get_its_first_one() -> None:
    state = WindowState(SPEC)
    add(state, (0, "a", 1), (200, "a", 1))
    assert add(state, (130, "a", 7)) == [(120, "a", 1, 7, REVISED)]
    assert add(state, (131, "a", 7)) == [(120, "a", 2, 14, REVISED)]


def test_within_one_batch_each_row_meets_its_own_watermark() -> None:
    state = WindowState(SPEC)
    found = state.add(events((0, "a", 1), (665, "b", 2), (1, "a", 4), (60, "a", 8)), 0)
    assert found.late.tolist() == [2]
    assert written(found.rows) == [(0, "a", 1, 1, FINAL), (60, "a", 1, 8, REVISED)]


def test_provisional_rows_are_written_now_and_then_and_only_what_changed() -> None:
    state = WindowState(SPEC)
    assert add(state, (0, "a", 1), (1, "b", 1), wall_ms=10_000) == []
    assert add(state, (2, "a", 1), wall_ms=11_999) == []
    assert add(state, (3, "a", 1), wall_ms=12_000) == [
        (0, "a", 3, 3, PROVISIONAL),
        (0, "b", 1, 1, PROVISIONAL),
    ]
    assert add(state, (4, "b", 1), wall_ms=14_000) == [(0, "b", 2, 2, PROVISIONAL)]
    assert written(state.mark(20_000)) == []
    assert add(state, (65, "b", 1), wall_ms=20_001)[:2] == [
        (0, "a", 3, 3, FINAL),
        (0, "b", 2, 2, FINAL),
    ]


def test_a_quiet_partition_closes_its_last_windows_as_time_passes() -> None:
    state = WindowState(SPEC)
    add(state, (0, "a", 1), (30, "a", 1), wall_ms=100_000)
    # 30 s of the window and 5 s of the delay are missing.
    assert written(state.mark(134_999)) == [(0, "a", 2, 2, PROVISIONAL)]
    assert written(state.mark(135_000)) == [(0, "a", 2, 2, FINAL)]
    assert written(state.mark(200_000)) == []


def test_being_quiet_never_makes_an_event_late() -> None:
    state = WindowState(SPEC)
    add(state, (0, "a", 1), wall_ms=0)
    assert written(state.mark(86_400_000)) == [(0, "a", 1, 1, FINAL)]
    found = state.add(events((30, "a", 2)), 86_402_000)
    assert not len(found.late)
    assert written(found.rows) == [(0, "a", 2, 3, PROVISIONAL)]
    assert written(state.mark(2 * 86_400_000)) == [(0, "a", 2, 3, FINAL)]


def test_the_end_writes_all_that_is_open_as_final_once() -> None:
    state = WindowState(SPEC)
    assert state.mark(0, end=True) is None
    add(state, (0, "a", 1), (61, "b", 1))
    assert written(state.mark(0, end=True)) == [(0, "a", 1, 1, FINAL), (60, "b", 1, 1, FINAL)]
    assert written(state.mark(0, end=True)) == []
    add(state, (62, "b", 1))
    assert written(state.mark(0, end=True)) == [(60, "b", 2, 2, FINAL)]


def test_a_higher_generation_wins_whatever_its_counts() -> None:
    assert version_of(1, 1, PROVISIONAL) > version_of(0, 1_000_000_000, REVISED)
    assert version_of(0, 2, PROVISIONAL) > version_of(0, 1, REVISED)
    assert version_of(0, 1, FINAL) > version_of(0, 1, PROVISIONAL)
    with pytest.raises(ValueError, match="generation 40000"):
        version_of(40_000, 0, 0)
    state = WindowState(Tumbling(1_000, 0, 0, (), {}, generation=3))
    rows = state.add(events((0, "a", 1), (1, "a", 1)), 0).rows
    assert rows is not None
    assert rows[VERSION].to_list() == [version_of(3, 1, FINAL)]


def test_state_is_bounded_by_the_lateness_on_a_long_stream() -> None:
    state = WindowState(SPEC)
    sizes = []
    for minute in range(200):
        batch = [(minute * 60 + second, f"kind{second}", 1) for second in range(60)]
        state.add(events(*batch), minute)
        sizes.append(len(state.snapshot()))
    assert max(sizes[100:]) <= 1.05 * max(sizes[20:60])
    assert sum(chunk.rows for chunk in state.closed) <= 60 * 12


def test_many_small_windows_are_kept_in_few_chunks() -> None:
    spec = Tumbling(1_000, 0, 600_000, (), {})
    state = WindowState(spec)
    for second in range(500):
        state.add(events((second, "a", 1)), second)
    assert len(state.closed) <= 33
    revised = state.add(events((3.5, "a", 1), (250, "a", 1), (498, "a", 1)), 501).rows
    assert revised is not None
    assert sorted(revised[WINDOW].to_list()) == [3_000, 250_000, 498_000]
    assert set(revised[EVENTS].to_list()) == {2}


def test_a_snapshot_restores_all_of_it() -> None:
    state = WindowState(SPEC)
    add(state, (0, "a", 1), (61, "b", 1), (130, "c", 1), wall_ms=5)
    again = WindowState.restore(SPEC, state.snapshot())
    more = [(30, "a", 1), (131, "c", 2), (400, "d", 1), (1.0, "a", 9)]
    for event in more:
        assert add(again, event, wall_ms=6) == add(state, event, wall_ms=6)
    assert written(again.mark(7, end=True)) == written(state.mark(7, end=True))


def test_windows_of_another_size_are_refused_not_mixed() -> None:
    state = WindowState(Tumbling(1_000, 0, 0, (), {}))
    state.add(events((0, "a", 1)), 0)
    with pytest.raises(WindowSizeError, match=r"kept windows of 1 s.* asked for windows of 600 s"):
        WindowState.restore(Tumbling(600_000, 0, 0, (), {}), state.snapshot())


def test_a_snapshot_of_many_groups_restores_all_of_them() -> None:
    state = WindowState(SPEC)
    crowd = [(1.0 + n / 1_000, f"kind{n}", n) for n in range(3_000)]
    assert add(state, *crowd, (64.0, "other", 1), *crowd) == []
    assert len(add(state, (71.0, "other", 1))) == 3_000
    again = WindowState.restore(SPEC, state.snapshot())
    assert add(again, (2.0, "kind7", 5)) == [(0, "kind7", 3, 19, REVISED)]
    assert add(state, (2.0, "kind7", 5)) == [(0, "kind7", 3, 19, REVISED)]
    assert written(again.mark(0, end=True)) == [(60, "other", 2, 2, FINAL)]
