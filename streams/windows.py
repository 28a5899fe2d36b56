"""Tumbling windows over event time, as pure arithmetic on frames.

A window's rows may be written early (provisional), are final when the watermark passes its
end, and are corrected (revised) for ``lateness_ms`` longer; an event later than that is late.
The watermark is that of the row: which events are late, and what every row holds in the end,
never depends on how the stream was cut into batches.

The wall clock decides nothing but when rows are written. When a partition is quiet, its last
windows are written as final after the delay; if more of their events come all the same, they are
counted, and the fuller row wins.

    open      windows that the watermark has not passed: one row per event until they are
              merged, because most rows are grouped only once, when their window closes
    closed    groups of windows that can still be corrected, in chunks of whole windows
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from footfall.schemas.versions import FINAL, PROVISIONAL, REVISED
from footfall.streams.batch import NEVER, TIME_MS, Int64s, Seen
from footfall.streams.frames import where
from footfall.streams.tumbling import FRESH, WINDOW, Tumbling
from footfall.streams.window_chunks import Chunk, packed, unpacked

OPEN_ROWS_MAX = 65_536
"""Unmerged rows above which they are merged, if there are also twice as many as groups."""
CLOSED_CHUNKS_MAX = 32
NO_END_MS = 2**62


class WindowSizeError(Exception):
    """Kept windows that are of another size; the message says what to do."""


@dataclass(frozen=True, slots=True)
class WindowRows:
    """Results of a batch."""

    rows: pl.DataFrame | None
    """Columns WINDOW, the groups, EVENTS, the sums, VERSION: upserts, in order of writing."""
    late: Int64s
    """Indexes of the rows of the batch's frame that came too late to count."""
    watermarks_ms: Int64s
    """Watermark that each of the late rows met."""


NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class WindowState:
    """The windows of one partition. Bounded by the events of size + delay + lateness."""

    spec: Tumbling
    newest_ms: int = NEVER
    """Event time reached."""
    highest_ms: int = NEVER
    """Highest event time of any record, which may not be agreed on."""
    polled_at_ms: int = NEVER
    """Wall clock of the last poll that had records."""
    written_at_ms: int = NEVER
    """Wall clock when provisional rows were last written."""
    quiet_to_ms: int = NEVER
    """Time up to which windows end that were written as final while the partition was quiet."""
    open: list[pl.DataFrame] = field(default_factory=list)
    open_rows: int = 0
    group_rows: int = 0
    """Number of groups of the open windows when they were last merged."""
    merged: bool = True
    """True if ``open`` is one frame at most, with one row per group."""
    earliest_end_ms: int = NO_END_MS
    """End of the earliest open window."""
    closed: list[Chunk] = field(default_factory=list)

    @property
    def watermark_ms(self) -> int:
        """Return the watermark: no earlier event is expected. NEVER before the first event."""
        return self.newest_ms - self.spec.delay_ms if self.newest_ms != NEVER else NEVER

    @property
    def mark_at_ms(self) -> int:
        """Return the wall clock before which ``mark`` gives no rows; NO_END_MS where it never
        does."""
        due_ms = NO_END_MS
        if self.open and self.quiet_to_ms < self._last_end_ms():
            size_ms = self.spec.size_ms
            end_ms = max(self.earliest_end_ms, self.quiet_to_ms // size_ms * size_ms + size_ms)
            due_ms = self.polled_at_ms + end_ms - (self.highest_ms - self.spec.delay_ms)
        if self.open and self.written_at_ms <= self.polled_at_ms:
            due_ms = min(due_ms, self.written_at_ms + self.spec.write_every_ms)
        return due_ms

    @property
    def holds(self) -> dict[str, int]:
        """Return the numbers of open windows and groups; ask after a snapshot, which merges
        them."""
        windows = sum(frame[WINDOW].n_unique() for frame in self.open)
        return {"windows": windows, "groups": sum(map(len, self.open))}

    def add(self, frame: pl.DataFrame, polled_at_ms: int, seen: Seen | None = None) -> WindowRows:
        """Count the events of a batch, and return the rows that are due.

        ``seen`` says how far event time has come with each of them; without it every time is
        believed.
        """
        if frame.is_empty() and seen is None:
            return WindowRows(None, NO_ROWS, NO_ROWS)
        spec = self.spec
        times = frame[TIME_MS].to_numpy()
        seen = seen or Seen.of(times, self.newest_ms)
        earliest_end_ms = NO_END_MS
        if len(times):
            earliest_end_ms = int(times.min()) // spec.size_ms * spec.size_ms + spec.size_ms
        late, watermarks, corrections = NO_ROWS, NO_ROWS, None
        on_time = frame
        reached = seen.reached_ms - spec.delay_ms
        if (times < reached).any():
            # Some row is behind the watermark that it meets, which may have passed its window
            # already.
            ends = times // spec.size_ms * spec.size_ms + spec.size_ms
            is_late = ends + spec.lateness_ms <= reached
            is_correction = (ends <= reached) & ~is_late
            late = np.flatnonzero(is_late)
            watermarks = reached[late]
            if is_correction.any():
                corrections = where(frame, is_correction)
            is_on_time = ends > reached
            if not is_on_time.all():
                on_time = where(frame, is_on_time)
            earliest_end_ms = int(ends[is_on_time].min()) if len(on_time) else NO_END_MS
        self.newest_ms, self.highest_ms = seen.newest_ms, seen.highest_ms
        self.polled_at_ms = polled_at_ms
        self._append(on_time, earliest_end_ms)
        rows = self._close(self.watermark_ms)
        if corrections is not None:
            rows.append(self._correct(self.spec.summands(corrections)))
        self._expire()
        if self.written_at_ms == NEVER:
            self.written_at_ms = polled_at_ms
        rows += self._write_early(polled_at_ms)
        if self.open_rows > max(OPEN_ROWS_MAX, 2 * self.group_rows) and not self.merged:
            self._merge()
        return WindowRows(_concat(rows), late, watermarks)

    def mark(self, polled_at_ms: int, *, end: bool = False) -> pl.DataFrame | None:
        """Return the rows that are due as time passes without events or, at the end, all of
        them."""
        if not self.open:
            return None
        quiet_ms = max(0, polled_at_ms - self.polled_at_ms)
        # A partition of few records never agrees on a time, and its windows must become final too.
        passed_ms = NO_END_MS if end else self.highest_ms - self.spec.delay_ms + quiet_ms
        if self.earliest_end_ms > passed_ms:
            return _concat(self._write_early(polled_at_ms))
        groups = self._merge()
        ends = pl.col(WINDOW) + self.spec.size_ms
        due = groups.filter((ends <= passed_ms) & (pl.col(FRESH) | (ends > self.quiet_to_ms)))
        self.open = [groups.with_columns(pl.col(FRESH) & (ends > passed_ms))]
        self.quiet_to_ms = max(self.quiet_to_ms, min(passed_ms, self._last_end_ms()))
        rows = [self.spec.versioned(due, FINAL)] if len(due) else []
        return _concat(rows + self._write_early(polled_at_ms))

    def snapshot(self) -> bytes:
        """Return the state as bytes; ``restore`` takes it back."""
        open_data = packed(self._merge()) if self.open else b""
        header = np.array(
            [
                self.spec.size_ms,
                self.newest_ms,
                self.highest_ms,
                self.polled_at_ms,
                self.written_at_ms,
                self.quiet_to_ms,
                self.earliest_end_ms,
                len(self.closed),
            ],
            dtype="<i8",
        )
        parts = [header.tobytes(), len(open_data).to_bytes(8, "little"), open_data]
        for chunk in self.closed:
            data = chunk.data()
            sizes = np.array([chunk.first_ms, chunk.last_ms, chunk.rows, len(data)], dtype="<i8")
            parts += [sizes.tobytes(), data]
        return b"".join(parts)

    @staticmethod
    def restore(spec: Tumbling, snapshot: bytes) -> WindowState:
        """Return the state that ``snapshot`` gave. Raises WindowSizeError for windows of another
        size."""
        reader = io.BytesIO(snapshot)

        def numbers(count: int) -> list[int]:
            return [int(x) for x in np.frombuffer(reader.read(8 * count), dtype="<i8")]

        size_ms, newest, highest, polled_at, written_at, quiet_to, earliest_end, chunks = numbers(
            8
        )
        if size_ms != spec.size_ms:
            raise WindowSizeError(
                f"the flow has kept windows of {size_ms / 1000:g} s, and is asked for windows of "
                f"{spec.size_ms / 1000:g} s: run it with those it has, or begin anew: "
                "move its folder in FOOTFALL_HOME/recovery away (demo: --fresh)"
            )
        (open_size,) = numbers(1)
        open_data = reader.read(open_size)
        opened = [unpacked(open_data)] if open_data else []
        state = WindowState(
            spec,
            newest,
            highest,
            polled_at,
            written_at,
            quiet_to,
            opened,
            sum(map(len, opened)),
            sum(map(len, opened)),
            earliest_end_ms=earliest_end,
        )
        for _ in range(chunks):
            first, last, rows, size = numbers(4)
            state.closed.append(Chunk.of_packed(first, last, rows, reader.read(size)))
        return state

    def _append(self, frame: pl.DataFrame, earliest_end_ms: int) -> None:
        if frame.is_empty():
            return
        self.open.append(self.spec.summands(frame))
        self.open_rows += len(frame)
        self.merged = False
        self.earliest_end_ms = min(self.earliest_end_ms, earliest_end_ms)
        # A window that was written as final while it was quiet is open all the same.
        self.quiet_to_ms = min(self.quiet_to_ms, earliest_end_ms - 1)

    def _merge(self) -> pl.DataFrame:
        """Return the open windows, from here on with one row per group. There must be a window."""
        if not self.merged:
            self.open = [self.spec.grouped(pl.concat(self.open, rechunk=True))]
            self.open_rows = self.group_rows = len(self.open[0])
            self.merged = True
        return self.open[0]

    def _close(self, watermark_ms: int) -> list[pl.DataFrame]:
        """Move the windows that the watermark has passed to the closed ones; return their rows."""
        if self.earliest_end_ms > watermark_ms:
            return []
        last_start_ms = watermark_ms - self.spec.size_ms
        passed, opened = zip(*(_split(frame, last_start_ms) for frame in self.open), strict=True)
        closing = pl.concat(passed, rechunk=True)
        closing = closing.drop(FRESH) if self.merged else self.spec.grouped(closing, fresh=False)
        # No window is left where the newest event is one that is not counted.
        self.open = [frame for frame in opened if len(frame)]
        self.open_rows = sum(map(len, self.open))
        starts = [int(frame[WINDOW].to_numpy().min()) for frame in self.open]
        self.earliest_end_ms = min(starts) + self.spec.size_ms if starts else NO_END_MS
        if self.spec.lateness_ms > 0:
            self.closed.append(_chunk(closing))
            if len(self.closed) > CLOSED_CHUNKS_MAX:
                self._compact()
        return [self.spec.versioned(closing, FINAL)]

    def _compact(self) -> None:
        """Join the smaller chunks; windows never span chunks, so no groups are merged."""
        by_size = sorted(self.closed, key=lambda chunk: chunk.rows)
        small, large = by_size[: -CLOSED_CHUNKS_MAX // 4], by_size[-CLOSED_CHUNKS_MAX // 4 :]
        self.closed = [
            *large,
            _chunk(pl.concat([chunk.frame() for chunk in small], rechunk=True)),
        ]

    def _correct(self, events: pl.DataFrame) -> pl.DataFrame:
        """Count events of closed windows, and return the rows that they change."""
        groups = self.spec.grouped(events)
        revised: list[pl.DataFrame] = []
        for index, chunk in enumerate(self.closed):
            if groups.is_empty():
                break
            within = groups[WINDOW].is_between(chunk.first_ms, chunk.last_ms)
            if not within.any():
                continue
            kept = chunk.frame()
            of_chunk = within & groups[WINDOW].is_in(kept[WINDOW].unique().implode())
            if not of_chunk.any():
                continue
            both = pl.concat(
                [kept.with_columns(pl.lit(False).alias(FRESH)), groups.filter(of_chunk)],
                rechunk=True,
            )
            merged = self.spec.grouped(both)
            revised.append(merged.filter(FRESH))
            self.closed[index] = _chunk(merged.drop(FRESH))
            groups = groups.filter(~of_chunk)
        if len(groups):
            # Windows that had no event before they closed.
            self.closed.append(_chunk(groups.drop(FRESH)))
            revised.append(groups)
        return self.spec.versioned(pl.concat(revised), REVISED)

    def _expire(self) -> None:
        """Forget the windows that can no longer be corrected."""
        gone_ms = self.watermark_ms - self.spec.lateness_ms - self.spec.size_ms
        if self.closed and min(chunk.last_ms for chunk in self.closed) <= gone_ms:
            self.closed = [chunk for chunk in self.closed if chunk.last_ms > gone_ms]

    def _write_early(self, polled_at_ms: int) -> list[pl.DataFrame]:
        """Return provisional rows of what has changed, if it is time for them."""
        if polled_at_ms - self.written_at_ms < self.spec.write_every_ms:
            return []
        self.written_at_ms = polled_at_ms
        if not self.open:
            return []
        groups = self._merge()
        changed = groups.filter(FRESH)
        if changed.is_empty():
            return []
        self.open = [groups.with_columns(pl.lit(False).alias(FRESH))]
        return [self.spec.versioned(changed, PROVISIONAL)]

    def _last_end_ms(self) -> int:
        return self.highest_ms // self.spec.size_ms * self.spec.size_ms + self.spec.size_ms


def _chunk(frame: pl.DataFrame) -> Chunk:
    return Chunk.of(frame, frame[WINDOW])


def _split(frame: pl.DataFrame, last_start_ms: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return (the rows of windows that start by ``last_start_ms``, the others)."""
    is_before = frame[WINDOW].to_numpy() <= last_start_ms
    count = int(np.count_nonzero(is_before))
    if is_before[:count].all():
        # Most streams are in order. Nothing is copied.
        return frame.head(count), frame.tail(len(frame) - count)
    return where(frame, is_before), where(frame, ~is_before)


def _concat(frames: Sequence[pl.DataFrame]) -> pl.DataFrame | None:
    return pl.concat(frames) if frames else None
