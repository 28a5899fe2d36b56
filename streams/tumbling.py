"""Declare the tumbling windows of a flow, and their arithmetic on one frame.

``streams.windows`` keeps the windows of a partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from footfall.schemas.versions import EVENTS_SHIFT, GENERATION_SHIFT
from footfall.streams.batch import TIME_MS

WINDOW = "window_ms"
"""Column of the start of the row's window, in milliseconds since 1970 UTC."""
EVENTS = "events"
VERSION = "version"
FRESH = "fresh"
"""Column that is true where the group has changed since it was last written."""


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Fixed, adjacent windows, and the sums of each group in each of them.

    Every aggregate must be a sum of whole numbers, so that partial aggregates can be merged.
    """

    size_ms: int
    delay_ms: int
    lateness_ms: int
    by: tuple[str, ...]
    """Columns that name the group within the window; empty for one row per window."""
    sums: Mapping[str, pl.Expr]
    """Name of each sum, and its summand as an expression over a batch's frame."""
    write_every_ms: int = 900
    """Milliseconds between writes of provisional rows, by the wall clock of the polls: less than a
    second, so that with polls half a second apart every second one writes them."""
    generation: int = 0

    @property
    def key(self) -> tuple[str, ...]:
        """Return the columns that identify a row within a partition."""
        return (WINDOW, *self.by)

    def summands(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return one row per event: its window and group, 1, and the summands; all fresh."""
        starts = frame[TIME_MS].to_numpy() // self.size_ms * self.size_ms
        ones = np.ones(len(frame), dtype=np.int64)
        return pl.DataFrame(
            [
                pl.Series(WINDOW, starts),
                *(frame[name] for name in self.by),
                pl.Series(EVENTS, ones),
                *self._evaluated(frame),
                pl.Series(FRESH, ones.astype(np.bool_)),
            ]
        )

    def grouped(self, frame: pl.DataFrame, *, fresh: bool = True) -> pl.DataFrame:
        """Return one row per group. The frame must be in one chunk: more take twice as long."""
        is_fresh = [pl.col(FRESH).any()] if fresh else []
        return frame.group_by(self.key).agg(pl.col(EVENTS, *self.sums).sum(), *is_fresh)

    def versioned(self, groups: pl.DataFrame, phase: int) -> pl.DataFrame:
        """Return the rows of groups, with versions that say how far they are."""
        generation = self.generation << GENERATION_SHIFT
        version = groups[EVENTS] * (1 << EVENTS_SHIFT) + (generation + phase)
        kept = (*self.key, EVENTS, *self.sums)
        return pl.DataFrame([*(groups[name] for name in kept), version.alias(VERSION)])

    def _evaluated(self, frame: pl.DataFrame) -> list[pl.Series]:
        """Return the summands of each row as whole numbers."""
        if all(summand.meta.is_column() for summand in self.sums.values()):
            # A query, however short, takes as long as a thousand rows.
            return [
                frame[summand.meta.output_name()].cast(pl.Int64).alias(name)
                for name, summand in self.sums.items()
            ]
        return frame.select(
            summand.cast(pl.Int64).alias(name) for name, summand in self.sums.items()
        ).get_columns()
