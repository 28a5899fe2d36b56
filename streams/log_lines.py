"""Log lines of a worker's reading: where it begins, how it goes on, where it failed."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from footfall.streams.batch import Poll
from footfall.streams.progress import Counts, Place, Progress

log = logging.getLogger(__name__)

_PLACE, _NEXT = "footfall_place", "footfall_next"


def offsets_text(offsets: Mapping[Place, int]) -> str:
    """Return the offset of each partition: ``user_tags 0:12 1:44, store_events 0:7``."""
    by_topic: defaultdict[str, list[str]] = defaultdict(list)
    for (topic, partition), offset in sorted(offsets.items()):
        by_topic[topic].append(f"{partition}:{offset}")
    return ", ".join(f"{topic} {' '.join(texts)}" for topic, texts in by_topic.items())


def offsets_fields(offsets: Mapping[Place, int]) -> dict[str, Any]:
    """Return the offset of each partition as fields of a log line."""
    return {"offsets": {f"{topic}/{one}": at for (topic, one), at in sorted(offsets.items())}}


def log_begin(resumed: Mapping[Place, int], begun: Mapping[Place, int]) -> None:
    """Log where partitions are read from: with a state, and without one."""
    for what, offsets in (("resumed at", resumed), ("begins at", begun)):
        if offsets:
            log.info("%s %s", what, offsets_text(offsets), extra=offsets_fields(offsets))


class Since:
    """Logs, every ``every_s`` seconds, what was read since the line before."""

    def __init__(
        self, progress: Progress, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._every_s = every_s
        self._clock = clock
        self._told_s = clock()
        self._told, self._told_rows = _totals(progress)

    def tick(self) -> None:
        """Log a line if it is time."""
        seconds = self._clock() - self._told_s
        if seconds < self._every_s:
            return
        counts, rows = _totals(self._progress)
        was, partitions = self._told, self._progress.read()[0]
        found = {
            name: getattr(counts, name) - getattr(was, name)
            for name in ("read", "used", "filtered", "late", "dead")
        }
        found |= {"rows": rows - self._told_rows, "lag": sum(one.lag for one in partitions)}
        self._told_s, self._told, self._told_rows = self._told_s + seconds, counts, rows
        log.info(
            "read %s records in %.0f s (%.1f/s): %s used, %s filtered, %s late, %s dead; wrote %s "
            "rows; %s left to read",
            f"{found['read']:,}",
            seconds,
            found["read"] / seconds,
            *(f"{found[name]:,}" for name in ("used", "filtered", "late", "dead", "rows", "lag")),
            extra={"seconds": round(seconds, 1), **found},
        )


def _totals(progress: Progress) -> tuple[Counts, int]:
    total = Counts()
    for one in progress.counted().values():
        total.add(one)
    return total, sum(progress.rows().values())


def next_offsets(progress: Progress) -> dict[Place, int]:
    """Return the next offset of each partition."""
    return {(one.topic, one.partition): one.next_offset for one in progress.read()[0]}


def note_poll(error: BaseException, poll: Poll) -> None:
    """Note on an error which records it was about."""
    setattr(error, _PLACE, (poll.topic, poll.partition, poll.first_offset, poll.next_offset))


def note_offsets(error: BaseException, progress: Progress) -> None:
    """Note on an error how far the worker had read."""
    setattr(error, _NEXT, next_offsets(progress))


def log_failure(error: BaseException) -> None:
    """Log why the worker ends, and at which records where that is known."""
    said = " ".join(str(error).split()) or type(error).__name__
    offsets = getattr(error, _NEXT, {})
    fields = offsets_fields(offsets)
    if place := getattr(error, _PLACE, None):
        topic, partition, first, end = place
        said += f" (at {topic}/{partition}, offsets {first} to {end - 1})"
        fields |= {"topic": topic, "partition": partition, "offset": first}
    elif offsets:
        said += f" (had read to {offsets_text(offsets)})"
    log.error("failed: %s", said, extra=fields)
