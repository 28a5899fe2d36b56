"""Visits: each request at each server that it came to, counted by minute.

A visit counts in the minute of the request's first step at the server, and lasts until the last
step there. Nothing in here knows its partition or the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from footfall.flows._request_lives import Bools, Lives, Steps, in_order, told_apart
from footfall.flows._requests import Touched, framed, unframed
from footfall.schemas.operations import operation_of
from footfall.streams.batch import Int64s
from footfall.streams.window_chunks import packed, unpacked
from footfall.streams.windows import NO_END_MS

MINUTE_MS = 60_000
MINUTE = "minute_ms"

NAMES_MAX = 1_000
"""Number of names, about, above which those that no visit has any more are forgotten."""
_NAME_BITS = 24
_NAME_MASK = (1 << _NAME_BITS) - 1
# Bits of SPAN_MAX_MS, and one for the failure.
_TOOK_BITS = 20
_TOOK_MASK = (1 << _TOOK_BITS) - 1


@dataclass(frozen=True, slots=True)
class Visits:
    """Counts of visits per (cell, duration, failed). Arrays have one value per such
    combination."""

    cells: Int64s
    """Number of the minute, server and operation: see ``Cells``."""
    took: Int64s
    """Twice the duration in milliseconds, plus one where a step failed."""
    counts: Int64s
    """Number of visits. Below 0 it takes visits back; 0 only says that the cell must be
    written."""

    def __len__(self) -> int:
        return len(self.cells)

    def only(self, is_taken: Bools) -> Visits:
        """Return the entries where ``is_taken``."""
        return Visits(self.cells[is_taken], self.took[is_taken], self.counts[is_taken])

    def merged(self) -> Visits:
        """Return each combination once, in order of cell and duration."""
        cells, places = told_apart(self.cells)
        keys = places << _TOOK_BITS | self.took
        order = in_order(keys)
        keys = keys[order]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        counts = np.add.reduceat(self.counts[order], starts)
        keys = keys[starts]
        return Visits(cells[keys >> _TOOK_BITS], keys & _TOOK_MASK, counts)

    @property
    def minutes_ms(self) -> Int64s:
        """Return the start of the minute of each entry."""
        return (self.cells >> _NAME_BITS) * MINUTE_MS

    def packed(self) -> bytes:
        """Return the visits as bytes; ``unpacked`` takes them."""
        columns = {"cell": self.cells, "took": self.took, "count": self.counts}
        return packed(pl.DataFrame(columns)) if len(self) else b""

    @staticmethod
    def unpacked(data: bytes) -> Visits:
        """Return the visits that ``packed`` gave as bytes."""
        return Visits(*(column.to_numpy() for column in unpacked(data))) if data else NO_VISITS


def together(*parts: Visits) -> Visits:
    """Return all these visits as one; there must be at least one part."""
    if len(parts) == 1:
        return parts[0]
    return Visits(
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.took for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


NO_VISITS = Visits(*(np.empty(0, dtype=np.int64) for _ in range(3)))

Names = tuple[list[str], Int64s]
"""Distinct names, and the index there of each value's name."""


class Cells:
    """Numbers of (minute, server, operation), in order of minute and then of first use of the
    names."""

    def __init__(self, names: Iterable[tuple[str, str]] = ()) -> None:
        """Take the ``names`` of other cells, or some of them."""
        self._numbers = {pair: number for number, pair in enumerate(names)}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Return each (server, operation), in order of its number."""
        return [*self._numbers]

    def of(self, minutes: Int64s, servers: Names, operations: Names) -> Int64s:
        """Return the cells of these minutes (since 1970), servers and operations."""
        (server_names, server), (operation_names, operation) = servers, operations
        both, places = told_apart(server * len(operation_names) + operation)
        pairs = [
            (server_names[at], operation_names[of])
            for at, of in (divmod(pair, len(operation_names)) for pair in both.tolist())
        ]
        numbers = [self._numbers.setdefault(pair, len(self._numbers)) for pair in pairs]
        return (minutes << _NAME_BITS) + np.array(numbers, dtype=np.int64)[places]

    def columns(self, cells: Int64s) -> list[pl.Series]:
        """Return the columns MINUTE, server and operation of the cells."""
        names = self.names
        pairs = [names[number] for number in (cells & _NAME_MASK).tolist()]
        return [
            pl.Series(MINUTE, (cells >> _NAME_BITS) * MINUTE_MS),
            pl.Series("server", [server for server, _ in pairs]),
            pl.Series("operation", [operation for _, operation in pairs]),
        ]


def visits(lives: Lives, count: int, cells: Cells) -> tuple[Visits, Int64s]:
    """Return (the visits of requests, each with this ``count``, the index of each one's
    request)."""
    steps, server_count = lives.steps, len(lives.steps.server_names)
    keys = np.repeat(np.arange(len(lives.starts)), lives.counts) * server_count + steps.servers
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    times = steps.times[order]
    first_ms, last_ms = times[starts], times[np.append(starts[1:], len(times)) - 1]
    life, server = np.divmod(keys[starts], server_count)
    operations, of_form = _names([form.operation for form in lives.forms])
    found = Visits(
        cells.of(
            first_ms // MINUTE_MS,
            (steps.server_names, server),
            (operations, of_form[lives.form_places[life]]),
        ),
        (last_ms - first_ms) * 2 + np.logical_or.reduceat(steps.failed[order], starts),
        np.full(len(starts), count),
    )
    return found, life


def changed(touched: Touched, cells: Cells) -> Visits:
    """Return the changes of the visits.

    Each cell that a request may have been in after some steps of the batch is there, if need be
    with a count of 0.
    """
    found, life = visits(touched.now, 1, cells)
    if touched.before is not None:
        is_known = touched.of_ids(touched.now.steps.order < touched.known)
        is_of_known = is_known[touched.now.starts][life]
        taken_back, _ = visits(touched.before, -1, cells)
        differing = together(taken_back, found.only(is_of_known)).merged()
        found = together(differing.only(differing.counts != 0), found.only(~is_of_known))
    moved = touched.moved()
    return together(found, passed_through(moved, cells)) if len(moved.order) else found


def passed_through(steps: Steps, cells: Cells) -> Visits:
    """Return each cell that a request of some of these steps could be in, with a count of 0.

    There must be at least one step. A process that was killed may have read the stream up to any
    of them, and written those cells. A process that reads it again in other batches must write the
    same cells, or rows that no longer hold would stay for ever. Its rows win: they know a later
    step.
    """
    server_count = len(steps.server_names)
    came, came_at = told_apart(steps.times // MINUTE_MS * server_count + steps.servers)
    operations, of_pair = _names([operation_of([pair]) for pair in steps.pairs])
    # The minutes and servers of each id, and the operations that it could be; then all pairs of
    # them.
    ids, came_at = np.divmod(np.unique(steps.ids * len(came) + came_at), len(came))
    could_be = np.unique(steps.ids * len(operations) + of_pair[steps.ranks])
    first = np.searchsorted(could_be, ids * len(operations))
    counts = np.searchsorted(could_be, (ids + 1) * len(operations)) - first
    row = np.repeat(np.arange(len(ids)), counts)
    place = np.arange(len(row)) + (first - np.cumsum(counts) + counts)[row]
    minutes, servers = np.divmod(came[came_at[row]], server_count)
    could_be = could_be[place] % len(operations)
    found = np.unique(cells.of(minutes, (steps.server_names, servers), (operations, could_be)))
    return Visits(found, np.zeros_like(found), np.zeros_like(found))


def _names(texts: list[str]) -> Names:
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return [*places], np.array([places[text] for text in texts])


class Minutes:
    """Visits of the minutes that can still change."""

    def __init__(self, snapshot: bytes | None = None) -> None:
        self._cells = Cells()
        self._fresh: list[Visits] = []
        """Visits that were not written yet."""
        self._held = NO_VISITS
        """Visits that were written, each combination once."""
        if snapshot:
            names, fresh, held = unframed(snapshot)
            self._cells = Cells(unpacked(names).rows())
            self._fresh = [Visits.unpacked(fresh)] if fresh else []
            self._held = Visits.unpacked(held)
        self._forget_names()
        self._first_ms = min(
            (int(found.minutes_ms.min()) for found in self._fresh), default=NO_END_MS
        )
        """Start of the earliest minute that has a fresh visit."""

    def snapshot(self) -> bytes:
        """Return the state as bytes."""
        text = {"server": pl.String, "operation": pl.String}
        names = packed(pl.DataFrame(self._cells.names, text, orient="row"))
        return framed(names, together(NO_VISITS, *self._fresh).packed(), self._held.packed())

    @property
    def held(self) -> int:
        """Return the number of held entries."""
        return sum(map(len, (*self._fresh, self._held)))

    @property
    def names(self) -> int:
        """Return the number of (server, operation) pairs that are kept."""
        return len(self._cells)

    def add(self, touched: Touched) -> None:
        """Count the visits of requests that have changed."""
        if len(self._cells) > self._names_max:
            self._forget_names()
        found = changed(touched, self._cells)
        if len(found):
            self._fresh.append(found)
            self._first_ms = min(self._first_ms, int(found.minutes_ms.min()))

    def written(self, last_ms: int, settled_ms: int) -> pl.DataFrame | None:
        """Return the cells, up to a minute, that have changed since they were last given.

        Columns are MINUTE, server, operation, requests, errors and durations_ms. A cell that has
        no visit any more has 0 requests. Minutes before ``settled_ms`` can change no more, and are
        forgotten.
        """
        if not self._fresh or self._first_ms > last_ms:
            return None
        fresh, held = together(*self._fresh), self._held
        is_due = fresh.minutes_ms <= last_ms
        due, rest = fresh.only(is_due), fresh.only(~is_due)
        self._fresh = [rest] if len(rest) else []
        self._first_ms = int(rest.minutes_ms.min()) if len(rest) else NO_END_MS
        cells = np.unique(due.cells)
        is_of_cells = cells[np.searchsorted(cells[:-1], held.cells)] == held.cells
        found = together(held.only(is_of_cells), due).merged()
        self._held = together(
            held.only(~is_of_cells & (held.minutes_ms >= settled_ms)),
            found.only((found.counts > 0) & (found.minutes_ms >= settled_ms)),
        )
        return self._counted(found)

    def _counted(self, found: Visits) -> pl.DataFrame:
        """Return one row per cell."""
        starts = np.flatnonzero(np.append(True, found.cells[1:] != found.cells[:-1]))
        requests = np.add.reduceat(found.counts, starts)
        errors = np.add.reduceat(found.counts * (found.took & 1), starts)
        durations_ms = pl.Series(np.repeat(found.took >> 1, found.counts), dtype=pl.UInt32)
        ends = np.cumsum(requests)
        of_cells = [
            durations_ms.slice(end - count, count)
            for end, count in zip(ends.tolist(), requests.tolist(), strict=True)
        ]
        return pl.DataFrame(
            [
                *self._cells.columns(found.cells[starts]),
                pl.Series("requests", requests, dtype=pl.UInt64),
                pl.Series("errors", errors, dtype=pl.UInt64),
                pl.Series("durations_ms", of_cells),
            ]
        )

    def _forget_names(self) -> None:
        """Keep only the names that visits have, and renumber them."""
        fresh = together(NO_VISITS, *self._fresh)
        cells = np.concatenate([self._held.cells, fresh.cells])
        used, places = np.unique(cells & _NAME_MASK, return_inverse=True)
        cells = (cells & ~_NAME_MASK) + places
        held = len(self._held)
        self._held = replace(self._held, cells=cells[:held])
        self._fresh = [replace(fresh, cells=cells[held:])] if len(fresh) else []
        names = self._cells.names
        self._cells = Cells([names[number] for number in used.tolist()])
        self._names_max = NAMES_MAX + 2 * len(used)
