"""Where the lines of a poll are, without an index of them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt

_Int64s = npt.NDArray[np.int64]


def newlines(data: bytes, start: int, stop: int) -> _Int64s:
    """Where newlines are in the bytes from ``start`` to ``stop``."""
    chars = np.frombuffer(data, np.uint8, count=stop - start, offset=start)
    return np.flatnonzero(chars == ord("\n")) + start


@dataclass(frozen=True, slots=True)
class Lines:
    """Finds lines by their place: of some it is known where they begin, the others are counted.

    The first line is one of those that are known.
    """

    places: _Int64s
    """Of the lines that are known, among all; in order."""
    starts: _Int64s
    """The byte that each of them begins with."""

    def at(self, data: bytes, places: _Int64s) -> list[bytes]:
        """The lines at some places, in any order, without their newlines.

        ``data`` is all of the lines, each with its newline.
        """
        found = dict(self._found(data, np.unique(places)))
        return [found[place] for place in places.tolist()]

    def _found(self, data: bytes, places: _Int64s) -> Iterator[tuple[int, bytes]]:
        """Places in order, each with its line."""
        known = np.searchsorted(self.places, places, side="right") - 1
        stops = [*self.starts[1:].tolist(), len(data)]
        pairs = zip(known.tolist(), places.tolist(), strict=True)
        for index, wanted in groupby(pairs, itemgetter(0)):
            first, start = int(self.places[index]), int(self.starts[index])
            ends = [start - 1, *newlines(data, start, stops[index]).tolist()]
            for _, place in wanted:
                yield place, data[ends[place - first] + 1 : ends[place - first + 1]]


WHOLE = Lines(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
"""Nothing is known but where the first line begins."""
