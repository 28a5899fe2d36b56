"""The profile store as the target of a replay: each tag replaces itself, without versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice

import polars as pl

from footfall.schemas.profiles import ORDER
from footfall.sinks.profiles import ProfileStore
from footfall.sinks.replay import Span, Unshadowed

_EVER_MS = 2**53
_KEY = ["cookie", "action", *ORDER]


class ProfileReplay(Unshadowed):
    """A ReplayTarget that has no generations and no shadow."""

    sums: tuple[str, ...] = ("tags",)

    def __init__(self, store: ProfileStore, keep: int) -> None:
        """Take the store, and the most tags of a kind that a profile holds, ``keep``."""
        self._store = store
        self._keep = keep

    def newest_generation(self) -> int:
        """Return 0: profiles have no generations."""
        return 0

    def write(self, frames: Sequence[pl.DataFrame], *, shadow: bool) -> None:
        """Return when the tags are durable."""
        if frames:
            self._store.put(pl.concat(frames))

    def remove_older(self, spans: Sequence[Span], generation: int, *, shadow: bool) -> int:
        """Remove nothing, as a tag of the topic stays a tag; return when all writes are
        durable."""
        self._store.settle()
        return 0

    def partitions(self, from_ms: int, to_ms: int) -> Mapping[tuple[str, int], int]:
        """Return nothing: a profile does not say from which partition its tags are."""
        return {}

    def missing(self, tags: pl.DataFrame) -> Iterator[tuple[int, str, str]]:
        """Yield (time in ms, cookie, kind) of each tag that a profile should have and lacks.

        ``tags`` are those of a range of event time, columns as ``schemas.profiles.COLUMNS``. A tag
        may be missing where the profile is full of newer ones.
        """
        ordered = tags.unique(_KEY).sort(_KEY, descending=[False, False, *[True] * len(ORDER)])
        rows = ordered.select("cookie", "action", "time_ms", "tag").iter_rows()
        for (cookie, action), group in groupby(rows, key=lambda row: (row[0], row[1])):
            kinds = self._store.get(cookie, 0, _EVER_MS, self._keep)
            standing = list(kinds[0 if action == "VIEW" else 1])
            # A profile that is not full lacks every tag that is missing.
            since_ms = 0 if len(standing) < self._keep else None
            for _, _, time_ms, tag in islice(group, self._keep):
                if tag in standing:
                    standing.remove(tag)
                    continue
                if since_ms is None:
                    since_ms = self._oldest_ms(cookie, action) + 1
                if time_ms >= since_ms:
                    yield time_ms, cookie, action

    def _oldest_ms(self, cookie: str, action: str) -> int:
        """Return the event time of the oldest tag of a full profile."""
        low, high = 0, _EVER_MS
        while high - low > 1:
            middle = (low + high) // 2
            kinds = self._store.get(cookie, middle, _EVER_MS, self._keep)
            if len(kinds[0 if action == "VIEW" else 1]) == self._keep:
                low = middle
            else:
                high = middle
        return low

    def close(self) -> None:
        """Release connections. Never raises."""
        self._store.close()
