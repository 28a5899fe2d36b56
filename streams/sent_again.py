"""Records that were sent again after a fix are twice in their topic: skip the superseded ones.

A reader that did not skip them would count them twice. The notes about them are in
``dead_letters``; see ``schemas.dead_letters.RetryNote``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from footfall.schemas.dead_letters import retry_note_of
from footfall.streams.batch import Poll
from footfall.streams.source import Position, Reader, Topic, wall_clock_ms

Offsets = Mapping[int, Collection[int]]
"""Offsets by partition."""


def find_sent_again(dead_letters: Topic, topic: str) -> Offsets:
    """Return the offsets of the superseded records of ``topic``.

    ``dead_letters`` is read to its end, which it must have. Raises SourceError.
    """
    found: dict[int, set[int]] = defaultdict(set)
    for partition in range(dead_letters.partitions()):
        reader = dead_letters.open(partition, None)
        try:
            while not reader.finished():
                poll = reader.poll(wall_clock_ms())
                if b'{"retry":' not in poll.data:
                    continue
                for line in poll.data.split(b"\n"):
                    note = retry_note_of(line)
                    if note is not None and note.step == "sent" and note.topic == topic:
                        found[note.partition].add(note.offset)
        finally:
            reader.close()
    return found


class MarkedTopic:
    """A topic whose polls mark superseded records (``Poll.sent_again``)."""

    def __init__(self, topic: Topic, find: Callable[[], Offsets]) -> None:
        """Take ``find``, which is called for each partition opened, and keeps what it has
        found."""
        self.name = topic.name
        self._topic = topic
        self._find = find

    def partitions(self) -> int:
        """Return the number of partitions."""
        return self._topic.partitions()

    def open(self, partition: int, state: Any | None, start: Position | None = None) -> Reader:
        """Return a reader of one partition."""
        offsets = self._find().get(partition)
        reader = self._topic.open(partition, state, start)
        return MarkedReader(reader, offsets) if offsets else reader


class MarkedReader:
    """A reader that reads as another does, and marks the records at some offsets."""

    def __init__(self, reader: Reader, offsets: Collection[int]) -> None:
        self._reader = reader
        self._offsets = np.sort(np.array(list(offsets), dtype=np.int64))

    def poll(self, now_ms: int) -> Poll:
        """Return the next records."""
        poll = self._reader.poll(now_ms)
        if not poll.count:
            return poll
        first, last = np.searchsorted(self._offsets, (poll.first_offset, poll.next_offset))
        if first == last:
            return poll
        marked = self._offsets[first:last]
        if poll.offsets is None:
            places = marked - poll.first_offset
        else:
            places = np.flatnonzero(np.isin(poll.offsets, marked))
        return replace(poll, sent_again=tuple(map(int, places)))

    def finished(self) -> bool:
        """Return True once all records up to the end that was asked for were given."""
        return self._reader.finished()

    def state(self) -> Any:
        """Return what ``Topic.open`` needs to go on."""
        return self._reader.state()

    def bounds(self) -> tuple[int, int]:
        """Return (the offset of the next record, the end that was asked for)."""
        return self._reader.bounds()

    def close(self) -> None:
        """Release the file or connection."""
        self._reader.close()
