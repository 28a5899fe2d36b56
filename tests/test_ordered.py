"""Events in order of time: what a fold is given, when, and what is asked of a copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.schemas.versions import FINAL, PROVISIONAL, version_of
from footfall.streams.batch import ROW, TIME_MS, Batch, Poll, TableRows
from footfall.streams.ordered import OFFSET, THE_END_MS, OrderedStep
from footfall.streams.steps import StepResult
from footfall.streams.testing import DrivenStep

DELAY_MS = 10
SILENCE_MS = 100

Row = tuple[str, int, int]
"""("event", time, its offset), or ("silence", when it was noticed, -1)"""


class Listener:
    """Tells of each event, and once of each silence of SILENCE_MS after one."""

    def __init__(self, last_ms: int = THE_END_MS) -> None:
        self.last_ms = last_ms

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> pl.DataFrame | None:
        rows: list[Row] = []
        for time_ms, offset in sorted(events.select(TIME_MS, OFFSET).rows()):
            assert time_ms < passed_ms
            rows += self._silence(time_ms)
            rows.append(("event", time_ms, offset))
            self.last_ms = time_ms
        rows += self._silence(passed_ms)
        if not rows:
            return None
        frame = pl.DataFrame(rows, schema=["what", "at", "offset"], orient="row")
        return frame.with_columns(version=pl.lit(version))

    def _silence(self, until_ms: int) -> list[Row]:
        if self.due_ms() > until_ms:
            return []
        at_ms = self.due_ms()
        self.last_ms = THE_END_MS
        return [("silence", at_ms, -1)]

    def due_ms(self) -> int:
        return min(self.last_ms + SILENCE_MS, THE_END_MS)

    def snapshot(self) -> bytes:
        return self.last_ms.to_bytes(8, "little")

    @property
    def holds(self) -> dict[str, int]:
        return {}


def listener(_partition: int, snapshot: bytes | None) -> Listener:
    return Listener(int.from_bytes(snapshot, "little")) if snapshot else Listener()


def step_of(snapshot: bytes | None = None, **options: Any) -> DrivenStep:
    return DrivenStep(
        lambda _, kept: OrderedStep(DELAY_MS, listener, 0, kept, **options), 0, snapshot
    )


def batch(times_ms: Sequence[int], wall_ms: int = 0, first: int = 0, **fields: Any) -> Batch:
    data = b"".join(b"%d\n" % time_ms for time_ms in times_ms)
    poll = Poll("topic", 0, first, data, len(times_ms), 0, wall_ms, agreeing=1, **fields)
    return Batch(poll, pl.DataFrame({TIME_MS: times_ms}, schema={TIME_MS: pl.Int64}))


def told(result: StepResult) -> list[Row]:
    if result.rows is None:
        return []
    assert isinstance(result.rows, pl.DataFrame)
    return [row[:3] for row in result.rows.rows()]


def versions(result: StepResult) -> set[int]:
    assert isinstance(result.rows, pl.DataFrame)
    return set(result.rows["version"])


def test_an_event_is_given_when_the_watermark_has_passed_it() -> None:
    step = step_of()
    assert told(step.on_batch(batch([5, 3, 13]))) == []
    result = step.on_batch(batch([14], first=3))
    assert told(result) == [("event", 3, 1)]
    assert versions(result) == {version_of(0, 4, FINAL)}
    assert step.step.watermark_ms == 4
    assert told(step.on_batch(batch([40, 50], first=4))) == [
        ("event", 5, 0),
        ("event", 13, 2),
        ("event", 14, 3),
    ]


def test_an_event_that_the_watermark_has_passed_is_late() -> None:
    result = step_of().on_batch(batch([30, 20, 19, 31, 20]))
    assert result.late is not None
    assert [(letter.offset, letter.watermark) for letter in result.late] == [
        (2, "1970-01-01T00:00:00.020Z"),
        (4, "1970-01-01T00:00:00.021Z"),
    ]
    assert told(result) == [("event", 20, 1)]


def even(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_row_index(ROW).filter(pl.col(TIME_MS) % 2 == 0)


def test_events_that_are_not_chosen_move_time_on_and_are_filtered() -> None:
    step = step_of(choose=even)
    result = step.on_batch(batch([2, 51, 4, 5, 60]))
    assert told(result) == [("event", 2, 0)]
    assert result.filtered == 2
    assert result.late is not None
    assert [letter.offset for letter in result.late] == [2]


def test_time_alone_gives_rows_that_are_due() -> None:
    step = step_of()
    assert told(step.on_batch(batch([0, 50]))) == [("event", 0, 0)]
    # The newest event is not given yet: what is due may still be put off.
    assert told(step.on_batch(batch([109], first=2))) == [("event", 50, 1)]
    assert told(step.on_batch(batch([400], first=3))) == [
        ("event", 109, 2),
        ("silence", 209, -1),
    ]
    step = step_of(choose=even)
    assert told(step.on_batch(batch([0, 11]))) == [("event", 0, 0)]
    assert told(step.on_batch(batch([109], first=2))) == []
    assert told(step.on_batch(batch([111], first=3))) == [("silence", 100, -1)]


def test_a_quiet_partition_is_asked_once_for_what_comes_if_nothing_else_does() -> None:
    step = step_of()
    step.on_batch(batch([20, 25], wall_ms=1_000))
    assert told(step.on_batch(batch([], wall_ms=1_010))) == []
    # All that is held is asked for when the newest is due.
    result = step.on_batch(batch([], wall_ms=1_011))
    assert told(result) == [("event", 20, 0), ("event", 25, 1)]
    assert versions(result) == {version_of(0, 2, PROVISIONAL)}
    assert told(step.on_batch(batch([], wall_ms=1_109))) == []
    assert told(step.on_batch(batch([], wall_ms=1_110))) == [("silence", 125, -1)]
    assert told(step.on_batch(batch([], wall_ms=9_000))) == []
    # Nothing is late for having been quiet, and the fold knows of none of it.
    result = step.on_batch(batch([15, 30, 90], wall_ms=9_001, first=2))
    assert not result.late
    assert told(result) == [
        ("event", 15, 2),
        ("event", 20, 0),
        ("event", 25, 1),
        ("event", 30, 3),
    ]


def test_the_end_asks_for_all_of_it_once() -> None:
    step = step_of()
    step.on_batch(batch([20, 25]))
    assert told(step.on_batch(batch([], end=True))) == [
        ("event", 20, 0),
        ("event", 25, 1),
        ("silence", 125, -1),
    ]
    assert told(step.on_batch(batch([], end=True))) == []
    assert told(step_of().on_batch(batch([], end=True))) == []


def test_rows_can_be_asked_for_early_while_events_come() -> None:
    def next_hundred(newest_ms: int) -> int:
        return newest_ms // 100 * 100 + 100

    step = step_of(early_every_ms=1_000, early_ms=next_hundred)
    assert told(step.on_batch(batch([20], wall_ms=5_000))) == []
    assert told(step.on_batch(batch([25], wall_ms=5_999, first=1))) == []
    result = step.on_batch(batch([31], wall_ms=6_000, first=2))
    assert told(result) == [("event", 20, 0), ("event", 25, 1), ("event", 31, 2)]
    assert isinstance(result.rows, pl.DataFrame)
    early = version_of(0, 3, PROVISIONAL)
    assert result.rows["version"].to_list() == [version_of(0, 3, FINAL), early, early]
    # No more than that until it is time again, not even by a mark.
    assert told(step.on_batch(batch([32], wall_ms=6_999, first=3))) == []
    result = step.on_batch(batch([33], wall_ms=7_000, first=4))
    assert told(result)[0] == ("event", 25, 1)
    assert told(step.on_batch(batch([], wall_ms=7_067))) == []
    assert told(step.on_batch(batch([], wall_ms=7_200))) == [("silence", 133, -1)]


class _Both(Listener):
    """Writes to two tables."""

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> TableRows | None:  # type: ignore[override]
        rows = super().take(events, passed_ms, version)
        return None if rows is None else TableRows({f"of{len(rows)}": rows, "all": rows})


def test_early_rows_of_several_tables_come_after_the_final_ones() -> None:
    def both(_partition: int, snapshot: bytes | None) -> Any:
        return _Both(int.from_bytes(snapshot, "little")) if snapshot else _Both()

    step = DrivenStep(lambda *_: OrderedStep(DELAY_MS, both, 0, None, early_every_ms=1))
    step.on_batch(batch([20]))
    rows = step.on_batch(batch([31, 31], wall_ms=1, first=1)).rows
    assert isinstance(rows, TableRows)
    assert set(rows.frames) == {"of1", "all"}
    step.on_batch(batch([32], wall_ms=1, first=3))
    rows = step.on_batch(batch([42, 43], wall_ms=2, first=4)).rows
    assert isinstance(rows, TableRows)
    assert {name: len(frame) for name, frame in rows.frames.items()} == {
        "of3": 3,
        "of1": 1,
        "all": 4,
    }


_streams = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 14)), max_size=25).map(
    lambda drawn: [time_ms for time_ms, _ in sorted(drawn, key=sum)]
)


def final(result: StepResult) -> list[Row]:
    if result.rows is None:
        return []
    assert isinstance(result.rows, pl.DataFrame)
    return [row[:3] for row in result.rows.rows() if row[3] & 3 == FINAL]


@settings(max_examples=150, deadline=None)
@given(_streams, st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=5))
def test_what_the_fold_is_given_never_depends_on_the_cuts_nor_on_a_restart(
    times_ms: list[int], turns: list[tuple[int, bool]]
) -> None:
    flush = [*times_ms, 1_000]
    whole = step_of().on_batch(batch(flush))
    step, found, late, place = step_of(), [], [], 0
    sizes = [*turns * len(flush), (len(flush), False)] if any(n for n, _ in turns) else []
    for size, restarts in [*sizes, (len(flush), False)]:
        if restarts:
            step = step_of(step.snapshot())
        taken = flush[place : place + size]
        result = step.on_batch(batch(taken, wall_ms=place * 50, first=place))
        found += final(result)
        late += result.late or []
        place += len(taken)
    assert found == final(whole)
    assert late == (whole.late or [])


def test_the_snapshot_is_bounded_by_the_events_of_the_delay() -> None:
    step, sizes = step_of(), []
    for n in range(200):
        step.on_batch(batch(range(n * 50, n * 50 + 50), first=n * 50))
        sizes.append(len(step.snapshot()))
    assert max(sizes[100:]) <= 1.1 * max(sizes[:100])
