"""Figures of the shop's panels from rows: pure, one function per panel that counts."""

from __future__ import annotations

from collections.abc import Mapping

from footfall.api.parameters import MINUTE_MS
from footfall.api.shop_questions import STILL_MS, Rows, minutes_between, range_ms
from footfall.api.shop_snapshot import (
    SESSION_LENGTHS_S,
    FailedRequest,
    Health,
    Online,
    Service,
    Sessions,
    SlowOperation,
)

MINUTES_OF_HEALTH = 15
OPERATIONS_SHOWN = 8
SERVERS_SHOWN = 8
"""There are five; a record may name any."""
NAME_CHARS_MAX = 200


def online_of(rows: Rows, now_ms: int) -> Online:
    """Return users by minute, from rows of (minute in s, topic/partition, active, online).

    Partitions write their newest minute one after another: until one has, its users are taken to
    be as many as the minute before.
    """
    by_minute: dict[int, dict[str, tuple[int, int]]] = {}
    for minute_s, partition, active, online in rows:
        by_minute.setdefault(int(minute_s) * 1000, {})[partition] = int(active), int(online)
    starts = minutes_between(by_minute, now_ms)
    users: list[int] = []
    before: dict[str, int] = {}
    for start_ms in starts:
        written = {at: online for at, (_, online) in by_minute.get(start_ms, {}).items()}
        before = written if now_ms - start_ms > STILL_MS else before | written
        users.append(sum(before.values()))
    active = [sum(one for one, _ in by_minute.get(at, {}).values()) for at in starts]
    return Online(starts, active, users)


def health_of(rows: Rows, now_ms: int) -> Health:
    """Return services and their slowest operations, from rows of (server, operation, requests,
    errors, requests of the last minute, p50, p95 and p99 in ms)."""
    services: dict[str, list[int]] = {}
    operations = []
    minute_requests = 0
    for server, operation, *numbers in rows:
        requests, errors, of_minute, p50, p95, p99 = map(int, numbers)
        counts = services.setdefault(server, [0, 0])
        counts[0] += requests
        counts[1] += errors
        minute_requests += of_minute
        operations.append(
            SlowOperation(
                server[:NAME_CHARS_MAX], operation[:NAME_CHARS_MAX], requests, errors,
                p50, p95, p99,
            )
        )  # fmt: skip
    return Health(
        now_ms - (MINUTES_OF_HEALTH - 1) * MINUTE_MS,
        now_ms + MINUTE_MS,
        minute_requests,
        sorted(
            (Service(server[:NAME_CHARS_MAX], *counts) for server, counts in services.items()),
            key=lambda one: (-one.errors / max(1, one.requests), -one.requests, one.server),
        )[:SERVERS_SHOWN],
        sorted(operations, key=lambda one: (-one.p95_ms, -one.requests))[:OPERATIONS_SHOWN],
    )


def failures_of(requests: Rows, steps: Rows) -> list[FailedRequest]:
    """Return the failed requests, with (log, status, error) of each one's first failed step."""
    failed = dict(steps)
    found = []
    for request_id, user_id, started_ms, duration_ms, operation, outcome, missing in requests:
        step = [text[:NAME_CHARS_MAX] for text in failed.get(request_id, ("", "", ""))]
        found.append(
            FailedRequest(
                request_id, user_id, int(started_ms), int(duration_ms),
                operation[:NAME_CHARS_MAX], outcome, missing[: 2 * NAME_CHARS_MAX], *step,
            )
        )  # fmt: skip
    return found


def sessions_of(source: str, until: Mapping[str, int], rows: Rows) -> Sessions | None:
    """Return one source's sessions, None where there are none.

    ``rows`` are (is the total, reason, shortest length in s, sessions, median in s).
    """
    lengths: dict[str, list[int]] = {}
    median_s, sessions = 0.0, 0
    for total, ended_by, least_s, count, median in rows:
        if total:
            median_s, sessions = float(median), int(count)
        else:
            of_reason = lengths.setdefault(ended_by, [0] * len(SESSION_LENGTHS_S))
            of_reason[SESSION_LENGTHS_S.index(int(least_s))] += int(count)
    return Sessions(source, *range_ms(until), median_s, lengths) if sessions else None
