"""Parts of records, where a flow counts parts of a few records and not the records themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from footfall.streams.batch import ROW, Int64s
from footfall.streams.columns import Column


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows beside the frame: most records give no row, some give one or several."""

    of: Callable[[list[Any]], list[int]]
    """Function that returns the indexes of the few records that may have parts, in order."""
    columns: Mapping[str, Column]
    """Columns taken from these records: each part has the value of its record."""
    each: str
    """Name of the column of the parts' own values."""
    values: Column
    """Column whose ``lift`` gives a list per record, with a value for each part."""


class LiftedParts:
    """Parts of records that are taken block by block."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._places: list[int] = []
        self._lifted: list[list[Any]] = [[] for _ in parts.columns]
        self._counts: list[int] = []
        self._values: list[Any] = []

    def lift(self, records: list[Any], first: int) -> None:
        """Add the parts of ``records``; ``first`` records were taken before."""
        places = self._parts.of(records)
        few = [records[place] for place in places]
        self._places += [first + place for place in places]
        for found, column in zip(self._lifted, self._parts.columns.values(), strict=True):
            found.extend(column.lift(few))
        lists = self._parts.values.lift(few)
        self._counts += map(len, lists)
        self._values += chain.from_iterable(lists)

    def frame(self, places: Int64s) -> pl.DataFrame:
        """Return one row per part, in order, with ROW: its record's entry in ``places``."""
        parts = self._parts
        counts = np.array(self._counts, dtype=np.int64)
        rows = places[np.repeat(np.array(self._places, dtype=np.int64), counts)]
        records = [
            column.series(name, lifted)
            for (name, column), lifted in zip(parts.columns.items(), self._lifted, strict=True)
        ]
        of_each = np.repeat(np.arange(len(counts)), counts)
        values = parts.values.series(parts.each, self._values)
        return pl.DataFrame(
            [pl.Series(ROW, rows), *(column.gather(of_each) for column in records), values]
        )
