"""Read embedded topics: whole lines of append-only partition files, segment after segment.

The layout is described in ``schemas.topic_files``. A torn last line of a writer that was killed is
not read: it has no newline yet, and the next writer cuts it off. A last line that a person left
without its newline gets one, once the file has not grown for a moment.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from footfall.schemas.records import TopicRecord
from footfall.schemas.topic_files import (
    Appends,
    DamagedError,
    end_offset,
    first_offset,
    read_meta,
    segments,
)
from footfall.streams._appends import NOTHING, Found, entries_of, first_lines
from footfall.streams._segment import HoleError, OpenSegment, finish_line
from footfall.streams.batch import Poll
from footfall.streams.source import (
    EARLIEST,
    POLL_BYTES_MAX,
    NoTopicError,
    Position,
    ReadState,
    SourceError,
    check_same_topic,
    made_anew_remedy,
    pass_over,
)

NO_END = 2**62
GONE_S = 2.0
"""Seconds for which the file may be missing or replaced while a writer begins a segment."""
LOOK_FAR_S = 1.0
"""Seconds between searches for the end from an older segment."""


class FileTopic:
    """An embedded topic that can be read; with ``end`` None it follows what is appended.

    ``flow`` and ``skipped`` are as in KafkaTopic.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        start: Position = EARLIEST,
        end: Position | None = None,
        poll_bytes_max: int = POLL_BYTES_MAX,
        flow: str = "",
        skipped: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.start = start
        self.end = end
        self.poll_bytes_max = poll_bytes_max
        self.flow = flow
        self.skipped = skipped

    def partitions(self) -> int:
        """Return the number of partitions. Raises SourceError without such a topic."""
        with _as_source_error():
            meta = read_meta(self.folder, self.name)
        if meta is None:
            raise NoTopicError(
                f"there is no topic {self.name} in {self.folder}: `footfall init` makes it"
            )
        return meta.partitions

    def open(self, partition: int, state: Any | None, start: Position | None = None) -> FileReader:
        """Return a reader of one partition that resumes at a state, or begins at ``start``."""
        with _as_source_error():
            return FileReader(self, partition, state, start or self.start)

    def kept(self, partition: int) -> tuple[int, int]:
        """Return (the oldest offset left, the end). Raises SourceError."""
        place = self.folder, self.name, partition
        with _as_source_error():
            return first_offset(*place), end_offset(*place)

    def records(self, partition: int, start: int, end: int) -> Iterator[tuple[int, TopicRecord]]:
        """Yield the records from offset ``start`` to before ``end`` that are there by now."""
        with _as_source_error():
            for one in segments(self.folder, self.name, partition):
                if one.first < end:
                    with closing(OpenSegment(one)) as segment:
                        if segment.seek(max(start, one.first)):
                            yield from segment.records(end)

    def record_at(self, partition: int, offset: int) -> TopicRecord:
        """Return one record with all that the topic keeps of it. Raises SourceError."""
        for at, found in self.records(partition, offset, offset + 1):
            if at == offset:
                return found
        name, (low, _) = f"{self.name}/{partition}", self.kept(partition)
        raise SourceError(f"{name} has no record at offset {offset}: its oldest is {low}")


class FileReader:
    """A reader of one partition from a place on."""

    def __init__(
        self, topic: FileTopic, partition: int, state: Any | None, start: Position
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._name = f"{topic.name}/{partition}"
        self._place = topic.folder, topic.name, partition
        self._id = self._topic_id()
        self._end_offset = NO_END if topic.end is None else self._find_end(topic.end)
        self._gone_since_s: float | None = None
        self._looked_far: tuple[float, int] = (-LOOK_FAR_S, 0)
        if state is None:
            self._segment = self._opened_at(self._find_start(start))
        else:
            # States from before topics had ids have only the last two fields.
            self._segment = self._resumed(
                ReadState(topic.name, "", *state) if len(state) == 2 else ReadState(*state)
            )

    def poll(self, now_ms: int) -> Poll:
        """Return whole lines from the place on, about ``poll_bytes_max`` bytes of them."""
        with _as_source_error():
            return self._poll(now_ms)

    def _poll(self, now_ms: int) -> Poll:
        data, width, count, appended_ms = self._read()
        segment = self._segment
        left = self._end_offset - segment.offset
        if count > left:
            data = first_lines(data, left)
            width, count = len(data), left
            appended_ms = None if appended_ms is None else appended_ms[:left]
        first = segment.offset
        segment.passed(count, width)
        return Poll(
            topic=self._topic.name,
            partition=self._partition,
            first_offset=first,
            data=data,
            count=count,
            lag=self._lag(),
            polled_at_ms=now_ms,
            appended_ms=appended_ms,
        )

    def finished(self) -> bool:
        """Return whether all records before the end were given."""
        return self._segment.offset >= self._end_offset

    def state(self) -> ReadState:
        """Return the place of the next record, to resume there."""
        segment = self._segment
        ids = f"{self._id}.{segment.partition_id:x}"
        return ReadState(self._topic.name, ids, segment.offset, segment.position)

    def bounds(self) -> tuple[int, int]:
        """Return (the offset of the next record, the end that was asked for)."""
        return self._segment.offset, self._end_offset

    def close(self) -> None:
        """Close the files."""
        self._segment.close()

    def _topic_id(self) -> str:
        meta = read_meta(self._topic.folder, self._topic.name)
        return meta.id if meta is not None else ""

    def _read(self) -> Found:
        looked_again = False
        while True:
            segment = self._segment
            if not segment.has_file and segment.segment.is_active:
                segment.close()
                segment = self._segment = self._opened_at(segment.offset)
                if not segment.has_file:
                    return NOTHING
            try:
                found = segment.read(self._topic.poll_bytes_max)
                if found.records:
                    return found
                is_active = segment.is_active()
                if is_active:
                    segment.check_not_cut()
            except HoleError as hole:
                self._pass_over(segment.offset, hole.offset, lost=True)
                segment.go_to(hole.offset, hole.position)
                continue
            if is_active:
                self._gone_since_s = None
                if segment.position < segment.size and finish_line(segment.segment):
                    continue
                return found
            if looked_again and not self._go_on():
                return found
            # Lines may have been appended just before the segment was closed.
            looked_again = not looked_again

    def _go_on(self) -> bool:
        """Open the next segment, once this one was read and is not active any more."""
        segment, topic = self._segment, self._topic
        read = self.state()._replace(topic_id=self._id)
        check_same_topic(read, topic.name, self._topic_id(), topic.flow)
        listed = segments(*self._place)
        following = [one for one in listed if one.first > segment.segment.first]
        if not following:
            now_s = time.monotonic()
            self._gone_since_s = self._gone_since_s or now_s
            if now_s - self._gone_since_s > GONE_S:
                raise self._replaced("its file was removed or replaced while it was read")
            return False
        first = following[0].first
        if first < segment.offset:
            raise self._replaced("its files were replaced while they were read")
        if first > segment.offset:
            # Retention has removed all records before it.
            self._pass_over(segment.offset, first, lost=first > listed[0].first)
        self._segment = self._opened_at(first)
        segment.close()
        self._check_same_partition(f"{segment.partition_id:x}")
        return True

    def _resumed(self, state: ReadState) -> OpenSegment:
        """Open the segment of a state, at its place, if that is still what it was."""
        topic_id, _, partition_id = state.topic_id.rpartition(".")
        read = state._replace(topic_id=topic_id)
        check_same_topic(read, self._topic.name, self._id, self._topic.flow)
        segment = self._segment = self._opened_at(state.offset, resumed=True)
        self._check_same_partition(partition_id)
        # The end of a segment is the beginning of the next one, too.
        if segment.offset == state.offset and segment.position not in (0, state.position):
            raise self._replaced(f"it was cut or replaced since offset {state.offset} was read")
        return segment

    def _opened_at(self, offset: int, *, resumed: bool = False) -> OpenSegment:
        """Open the segment of a record, at its place."""
        while True:
            listed = segments(*self._place)
            at = bisect_right([one.first for one in listed], offset) - 1
            if at < 0:
                low = listed[0].first
                self._pass_over(offset, low)
                at, offset = 0, low
            segment = OpenSegment(listed[at])
            if segments(*self._place) == listed:
                break
            # A segment was closed or removed in the meantime.
            segment.close()
        if not segment.has_file and offset <= (end := segment.end_offset()):
            # The file was removed, and only the entries still tell of its records.
            self._pass_over(offset, end, lost=True)
            segment.go_to(end, 0)
            return segment
        if segment.seek(offset):
            return segment
        ends_at = segment.offset
        segment.close()
        if at + 1 < len(listed):
            self._pass_over(offset, listed[at + 1].first, lost=True)
            return self._opened_at(listed[at + 1].first)
        if resumed:
            raise self._replaced(f"it was cut or replaced since offset {offset} was read")
        raise SourceError(f"{self._name} ends at offset {ends_at}, before {offset}")

    def _check_same_partition(self, partition_id: str) -> None:
        """Raise SourceError where all files of the partition were made again."""
        found = self._segment.partition_id
        if partition_id not in ("", "0") and found and partition_id != f"{found:x}":
            raise self._replaced("its files were removed and made again")

    def _pass_over(self, offset: int, low: int, *, lost: bool = False) -> None:
        topic = self._topic
        if offset < low:
            pass_over(self._name, offset, low, topic.flow, topic.skipped, lost=lost)

    def _replaced(self, how: str) -> SourceError:
        path = self._topic.folder / self._name
        return SourceError(f"{path}: {how}{made_anew_remedy(self._topic.flow)}")

    def _lag(self) -> int:
        segment = self._segment
        if self._end_offset < NO_END:
            return self._end_offset - segment.offset
        if not segment.segment.is_active:
            asked_s, end = self._looked_far
            now_s = time.monotonic()
            if now_s - asked_s >= LOOK_FAR_S:
                end = end_offset(*self._place)
                self._looked_far = now_s, end
            return max(1, end - segment.offset)
        if segment.position >= segment.size:
            return 0
        return segment.end_offset() - segment.offset

    def _find_start(self, position: Position) -> int:
        """Return the offset where reading starts."""
        if position.at == "earliest":
            return first_offset(*self._place)
        if position.at == "offset":
            return position.value
        if position.at == "time":
            return self._offset_of_time(position.value, before=True)
        return end_offset(*self._place)

    def _find_end(self, position: Position) -> int:
        """Return the offset before which reading ends."""
        if position.at == "time":
            return self._offset_of_time(position.value, before=False)
        if position.at == "latest":
            finish_line(segments(*self._place)[-1], wait=True)
        return self._find_start(position)

    def _offset_of_time(self, time_ms: int, *, before: bool) -> int:
        """Return the first record that was appended at this time or later, or the end.

        With ``before``, the lines of unknown time before it count as appended then, too.
        """
        offset = 0
        for segment in segments(*self._place):
            with closing(Appends(segment.appends)) as appends:
                entries = entries_of(appends)
            is_late = entries["appended_ms"] >= time_ms
            number = int(np.argmax(is_late)) if is_late.any() else len(entries)
            if number:
                offset = int(entries["first"][number - 1]) + int(entries["records"][number - 1])
            elif offset < segment.first:
                offset = segment.first
            if number < len(entries):
                return offset if before else int(entries["first"][number])
        return offset if before else end_offset(*self._place)


@contextmanager
def _as_source_error() -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise SourceError(str(error)) from None
