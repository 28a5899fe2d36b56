"""The costs of a flow's parts: the pure pieces alone, over the same polls."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from footfall import flows
from footfall.benchmarks.folders import topic_in
from footfall.schemas.topics import PARTITIONS_DEFAULT
from footfall.streams.batch import Poll
from footfall.streams.decode import Records
from footfall.streams.runner import tune_process
from footfall.streams.source import LATEST, wall_clock_ms
from footfall.streams.steps import MakeStep
from footfall.streams.testing import DrivenStep
from footfall.streams.topic_files import FileTopic

PARTS = ("read", "decode", "arithmetic")


def pieces(flow: str, topic: str) -> tuple[Records, MakeStep]:
    """Return how a flow decodes a topic that it reads, and its step."""
    reading = flows.catalogue()[flow].readings()[topic]
    return reading.records, reading.step


def _polls(folder: Path, topic: str) -> Iterator[Poll]:
    readers = [
        FileTopic(folder, topic, end=LATEST).open(n, None) for n in range(PARTITIONS_DEFAULT)
    ]
    waiting = list(readers)
    # Read the partitions in turn, as the source gives them.
    while waiting:
        for reader in list(waiting):
            poll = reader.poll(wall_clock_ms())
            yield poll
            if reader.finished():
                waiting.remove(reader)
                yield replace(poll, data=b"", count=0, end=True, offsets=None, sent_again=())


def run(flow: str, folder: Path, _home: Path) -> dict[str, int]:
    """Return the CPU microseconds that each of PARTS took in all, and the number of events."""
    tune_process()
    topic = topic_in(folder)
    records, make_step = pieces(flow, topic)
    steps: dict[int, DrivenStep] = {}
    spent = dict.fromkeys(PARTS, 0.0)
    events = 0
    polls = _polls(folder, topic)
    # Work that a run over no events does too counts as start-up.
    no_events = Poll(topic, 0, 0, b"", 0, 0, wall_clock_ms(), end=True)
    DrivenStep(make_step).on_batch(records.decode(flow, no_events))
    # As the worker does.
    gc.freeze()
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
            steps[poll.partition] = DrivenStep(make_step, poll.partition)
        steps[poll.partition].on_batch(batch)
        spent["arithmetic"] += time.process_time() - decoded
        events += poll.count
    return {"events": events, **{part: round(took * 1e6) for part, took in spent.items()}}
