"""The requests of a partition that can still change: the state that flows of requests share.

Requests are defined in ``flows._request_lives``. A step is on time unless the watermark that it
meets (the newest event time of the partition less DELAY_MS) has passed it by LATENESS_MS. So a
request whose last step the watermark has passed by KEEP_MS cannot change any more, and is
forgotten: a later step with its id begins another request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from footfall.flows._request_lives import GAP_MS, Bools, Hashes, Lives, Steps, hashed, lives_of
from footfall.schemas.dead_letters import LateEvent
from footfall.streams.batch import NEVER, TIME_MS, Batch, Int64s
from footfall.streams.frames import where
from footfall.streams.steps import late_events
from footfall.streams.window_chunks import packed, unpacked

DELAY_MS = 5_000
LATENESS_MS = 120_000
LIMIT_MS = 30_000
"""Longest wait for a request's last step, in milliseconds of event time."""
KEEP_MS = LATENESS_MS + GAP_MS

CHUNK_ROWS = 16_384
CHUNK_MS = 60_000
"""Milliseconds of event time, and CHUNK_ROWS rows, that a chunk of held steps has, about. Steps
are forgotten by whole chunks."""
_FILTER_BITS = 4
"""Bits that a first comparison of hashes adds, enough to rule out nearly all others."""

Late = tuple[Int64s, Int64s]
"""Rows of a batch's frame that came too late, and the watermark that each met."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Requests whose ids are in a batch, or have the hash of one that is."""

    before: Lives | None
    """Those requests before the batch; None where no id was known."""
    now: Lives
    known: int
    """Number of rows of their frame that came before the batch."""

    def of_ids(self, is_step: Bools) -> Bools:
        """Return for each step of ``now`` whether ``is_step`` marks any step of its id."""
        ids = self.now.steps.ids
        is_id = np.zeros(ids[-1] + 1, dtype=np.bool_)
        is_id[ids[is_step]] = True
        return is_id[ids]

    def moved(self) -> Steps:
        """Return all steps of the ids whose requests may have differed within the batch.

        Between two steps of the batch they may have been of another operation or moment. A request
        whose steps come in order only grows, and one that begins with the first step of an
        operation is of that operation from then on.
        """
        steps = self.now.steps
        # The order in which known steps came does not matter any more.
        came = np.maximum(steps.order, self.known - 1)
        is_moved = np.append(False, (came[1:] < came[:-1]) & (steps.ids[1:] == steps.ids[:-1]))
        is_steady = np.array([form.is_steady for form in self.now.forms])
        is_moved[self.now.starts] |= ~is_steady[self.now.form_places]
        return steps.only(self.of_ids(is_moved))


@dataclass(slots=True)
class _Chunk:
    """Held steps. All steps of one id are in one chunk."""

    steps: pl.DataFrame
    hashes: Hashes
    """Hashes of their ids."""
    last_ms: int
    opened_ms: int
    """Time of the last step that the chunk began with."""
    data: bytes | None = None
    requests: int = -1
    """Number of distinct ids; -1 while not counted."""

    @staticmethod
    def of(steps: pl.DataFrame, hashes: Hashes, opened_ms: int | None = None) -> _Chunk:
        """Return a chunk of at least one step; it begins now unless ``opened_ms`` is given."""
        last_ms = int(steps[TIME_MS].to_numpy().max())
        return _Chunk(steps, hashes, last_ms, last_ms if opened_ms is None else opened_ms)

    @staticmethod
    def unpacked(data: bytes) -> _Chunk:
        """Return the chunk that ``packed`` gave as bytes."""
        steps = unpacked(data)
        chunk = _Chunk.of(steps, hashed(steps))
        chunk.data = data
        return chunk

    @staticmethod
    def joined(chunks: Sequence[_Chunk]) -> tuple[pl.DataFrame, Hashes]:
        """Return all steps of at least one chunk, and their hashes."""
        if len(chunks) == 1:
            return chunks[0].steps, chunks[0].hashes
        steps = pl.concat([chunk.steps for chunk in chunks])
        return steps, np.concatenate([chunk.hashes for chunk in chunks])

    def packed(self) -> bytes:
        """Return the steps as bytes, made once."""
        if self.data is None:
            self.data = packed(self.steps)
        return self.data

    def ids(self) -> int:
        """Return the number of ids, counted once."""
        if self.requests < 0:
            self.requests = pl.Series(self.hashes).n_unique()
        return self.requests


class Requests:
    """The requests of one partition that can still change.

    They are bounded by the steps of KEEP_MS and, for each request that goes on, those of
    SPAN_MAX_MS.
    """

    def __init__(self, snapshot: bytes | None, *columns: str) -> None:
        """Restore a snapshot. ``columns`` of the batches' frames are kept beside those that
        requests need."""
        self._columns = (*columns, "request_id", "server", "log", TIME_MS)
        self._chunks: list[_Chunk] = []
        self.newest_ms = NEVER
        if snapshot:
            newest, *parts = unframed(snapshot)
            self.newest_ms = int.from_bytes(newest, "little", signed=True)
            self._chunks = [_Chunk.unpacked(data) for data in parts]

    def snapshot(self) -> bytes:
        """Return the state as bytes."""
        newest = self.newest_ms.to_bytes(8, "little", signed=True)
        return framed(newest, *(chunk.packed() for chunk in self._chunks))

    @property
    def watermark_ms(self) -> int:
        """Return the watermark: no earlier step is expected. NEVER before the first step."""
        return self.newest_ms - DELAY_MS if self.newest_ms != NEVER else NEVER

    @property
    def holds(self) -> dict[str, int]:
        """Return the number of requests and of their steps."""
        # All steps of one request are in one chunk.
        requests = sum(chunk.ids() for chunk in self._chunks)
        return {"requests": requests, "steps": self.held}

    @property
    def held(self) -> int:
        """Return the number of held steps."""
        return sum(len(chunk.steps) for chunk in self._chunks)

    def take(self, batch: Batch) -> tuple[Touched | None, Late | None]:
        """Take the steps of a batch, at least one; its frame has a column ``failed``."""
        frame = batch.frame
        times = frame[TIME_MS].to_numpy()
        watermarks = batch.seen.reached_ms - DELAY_MS
        is_late = times < watermarks - LATENESS_MS
        steps, late, touched = frame[[*self._columns, "failed"]], None, None
        if is_late.any():
            rows = np.flatnonzero(is_late)
            late = rows, watermarks[rows]
            steps = where(steps, ~is_late)
        if len(steps):
            touched = self._touched(_Chunk.of(steps, hashed(steps)))
        # Not before: the first of these steps met an earlier watermark than the last.
        self.newest_ms = batch.seen.newest_ms
        if touched:
            self._hold(touched.now)
        self._chunks = [chunk for chunk in self._chunks if chunk.last_ms >= self._passed_ms]
        return touched, late

    @property
    def _passed_ms(self) -> int:
        """Return the time before which a request's last step must be for it not to change."""
        return self.watermark_ms - KEEP_MS

    def _touched(self, came: _Chunk) -> Touched:
        taken = self._take_out(came.hashes)
        known = sum(len(chunk.steps) for chunk in taken)
        steps = Steps.of(*_Chunk.joined([*taken, came]))
        if not known:
            return Touched(None, lives_of(steps), 0)
        is_known = steps.order < known
        before = lives_of(steps.only(is_known))
        is_kept = before.is_kept(self._passed_ms)
        if is_kept.all():
            return Touched(before, lives_of(steps), known)
        is_there = ~is_known
        is_there[is_known] = is_kept
        was = lives_of(before.steps.only(is_kept)) if is_kept.any() else None
        return Touched(was, lives_of(steps.only(is_there)), known)

    def _hold(self, lives: Lives) -> None:
        """Hold the steps of the requests that can still change."""
        frame, hashes = lives.steps.frame, lives.steps.hashes
        is_held = np.zeros(len(frame), dtype=np.bool_)
        is_held[lives.steps.order[lives.is_kept(self._passed_ms)]] = True
        if not is_held.any():
            return
        new = _Chunk.of(where(frame, is_held), hashes[is_held])
        last = self._chunks[-1] if self._chunks else None
        if (
            last is not None
            and len(last.steps) + len(new.steps) <= CHUNK_ROWS
            and new.last_ms - last.opened_ms <= CHUNK_MS
        ):
            self._chunks.pop()
            steps, hashes = _Chunk.joined([last, new])
            new = _Chunk.of(steps.rechunk(), hashes, last.opened_ms)
        self._chunks.append(new)

    def _take_out(self, hashes: Hashes) -> list[_Chunk]:
        """Remove and return the held steps whose ids have these hashes."""
        bits = len(hashes).bit_length() + _FILTER_BITS
        mask = np.uint64((1 << bits) - 1)
        may_be = np.zeros(1 << bits, dtype=np.bool_)
        may_be[hashes & mask] = True
        ordered = np.sort(hashes)
        taken, kept = [], []
        for chunk in self._chunks:
            rows = np.flatnonzero(may_be[chunk.hashes & mask])
            found = chunk.hashes[rows]
            rows = rows[ordered[np.searchsorted(ordered[:-1], found)] == found]
            if not len(rows):
                kept.append(chunk)
                continue
            taken.append(_Chunk.of(chunk.steps[rows], chunk.hashes[rows]))
            is_rest = np.ones(len(chunk.steps), dtype=np.bool_)
            is_rest[rows] = False
            if is_rest.any():
                rest = where(chunk.steps, is_rest), chunk.hashes[is_rest]
                kept.append(_Chunk.of(*rest, chunk.opened_ms))
        self._chunks = kept
        return taken


def framed(*parts: bytes) -> bytes:
    """Join several byte strings into one; ``unframed`` takes them apart."""
    sizes = np.array([len(parts), *map(len, parts)], dtype="<i8")
    return b"".join((sizes.tobytes(), *parts))


def unframed(data: bytes) -> list[bytes]:
    """Return the byte strings that ``framed`` was given."""
    count = int.from_bytes(data[:8], "little")
    sizes = np.frombuffer(data[8 : 8 + 8 * count], dtype="<i8").tolist()
    ends = np.cumsum([8 + 8 * count, *sizes]).tolist()
    return [data[start:end] for start, end in pairwise(ends)]


def late_letters(batch: Batch, late: Late | None) -> list[LateEvent] | None:
    """Return the late events of a batch; None where no event was late."""
    return late_events(batch, *late) if late else None
