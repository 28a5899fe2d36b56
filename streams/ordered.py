"""Events of a partition in order of time: held back until the watermark has passed them.

What depends on the order of events (a session, a burst) is a fold over them. The fold is given
events once no earlier event can come any more. So its rows depend neither on how the stream was
cut into batches nor on any order within the delay. An event that the watermark has passed when it
comes is late.

While a partition is quiet, and at the end of a run, a copy of the fold is asked what its rows
would be if nothing else came. These rows are provisional, and the final ones replace them. The
copy is asked again as time passes, until the next event comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import polars as pl

from footfall.schemas.versions import FINAL, PROVISIONAL, version_of
from footfall.streams.batch import NEVER, ROW, TIME_MS, Batch, Rows
from footfall.streams.frames import where
from footfall.streams.steps import Choose, MakeStep, StepResult, late_events, unchosen
from footfall.streams.window_chunks import packed, unpacked
from footfall.streams.windows import NO_END_MS

OFFSET = "offset"
"""Column of a held event: its offset in the partition."""
THE_END_MS = 2**62
"""Time after every event: nothing will come any more."""


class Fold(Protocol):
    """The state that a flow keeps of the events of one partition, in order of time."""

    def take(self, events: pl.DataFrame, passed_ms: int, version: int) -> Rows | None:
        """Take the events before ``passed_ms`` and return the rows that are due by then.

        No earlier event will come. The events are in no order among themselves; all events of one
        millisecond are given together, with OFFSET beside their columns. The rows get ``version``.
        """

    def due_ms(self) -> int:
        """Return when time alone, without an event, leads to rows; THE_END_MS where it never
        does."""

    def snapshot(self) -> bytes:
        """Return the state as bytes."""

    @property
    def holds(self) -> Mapping[str, int]:
        """Return what it holds, by schemas.metrics.HELD_KINDS."""


MakeFold = Callable[[int, bytes | None], Fold]
"""(partition, snapshot or None) -> the fold of that partition."""

_NUMBERS = 5


class OrderedStep:
    """A step that gives a fold the events of one partition in order.

    Its state is bounded by the events of ``delay_ms`` and by the fold's own.
    """

    def __init__(
        self,
        delay_ms: int,
        make_fold: MakeFold,
        partition: int,
        snapshot: bytes | None,
        *,
        choose: Choose | None = None,
        early_every_ms: int = 0,
        early_ms: Callable[[int], int] = lambda newest_ms: newest_ms,
    ) -> None:
        """Restore the state from a snapshot, if there is one.

        ``choose`` gives the events that the fold takes; the others are filtered. With
        ``early_every_ms`` (of the wall clock) provisional rows are also asked for while events
        come: those up to ``early_ms`` of the newest event time.
        """
        self._delay_ms = delay_ms
        self._make_fold = make_fold
        self._partition = partition
        self._choose = choose
        self._early_every_ms = early_every_ms
        self._early_ms = early_ms
        self._newest_ms = self._highest_ms = NEVER
        self._polled_at_ms = NEVER
        self._early_at_ms = NEVER
        self._next_offset = 0
        self._held: pl.DataFrame | None = None
        """Events that the watermark has not passed, one row each; None before the first."""
        self._asked: Fold | None = None
        """Copy of the fold that was asked for provisional rows since the last event."""
        self._asked_ms = NEVER
        """Time up to which it was asked."""
        folded = self._restore(snapshot) if snapshot else None
        self._fold = make_fold(partition, folded)

    def on_batch(self, batch: Batch) -> StepResult:
        poll = batch.poll
        if poll.count == 0:
            return StepResult(self._mark(poll.polled_at_ms, end=poll.end))
        self._polled_at_ms = poll.polled_at_ms
        self._next_offset = poll.next_offset
        self._asked, self._asked_ms = None, NEVER
        if batch.frame.is_empty():
            return StepResult()
        seen = batch.seen
        self._newest_ms, self._highest_ms = seen.newest_ms, seen.highest_ms
        offsets = batch.offsets()
        if self._choose is None:
            events = batch.frame.hstack([pl.Series(OFFSET, offsets)])
            places = np.arange(len(events))
            filtered = 0
        else:
            chosen = self._choose(batch.frame)
            places = chosen[ROW].to_numpy().astype(np.int64)
            events = chosen.drop(ROW).hstack([pl.Series(OFFSET, offsets[places])])
            filtered = unchosen(len(batch.frame), places)
        watermarks = seen.reached_ms[places] - self._delay_ms
        is_late = events[TIME_MS].to_numpy() < watermarks
        late = None
        if is_late.any():
            late_places, first = np.unique(places[is_late], return_index=True)
            late = late_events(batch, late_places, watermarks[is_late][first])
            events = where(events, ~is_late)
        self._hold(events)
        rows = self._pass(self.watermark_ms)
        early = self._early(poll.polled_at_ms)
        return StepResult(rows if early is None else _both(rows, early), late, filtered)

    def snapshot(self) -> bytes:
        held = b"" if self._held is None else packed(self._held)
        times = (self._newest_ms, self._highest_ms, self._polled_at_ms)
        numbers = np.array((*times, self._next_offset, len(held)), dtype="<i8")
        return numbers.tobytes() + held + self._fold.snapshot()

    @property
    def watermark_ms(self) -> int:
        return self._newest_ms - self._delay_ms if self._newest_ms != NEVER else NEVER

    @property
    def mark_at_ms(self) -> int:
        due_ms = self._due_ms()
        if due_ms >= THE_END_MS:
            return NO_END_MS
        return self._polled_at_ms + due_ms - (self._highest_ms - self._delay_ms)

    @property
    def holds(self) -> Mapping[str, int]:
        events = 0 if self._held is None else len(self._held)
        return {"events": events, **self._fold.holds}

    def _restore(self, snapshot: bytes) -> bytes:
        size = 8 * _NUMBERS
        numbers = np.frombuffer(snapshot[:size], dtype="<i8")
        self._newest_ms, self._highest_ms, self._polled_at_ms = map(int, numbers[:3])
        self._next_offset, held = map(int, numbers[3:])
        if held:
            self._held = unpacked(snapshot[size : size + held])
        return snapshot[size + held :]

    def _hold(self, events: pl.DataFrame) -> None:
        if self._held is None or self._held.is_empty():
            self._held = events
        elif len(events):
            self._held = pl.concat([self._held, events])

    def _pass(self, watermark_ms: int) -> Rows | None:
        """Give the fold the events that the watermark has passed."""
        held = self._held
        if held is None:
            return None
        is_passed = held[TIME_MS].to_numpy() < watermark_ms
        if not is_passed.any() and self._fold.due_ms() > watermark_ms:
            return None
        self._held = where(held, ~is_passed)
        return self._fold.take(where(held, is_passed), watermark_ms, self._version(FINAL))

    def _early(self, polled_at_ms: int) -> Rows | None:
        if not self._early_every_ms:
            return None
        if self._early_at_ms == NEVER:
            self._early_at_ms = polled_at_ms
        if polled_at_ms - self._early_at_ms < self._early_every_ms:
            return None
        self._early_at_ms = polled_at_ms
        return self._ask(self._early_ms(self._newest_ms))

    def _mark(self, polled_at_ms: int, *, end: bool) -> Rows | None:
        """Return the provisional rows that are due as time passes or, at the end, all of them."""
        if self._held is None:
            return None
        quiet_ms = max(0, polled_at_ms - self._polled_at_ms)
        # A partition of few records never agrees on a time, so the highest time counts here.
        until_ms = THE_END_MS if end else self._highest_ms - self._delay_ms + quiet_ms
        return self._ask(until_ms) if until_ms >= self._due_ms() else None

    def _due_ms(self) -> int:
        """Return the time that leads to provisional rows; THE_END_MS or more where none follow."""
        if self._held is None:
            return THE_END_MS + 1
        # All events are asked for at once: a partition that falls quiet leads to two questions at
        # most, except for what time alone brings.
        due_ms = (self._asked or self._fold).due_ms()
        if len(self._held) and self._asked_ms <= self._highest_ms:
            due_ms = min(due_ms, self._highest_ms + 1)
        return max(due_ms, self._asked_ms + 1)

    def _ask(self, until_ms: int) -> Rows | None:
        """Return new rows that the fold would give if nothing else came."""
        assert self._held is not None
        if self._asked is None:
            self._asked = self._make_fold(self._partition, self._fold.snapshot())
        times = self._held[TIME_MS].to_numpy()
        events = where(self._held, (times >= self._asked_ms) & (times < until_ms))
        self._asked_ms = until_ms
        return self._asked.take(events, until_ms, self._version(PROVISIONAL))

    def _version(self, phase: int) -> int:
        # Each later state of the partition knows all that is earlier in it: the offset orders the
        # writes of a row as the number of events orders those of a window.
        return version_of(0, self._next_offset, phase)


def fold(
    make_fold: MakeFold,
    *,
    delay_ms: int,
    choose: Choose | None = None,
    early_every_ms: int = 0,
    early_ms: Callable[[int], int] = lambda newest_ms: newest_ms,
) -> MakeStep:
    """Declare a step that gives a fold the events of a partition in order of time.

    ``make_fold`` takes the partition and a snapshot, or None at the beginning. The watermark
    trails the newest event by ``delay_ms``. Without ``choose`` the fold takes every event. With
    ``early_every_ms`` of the wall clock the rows of a window that is open are written while
    events come: those up to ``early_ms`` of the newest event time.
    """
    return lambda partition, snapshot: OrderedStep(
        delay_ms,
        make_fold,
        partition,
        snapshot,
        choose=choose,
        early_every_ms=early_every_ms,
        early_ms=early_ms,
    )


def _both(rows: Rows | None, early: Rows) -> Rows:
    if rows is None:
        return early
    if isinstance(rows, pl.DataFrame):
        assert isinstance(early, pl.DataFrame)
        return pl.concat([rows, early])
    assert not isinstance(early, pl.DataFrame)
    frames = dict(rows.frames)
    for name, frame in early.frames.items():
        frames[name] = pl.concat([frames[name], frame]) if name in frames else frame
    return type(rows)(frames)
