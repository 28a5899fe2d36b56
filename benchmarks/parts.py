"""Which part of a flow costs what: the pure pieces alone, over the same polls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from flows import minute_buckets, store_metrics, user_profiles
from schemas.topics import PARTITIONS_DEFAULT
from streams.decode import Records
from streams.engine import MakeStep, StatelessStep, WindowStep
from streams.runner import tune_process
from streams.source import LATEST, wall_clock_ms
from streams.topic_files import FileTopic

PARTS = ("read", "decode", "arithmetic")


def _polls(folder: Path, topic: str) -> Iterator[Any]:
    readers = [
        FileTopic(folder, topic, end=LATEST).open(n, None) for n in range(PARTITIONS_DEFAULT)
    ]
    waiting = list(readers)
    # The partitions in turn, as the source gives them.
    while waiting:
        for reader in list(waiting):
            if reader.finished():
                waiting.remove(reader)
            else:
                yield reader.poll(wall_clock_ms())


def _pieces(flow: str) -> tuple[str, Records, MakeStep]:
    """The topic that the flow reads, how it decodes it, and its step."""
    steps: dict[str, tuple[Any, Records, MakeStep]] = {
        "minute_buckets": (
            minute_buckets,
            minute_buckets.TAGS,
            partial(WindowStep, flow, minute_buckets.MINUTES, minute_buckets.buckets),
        ),
        "store_metrics": (
            store_metrics,
            store_metrics.ROWS_OF_STORE,
            partial(
                WindowStep, flow, store_metrics.windows_of(1.0), partial(_metrics, size_ms=1_000)
            ),
        ),
        "user_profiles": (
            user_profiles,
            user_profiles.TAGS,
            lambda _partition, snapshot: StatelessStep(
                partial(user_profiles.profile_rows, keep=200), snapshot
            ),
        ),
    }
    module, records, make_step = steps[flow]
    return module.CONTRACT.reads[0], records, make_step


def _metrics(windows: Any, partition: int, size_ms: int) -> Any:
    return store_metrics.metrics(windows, partition, size_ms)


def run(flow: str, folder: Path, _home: Path) -> dict[str, int]:
    """Microseconds of CPU that each of PARTS took in all, and the events read."""
    tune_process()
    topic, records, make_step = _pieces(flow)
    steps: dict[int, Any] = {}
    spent = dict.fromkeys(PARTS, 0.0)
    events = 0
    polls = _polls(folder, topic)
    while True:
        begun = time.process_time()
        poll = next(polls, None)
        read = time.process_time()
        spent["read"] += read - begun
        if poll is None:
            break
        batch = records.decode(flow, poll)
        decoded = time.process_time()
        spent["decode"] += decoded - read
        if poll.partition not in steps:
            steps[poll.partition] = make_step(poll.partition, None)
        steps[poll.partition].on_batch(batch)
        spent["arithmetic"] += time.process_time() - decoded
        events += poll.count
    return {"events": events, **{part: round(took * 1e6) for part, took in spent.items()}}
