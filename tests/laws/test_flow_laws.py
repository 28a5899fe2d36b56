"""The laws that every flow obeys, for streams of good, late and bad records.

How a stream is cut into batches changes nothing; nor does any order within the delay; a
replay changes nothing; a crash changes nothing; and every record is accounted for.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.schemas.dead_letters import DeadLetter, LateEvent
from footfall.sinks.buffered import BufferedSink
from footfall.streams.batch import Poll
from footfall.streams.engine import Outputs
from footfall.streams.testing import NOW_MS, DrivenStep, Result, run_flow
from tests.laws.worlds import EXAMPLES, LAWS, Law, cuts, in_order, streams, without

every_flow = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
many = settings(max_examples=EXAMPLES, deadline=None)
some = settings(max_examples=EXAMPLES // 2, deadline=None)


def kept_aside(result: Result) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]:
    """Return dead letters and late events, each once however often it was written."""

    def identity(letter: DeadLetter | LateEvent) -> tuple[Any, ...]:
        return letter.partition, letter.offset, letter.payload, letter.payload_base64

    return {(*identity(x), x.code) for x in result.dead}, {
        (*identity(x), x.watermark) for x in result.late
    }


@every_flow
@many
@given(data=st.data())
def test_how_a_stream_is_cut_into_batches_changes_nothing(law: Law, data: st.DataObject) -> None:
    records = data.draw(streams(law))
    whole = run_flow(law.build, records, cuts=(1_000,))
    cut = run_flow(law.build, records, cuts=data.draw(cuts))
    assert law.table(cut) == law.table(whole)
    assert kept_aside(cut) == kept_aside(whole)
    assert cut.partitions == whole.partitions


@every_flow
@many
@given(data=st.data())
def test_any_order_within_the_delay_gives_the_same_rows(law: Law, data: st.DataObject) -> None:
    ordered, shuffled = data.draw(in_order(law))
    expected = run_flow(law.build, ordered)
    found = run_flow(law.build, shuffled, cuts=data.draw(cuts))
    assert not found.late
    if law.flow != "user_profiles":
        assert without(law.table(found), "offset") == without(law.table(expected), "offset")
    elif len(expected.rows) == len(found.rows):
        # Which of two equal times is the newer is told by the offset; the tags are the same
        # as long as none had to go.
        expected_rows, found_rows = expected.rows.to_dicts(), found.rows.to_dicts()
        assert without(found_rows, "offset") == without(expected_rows, "offset")


@every_flow
@some
@given(data=st.data())
def test_a_replay_changes_nothing(law: Law, data: st.DataObject) -> None:
    records = data.draw(streams(law))
    first = run_flow(law.build, records, cuts=data.draw(cuts))
    again = run_flow(law.build, records, cuts=data.draw(cuts))
    both = Result(first.items + again.items, first.dead + again.dead, first.late + again.late)
    assert law.table(both) == law.table(first)
    assert kept_aside(both) == kept_aside(first)


@every_flow
@many
@given(data=st.data())
def test_every_record_is_accounted_for(law: Law, data: st.DataObject) -> None:
    records = data.draw(streams(law))
    result = run_flow(law.build, records, cuts=data.draw(cuts))
    if not records:
        return
    (status,) = result.partitions
    assert status.read == len(records) == status.next_offset
    assert status.read == status.used + status.filtered + status.late + status.dead
    assert (status.late, status.dead) == (len(result.late), len(result.dead))
    for name in {"count", "nr_of_events"} & set(result.rows.columns):
        assert sum(row[name] for row in law.table(result)) == status.used


@every_flow
@some
@given(data=st.data())
def test_a_crash_anywhere_changes_nothing(law: Law, data: st.DataObject) -> None:
    records = data.draw(streams(law))
    sizes = data.draw(cuts)
    undisturbed = run_flow(law.build, records, cuts=(1_000,))
    crashes = data.draw(st.lists(st.integers(0, 8), max_size=4))
    result = _run_with_crashes(law, records, tuple(sizes), crashes)
    assert law.table(result) == law.table(undisturbed)
    assert kept_aside(result) == kept_aside(undisturbed)
    assert result.partitions == undisturbed.partitions


@every_flow
@some
@given(data=st.data())
def test_a_mark_that_a_step_does_not_want_would_give_nothing(
    law: Law, data: st.DataObject
) -> None:
    reading = law.reading()
    step = DrivenStep(reading.step)
    left = data.draw(streams(law))
    offset, now_ms = 0, NOW_MS
    waits = st.sampled_from((0, 1, 900, 1_000, 5_000, 5_100, 60_000, 1_000_000, 2_000_000))
    for size in data.draw(cuts):
        taken, left = left[:size], left[size:]
        lines = b"".join(record.replace(b"\n", b" ") + b"\n" for record in taken)
        poll = Poll("t", 0, offset, lines, len(taken), 0, now_ms, agreeing=1)
        offset = poll.next_offset
        step.on_batch(reading.records.decode(law.flow, poll))
        for wait_ms in data.draw(st.lists(waits, max_size=4)):
            now_ms += wait_ms
            is_wanted = now_ms >= step.step.mark_at_ms
            mark = Poll("t", 0, offset, b"", 0, 0, now_ms)
            rows = step.on_batch(reading.records.decode(law.flow, mark)).rows
            assert is_wanted or rows is None or not len(rows)
            # And none is wanted over and over.
            assert step.step.mark_at_ms > now_ms


class _Durable:
    """A store that outlives the process which writes to it."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def write(self, items: Any) -> None:
        self._items += items

    def close(self) -> None:
        pass


def _run_with_crashes(
    law: Law, records: list[bytes], sizes: tuple[int, ...], crashes: list[int]
) -> Result:
    """Run over buffered sinks, broken off after each number of polls, then to the end."""
    frames: list[Any] = []
    dead: list[Any] = []
    late: list[Any] = []

    def sink(items: list[Any]) -> BufferedSink[Any]:
        return BufferedSink(lambda: _Durable(items), rows_max=5)

    with tempfile.TemporaryDirectory() as folder:
        last = Result()
        for abort_after in [*crashes, None]:
            last = run_flow(
                law.build,
                records,
                cuts=sizes,
                recovery=Path(folder),
                abort_after=abort_after,
                outputs=Outputs(sink(frames), sink(dead), sink(late)),
            )
    flat_dead = [letter for letters in dead for letter in letters]
    flat_late = [letter for letters in late for letter in letters]
    return Result(frames, flat_dead, flat_late, last.partitions)
