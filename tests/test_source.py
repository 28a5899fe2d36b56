"""A topic as the engine's source: when quiet partitions are looked at, and marked."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from footfall.streams.batch import Poll
from footfall.streams.source import TopicSource
from footfall.streams.testing import MemoryTopic
from footfall.streams.topic_files import FileTopic
from tests.topic_files_support import TOPIC, write

RECORD, NOTHING = 1, 0


@dataclass
class Clock:
    """A wall clock that a test turns."""

    now_ms: int = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def source_of(clock: Clock, *cuts: int, partitions: int = 1) -> TopicSource:
    """Return a source whose partitions give so many records at each look."""
    topic = Endless([[b"x"] * sum(cuts)] * partitions, cuts)
    return TopicSource(topic, threading.Event(), clock_ms=clock)


class Endless(MemoryTopic):
    """A topic in memory that is followed."""

    def open(self, partition: int, state: int | None, start: object = None) -> EndlessReader:
        return EndlessReader(partition, list(self.cuts))


class EndlessReader:
    """Reads as many records as it was told for each look, and then none."""

    def __init__(self, partition: int, cuts: list[int]) -> None:
        self._partition = partition
        self._cuts = cuts

    def poll(self, now_ms: int) -> Poll:
        count = self._cuts.pop(0) if self._cuts else 0
        return Poll("t", self._partition, 0, b"x\n" * count, count, 0, now_ms)

    def finished(self) -> bool:
        return False

    def state(self) -> int:
        return 0

    def bounds(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        pass


def test_a_quiet_partition_is_marked_when_its_step_wants_it_and_once_a_second_at_most() -> None:
    clock = Clock()
    source = source_of(clock, RECORD)
    part = source.build_part("step", "0", None)

    def marks(after_ms: int) -> list[int]:
        clock.now_ms += after_ms
        return [poll.polled_at_ms for poll in part.next_batch()]

    assert marks(0) == [1_000_000]
    # The step says nothing yet: it gets one, so that it can.
    assert marks(100) == [1_000_100]
    source.mark_at_ms[0] = 1_005_000
    assert [marks(1_000) for _ in range(4)] == [[]] * 4
    assert marks(900) == [1_005_000]
    # It has said the same again: then once a second.
    assert [marks(400) for _ in range(3)] == [[], [], [1_006_200]]


def test_quiet_partitions_are_looked_at_together() -> None:
    source = source_of(Clock(), NOTHING, partitions=3)
    parts = [source.build_part("step", str(number), None) for number in range(3)]
    for part in parts:
        part.next_batch()
    looks = {part.next_awake() for part in parts}
    # Two where the moment came between two of them.
    assert len(looks) <= 2
    assert all(look is not None and look.microsecond % 250_000 == 0 for look in looks)


def test_a_snapshot_names_no_class_of_ours(tmp_path: Path) -> None:
    """It can be read wherever our modules are by then."""
    write(tmp_path, b"1", b"2")
    source = TopicSource(FileTopic(tmp_path, TOPIC), threading.Event(), poll_every_s=0)
    part = source.build_part("step", "0", None)
    assert [poll.count for poll in part.next_batch()] == [2]
    snapshot = part.snapshot()
    assert type(snapshot) is tuple
    assert {type(value) for value in snapshot} == {str, int}
    assert source.build_part("step", "0", snapshot).snapshot() == snapshot
