"""Anomalous minutes of ``service_health``, by the rules of ``schemas.tables.service_health``."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator

from footfall.schemas.tables.service_health import (
    ERRORS_MIN,
    LATENCY_FACTOR,
    LATENCY_MIN_MS,
    REQUESTS_MIN,
    STANDARD_ERRORS,
    TRAILING_MS,
    TRAILING_REQUESTS_MIN,
)

Health = tuple[int, str, str, int, int, int, int, int]
"""Row of ``service_health``: minute_ms, server, operation, requests, errors, p50, p95, p99."""
Anomaly = tuple[int, str, str, str, float, float]
"""Row of an anomaly: minute_ms, server, operation, measure, value, expected."""


def anomalies(health: Iterable[Health]) -> Iterator[Anomaly]:
    """Yield the anomalies of all minutes, given in any order."""
    groups: dict[tuple[str, str], list[Health]] = defaultdict(list)
    for row in sorted(health):
        groups[row[1:3]].append(row)
    for rows in groups.values():
        minutes = [row[0] for row in rows]
        for place, row in enumerate(rows):
            yield from _of_minute(row, rows[bisect_left(minutes, row[0] - TRAILING_MS) : place])


def _of_minute(row: Health, trailing: list[Health]) -> Iterator[Anomaly]:
    minute_ms, server, operation, requests, errors, p50_ms, _, _ = row
    before = sum(other[3] for other in trailing)
    if requests < REQUESTS_MIN or before < TRAILING_REQUESTS_MIN:
        return
    failed = sum(other[4] for other in trailing) + 1
    # rate > expected + k standard errors, without the root and the fractions
    above = errors * (before + 2) - requests * failed
    limit = STANDARD_ERRORS**2 * requests * failed * (before + 2 - failed)
    if errors >= ERRORS_MIN and above > 0 and above**2 > limit:
        yield (minute_ms, server, operation, "errors", errors / requests, failed / (before + 2))
    ordered = sorted(other[5] for other in trailing)
    usual_ms = max(ordered[(len(ordered) + 1) // 2 - 1], LATENCY_MIN_MS)
    if p50_ms >= LATENCY_FACTOR * usual_ms:
        yield (minute_ms, server, operation, "latency", float(p50_ms), float(usual_ms))
