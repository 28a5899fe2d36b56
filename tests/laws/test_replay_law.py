"""A replay of any range gives the rows that the live worker's tables hold of its windows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall import flows
from footfall.flows._replay import Replayable
from footfall.schemas.versions import GENERATION_SHIFT
from footfall.streams import replay as replay_module
from footfall.streams.batch import Rows, TableRows
from footfall.streams.replay import (
    END_MS,
    END_OFFSET,
    Range,
    RangeError,
    Replay,
    Replayed,
)
from footfall.streams.source import Position
from footfall.streams.testing import MemoryReader, MemoryTopic, Result, run_flow
from tests.laws.worlds import (
    BASE_MS,
    EXAMPLES,
    LAWS,
    SETTINGS,
    Law,
    cuts,
    in_order,
    streams,
    without,
)

GENERATION = 3

REPLAYED = {name: law for name, law in LAWS.items() if flows.catalogue()[law.flow].has_replay}
every_flow = pytest.mark.parametrize("law", REPLAYED.values(), ids=REPLAYED)


def replayable_of(law: Law) -> Replayable:
    """Return the Replayable of the flow and topic."""
    (found,) = (
        each
        for each in flows.catalogue()[law.flow].replayables(SETTINGS)
        if each.topic == law.topic
    )
    return found


RAW = {name: law for name, law in REPLAYED.items() if replayable_of(law).is_raw}
REACHING = {
    name: law for name, law in REPLAYED.items() if replayable_of(law).rules.reach_ms is not None
}
"""Laws of flows whose topic need not be read from its beginning."""


class MemoryPartitions:
    """Partitions in memory, read from an offset on, or from when a record was appended."""

    def __init__(
        self,
        records: Sequence[Sequence[bytes]],
        sizes: Sequence[int] = (7,),
        appended_ms: Sequence[int] | None = None,
    ) -> None:
        self._topic = MemoryTopic(records, sizes, appended_ms=appended_ms)

    def count(self) -> int:
        return self._topic.partitions()

    def open(self, partition: int, start: Position) -> MemoryReader:
        offset = start.value if start.at == "offset" else 0
        if start.at == "time" and self._topic.appended_ms is not None:
            offset = sum(at_ms < start.value for at_ms in self._topic.appended_ms)
        return self._topic.open(partition, offset)


def replayed(
    law: Law,
    records: list[bytes],
    asked: Range,
    *,
    sizes: Sequence[int] = (7,),
    complete: bool = False,
    limit_ms: int = END_MS,
    partitions: MemoryPartitions | None = None,
    any_order: bool = False,
    read_to: int = END_OFFSET,
    found: Replayable | None = None,
) -> tuple[Replayed, Result]:
    found = found or replayable_of(law)
    replay = Replay(
        flow=law.name,
        topic="memory",
        partitions=partitions or MemoryPartitions([records], sizes),
        records=found.records,
        rules=replace(found.rules, reach_ms=None) if any_order else found.rules,
        make_step=found.make_step(GENERATION, any_order),
        start_of=found.start_of,
        asked=asked,
        complete=complete,
        limit_of=lambda _partition: limit_ms,
        read_to=lambda _partition: read_to,
    )
    result = Result()
    done = replay.run(0, result.items.append)
    return done, result


def live_rows(law: Law, records: list[bytes], windows: Range) -> list[dict[str, Any]]:
    """Return the table's rows of those windows, as the live worker wrote them."""
    result = run_flow(law.build, records)
    start_of = replayable_of(law).start_of
    is_kept = start_of.is_between(windows.from_ms, windows.to_ms - 1)
    return law.table(Result([filtered(rows, is_kept) for rows in result.items]))


def filtered(rows: Rows, is_kept: pl.Expr) -> Rows:
    if isinstance(rows, pl.DataFrame):
        return rows.filter(is_kept)
    return TableRows({name: found.filter(is_kept) for name, found in rows.frames.items()})


def versions(result: Result) -> set[int]:
    """Return the versions of a replay's rows, in whatever tables."""
    frames = [
        frame
        for rows in result.items
        for frame in ([rows] if isinstance(rows, pl.DataFrame) else rows.frames.values())
    ]
    return {version for frame in frames for version in frame["version"]}


ranges = st.tuples(
    st.sampled_from((0, 1, 30_000, 60_000, 61_000, 120_000, 600_000)),
    st.sampled_from((60_000, 90_000, 119_999, 120_000, 600_000, 1_200_000, 2_000_000)),
).map(lambda drawn: Range(BASE_MS + drawn[0], BASE_MS + drawn[0] + drawn[1]))

whole_ranges = ranges.filter(lambda found: found.to_ms - found.from_ms >= 120_000)


@every_flow
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_range_has_the_rows_that_the_live_worker_wrote(law: Law, data: st.DataObject) -> None:
    records = data.draw(streams(law))
    asked = data.draw(ranges)
    complete = data.draw(st.booleans())
    try:
        done, result = replayed(law, records, asked, sizes=data.draw(cuts), complete=complete)
    except RangeError:
        return
    assert asked.from_ms <= done.windows.from_ms
    assert done.windows.to_ms <= asked.to_ms
    expected = live_rows(law, records, done.windows)
    if law.name == "user_profiles":
        # Of a range alone more tags are among the newest than of the whole stream.
        found = law.table(result)
        assert all(row in found for row in expected)
        return
    assert without(law.table(result), "version") == without(expected, "version")
    assert {version >> GENERATION_SHIFT for version in versions(result)} <= {GENERATION}
    counted = {"count", "nr_of_events"} & set(result.rows.columns)
    for name in counted:
        settled = done.settled_ms >= done.windows.to_ms or complete
        assert settled or result.rows[name].sum() <= done.used


@every_flow
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_window_is_given_that_a_later_event_could_change(law: Law, data: st.DataObject) -> None:
    if law.name == "user_profiles":
        return
    records = data.draw(streams(law, bad=False))
    later = data.draw(streams(law, bad=False))
    whole = Range(BASE_MS - BASE_MS % 60_000, BASE_MS + 3_600_000)
    done, result = replayed(law, records, whole)
    # What follows in the topic afterwards, in whatever order, changes none of them; where each
    # record has rows of its own it has some, too.
    live = live_rows(law, records + later, done.windows)
    assert without(law.table(result), "version") == without(
        [row for row in live if row.get("offset", 0) < done.next_offset], "version"
    )


@pytest.mark.parametrize("law", RAW.values(), ids=RAW)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_records_that_the_worker_has_not_read_are_left_to_it(
    law: Law, data: st.DataObject
) -> None:
    records = data.draw(streams(law))
    read_to = data.draw(st.integers(0, len(records)))
    removed = data.draw(st.integers(0, len(records)))

    class Removed(MemoryPartitions):
        def open(self, partition: int, start: Position) -> MemoryReader:
            return self._topic.open(partition, max(removed, start.value))

    asked = data.draw(ranges)
    left = Removed([records], data.draw(cuts))
    done, result = replayed(law, [], asked, read_to=read_to, partitions=left)
    # Where each record has rows of its own, no other record that is gone is missed.
    assert done.windows == asked
    assert (done.first_offset, done.next_offset) == (removed, max(removed, read_to))
    assert (done.read, done.unread) == (
        max(0, read_to - removed),
        len(records) - max(removed, read_to),
    )
    assert without(law.table(result), "version") == without(
        [row for row in live_rows(law, records, asked) if removed <= row["offset"] < read_to],
        "version",
    )


@pytest.mark.parametrize("law", REACHING.values(), ids=REACHING)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_reading_begins_late_enough_to_be_quick_and_early_enough_to_be_right(
    law: Law, data: st.DataObject
) -> None:
    _, records = data.draw(in_order(law))
    # Appended when the last event before was, at least: some are ahead of that by minutes.
    time_of = replayable_of(law).records.decode
    poll = MemoryTopic([records]).open(0, None).poll(END_MS)
    times = time_of(law.flow, poll).frame["time_ms"].to_list()
    behind_ms = data.draw(st.sampled_from((0, 60_000, 300_000)))
    appended = [max(times[: place + 1]) - behind_ms for place in range(len(times))]
    asked = data.draw(whole_ranges)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(replay_module, "WARM_UP_RECORDS", data.draw(st.integers(0, 3)))
        left = MemoryPartitions([records], (2,), appended)
        done, result = replayed(
            law,
            [],
            asked,
            complete=True,
            partitions=left,
            found=_with_reach(replayable_of(law), 6_000),
        )
    assert without(law.table(result), "version") == without(
        live_rows(law, records, done.windows), "version"
    )


def _with_reach(found: Replayable, reach_ms: int) -> Replayable:
    """Return a flow that waits for less and takes no event far ahead of its append time, so that
    a short stream has an earlier part."""
    return replace(
        found,
        records=replace(found.records, future_max_ms=300_000),
        rules=replace(found.rules, reach_ms=reach_ms),
    )


def test_a_short_range_before_old_records_is_found_by_when_it_was_appended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    law, hour_ms = LAWS["minute_buckets"], 3_600_000
    monkeypatch.setattr(replay_module, "WARM_UP_RECORDS", 2)
    # Four events of the range, thirty old ones that were sent again after them, two new ones.
    hours = [*[0] * 64, *[3] * 4, *[0] * 30, *[5] * 2]
    appended = [*[0] * 64, *[3] * 34, *[5] * 2]
    records = [law.event(BASE_MS + hour * hour_ms, 1) for hour in hours]

    found = replayable_of(law)
    result = Result()
    done = Replay(
        flow=law.name,
        topic="memory",
        partitions=MemoryPartitions([records], (2,), [BASE_MS + at * hour_ms for at in appended]),
        records=found.records,
        rules=found.rules,
        make_step=found.make_step(1, False),
        start_of=found.start_of,
        asked=Range(BASE_MS + 3 * hour_ms, BASE_MS + 3 * hour_ms + 60_000),
    ).run(0, result.items.append)
    assert [row["count"] for row in law.table(result)] == [4]
    assert done.first_offset == 62


def test_the_live_worker_s_open_windows_are_left_to_it() -> None:
    law = LAWS["minute_buckets"]
    records = [law.event(BASE_MS + second * 1_000, 1) for second in range(0, 1_800, 10)]
    asked = Range(BASE_MS, BASE_MS + 900_000)
    done, result = replayed(law, records, asked, limit_ms=BASE_MS + 330_000)
    assert done.windows == Range(BASE_MS, BASE_MS + 300_000)
    assert sorted({row["bucket"].timestamp() * 1000 - BASE_MS for row in law.table(result)}) == [
        60_000 * minute for minute in range(5)
    ]


def test_an_event_of_the_future_is_none_for_a_replay_when_its_time_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    law = LAWS["minute_buckets"]
    records = [law.event(BASE_MS + second * 1_000, 1) for second in range(0, 3_600, 10)]
    records.insert(100, law.event(BASE_MS + 3 * 3_600_000, 1))
    appended = [BASE_MS + 3_600_000] * len(records)
    live = run_flow(law.build, records, appended_ms=appended)
    assert [letter.code for letter in live.dead] == ["future_time"]
    monkeypatch.setattr(replay_module, "wall_clock_ms", lambda: BASE_MS + 86_400_000)
    asked = Range(BASE_MS, BASE_MS + 3_600_000)
    left = MemoryPartitions([records], appended_ms=appended)
    done, result = replayed(law, [], asked, complete=True, partitions=left)
    assert (done.dead, done.late) == (1, 0)
    assert without(law.table(result), "version") == without(law.table(live), "version")


def after_retention(
    records: list[bytes], removed: int, *, complete: bool = False
) -> tuple[Replayed, Result]:
    """Replay the first 80 minutes where the first ``removed`` records are gone."""
    law = LAWS["minute_buckets"]

    class Removed(MemoryPartitions):
        def open(self, partition: int, start: Position) -> MemoryReader:
            offset = start.value if start.at == "offset" else 0
            return self._topic.open(partition, max(removed, offset))

    asked = Range(BASE_MS, BASE_MS + 4_800_000)
    return replayed(law, [], asked, complete=complete, partitions=Removed([records]))


def test_windows_whose_first_events_retention_has_removed_are_left_alone() -> None:
    law = LAWS["minute_buckets"]
    records = [law.event(BASE_MS + second * 1_000, 1) for second in range(7_200)]
    done, result = after_retention(records, 300)
    first_ms = min(row["bucket"].timestamp() * 1000 for row in law.table(result))
    # The first record that is left is of second 300; a record up to 605 s older may be gone.
    assert first_ms == done.windows.from_ms > BASE_MS + 900_000
    by_minute: dict[float, int] = defaultdict(int)
    for row in law.table(result):
        by_minute[row["bucket"].timestamp()] += row["count"]
    assert set(by_minute.values()) == {60}


@pytest.mark.parametrize("complete", [False, True])
def test_nothing_is_certain_of_a_partition_that_retention_has_emptied(complete: bool) -> None:
    law = LAWS["minute_buckets"]
    records = [law.event(BASE_MS + second * 1_000, 1) for second in range(300)]
    done, result = after_retention(records, 300, complete=complete)
    assert done.windows.from_ms == done.windows.to_ms, "nothing of it may be taken back"
    assert not result.items


@pytest.mark.parametrize("bad", [600, 7_200])
def test_records_that_cannot_be_read_do_not_hide_that_retention_has_removed_some(bad: int) -> None:
    law = LAWS["minute_buckets"]
    records = [law.event(BASE_MS + second * 1_000, 1) for second in range(7_200)]
    records[300 : 300 + bad] = [b"no record"] * min(bad, 6_900)
    done, _ = after_retention(records, 300, complete=True)
    # The first good record that is left is of second 900; one up to 605 s older may be gone.
    first_s = 900 + 605 if bad == 600 else 4_800
    assert done.windows.from_ms >= BASE_MS + first_s * 1_000


def test_a_range_without_a_whole_window_is_refused() -> None:
    law = LAWS["minute_buckets"]
    with pytest.raises(RangeError, match="no whole window of 60 s"):
        replayed(law, [], Range(BASE_MS + 1, BASE_MS + 119_999))


def test_an_archive_in_any_order_counts_every_event() -> None:
    law = LAWS["minute_buckets"]
    times = [0, 3_000_000, 60_000, 1_200_000, 59_999, 2_999_000]
    records = [law.event(BASE_MS + time_ms, 1) for time_ms in times]
    done, result = replayed(law, records, Range(BASE_MS, BASE_MS + 2_940_000), any_order=True)
    counts = {
        round(row["bucket"].timestamp() * 1000) - BASE_MS: row["count"]
        for row in law.table(result)
    }
    assert counts == {0: 2, 60_000: 1, 1_200_000: 1}
    assert done.late == 0


def test_rows_of_a_replay_are_frames_of_the_table() -> None:
    law = LAWS["minute_buckets"]
    _, result = replayed(
        law, [law.event(BASE_MS, 1)], Range(BASE_MS, BASE_MS + 60_000), complete=True
    )
    assert isinstance(result.items[0], pl.DataFrame)
    assert result.items[0]["count"].to_list() == [1]
