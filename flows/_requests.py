"""The requests of a partition that can still change: the state that flows of requests share.

What one is stands in ``flows._request_lives``. A step is on time unless the watermark that it
meets (the newest event time of the partition less DELAY_MS) has passed it by LATENESS_MS. So a
request whose last step the watermark has passed by KEEP_MS cannot change any more, and is
forgotten: whatever comes under its id is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from flows._request_lives import GAP_MS, Forms, Lives
from schemas.dead_letters import LateEvent
from streams.batch import TIME_MS, Batch, Int64s
from streams.engine import late_events
from streams.window_chunks import packed, unpacked
from streams.windows import NEVER, Seen

DELAY_MS = 5_000
LATENESS_MS = 120_000
LIMIT_MS = 30_000
"""Nobody waits longer for a request's last step."""
KEEP_MS = LATENESS_MS + GAP_MS

CHUNK_ROWS = 16_384
CHUNK_MS = 60_000
"""What is held is forgotten by chunks: each has so many rows, of so much time, about."""
_FILTER_BITS = 20

Hashes = npt.NDArray[np.uint64]
Late = tuple[Int64s, Int64s]
"""Which rows of a batch's frame came too late, and the watermark that each met."""


@dataclass(frozen=True, slots=True)
class Touched:
    """The requests whose ids are in a batch."""

    before: Lives | None
    """As they were; None where none of the ids was known."""
    now: Lives
    """Its steps are those of ``before``, then the batch's."""

    def moved(self) -> pl.DataFrame:
        """All steps of the ids whose requests may have been others, of another operation or
        moment, between two steps of the batch.

        A request whose steps come in order only grows, and one that begins with the first step
        of an operation is of that from then on.
        """
        now = self.now
        known = 0 if self.before is None else len(self.before.steps)
        # In which order those came that were known does not matter any more.
        came = np.maximum(now.order, known - 1)
        id_starts = now.starts[np.append(True, now.is_newest[:-1])]
        is_moved = np.append(False, came[1:] < came[:-1])
        is_moved[id_starts] = False
        is_steady = np.array([form.is_steady for form in now.forms])
        is_moved[now.starts] |= ~is_steady[now.form_places]
        counts = np.diff(np.append(id_starts, len(is_moved)))
        is_of_moved = np.repeat(np.logical_or.reduceat(is_moved, id_starts), counts)
        found: pl.DataFrame = now.steps[now.order[is_of_moved]]
        return found


@dataclass(slots=True)
class _Chunk:
    """Steps that are held. All of one id are in one chunk."""

    steps: pl.DataFrame
    hashes: Hashes
    last_ms: int
    opened_ms: int
    """The last step that it began with."""
    data: bytes | None = None

    @staticmethod
    def of(steps: pl.DataFrame, opened_ms: int | None = None, data: bytes | None = None) -> _Chunk:
        """A chunk of some steps, at least one; a new one unless it is said when it began."""
        last_ms = int(steps[TIME_MS].to_numpy().max())
        opened_ms = last_ms if opened_ms is None else opened_ms
        return _Chunk(steps, steps["request_id"].hash().to_numpy(), last_ms, opened_ms, data)

    def packed(self) -> bytes:
        """The steps as bytes, made once."""
        if self.data is None:
            self.data = packed(self.steps)
        return self.data


class Requests:
    """The requests of one partition that can still change.

    Bounded by the steps of KEEP_MS and, of each request that goes on, those of SPAN_MAX_MS.
    """

    def __init__(self, snapshot: bytes | None, *columns: str) -> None:
        """``columns`` of the batches' frames are kept beside those that requests are made of."""
        self._columns = (*columns, "request_id", "server", "log", TIME_MS)
        self._forms = Forms()
        self._chunks: list[_Chunk] = []
        self.newest_ms = NEVER
        if snapshot:
            newest, *parts = unframed(snapshot)
            self.newest_ms = int.from_bytes(newest, "little", signed=True)
            self._chunks = [_Chunk.of(unpacked(data), data=data) for data in parts]

    def snapshot(self) -> bytes:
        """The state as bytes."""
        newest = self.newest_ms.to_bytes(8, "little", signed=True)
        return framed(newest, *(chunk.packed() for chunk in self._chunks))

    @property
    def watermark_ms(self) -> int:
        """No earlier step is expected; NEVER before the first."""
        return self.newest_ms - DELAY_MS if self.newest_ms != NEVER else NEVER

    @property
    def held(self) -> int:
        """How many steps are held."""
        return sum(len(chunk.steps) for chunk in self._chunks)

    def take(self, frame: pl.DataFrame) -> tuple[Touched | None, Late | None]:
        """Take the steps of a batch, at least one; its frame has a column ``failed``."""
        times = frame[TIME_MS].to_numpy()
        seen = Seen.of(times, self.newest_ms)
        watermarks = seen.reached_ms - DELAY_MS
        is_late = times < watermarks - LATENESS_MS
        steps = frame.select(*self._columns, "failed")
        late = None
        if is_late.any():
            rows = np.flatnonzero(is_late)
            late = rows, watermarks[rows]
            steps = steps.filter(pl.Series(~is_late))
        touched = None if steps.is_empty() else self._touch(steps)
        # Not before: the first of these steps met an earlier watermark than the last.
        self.newest_ms = seen.newest_ms
        passed_ms = self._passed_ms
        if touched:
            self._hold(touched.now.kept(passed_ms))
        self._chunks = [chunk for chunk in self._chunks if chunk.last_ms >= passed_ms]
        return touched, late

    @property
    def _passed_ms(self) -> int:
        """Requests whose last step is before this cannot change."""
        return self.watermark_ms - KEEP_MS

    def _touch(self, steps: pl.DataFrame) -> Touched:
        known = self._take_out(steps["request_id"])
        before = None
        if known is not None:
            before = self._forms.lives(known)
            changing = before.kept(self._passed_ms)
            if len(changing) < len(known):
                known = changing
                before = self._forms.lives(known) if len(known) else None
        now = self._forms.lives(steps if before is None else pl.concat([before.steps, steps]))
        return Touched(before, now)

    def _hold(self, steps: pl.DataFrame) -> None:
        if steps.is_empty():
            return
        new = _Chunk.of(steps)
        last = self._chunks[-1] if self._chunks else None
        if (
            last is not None
            and len(last.steps) + len(steps) <= CHUNK_ROWS
            and new.last_ms - last.opened_ms <= CHUNK_MS
        ):
            new = _Chunk.of(pl.concat([last.steps, steps], rechunk=True), last.opened_ms)
            self._chunks.pop()
        self._chunks.append(new)

    def _take_out(self, ids: pl.Series) -> pl.DataFrame | None:
        """The held steps of these ids, which are held no more."""
        mask = np.uint64((1 << _FILTER_BITS) - 1)
        may_be = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        may_be[ids.hash().to_numpy() & mask] = True
        taken, kept = [], []
        for chunk in self._chunks:
            rows = np.flatnonzero(may_be[chunk.hashes & mask])
            if len(rows):
                is_known = chunk.steps["request_id"][rows].is_in(ids.implode()).to_numpy()
                rows = rows[is_known]
            if not len(rows):
                kept.append(chunk)
                continue
            taken.append(chunk.steps[rows])
            rest = np.ones(len(chunk.steps), dtype=np.bool_)
            rest[rows] = False
            if rest.any():
                kept.append(_Chunk.of(chunk.steps.filter(pl.Series(rest)), chunk.opened_ms))
        self._chunks = kept
        return pl.concat(taken) if taken else None


def framed(*parts: bytes) -> bytes:
    """Several bytes as one; ``unframed`` takes them apart."""
    sizes = np.array([len(parts), *map(len, parts)], dtype="<i8")
    return b"".join((sizes.tobytes(), *parts))


def unframed(data: bytes) -> list[bytes]:
    """What ``framed`` was given."""
    count = int.from_bytes(data[:8], "little")
    sizes = np.frombuffer(data[8 : 8 + 8 * count], dtype="<i8").tolist()
    ends = np.cumsum([8 + 8 * count, *sizes]).tolist()
    return [data[start:end] for start, end in pairwise(ends)]


def late_letters(flow: str, batch: Batch, late: Late | None) -> list[LateEvent] | None:
    """The letters of what came too late."""
    return late_events(flow, batch, *late) if late else None
