"""Latencies of any number of requests in a small, fixed space."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

_STEP = log(1.02)
_LEAST_S = 1e-5
_BUCKETS = 1_000
"""Number of buckets of 2% each: from 10 us to an hour."""


@dataclass(frozen=True)
class Percentiles:
    """Latencies in ms, at most 2% too high; all 0 where nothing was measured."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class Latencies:
    """A histogram of latencies."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._max_s = 0.0

    def add(self, latency_s: float) -> None:
        """Count one request."""
        self._max_s = max(self._max_s, latency_s)
        bucket = int(log(latency_s / _LEAST_S) / _STEP) if latency_s > _LEAST_S else 0
        self._counts[min(bucket, _BUCKETS - 1)] += 1

    def percentiles(self) -> Percentiles:
        """Return the percentiles until now."""
        count = sum(self._counts)
        p50, p95, p99 = (self._at(share, count) for share in (0.5, 0.95, 0.99))
        return Percentiles(count, p50, p95, p99, self._max_s * 1000)

    def _at(self, share: float, count: int) -> float:
        seen = 0
        for bucket, in_bucket in enumerate(self._counts):
            seen += in_bucket
            if seen >= share * count:
                upper_s = _LEAST_S * 1.02 ** (bucket + 1)
                return min(upper_s, self._max_s) * 1000
        return self._max_s * 1000
