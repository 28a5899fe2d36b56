"""Rows that a process wrote before it was killed are true in the end, or replaced by true ones.

The steps are driven without an engine, as engines do it at worst: rows are written at once,
snapshots are taken long before a process is killed, and the next one reads on from there in
other batches, at another time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.streams.batch import Poll
from footfall.streams.testing import NOW_MS, DrivenStep, Result
from tests.laws.worlds import BAD_RECORDS, BASE_MS, EXAMPLES, LAWS, REQUESTS, Law, Rows

every_flow = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


@dataclass(frozen=True)
class Process:
    """The work of a process before it is killed or, for the last one, before it ends."""

    started_after_ms: int
    """After the one before it was killed."""
    polls: Sequence[tuple[int, int]]
    """(records, how long the partition is quiet afterwards in ms)"""
    saved_after: int
    """Polls until a snapshot, or its end where it has fewer; 0 where nothing is saved."""
    ends: bool
    """Before it is killed it comes to its end."""


_PAUSES_MS = (0, 0, 100, 3_000, 6_000, 40_000, 2_000_000)
_pauses = st.sampled_from(_PAUSES_MS)
_polls = st.tuples(st.sampled_from((1, 2, 3, 5, 9, 14)), _pauses)
processes = st.builds(
    Process,
    _pauses,
    st.lists(_polls, min_size=1, max_size=4),
    st.sampled_from((0, 0, 0, 1, 2, 4)),
    st.sampled_from((True, True, False)),
)


@st.composite
def walks(draw: st.DrawFn, law: Law) -> list[bytes]:
    """Return records that mostly follow each other closely, some of them out of order, late or
    bad.

    All are of two requests at most: what they do to each other is to be common.
    """
    requests = draw(st.sampled_from(((0,), (1,), (3,), (2, 4))))
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from((0, 1, 900, 900, 4_000, 4_000, 4_000, 61_000, 125_000, 1_800_000)),
                st.sampled_from((0, 0, 0, 1, 1_000, 4_000, 5_000, 30_000, 119_000, 140_000)),
                st.sampled_from(requests),
                st.integers(0, 11),
                st.integers(0, 20),
            ),
            min_size=8,
            max_size=25,
        )
    )
    now_ms, found = BASE_MS + 200_000, []
    for apart_ms, behind_ms, request, choice, is_good in drawn:
        now_ms += apart_ms
        event = law.event(now_ms - behind_ms, REQUESTS * choice + request)
        found.append(event if is_good else BAD_RECORDS[choice])
    return found


class World:
    """Rows as they are written, snapshots, and a wall clock: what outlives a process."""

    def __init__(self, law: Law, records: Sequence[bytes]) -> None:
        self._law = law
        self._reading = law.reading()
        self._records = records
        self._saved: tuple[bytes | None, int] = None, 0
        self._now_ms = NOW_MS
        self.written = Result()

    def run(self, process: Process) -> None:
        """Run it from the newest snapshot on until it is killed."""
        self._now_ms += process.started_after_ms
        state, offset = self._saved
        step = DrivenStep(self._reading.step, 0, state)
        for number, (count, quiet_ms) in enumerate(process.polls, start=1):
            self._now_ms += 50
            self._take(step, offset, count)
            offset = min(offset + count, len(self._records))
            if quiet_ms:
                self._now_ms += quiet_ms
                self._take(step, offset, 0)
            if number == process.saved_after:
                self._saved = step.snapshot(), offset
        if process.ends:
            self._take(step, offset, 0, end=True)
            if process.saved_after > len(process.polls):
                self._saved = step.snapshot(), offset

    def _take(self, step: DrivenStep, offset: int, count: int, *, end: bool = False) -> None:
        taken = self._records[offset : offset + count]
        data = b"".join(record + b"\n" for record in taken)
        lag = len(self._records) - offset - len(taken)
        poll = Poll(
            self._law.topic, 0, offset, data, len(taken), lag, self._now_ms, end, agreeing=1
        )
        rows = step.on_batch(self._reading.records.decode(self._law.flow, poll)).rows
        if rows is not None:
            self.written.items.append(rows)


def in_the_end(law: Law, records: Sequence[bytes], killed: Sequence[Process] = ()) -> Rows:
    """Return the tables after these processes, and one more that reads on to the end."""
    world = World(law, records)
    for process in (*killed, Process(0, [(len(records), 0)], saved_after=0, ends=True)):
        world.run(process)
    return law.table(world.written)


@every_flow
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_what_a_killed_process_wrote_is_replaced_by_what_is_true(
    law: Law, data: st.DataObject
) -> None:
    records = data.draw(walks(law))
    killed = data.draw(st.lists(processes, min_size=1, max_size=4))
    assert in_the_end(law, records, killed) == in_the_end(law, records)
